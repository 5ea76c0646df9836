"""One pass of the order is a permutation, and a place is a pure function of its position."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from shards.order import Mixture, Order, ShardSlot, deal

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any).map(tuple)
SEEDS = st.integers(0, 2**64)
BLOCKS = st.integers(1, 120)


def one_pass(order: Order, epoch: int = 0) -> list[ShardSlot]:
    return [order.locate(epoch * order.total + i) for i in range(order.total)]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.integers(0, 5))
def test_each_sample_occurs_once_per_epoch(sizes: tuple[int, ...], seed: int, block: int, epoch: int) -> None:
    places = one_pass(Order(sizes=sizes, seed=seed, block=block), epoch)
    assert sorted(places) == [(epoch, shard, i) for shard, size in enumerate(sizes) for i in range(size)]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.lists(st.integers(0, 10**18), min_size=1, max_size=12))
def test_a_location_depends_only_on_its_position(
    sizes: tuple[int, ...], seed: int, block: int, positions: list[int]
) -> None:
    order = Order(sizes=sizes, seed=seed, block=block)
    first = [order.locate(position) for position in positions]
    assert [Order(sizes=sizes, seed=seed, block=block).locate(position) for position in positions] == first
    assert [order.locate(position) for position in reversed(positions)] == first[::-1]
    assert [place.epoch for place in first] == [position // sum(sizes) for position in positions]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.integers(0, 10**6), st.integers(0, 300))
def test_a_range_of_locations_equals_its_single_locations(
    sizes: tuple[int, ...], seed: int, block: int, start: int, length: int
) -> None:
    order = Mixture([sizes], seed, block)
    assert list(order.locate_range(start, start + length)) == [order.locate(start + i) for i in range(length)]


def test_epochs_and_seeds_differ() -> None:
    order = Order(sizes=(40, 0, 25, 35), seed=0, block=16)
    orders = [one_pass(order, epoch) for epoch in range(4)] + [
        one_pass(Order(sizes=order.sizes, seed=seed, block=16)) for seed in (1, 2)
    ]
    assert len({tuple((place.shard, place.slot) for place in places) for places in orders}) == len(orders)


def test_blocks_of_an_epoch_differ() -> None:
    indexes = np.reshape([place.slot for place in one_pass(Order(sizes=(200,), seed=0, block=20))], (10, 20))
    assert (np.sort(indexes % 20) == np.arange(20)).all()
    assert len({tuple(block) for block in indexes % 20}) == 10


@pytest.mark.parametrize("sizes", [(10**12,), (10**12 - 7, 0, 7), (10**9,) * 1000])
def test_cost_is_bounded_by_shards_and_block(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[int] = []

    class Watched:
        def __init__(self, seed: list[int]):
            self.rng = np.random.Generator(np.random.PCG64(seed))

        def permutation(self, size: int) -> np.ndarray:
            visited.append(size)
            return self.rng.permutation(size)

    monkeypatch.setattr("shards.order.np.random.default_rng", Watched)
    order = Order(sizes=sizes, seed=3, block=1024)
    for position in (0, 1, 10**11, 10**12 - 1, 10**12, 7 * 10**12 + 5):
        place = order.locate(position)
        assert place.epoch == position // 10**12
        assert 0 <= place.slot < sizes[place.shard]
    assert max(visited) <= max(1024, len(sizes))


def test_a_block_touches_few_shards() -> None:
    order = Order(sizes=(50,) * 40, seed=0, block=100)
    places = one_pass(order)
    assert max(len({place.shard for place in places[i : i + 100]}) for i in range(0, order.total, 100)) <= 3


def same_shard(shards: np.ndarray) -> float:
    """The statistic of shuffling: the chance that a sample's neighbour in the order is of its own shard."""
    return float((shards[1:] == shards[:-1]).mean())


