"""Batches from shards: each rank and worker takes its share of a pure order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, starmap
from typing import Any

import numpy as np
import torch

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.masks.draw import corrupt
from modalities.masks.masking import Mask
from modalities.masks.plan import MaskPlan, plan_masks, rules_of
from modalities.tokens import Tokens
from pipeline.data.workers import empty
from pipeline.model.batch import Batch, Fault, pack
from shards.order import Mixture
from shards.read import Members, Split


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


class SampleError(ContentError):
    """A sample of a split cannot be used; `fault` says which and why."""

    def __init__(self, fault: Fault):
        super().__init__(fault.reason)
        self.fault = fault


def tokens_at(
    split: Split, shard: int, number: int, modalities: Mapping[str, Modality], rng: np.random.Generator | None = None
) -> dict[str, Tokens]:
    """Tokens of a sample of a split.

    Raises:
        SampleError: it cannot be used.
    """
    try:
        return tokenize(split.read(shard, number), modalities, rng)
    except ContentError as error:
        name = f"{split.folder}/{split.shards[shard].name}"
        raise SampleError(Fault(name, split.key(shard, number), error.reason)) from error


@dataclass(frozen=True)
class Cursor:
    """Where a run stands in its order: the next position, and ranges [from, to) that it passed over unused."""

    position: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    @property
    def used(self) -> int:
        """Positions that were trained on."""
        return self.position - sum(end - start for start, end in self.skipped)

    def advanced(self, samples: int) -> Cursor:
        """The cursor after so many more positions."""
        return Cursor(self.position + samples, self.skipped)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a checkpoint: `{position, skipped: [[from, to], ...]}`."""
        return {"position": self.position, "skipped": [list(span) for span in self.skipped]}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Cursor:
        """What `to_json` wrote."""
        return cls(state["position"], tuple((start, end) for start, end in state["skipped"]))


class KeptSamples:
    """The kept samples of several sets as (split, shard, number), without a list of them: memory is O(shards)."""

    def __init__(self, sets: Sequence[Split]):
        self._parts = [(held, shard, held.sample_numbers(shard)) for held in sets for shard in range(len(held.sizes))]
        self._ends = np.cumsum([len(numbers) for _, _, numbers in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[Split, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        held, shard, numbers = self._parts[part]
        return held, shard, int(numbers[index - int(self._ends[part]) + len(numbers)])


class OrderedReader:
    """What reads samples of several sets by their position in the order of training."""

    sets: tuple[Split, ...]
    seed: int
    block: int
    mixture: Mixture | None

    @cached_property
    def order(self) -> Mixture:
        """The order over the shards of all sets."""
        return self.mixture or Mixture([split.epoch_sizes for split in self.sets], self.seed, self.block)

    @cached_property
    def _firsts(self) -> list[np.ndarray]:
        """Number of each shard's first sample within its set, by set."""
        return [np.cumsum([0, *split.sizes[:-1]]) for split in self.sets]


@dataclass(frozen=True)
class RawBatches(OrderedReader):
    """Samples for a loop of one's own: item i is made of the i-th `batch_size` of the endless order, read and decoded.

    `prefetch` hands them over from any number of worker processes. members: what `decode` takes the bytes of, one
    after the other, as `image.jpg`; nothing else is read. By default it takes a sample's `Members`. stack: samples are
    arrays of one shape and type, and an item is one tensor of them, not a list.

    Raises:
        ContentError: a sample cannot be read; what `decode` raises.
    """

    sets: tuple[Split, ...]
    decode: Callable[..., Any]
    batch_size: int
    seed: int = 0
    block: int = 16384
    mixture: Mixture | None = None
    members: tuple[str, ...] = ()
    stack: bool = False

    def __getitem__(self, number: int) -> Any:
        runs = self.order.locate_arrays(number * self.batch_size, (number + 1) * self.batch_size)
        decoded = chain.from_iterable(starmap(self._decoded, runs))
        return _stacked(decoded, self.batch_size) if self.stack else list(decoded)

    def _decoded(self, of: int, epoch: int, shards: np.ndarray, slots: np.ndarray) -> Iterator[Any]:
        held = self.sets[of]
        numbers = held.samples_at(epoch, shards, slots)
        if self.members:
            return map(self.decode, *held.read_members(shards, numbers, self.members))
        return map(self.decode, held.read_many(shards, numbers))


def _stacked(samples: Iterator[np.ndarray], count: int) -> torch.Tensor:
    """Samples as one tensor, each copied as soon as it is decoded and still in the processor's cache.

    Raises:
        ValueError: they differ in shape.
    """
    first = next(samples)
    batch = empty((count, *first.shape), first.dtype)
    for number, sample in enumerate(chain([first], samples)):
        if sample.shape != first.shape:
            raise ValueError(f"samples of shapes {first.shape} and {sample.shape} cannot be stacked")
        batch[number] = sample
    return torch.from_numpy(batch)


@dataclass(frozen=True)
class TrainingBatches(OrderedReader):
    """Training batches of one rank: item i is its part of global micro-batch i, from the order and the seed alone.

    A micro-batch is `micro_batch_size` consecutive positions of the order; rank r takes the r-th of `world` equal
    slices. mixture: the order; by default all sets in proportion to their sizes.
    """

    sets: tuple[Split, ...]
    modalities: Mapping[str, Modality]
    seed: int
    block: int
    batch_size: int
    micro_batch_size: int
    rank: int = 0
    world: int = 1
    masking: MaskPlan = MaskPlan()
    mixture: Mixture | None = None

    def __getitem__(self, number: int) -> Batch:
        share = self.micro_batch_size // self.world
        start = number * self.micro_batch_size + self.rank * share
        step = number * self.micro_batch_size // self.batch_size
        widths = {name: modality.widths for name, modality in self.modalities.items()}
        samples, masks, seen, keys, faults = [], [], [], [], []
        for place in self.order.locate_range(start, start + share):
            try:
                key, tokens, mask, corrupted = self.sample(place, step)
            except SampleError as error:
                key, tokens, mask, corrupted = "", {}, {}, {}
                faults.append(error.fault)
            samples.append(tokens)
            masks.append(mask)
            seen.append(corrupted)
            keys.append(key)
        return pack(samples, widths, masks, seen, keys, faults)

    def sample(
        self, place: tuple[int, int, int, int], step: int
    ) -> tuple[str, dict[str, Tokens], dict[str, Mask], dict[str, Tokens]]:
        """Key, tokens, masks and corrupted tokens of a place in the order; the same on any rank or worker.

        Raises:
            SampleError: the sample cannot be used.
        """
        number, epoch, shard, slot = place
        held = self.sets[number]
        chosen = held.sample_at(epoch, shard, slot)
        again = [slot] if held.selection is not None and held.selection.weighted else []  # others than its first slot
        rng = np.random.default_rng([self.seed, number, epoch, int(self._firsts[number][shard]) + chosen, 0, *again])
        tokens = tokens_at(held, shard, chosen, self.modalities, rng)
        masks = plan_masks(tokens, rng, step, {name: rules_of(self.modalities[name]) for name in tokens}, self.masking)
        seen = {name: corrupt(tokens[name], masks[name], rng) for name in tokens}
        return held.key(shard, chosen), tokens, masks, seen


@dataclass(frozen=True)
class FixedBatches:
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
                samples.append(tokens_at(self.split, shard, index, self.modalities))
            except SampleError as error:
                samples.append({})
                faults.append(error.fault)
        return pack(samples, widths, keys=[self.split.key(*place) for place in chosen], faults=faults)
