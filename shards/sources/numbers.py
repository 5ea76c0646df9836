"""Numbers in texts."""

from __future__ import annotations

import math

from modalities.table import EMPTY

_EXACT = 2**53
"""Whole numbers below it are exact as floats."""


def number_or_text(text: str) -> int | float | str | None:
    """A text as the number that it is, None where it says that nothing is known or is no finite number, or as it is."""
    text = text.strip()
    if text.lower() in EMPTY:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if "_" in text:  # Python reads 1_0 as 10
        return text
    if not math.isfinite(number):
        return None
    return int(number) if text.lstrip("+-").isdecimal() and abs(number) < _EXACT else number