@pytest.mark.parametrize("block", [2_000, 5_000, 10_000])
def test_neighbors_in_storage_are_separated(block: int) -> None:
    """A full permutation of n equal shards has a rate of 1/n; within blocks of b of their samples it is 1/b."""
    order = Order(sizes=(100,) * 100, seed=0, block=block)
    first, second = ([place.shard * 100 + place.slot for place in one_pass(order, epoch)] for epoch in (0, 1))
    assert same_shard(np.array(first) // 100) == pytest.approx(100 / block, rel=0.15)
    full = np.random.default_rng(0).permutation(10_000)
    if block == order.total:
        assert same_shard(np.array(first) // 100) == pytest.approx(same_shard(full // 100), rel=0.25)
    assert (np.abs(np.diff(first)) == 1).mean() < 0.01
    batches = np.reshape(first[:9984], (-1, 64))
    distinct, mixed = np.mean([len(set(batch // 100)) for batch in batches]), block // 100
    assert distinct > 0.9 * mixed * (1 - (1 - 1 / mixed) ** 64), "a batch draws on all shards of its block"
    assert abs(spearmanr(first, np.arange(10_000)).statistic) < 0.3
    assert abs(spearmanr(np.argsort(first), np.argsort(second)).statistic) < 0.3


def test_the_order_of_one_set_is_unchanged_from_earlier_versions() -> None:
    order = Order(sizes=(1000,) * 4 + (321,), seed=0, block=1024)
    places = [tuple(order.locate(position)) for position in (0, 1, 2, 3000, 4320, 4321, 10**9)]
    assert places == [(0, 2, 768), (0, 2, 270), (0, 2, 149), (0, 0, 622), (0, 1, 838), (1, 1, 772), (231427, 0, 774)]
    order = Order(sizes=(7, 3), seed=2**40, block=4)
    places = [tuple(order.locate(position)) for position in (0, 1, 2, 11, 12)]
    assert places == [(0, 0, 0), (0, 0, 1), (0, 0, 3), (1, 1, 1), (1, 1, 2)]


@settings(deadline=None)
@given(SIZES, SEEDS, BLOCKS, st.integers(0, 10**12))
def test_a_mixture_of_one_set_equals_its_order(sizes: tuple[int, ...], seed: int, block: int, position: int) -> None:
    assert Mixture([sizes], seed, block).locate(position) == (
        0,
        *Order(sizes=sizes, seed=seed, block=block).locate(position),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(SIZES, min_size=1, max_size=4), SEEDS, BLOCKS, st.data())
def test_every_sample_occurs_once_per_epoch_of_its_set(
    sizes: list[tuple[int, ...]], seed: int, block: int, data: st.DataObject
) -> None:
    shares = [Fraction(data.draw(st.integers(1, 5))) for _ in sizes]
    order = Mixture(sizes, seed, block, [(0, shares)])
    met = [order.locate(position) for position in range(200)]
    assert met == [pickle.loads(pickle.dumps(order)).locate(position) for position in range(200)]
    for number, shards in enumerate(sizes):
        places = [(place.epoch, place.shard, place.slot) for place in met if place.set == number]
        assert len(set(places)) == len(places), "none twice"
        assert [epoch for epoch, *_ in places] == [i // sum(shards) for i in range(len(places))], (
            "passes one after the other"
        )


def test_sets_of_equal_sizes_are_shuffled_differently() -> None:
    order = Mixture([(50, 50), (50, 50)], seed=0)
    places = [order.locate(position) for position in range(200)]
    first, second = ([place[2:] for place in places if place.set == number] for number in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


SETS = [(10,) * 9 + (3,), (5, 0, 4, 4, 4)]


@pytest.mark.parametrize("length", [1, 4])
def test_nodes_alternate_and_have_their_own_shards(length: int) -> None:
    nodes = 4
    order = Mixture(SETS, seed=1, block=8, nodes=nodes, length=length)
    epochs = np.array([order.locate(position) for position in range(4800)]).reshape(-1, nodes, length, 4)
    owners: dict[tuple[int, int], set[int]] = {}
    for node in range(nodes):
        for number, _, shard, _ in epochs[:, node].reshape(-1, 4).tolist():
            owners.setdefault((number, shard), set()).add(node)
        for number in range(len(SETS)):
            node_places = [tuple(place[1:]) for place in epochs[:, node].reshape(-1, 4).tolist() if place[0] == number]
            assert len(set(node_places)) == len(node_places), "every sample once a pass of its stream"
    assert all(len(nodes) == 1 for nodes in owners.values())
    assert order.imbalance == [(30 - 20) / 20, (5 - 4) / 4]
    assert set(owners) == {(i, shard) for i, shards in enumerate(SETS) for shard, size in enumerate(shards) if size}


def test_imbalance_is_the_excess_frequency_of_some_samples() -> None:
    order = Mixture([(8,) * 5], seed=0, nodes=4)
    times = Counter(order.locate(position)[2:] for position in range(4 * 16 * 25))
    assert order.imbalance == [max(times.values()) / min(times.values()) - 1] == [1.0]
    assert Mixture([(8,) * 5], seed=0).imbalance == [0.0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 6))
def test_complete_shards_are_dealt_evenly(sizes: list[int], nodes: int) -> None:
    if sum(map(bool, sizes)) < nodes:
        with pytest.raises(ValueError, match=f"cannot be dealt to {nodes} nodes"):
            deal(sizes, nodes)
        return
    dealt = deal(sizes, nodes)
    assert sorted(shard for part in dealt for shard in part) == [shard for shard, size in enumerate(sizes) if size]
    totals = [sum(sizes[shard] for shard in part) for part in dealt]
    assert max(totals) - min(totals) <= max(sizes)


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("length", [1, 8])
def test_samples_per_set_are_counted_without_a_replay(nodes: int, length: int) -> None:
    stages = [(0, [Fraction(3), Fraction(1)]), (64, [Fraction(0), Fraction(1)]), (128, [Fraction(1), Fraction(1)])]
    order = Mixture(SETS, 0, 16, stages, nodes, length)
    met = Counter[int]()
    for position in range(300):
        assert order.counts(position) == [met[0], met[1]]
        met[order.locate(position).set] += 1


def test_the_first_sample_needs_only_the_manifest(tmp_path: Path) -> None:
    """There are no tars and no indexes, and what is measured is printed as one line of JSON."""
    script = Path(__file__).parents[2] / "benchmarks" / "order.py"
    words = [sys.executable, str(script), "--shards", "40", "--samples", "100000", "--nodes", "4"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, env=environment)
    result = json.loads(done.stdout)
    assert (result["shards"], result["samples"], result["nodes"]) == (40, 4_000_000, 4)
    assert {"seconds", "memory_mib", "same_shard"} <= result.keys()


def test_memory_and_random_draws_depend_on_shards_and_block_not_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []

    class Watched(np.random.Generator):
        def permutation(self, size: int) -> np.ndarray:  # type: ignore[override]
            draws.append(size)
            return super().permutation(size)

    monkeypatch.setattr("shards.order.np.random.default_rng", lambda seed: Watched(np.random.PCG64(seed)))
    peaks = []
    for samples in (1_000, 1_000_000_000):
        draws.clear()
        tracemalloc.start()
        order = Mixture([(samples,) * 10_000, (samples,) * 10], seed=0, block=1024, nodes=2, length=4)
        for position in (0, 10**6, 10**12):
            order.locate(position)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(draws) <= 3 * (5_000 + 1024)
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_an_empty_set_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="empty"):
        Order(sizes=sizes, seed=0)
