"""The order of training samples, as a pure function of a position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where a position of the endless order lies: pass over the data, shard, sample within the shard."""

    turn: int
    shard: int
    sample: int


@dataclass(frozen=True, eq=False)  # hashed by identity: caches must not hash all sizes at every place
class Order:
    """An endless shuffled order over shards of the given sizes; every sample once a pass.

    Each pass shuffles the shards, then the samples within blocks of `block` consecutive ones, so that finding a place
    costs O(shards + block) and never O(samples). State is the position alone.

    Raises:
        ValueError: there are no samples.
    """

    sizes: tuple[int, ...]
    seed: int
    block: int = 16384

    def __post_init__(self) -> None:
        if sum(self.sizes) < 1:
            raise ValueError("the training split is empty: there is no sample to order")

    @cached_property
    def total(self) -> int:
        """Samples a pass."""
        return sum(self.sizes)

    def place(self, position: int) -> Place:
        """The sample at a position, counted from 0 over all passes."""
        return self.places(position, position + 1)[0]

    def places(self, start: int, stop: int) -> list[Place]:
        """The samples at positions `start` to `stop`; far less work than one at a time."""
        found: list[Place] = []
        while start < stop:
            turn, offset = divmod(start, self.total)
            number, inside = divmod(offset, self.block)
            held = _placed(self, turn, number)[inside : inside + stop - start]
            found += held
            start += len(held)
        return found


@lru_cache(maxsize=8)
def _arrangement(order: Order, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Shards in this pass's order and the running end of each."""
    shards = np.random.default_rng([order.seed, turn, 0]).permutation(len(order.sizes))
    return shards, np.cumsum(np.array(order.sizes)[shards])


@lru_cache(maxsize=8)
def _placed(order: Order, turn: int, number: int) -> list[Place]:
    """The shuffled samples of a block."""
    first = number * order.block
    size = min(order.block, order.total - first)
    spots = first + np.random.default_rng([order.seed, turn, 1, number]).permutation(size)
    shards, ends = _arrangement(order, turn)
    which = np.searchsorted(ends, spots, side="right")
    samples = spots - np.r_[0, ends][which]
    return list(map(Place, [turn] * size, shards[which].tolist(), samples.tolist()))
