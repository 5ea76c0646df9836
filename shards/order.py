"""The order of training samples, as a pure function of a position."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from shards.blend import Blend


class ShardSlot(NamedTuple):
    """Where a position of one endless order lies: pass over the data, shard, slot within the shard."""

    epoch: int
    shard: int
    slot: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """An endless shuffled order over shards of the given sizes; every sample once a pass.

    Each pass shuffles the shards, then the samples within blocks of `block` consecutive ones, so that finding a place
    costs O(shards + block) and never O(samples). State is the position alone. Orders of one seed and different
    `stream` are independent.

    Raises:
        ValueError: there are no samples.
    """

    sizes: tuple[int, ...]
    seed: int
    block: int = 16384
    stream: int = 0
    _last: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if sum(self.sizes) < 1:
            raise ValueError("the training split is empty: there is no sample to order")

    @cached_property
    def total(self) -> int:
        """Samples a pass."""
        return sum(self.sizes)

    def locate(self, position: int) -> ShardSlot:
        """The sample at a position, counted from 0 over all passes."""
        ((epoch, shards, slots),) = self.locate_arrays(position, position + 1)
        return ShardSlot(epoch, int(shards[0]), int(slots[0]))

    def locate_arrays(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Passes, and the shards and slots that positions `start` to `stop` have of each in turn.

        Far less work than one position at a time.
        """
        while start < stop:
            epoch, offset = divmod(start, self.total)
            number, inside = divmod(offset, self.block)
            shards, slots = self._cached("block", self._placed, epoch, number)
            part = slice(inside, inside + stop - start)
            yield epoch, shards[part], slots[part]
            start += len(slots[part])

    def _cached(self, name: str, make: Callable[..., Any], *key: int) -> Any:
        """What was made for the last key: neighbouring positions share their pass and mostly their block."""
        if name not in self._last or self._last[name][0] != key:
            self._last[name] = (key, make(*key))
        return self._last[name][1]

    def _rng(self, *words: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *words, *([self.stream] if self.stream else [])])

    def _arrangement(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards in this pass's order and the running end of each."""
        shards = self._rng(epoch, 0).permutation(len(self.sizes))
        return shards, np.cumsum(np.array(self.sizes)[shards])

    def _placed(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and slots of the shuffled samples of a block."""
        first = number * self.block
        size = min(self.block, self.total - first)
        spots = first + self._rng(epoch, 1, number).permutation(size)
        shards, ends = self._cached("shards", self._arrangement, epoch)
        which = np.searchsorted(ends, spots, side="right")
        return shards[which], spots - np.r_[0, ends][which]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}}


def deal(sizes: Sequence[int], nodes: int) -> list[list[int]]:
    """Shards dealt whole to nodes, each to the one that has fewest samples so far, large shards first.

    Streams then differ by at most one shard's samples (Graham 1969, longest processing time first).

    Raises:
        ValueError: there are fewer shards that hold samples than nodes.
    """
    filled = [shard for shard, size in enumerate(sizes) if size]
    if len(filled) < nodes:
        raise ValueError(f"{len(filled)} shards cannot be dealt to {nodes} nodes")
    dealt: list[list[int]] = [[] for _ in range(nodes)]
    heap = [(0, node) for node in range(nodes)]
    for shard in sorted(filled, key=lambda shard: -sizes[shard]):
        samples, node = heapq.heappop(heap)
        dealt[node].append(shard)
        heapq.heappush(heap, (samples + sizes[shard], node))
    return [sorted(shards) for shards in dealt]


class MixtureSlot(NamedTuple):
    """Where a position of a mixture lies: set, pass over it, shard of the set, slot within the shard."""

    set: int
    epoch: int
    shard: int
    slot: int


class Mixture:
    """An endless order over several sets of shards, in shares that may change over positions; a pure function.

    sizes: samples of each shard, by set. stages: from which position on which share each set has; the first begins at
    0; by default shares are as the sets' sizes. nodes: streams to which the shards of every set are dealt, which take
    turns of `length` positions; every stream shuffles its own shards and passes over them at its own pace. So a sample
    comes once a pass of its set where there is one stream; with more, once a pass of its stream, and in a stream that
    holds fewer samples more often than in another (`imbalance`). Counts of sets are exact to `Blend`'s bound in each
    stream. Cost of a place: O(shards + block) where a pass or block begins, else O(log shards).

    Raises:
        ValueError: a set has no samples or fewer shards than there are nodes.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        seed: int,
        block: int = 16384,
        stages: Sequence[tuple[int, Sequence[Fraction]]] | None = None,
        nodes: int = 1,
        length: int = 1,
    ):
        self.sizes = [tuple(shards) for shards in sizes]
        self.stages = stages or [(0, [Fraction(sum(shards)) for shards in self.sizes])]
        self.nodes, self.length = nodes, length
        assert all(start % (nodes * length) == 0 for start, _ in self.stages), "stages begin where turns do"
        self._blend = Blend([(start // nodes, shares) for start, shares in self.stages])
        self._dealt = [deal(shards, nodes) if nodes > 1 else [list(range(len(shards)))] for shards in self.sizes]
        self._orders = [
            [
                Order(
                    sizes=tuple(self.sizes[number][shard] for shard in part),
                    seed=seed,
                    block=block,
                    stream=number * nodes + node,
                )
                for node, part in enumerate(dealt)
            ]
            for number, dealt in enumerate(self._dealt)
        ]

    def locate(self, position: int) -> MixtureSlot:
        """The sample at a position, counted from 0 over all passes."""
        node, local = self._local(position)
        number, index = self._blend.locate(local)
        epoch, shard, slot = self._orders[number][node].locate(index)
        return MixtureSlot(number, epoch, self._dealt[number][node][shard], slot)

    def locate_arrays(self, start: int, stop: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Sets and passes over them, and the shards and slots that positions `start` to `stop` have of each in turn.

        Far less work than one position at a time, if there is one set.
        """
        if len(self.sizes) == self.nodes == 1:
            yield from ((0, *run) for run in self._orders[0][0].locate_arrays(start, stop))
        else:
            for number, epoch, shard, slot in map(self.locate, range(start, stop)):
                yield number, epoch, np.array([shard]), np.array([slot])

    def locate_range(self, start: int, stop: int) -> Iterator[MixtureSlot]:
        """The samples at positions `start` to `stop`."""
        for number, epoch, shards, slots in self.locate_arrays(start, stop):
            yield from map(MixtureSlot, repeat(number), repeat(epoch), shards.tolist(), slots.tolist())

    def counts(self, position: int) -> list[int]:
        """How many of the positions before this one fall to each set."""
        rounds, rest = divmod(position, self.nodes * self.length)
        befores = [
            rounds * self.length + min(max(rest - node * self.length, 0), self.length) for node in range(self.nodes)
        ]
        return [sum(counts) for counts in zip(*map(self._blend.counts, befores), strict=True)]

    @property
    def imbalance(self) -> list[float]:
        """By set, how much more often its samples come in the stream that holds fewest than in the one with most."""
        totals = [[order.total for order in streams] for streams in self._orders]
        return [(max(counts) - min(counts)) / min(counts) for counts in totals]

    def _local(self, position: int) -> tuple[int, int]:
        """The stream whose turn a position is, and how many of that stream's positions come before."""
        turn, inside = divmod(position, self.length)
        rounds, node = divmod(turn, self.nodes)
        return node, rounds * self.length + inside
