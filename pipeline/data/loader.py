"""Batches from shards: each rank and worker reads its share of one order, which is a pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, starmap
from typing import Any, NamedTuple

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
    """Tokens of all modalities of a sample. rng: drives augmentation; None for none.

    Raises:
        ContentError: the content of a modality cannot be used, or the sample has none of the modalities.
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
    """A sample of a split cannot be used. fault: the sample and the reason."""

    def __init__(self, fault: Fault):
        super().__init__(fault.reason)
        self.fault = fault


def tokens_at(
    split: Split, shard: int, number: int, modalities: Mapping[str, Modality], rng: np.random.Generator | None = None
) -> dict[str, Tokens]:
    """Tokens of a sample of a split, by its shard and its number there. rng: as in `tokenize`.

    Raises:
        SampleError: the sample cannot be used.
    """
    try:
        return tokenize(split.read(shard, number), modalities, rng)
    except ContentError as error:
        name = f"{split.folder}/{split.shards[shard].name}"
        raise SampleError(Fault(name, split.key(shard, number), error.reason)) from error


@dataclass(frozen=True)
class Cursor:
    """The state of a run in its order.

    position: the next position. skipped: ranges `[from, to)` of earlier positions that were not trained on.
    """

    position: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    @property
    def used(self) -> int:
        """Number of positions that were trained on."""
        return self.position - sum(end - start for start, end in self.skipped)

    def advanced(self, samples: int) -> Cursor:
        """The cursor after that many more samples."""
        return Cursor(self.position + samples, self.skipped)

    def to_json(self) -> dict[str, Any]:
        """The form in checkpoints: `{position, skipped: [[from, to], ...]}`."""
        return {"position": self.position, "skipped": [list(span) for span in self.skipped]}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Cursor:
        """The cursor that `to_json` described."""
        return cls(state["position"], tuple((start, end) for start, end in state["skipped"]))


