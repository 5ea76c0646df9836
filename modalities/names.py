"""Error messages about unknown names: the nearest known name, or a list of the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """End of an error message about an unknown name: the nearest known name, or all of them."""
    names = list(candidates)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f": did you mean '{close[0]}'?" if close else f"; known: {format_names(sorted(map(str, names)))}"


def format_names(names: Iterable[str], near: str = "", limit: int = 30) -> str:
    """Names separated by commas; of more than `limit` names, those most similar to `near` come first."""
    items = list(names)
    if len(items) <= limit:
        return ", ".join(items) or "none"
    close = difflib.get_close_matches(near, items)
    first = [*close, *(name for name in items if name not in close)][:limit]
    return f"{', '.join(first)} and {len(items) - limit:,} more"
