"""Positions are shared among sets by weight, and the share at any position is computed without a replay."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil, log2

from hypothesis import given, settings
from hypothesis import strategies as st

from shards.blend import Blend

SHARES = st.lists(st.fractions(0, 100, max_denominator=1000), min_size=1, max_size=9).filter(any)


@st.composite
def staged(draw: st.DrawFn) -> list[tuple[int, list[Fraction]]]:
    """Shares of some sets from a few positions on, some of them 0."""
    sets = draw(st.integers(1, 6))
    shares = st.lists(st.integers(0, 3).map(Fraction), min_size=sets, max_size=sets).filter(any)
    starts = sorted({0, *draw(st.lists(st.integers(1, 150), max_size=3))})
    return [(start, draw(shares)) for start in starts]


@settings(deadline=None)
@given(staged())
def test_sets_are_interleaved_and_counted(stages: list[tuple[int, list[Fraction]]]) -> None:
    blend, met = Blend(stages), Counter[int]()
    for position in range(200):
        assert blend.counts(position) == [met[i] for i in range(len(stages[0][1]))]
        number, before = blend.locate(position)
        assert before == met[number]
        met[number] += 1


@settings(deadline=None)
@given(staged())
def test_a_set_with_share_zero_has_no_position(stages: list[tuple[int, list[Fraction]]]) -> None:
    blend = Blend(stages)
    for (start, shares), end in zip(stages, [start for start, _ in stages[1:]] + [200], strict=True):
        assert all(shares[blend.locate(position)[0]] for position in range(start, end))


@settings(deadline=None)
@given(SHARES, st.integers(0, 10**18))
def test_counts_follow_their_shares_at_any_position(shares: list[Fraction], position: int) -> None:
    blend = Blend([(0, shares)])
    counts = blend.counts(position)
    assert sum(counts) == position
    number, before = blend.locate(position)
    assert before == counts[number]
    assert blend.counts(position + 1) == [count + (i == number) for i, count in enumerate(counts)]
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - position * share / sum(shares)) <= ceil(log2(len(shares))) / 2


def test_shares_equal_to_sizes_finish_all_sets_together() -> None:
    blend = Blend([(0, [Fraction(size) for size in (40, 8, 13, 1)])])
    assert [blend.counts(rounds * 62) for rounds in (1, 2, 10**12)] == [
        [rounds * size for size in (40, 8, 13, 1)] for rounds in (1, 2, 10**12)
    ]
