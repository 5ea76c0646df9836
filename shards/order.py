"""The order of training samples: a pure function from a position to a sample."""

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
    """Place of a position in an order: epoch, shard, slot within the shard."""

    epoch: int
    shard: int
    slot: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """An endless shuffled order over shards, with every sample once per epoch.

    Each epoch shuffles the shards, then the samples within blocks of `block` consecutive ones, so that locating a
    sample costs O(shards + block) and never O(samples). The only state is the position. Orders with the same seed and
    different `stream` are independent.

    Attributes:
        sizes: Number of samples of each shard.
        seed: Seed of the shuffling.
        block: Number of samples that are shuffled together.
        stream: Number of the stream.

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
        """Samples per epoch."""
        return sum(self.sizes)

    def locate(self, position: int) -> ShardSlot:
        """Locate the sample at a position, counted from 0 over all epochs."""
        ((epoch, shards, slots),) = self.locate_arrays(position, position + 1)
        return ShardSlot(epoch, int(shards[0]), int(slots[0]))

    def locate_arrays(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield epoch, shards and slots of positions `start` to `stop`, in runs within one block.

        Much faster than locating one position at a time.
        """
        while start < stop:
            epoch, offset = divmod(start, self.total)
            number, inside = divmod(offset, self.block)
            shards, slots = self._cached("block", self._shuffle_block, epoch, number)
            part = slice(inside, inside + stop - start)
            yield epoch, shards[part], slots[part]
            start += len(slots[part])

    def _cached(self, name: str, compute: Callable[..., Any], *key: int) -> Any:
        """Cache the last result, because neighboring positions share their epoch and usually their block."""
        if name not in self._last or self._last[name][0] != key:
            self._last[name] = (key, compute(*key))
        return self._last[name][1]

    def _rng(self, *words: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *words, *([self.stream] if self.stream else [])])

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards in the order of an epoch, and their cumulative sizes."""
        shards = self._rng(epoch, 0).permutation(len(self.sizes))
        return shards, np.cumsum(np.array(self.sizes)[shards])

    def _shuffle_block(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and slots of the shuffled samples of a block, each `(samples,)`."""
        first = number * self.block
        size = min(self.block, self.total - first)
        offsets = first + self._rng(epoch, 1, number).permutation(size)
        shards, ends = self._cached("shards", self._shuffle_shards, epoch)
        indices = np.searchsorted(ends, offsets, side="right")
        return shards[indices], offsets - np.r_[0, ends][indices]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}}


def deal(sizes: Sequence[int], nodes: int) -> list[list[int]]:
    """Assign shards to nodes: large shards first, each to the node with the fewest samples so far.

    The nodes then differ by at most one shard's samples (Graham 1969, longest processing time first).

    Raises:
        ValueError: there are fewer shards with samples than nodes.
    """
    nonempty = [shard for shard, size in enumerate(sizes) if size]
    if len(nonempty) < nodes:
        raise ValueError(f"{len(nonempty)} shards cannot be dealt to {nodes} nodes")
    hands: list[list[int]] = [[] for _ in range(nodes)]
    heap = [(0, node) for node in range(nodes)]
    for shard in sorted(nonempty, key=lambda shard: -sizes[shard]):
        samples, node = heapq.heappop(heap)
        hands[node].append(shard)
        heapq.heappush(heap, (samples + sizes[shard], node))
    return [sorted(shards) for shards in hands]


class MixtureSlot(NamedTuple):
    """Place of a position in a mixture: set, epoch of the set, shard of the set, slot within the shard."""

    set: int
    epoch: int
    shard: int
    slot: int


class Mixture:
    """An endless order over several shard sets, whose shares may change over positions; a pure function.

    With several nodes, the shards of every set are dealt to as many streams, which take turns of `length` positions.
    Each stream shuffles its own shards and has its own epochs. With one stream, a sample occurs once per epoch of its
    set; with more, once per epoch of its stream, so more often in a stream with fewer samples (`imbalance`). The counts
    of the sets are exact to the bound of `Blend` in each stream. Locating a sample costs O(shards + block) at the start
    of an epoch or block, else O(log shards).

    Args:
        sizes: Samples of each shard, by set.
        seed: Seed of the shuffling.
        block: Number of samples that are shuffled together.
        stages: (first position, share of each set) of each stage; the first stage starts at 0. By default there is one
            stage, with shares proportional to the sizes of the sets.
        nodes: Number of streams.
        length: Number of consecutive positions of one stream.

    Raises:
        ValueError: a set has no samples, or fewer shards than there are nodes.
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
        assert all(start % (nodes * length) == 0 for start, _ in self.stages), "a stage starts where a turn starts"
        self._blend = Blend([(start // nodes, shares) for start, shares in self.stages])
        self._hands = [deal(shards, nodes) if nodes > 1 else [list(range(len(shards)))] for shards in self.sizes]
        self._orders = [
            [
                Order(
                    sizes=tuple(self.sizes[number][shard] for shard in part),
                    seed=seed,
                    block=block,
                    stream=number * nodes + node,
                )
                for node, part in enumerate(hands)
            ]
            for number, hands in enumerate(self._hands)
        ]

    def locate(self, position: int) -> MixtureSlot:
        """Locate the sample at a position, counted from 0 over all epochs."""
        node, local = self._local(position)
        number, index = self._blend.locate(local)
        epoch, shard, slot = self._orders[number][node].locate(index)
        return MixtureSlot(number, epoch, self._hands[number][node][shard], slot)

    def locate_arrays(self, start: int, stop: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield set, epoch, shards and slots of positions `start` to `stop`, in runs of one set and epoch.

        Much faster than locating one position at a time, if there is one set.
        """
        if len(self.sizes) == self.nodes == 1:
            yield from ((0, *run) for run in self._orders[0][0].locate_arrays(start, stop))
        else:
            for number, epoch, shard, slot in map(self.locate, range(start, stop)):
                yield number, epoch, np.array([shard]), np.array([slot])

    def locate_range(self, start: int, stop: int) -> Iterator[MixtureSlot]:
        """Locate the samples at positions `start` to `stop`."""
        for number, epoch, shards, slots in self.locate_arrays(start, stop):
            yield from map(MixtureSlot, repeat(number), repeat(epoch), shards.tolist(), slots.tolist())

    def counts(self, position: int) -> list[int]:
        """Number of positions of each set before this one."""
        rounds, rest = divmod(position, self.nodes * self.length)
        stream_counts = [
            rounds * self.length + min(max(rest - node * self.length, 0), self.length) for node in range(self.nodes)
        ]
        return [sum(counts) for counts in zip(*map(self._blend.counts, stream_counts), strict=True)]

    @property
    def imbalance(self) -> list[float]:
        """By set, how much more often a sample occurs in the smallest stream than in the largest, as a fraction."""
        totals = [[order.total for order in streams] for streams in self._orders]
        return [(max(counts) - min(counts)) / min(counts) for counts in totals]

    def _local(self, position: int) -> tuple[int, int]:
        """The stream of a position, and the number of that stream's positions before it."""
        segment, inside = divmod(position, self.length)
        rounds, node = divmod(segment, self.nodes)
        return node, rounds * self.length + inside
