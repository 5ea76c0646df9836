"""Which of several sets a position of a mixture falls to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import lcm


class Blend:
    """Spreads positions over sets in given shares, as evenly as whole numbers allow; a pure function.

    Sets are halved as in a tree. Of n positions that reach a branch the left side has had `round(n * share)`, so that
    its count is known without a replay, grows by 0 or 1, and each set's is within half the depth of the tree of its
    share: `|count - n * share| <= ceil(log2(sets)) / 2`. Arithmetic is of whole numbers: no drift however far.

    stages: from which position on which shares hold, not all 0; the first begins at 0. A set of share 0 has no position
    of its stage. Counts go on from stage to stage.
    """

    def __init__(self, stages: Sequence[tuple[int, Sequence[Fraction]]]):
        self._starts = [start for start, _ in stages]
        assert self._starts == sorted({0, *self._starts}), "stages rise from 0"
        self._sums = [_running(shares) for _, shares in stages]
        self._before = [[0] * len(stages[0][1])]
        for stage, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            self._before.append(self._add(stage, end - start))

    def locate(self, position: int) -> tuple[int, int]:
        """(set, how many positions of that set come before)."""
        stage = bisect_right(self._starts, position) - 1
        sums, count = self._sums[stage], position - self._starts[stage]
        low, high = 0, len(sums) - 1
        while high - low > 1:
            middle = (low + high) // 2
            count_below = _count_left(sums, low, middle, high, count)
            if _count_left(sums, low, middle, high, count + 1) > count_below:
                high, count = middle, count_below
            else:
                low, count = middle, count - count_below
        return low, self._before[stage][low] + count

    def counts(self, position: int) -> list[int]:
        """How many of the positions before this one fall to each set."""
        stage = bisect_right(self._starts, position) - 1
        return self._add(stage, position - self._starts[stage])

    def _add(self, stage: int, count: int) -> list[int]:
        """Counts by set after `count` positions of a stage."""
        return [a + b for a, b in zip(self._before[stage], _counts(self._sums[stage], count), strict=True)]


def _running(shares: Sequence[Fraction]) -> list[int]:
    """Running sums of shares, from 0, over a common denominator."""
    scale = lcm(*(share.denominator for share in shares))
    sums = [0]
    for share in shares:
        sums.append(sums[-1] + int(share * scale))
    return sums


def _count_left(sums: Sequence[int], low: int, middle: int, high: int, count: int) -> int:
    """How many of `count` positions that reach sets `low` to `high` go to those below `middle`."""
    total = sums[high] - sums[low]
    return (2 * count * (sums[middle] - sums[low]) + total) // (2 * total) if total else 0


def _counts(sums: Sequence[int], count: int) -> list[int]:
    """How many of `count` positions fall to each set."""

    def below(low: int, high: int, count: int) -> list[int]:
        if high - low == 1:
            return [count]
        middle = (low + high) // 2
        count_below = _count_left(sums, low, middle, high, count)
        return below(low, middle, count_below) + below(middle, high, count - count_below)

    return below(0, len(sums) - 1, count)
