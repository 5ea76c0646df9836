"""Names that are not known: what they may have meant, and which there are."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word nearest to an unknown one."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f": did you mean '{close[0]}'?" if close else f"; known: {listed(sorted(map(str, words)))}"


def listed(names: Iterable[str], meant: str = "", most: int = 30) -> str:
    """Names for a message; of very many `most`, those nearest to what was meant first."""
    held = list(names)
    if len(held) <= most:
        return ", ".join(held) or "none"
    near = difflib.get_close_matches(meant, held)
    return f"{', '.join([*near, *(name for name in held if name not in near)][:most])} and {len(held) - most:,} more"


def need_columns(place: object, held: Collection[str], names: Iterable[str]) -> None:
    """Check that a table has columns.

    Raises:
        ValueError: one is absent; the message lists what there is.
    """
    for name in names:
        if name not in held:
            raise ValueError(f"{place} has no column {name!r}; it has {listed(held, name)}")
