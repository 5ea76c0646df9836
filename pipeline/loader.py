"""Batches from shards: each rank and worker takes its share of a pure order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from modalities.base import ContentError, Modality, Tokens
from modalities.masking import Mask, corrupt
from modalities.plans import Plan, plan, rules_of
from pipeline.batch import Batch, pack
from shards.order import Order
from shards.read import Members, Split

T = TypeVar("T")


def tokenize(
    members: Members, modalities: Mapping[str, Modality], rng: np.random.Generator | None = None
) -> dict[str, Tokens]:
    """Tokens of all modalities a sample has.

    Raises:
        ContentError: one of them cannot be used, or it has none.
    """
    tokens = {
        name: modality.tokenize(modality.decode(members[name]), rng)
        for name, modality in modalities.items()
        if name in members
    }
    if not tokens:
        raise ContentError("sample without any of the recipe's modalities")
    return tokens


class Ordered:
    """What reads samples of several sets by their position in the order of training."""

    sets: tuple[Split, ...]
    seed: int
    block: int

    @cached_property
    def order(self) -> Order:
        """The order over the shards of all sets."""
        return Order(tuple(size for split in self.sets for size in split.sizes), self.seed, self.block)

    @cached_property
    def _shards(self) -> list[tuple[int, int, int]]:
        """(set, shard, number of the shard's first sample within its set) of every shard."""
        return [
            (number, shard, first)
            for number, split in enumerate(self.sets)
            for shard, first in enumerate(itertools.accumulate(split.sizes[:-1], initial=0))
        ]


@dataclass(frozen=True)
class Samples(Ordered, Dataset[list[T]]):
    """Samples for a loop of one's own: item i holds the i-th `batch_size` of the endless order, read and decoded.

    A `DataLoader` takes it with a range of items as `sampler`, `batch_size=None` and any number of workers.
    """

    sets: tuple[Split, ...]
    decode: Callable[[Members], T]
    batch_size: int
    seed: int = 0
    block: int = 16384

    def __getitem__(self, number: int) -> list[T]:
        start = number * self.batch_size
        places = self.order.places(start, start + self.batch_size)
        wanted = [(*self._shards[place.shard][:2], place.sample) for place in places]
        return [
            self.decode(members)
            for held, group in itertools.groupby(wanted, itemgetter(0))
            for members in self.sets[held].read_many([(shard, sample) for _, shard, sample in group])
        ]


@dataclass(frozen=True)
class Stream(Ordered, Dataset[Batch]):
    """Training passes of one rank: item i is its share of global pass i, from the order and the seed alone.

    A pass is `pass_size` consecutive positions of the order, of which rank r takes the r-th equal slice.
    """

    sets: tuple[Split, ...]
    modalities: Mapping[str, Modality]
    seed: int
    block: int
    batch_size: int
    pass_size: int
    rank: int = 0
    world: int = 1
    masking: Plan = Plan()

    def __getitem__(self, number: int) -> Batch:
        share = self.pass_size // self.world
        start = number * self.pass_size + self.rank * share
        step = number * self.pass_size // self.batch_size
        widths = {name: modality.widths for name, modality in self.modalities.items()}
        samples, masks, seen, keys, faults = [], [], [], [], []
        for position in range(start, start + share):
            try:
                key, tokens, mask, corrupted = self.sample(position, step)
            except ContentError as error:
                key, tokens, mask, corrupted = "", {}, {}, {}
                faults.append(error.reason)
            samples.append(tokens)
            masks.append(mask)
            seen.append(corrupted)
            keys.append(key)
        return pack(samples, widths, masks, seen, keys, faults)

    def sample(self, position: int, step: int) -> tuple[str, dict[str, Tokens], dict[str, Mask], dict[str, Tokens]]:
        """Key, tokens, masks and corrupted tokens of one position; the same on any rank or worker.

        Raises:
            ContentError: the sample cannot be used.
        """
        place = self.order.place(position)
        number, shard, first = self._shards[place.shard]
        rng = np.random.default_rng([self.seed, number, place.turn, first + place.sample, 0])
        tokens = tokenize(self.sets[number].read(shard, place.sample), self.modalities, rng)
        masks = plan(tokens, rng, step, {name: rules_of(self.modalities[name]) for name in tokens}, self.masking)
        seen = {name: corrupt(tokens[name], masks[name], rng) for name in tokens}
        return self.sets[number].key(shard, place.sample), tokens, masks, seen


def passes(stream: Stream, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Passes `start` to `stop` in order, made ahead by worker processes."""
    loader: DataLoader[Batch] = DataLoader(
        stream,
        batch_size=None,
        sampler=range(start, stop),  # any sized iterable of indices
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


@dataclass(frozen=True)
class Held(Dataset[Batch]):
    """Samples of one split in a fixed order, whole and unmasked, in batches of `batch_size`."""

    split: Split
    places: Sequence[tuple[int, int]]
    modalities: Mapping[str, Modality]
    batch_size: int = 64

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        chosen = self.places[number * self.batch_size : (number + 1) * self.batch_size]
        widths = {name: modality.widths for name, modality in self.modalities.items()}
        samples: list[dict[str, Tokens]] = []
        faults = []
        for shard, index in chosen:
            try:
                samples.append(tokenize(self.split.read(shard, index), self.modalities))
            except ContentError as error:
                samples.append({})
                faults.append(error.reason)
        return pack(samples, widths, keys=[self.split.key(*place) for place in chosen], faults=faults)
