"""Scale numbers and dates of table columns, and show them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np

FAR = 10.0
"""Standard deviations from the mean beyond which a number is an outlier: ignored by `scale`, compressed as input."""
LARGEST = float(np.finfo(np.float32).max)
_REPEATED, _DISTINCT = 3, 10


def scale(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and std of a column's numbers `(N,)`; the std is positive.

    Outliers are removed repeatedly until none is left (sigma clipping, as in astronomy), at most 1% of the column. A
    column that is almost constant keeps them, because they are its only information.
    """
    limit = len(numbers) / 100
    low, high = np.quantile(numbers, [0.01, 0.99])
    is_constant = high - low <= 1e-9 * max(abs(low), abs(high))
    near = numbers
    while True:
        mean, std = float(near.mean()), float(near.std())
        if near.min() == near.max() or not std:  # rounding may give constants a std
            return float(near[0]), 1.0
        nearer = near[np.abs(near - mean) <= FAR * std]
        if is_constant or len(nearer) == len(near) or len(numbers) - len(nearer) > limit:
            return mean, std
        near = nearer


def compress(number: float) -> float:
    """Replace a standardized number beyond `FAR` by its logarithm, with a continuous slope."""
    far = min(abs(number), LARGEST) / FAR
    return number if far <= 1 else math.copysign(FAR * (1 + math.log(far)), number)


def expand(number: float) -> float:
    """Invert `compress`."""
    far = min(abs(number) / FAR - 1, 700.0)  # predictions are unbounded
    return number if far <= 0 else math.copysign(FAR * math.exp(far), number)


def find_codes(numbers: np.ndarray) -> tuple[float, ...]:
    """Find numbers of a column `(N,)` that are probably codes for missing values, such as -999.

    A code occurs at least 3 times in a column of more than 10 distinct numbers, more than 10 std from the median and
    more than 5 std from any other number. The std is estimated from quartiles, which codes do not move.
    """
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) <= _DISTINCT:
        return ()
    low, median, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    std = (high - low) / 1.349  # of a normal distribution
    is_far = np.abs(values - median) > FAR * std
    gaps = np.diff(values)
    is_isolated = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf)) > FAR / 2 * std
    return tuple(values[is_far & is_isolated & (counts >= _REPEATED)].tolist()) if std else ()


def season(day: float) -> tuple[float, float]:
    """Sine and cosine of the day of a mean year; `day` counts from 1970."""
    angle = 2 * math.pi * (day / 365.2425 % 1)
    return math.sin(angle), math.cos(angle)


def format_date(day: float) -> str:
    """Days since 1970, rounded to hours, as an ISO date; as a number of days if no calendar has the date."""
    try:
        return datetime.fromtimestamp(round(day * 24) * 3_600, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{day:.4g} days since 1970"


def format_number(number: float) -> str:
    """A number as YAML reads it."""
    return f"{int(number)}" if number.is_integer() else repr(number)
