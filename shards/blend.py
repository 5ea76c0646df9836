"""Distribution of the positions of a mixture over its shard sets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import lcm


class Blend:
    """Distributes positions over sets by their shares, as evenly as integers allow; a pure function.

    The sets are the leaves of a binary tree. Of n positions that reach a branch, `round(n * share)` go left. So the
    counts need no replay, grow by 0 or 1 per position, and differ from the shares by at most half the depth of the
    tree: `|count - n * share| <= ceil(log2(sets)) / 2`. The arithmetic uses integers, so nothing drifts.

    stages: (first position, share of each set) of each stage. The first starts at 0; the shares of a stage are not all
    0, and a set of share 0 has no positions in it. Counts continue from stage to stage.
    """

    def __init__(self, stages: Sequence[tuple[int, Sequence[Fraction]]]):
        self._starts = [start for start, _ in stages]
        assert self._starts == sorted({0, *self._starts}), "stages start at 0 and increase"
        self._sums = [_cumulative(shares) for _, shares in stages]
        self._before = [[0] * len(stages[0][1])]
        for stage, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            self._before.append(self._add(stage, end - start))

    def locate(self, position: int) -> tuple[int, int]:
        """Return (set, number of positions of that set before this one)."""
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
        """Number of positions of each set before this one."""
        stage = bisect_right(self._starts, position) - 1
        return self._add(stage, position - self._starts[stage])

    def _add(self, stage: int, count: int) -> list[int]:
        """Counts by set after `count` positions of a stage."""
        return [a + b for a, b in zip(self._before[stage], _counts(self._sums[stage], count), strict=True)]


def _cumulative(shares: Sequence[Fraction]) -> list[int]:
    """Cumulative sums of shares, from 0, over a common denominator."""
    scale = lcm(*(share.denominator for share in shares))
    sums = [0]
    for share in shares:
        sums.append(sums[-1] + int(share * scale))
    return sums


def _count_left(sums: Sequence[int], low: int, middle: int, high: int, count: int) -> int:
    """Of `count` positions that reach sets `low` to `high`, the number that go to sets below `middle`."""
    total = sums[high] - sums[low]
    return (2 * count * (sums[middle] - sums[low]) + total) // (2 * total) if total else 0


def _counts(sums: Sequence[int], count: int) -> list[int]:
    """Number of positions of each set among the first `count`."""

    def below(low: int, high: int, count: int) -> list[int]:
        if high - low == 1:
            return [count]
        middle = (low + high) // 2
        count_below = _count_left(sums, low, middle, high, count)
        return below(low, middle, count_below) + below(middle, high, count - count_below)

    return below(0, len(sums) - 1, count)