class KeptSamples:
    """Index of the samples of several sets that keep-lists leave, without a list of them: memory is O(shards)."""

    def __init__(self, sets: Sequence[Split]):
        self._shards = [
            (split, shard, split.sample_numbers(shard)) for split in sets for shard in range(len(split.sizes))
        ]
        self._ends = np.cumsum([len(numbers) for _, _, numbers in self._shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[Split, int, int]:
        """The split, shard and number within the shard of a sample.

        Raises:
            IndexError: the index is not in `[0, len(self))`.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        i = int(np.searchsorted(self._ends, index, side="right"))
        split, shard, numbers = self._shards[i]
        return split, shard, int(numbers[index - int(self._ends[i]) + len(numbers)])


class OrderedReader:
    """Base of readers that address the samples of several sets by their position in the training order."""

    sets: tuple[Split, ...]
    seed: int
    block: int
    mixture: Mixture | None

    @cached_property
    def order(self) -> Mixture:
        """The order over the shards of all sets; by default each set's share is proportional to its size."""
        return self.mixture or Mixture([split.epoch_sizes for split in self.sets], self.seed, self.block)

    @cached_property
    def _first_numbers(self) -> list[np.ndarray]:
        """Number of the first sample of each shard within its set, by set."""
        return [np.cumsum([0, *split.sizes[:-1]]) for split in self.sets]


@dataclass(frozen=True, kw_only=True)
class RawBatches(OrderedReader):
    """Batches of decoded samples for a training loop of your own; item i is the i-th `batch_size` of the endless order.

    Pass it to `prefetch` to read in worker processes.

    decode: called with a sample's `Members`, or with the bytes of each of `members`, such as `image.jpg`; no others are
    then read. block: number of consecutive samples that are shuffled together. mixture: the order, by default all sets
    in proportion to their sizes. stack: samples are arrays of one shape and type; an item is one tensor, not a list.

    Raises:
        ContentError: a sample cannot be read. Also the errors of `decode`.
    """

    sets: tuple[Split, ...]
    decode: Callable[..., Any]
    batch_size: int
    seed: int = 0
    block: int = 16384
    mixture: Mixture | None = None
    members: tuple[str, ...] = ()
    stack: bool = False

    def __getitem__(self, index: int) -> Any:
        runs = self.order.locate_arrays(index * self.batch_size, (index + 1) * self.batch_size)
        samples = chain.from_iterable(starmap(self._decode_run, runs))
        return _stack(samples, self.batch_size) if self.stack else list(samples)

    def _decode_run(self, set_index: int, epoch: int, shards: np.ndarray, slots: np.ndarray) -> Iterator[Any]:
        """Decoded samples of slots of one set and epoch."""
        split = self.sets[set_index]
        numbers = split.samples_at(epoch, shards, slots)
        if self.members:
            return map(self.decode, *split.read_members(shards, numbers, self.members))
        return map(self.decode, split.read_many(shards, numbers))


def _stack(samples: Iterator[np.ndarray], count: int) -> torch.Tensor:
    """Samples `(count, ...)` as one tensor; each is copied while it is still in the processor's cache.

    Raises:
        ValueError: they differ in shape.
    """
    first = next(samples)
    batch = empty((count, *first.shape), first.dtype)
    for i, sample in enumerate(chain([first], samples)):
        if sample.shape != first.shape:
            raise ValueError(f"samples of shapes {first.shape} and {sample.shape} cannot be stacked")
        batch[i] = sample
    return torch.from_numpy(batch)


class TrainingSample(NamedTuple):
    """A sample as the model trains on it: key, and by modality tokens, masks, and tokens altered by the masks."""

    key: str
    tokens: dict[str, Tokens]
    masks: dict[str, Mask]
    corrupted: dict[str, Tokens]


@dataclass(frozen=True, kw_only=True)
class TrainingBatches(OrderedReader):
    """Training batches of one rank: item i is its part of global micro-batch i, from the order and the seed alone.

    A micro-batch is `micro_batch_size` consecutive positions of the order; rank r takes the r-th of `world` equal
    slices. block: number of consecutive samples that are shuffled together. mixture: the order, by default all sets in
    proportion to their sizes. A sample that cannot be used leaves its slot empty, and the batch names it as a fault.
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

    def __getitem__(self, index: int) -> Batch:
        rank_size = self.micro_batch_size // self.world
        start = index * self.micro_batch_size + self.rank * rank_size
        step = index * self.micro_batch_size // self.batch_size
        samples, faults = [], []
        for slot in self.order.locate_range(start, start + rank_size):
            try:
                samples.append(self.sample(slot, step))
            except SampleError as error:
                samples.append(TrainingSample("", {}, {}, {}))
                faults.append(error.fault)
        return pack(
            [sample.tokens for sample in samples],
            {name: modality.widths for name, modality in self.modalities.items()},
            [sample.masks for sample in samples],
            [sample.corrupted for sample in samples],
            [sample.key for sample in samples],
            faults,
        )

    def sample(self, location: tuple[int, int, int, int], step: int) -> TrainingSample:
        """The sample at a location (set, epoch, shard, slot) of the order; the same on any rank or worker.

        Raises:
            SampleError: the sample cannot be used.
        """
        set_index, epoch, shard, slot = location
        split = self.sets[set_index]
        number = split.sample_at(epoch, shard, slot)
        # A sample that a keep-list repeats within an epoch gets a random stream for each slot.
        repeat = [slot] if split.selection is not None and split.selection.weighted else []
        sample_id = int(self._first_numbers[set_index][shard]) + number
        rng = np.random.default_rng([self.seed, set_index, epoch, sample_id, 0, *repeat])
        tokens = tokens_at(split, shard, number, self.modalities, rng)
        masks = plan_masks(tokens, rng, step, {name: rules_of(self.modalities[name]) for name in tokens}, self.masking)
        corrupted = {name: corrupt(tokens[name], masks[name], rng) for name in tokens}
        return TrainingSample(split.key(shard, number), tokens, masks, corrupted)


@dataclass(frozen=True)
class FixedBatches:
    """Batches of given samples of one split, in their order, without augmentation or masks.

    locations: (shard, number) of each sample.
    """

    split: Split
    locations: Sequence[tuple[int, int]]
    modalities: Mapping[str, Modality]
    batch_size: int = 64

    def __len__(self) -> int:
        return -(-len(self.locations) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        locations = self.locations[index * self.batch_size : (index + 1) * self.batch_size]
        widths = {name: modality.widths for name, modality in self.modalities.items()}
        samples: list[dict[str, Tokens]] = []
        faults = []
        for shard, number in locations:
            try:
                samples.append(tokens_at(self.split, shard, number, self.modalities))
            except SampleError as error:
                samples.append({})
                faults.append(error.fault)
        return pack(samples, widths, keys=[self.split.key(*location) for location in locations], faults=faults)
