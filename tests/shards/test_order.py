"""One pass of the order is a permutation, and a place is a pure function of its position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from shards.order import Order, Place

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any).map(tuple)
SEEDS = st.integers(0, 2**64)
BLOCKS = st.integers(1, 120)


def one_pass(order: Order, turn: int = 0) -> list[Place]:
    return [order.place(turn * order.total + i) for i in range(order.total)]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.integers(0, 5))
def test_each_sample_stands_once_in_a_pass(sizes: tuple[int, ...], seed: int, block: int, turn: int) -> None:
    places = one_pass(Order(sizes, seed, block), turn)
    assert sorted(places) == [(turn, shard, i) for shard, size in enumerate(sizes) for i in range(size)]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.lists(st.integers(0, 10**18), min_size=1, max_size=12))
def test_a_place_depends_on_its_position_alone(
    sizes: tuple[int, ...], seed: int, block: int, positions: list[int]
) -> None:
    order = Order(sizes, seed, block)
    first = [order.place(position) for position in positions]
    assert [Order(sizes, seed, block).place(position) for position in positions] == first
    assert [order.place(position) for position in reversed(positions)] == first[::-1]
    assert [place.turn for place in first] == [position // sum(sizes) for position in positions]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.integers(0, 10**6), st.integers(0, 300))
def test_a_run_of_places_is_its_single_places(
    sizes: tuple[int, ...], seed: int, block: int, start: int, length: int
) -> None:
    order = Order(sizes, seed, block)
    assert order.places(start, start + length) == [order.place(start + i) for i in range(length)]


def test_passes_and_seeds_differ() -> None:
    order = Order((40, 0, 25, 35), seed=0, block=16)
    orders = [one_pass(order, turn) for turn in range(4)] + [one_pass(Order(order.sizes, seed, 16)) for seed in (1, 2)]
    assert len({tuple((place.shard, place.sample) for place in places) for places in orders}) == len(orders)


def test_blocks_of_a_pass_differ() -> None:
    indexes = np.reshape([place.sample for place in one_pass(Order((200,), seed=0, block=20))], (10, 20))
    assert (np.sort(indexes % 20) == np.arange(20)).all()
    assert len({tuple(block) for block in indexes % 20}) == 10


@pytest.mark.parametrize("sizes", [(10**12,), (10**12 - 7, 0, 7), (10**9,) * 1000])
def test_cost_is_bounded_by_shards_and_block(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Watched:
        def __init__(self, seed: list[int]):
            self.rng = np.random.Generator(np.random.PCG64(seed))

        def permutation(self, size: int) -> np.ndarray:
            made.append(size)
            return self.rng.permutation(size)

    monkeypatch.setattr("shards.order.np.random.default_rng", Watched)
    order = Order(sizes, seed=3, block=1024)
    for position in (0, 1, 10**11, 10**12 - 1, 10**12, 7 * 10**12 + 5):
        place = order.place(position)
        assert place.turn == position // 10**12
        assert 0 <= place.sample < sizes[place.shard]
    assert max(made) <= max(1024, len(sizes))


def test_a_block_touches_few_shards() -> None:
    order = Order((50,) * 40, seed=0, block=100)
    places = one_pass(order)
    assert max(len({place.shard for place in places[i : i + 100]}) for i in range(0, order.total, 100)) <= 3


def test_neighbours_are_strangers() -> None:
    order = Order((100,) * 100, seed=0, block=2000)
    first, second = ([place.shard * 100 + place.sample for place in one_pass(order, turn)] for turn in (0, 1))
    assert (np.abs(np.diff(first)) == 1).mean() < 0.01
    batches = np.reshape(first[:9984], (-1, 64))
    shards_in_batch = np.mean([len(set(batch // 100)) for batch in batches])
    assert shards_in_batch > 0.9 * 20 * (1 - 0.95**64), "a batch draws on all 20 shards of its block"
    assert abs(spearmanr(first, np.arange(10_000)).statistic) < 0.3
    assert abs(spearmanr(np.argsort(first), np.argsort(second)).statistic) < 0.3


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_nothing_to_order_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="empty"):
        Order(sizes, seed=0)
