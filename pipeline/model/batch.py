"""Batches: samples packed without padding, as segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch

from modalities.masks.masking import Action, Mask
from modalities.tokens import Tokens

SampleTokens = Mapping[str, Tokens]
"""Tokens of a sample by modality; it may lack modalities."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """All T tokens of one modality in a batch.

    values `(T, P)`, ids `(T, K)`, coords `(T, C)`: the true tokens, targets of masked modeling.
    input_values `(T, P)`, input_ids `(T, K)`: the tokens that the encoder reads under the masks; the same tensors if no
    mask alters them.
    target `(T,)` bool, action `(T,)` uint8: the masks. sample `(T,)` int64: the slot that each token belongs to.

    The last row is a constant dummy token in an extra slot after the last. Because of it every rank runs the same
    modules on every batch, and no gradient is None.
    """

    values: torch.Tensor
    ids: torch.Tensor
    coords: torch.Tensor
    input_values: torch.Tensor
    input_ids: torch.Tensor
    target: torch.Tensor
    action: torch.Tensor
    sample: torch.Tensor

    def to(self, device: torch.device) -> Pack:
        """A copy on a device."""
        return Pack(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


class Fault(NamedTuple):
    """Why a slot is empty: the shard and key of its sample, and a reason that quotes no content."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed samples. A slot whose sample is unusable or lacks a modality has no tokens of it.

    size: number of slots. present: `(size,)` bool by modality. keys: key of the sample in each slot, empty if it is
    unusable. faults: one for each unusable sample.
    """

    size: int
    packs: dict[str, Pack]
    present: dict[str, torch.Tensor]
    keys: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """A copy on a device."""
        device = torch.device(device)
        return replace(
            self,
            packs={name: pack.to(device) for name, pack in self.packs.items()},
            present={name: mask.to(device, non_blocking=True) for name, mask in self.present.items()},
        )

    @property
    def tokens(self) -> int:
        """Number of tokens without the dummies."""
        return sum(len(pack.sample) - 1 for pack in self.packs.values())


def pack(
    samples: Sequence[SampleTokens],
    widths: Mapping[str, tuple[int, int, int]],
    masks: Sequence[Mapping[str, Mask]] | None = None,
    inputs: Sequence[SampleTokens] | None = None,
    keys: Iterable[str] = (),
    faults: Iterable[Fault] = (),
) -> Batch:
    """Pack samples.

    widths: `(P, K, C)` of every modality of the model, whether or not a sample has it. masks: by sample and modality;
    without them all tokens are visible and none is a target. inputs: the tokens as altered by the masks.

    Raises:
        ValueError: a modality that the model does not have, or tokens of other widths than the model's.
    """
    _check_widths(samples, widths)
    packs, present = {}, {}
    for name, width in widths.items():
        slots = [i for i, sample in enumerate(samples) if name in sample and sample[name].size]
        packs[name] = _pack_modality(
            [samples[i][name] for i in slots],
            [inputs[i][name] for i in slots] if inputs is not None else None,
            [masks[i][name] for i in slots] if masks is not None else [],
            slots,
            width,
            len(samples),
        )
        is_present = np.zeros(len(samples), bool)
        is_present[slots] = True
        present[name] = torch.from_numpy(is_present)
    return Batch(size=len(samples), packs=packs, present=present, keys=tuple(keys), faults=tuple(faults))


def _check_widths(samples: Sequence[SampleTokens], widths: Mapping[str, tuple[int, int, int]]) -> None:
    """Check that tokens have the widths of the model's modalities."""
    for sample in samples:
        for name, tokens in sample.items():
            if name not in widths:
                raise ValueError(f"modality {name!r} is not among the model's: {', '.join(widths)}")
            actual = tuple(part.shape[1] for part in tokens)
            if actual != widths[name]:
                raise ValueError(f"{name} tokens have widths {actual}, the model was fitted to {widths[name]}")


def _pack_modality(
    tokens: list[Tokens],
    inputs: list[Tokens] | None,
    masks: list[Mask],
    slots: list[int],
    widths: tuple[int, int, int],
    size: int,
) -> Pack:
    """Pack the tokens of one modality.

    slots: the slot of each sample that has the modality. size: number of slots of the batch.
    """
    values, ids, coords = (_stack([sample[part] for sample in tokens], widths[part], part) for part in range(3))
    input_values, input_ids = values, ids
    if inputs is not None and any(a.ids is not b.ids for a, b in zip(tokens, inputs, strict=True)):
        input_values, input_ids = (_stack([sample[part] for sample in inputs], widths[part], part) for part in range(2))
    counts = [sample.size for sample in tokens]
    target = np.zeros(sum(counts) + 1, bool)
    action = np.zeros(sum(counts) + 1, np.uint8)
    if masks:
        target[:-1] = np.concatenate([mask.target for mask in masks])
        action[:-1] = np.concatenate([mask.action for mask in masks])
    return Pack(
        values=values,
        ids=ids,
        coords=coords,
        input_values=input_values,
        input_ids=input_ids,
        target=torch.from_numpy(target),
        action=torch.from_numpy(action),
        sample=torch.from_numpy(np.append(np.repeat(np.array(slots, np.int64), counts), size)),
    )


def _stack(parts: list[np.ndarray], width: int, part: int) -> torch.Tensor:
    """Rows of all samples and the dummy row, which has known content (id 1) at the origin.

    part: 0 for values, 1 for ids, 2 for coords.
    """
    dtype = np.int64 if part == 1 else np.float32
    dummy = np.full((1, width), part == 1, dtype)
    return torch.from_numpy(np.concatenate([*parts, dummy]).astype(dtype, copy=False))


def unpack(batch: Batch) -> list[dict[str, Tokens]]:
    """The samples of a batch on the CPU, as they were before masking."""
    samples: list[dict[str, Tokens]] = [{} for _ in range(batch.size)]
    for name, content in batch.packs.items():
        slots = content.sample.numpy()
        for slot in np.flatnonzero(batch.present[name].numpy()):
            rows = slots == slot
            samples[slot][name] = Tokens(
                content.values.numpy()[rows], content.ids.numpy()[rows], content.coords.numpy()[rows]
            )
    return samples


class Layout(NamedTuple):
    """How tokens are grouped for attention within segments.

    order: `(T,)` token indices sorted by segment length, then segment. inverse: `(T,)` undoes it. groups: (number of
    segments, length) for each length, so that attention runs once per group on plain views.
    """

    order: torch.Tensor
    inverse: torch.Tensor
    groups: tuple[tuple[int, int], ...]


def layout(segment: torch.Tensor) -> Layout:
    """The layout of tokens from the numbers of their segments `(T,)`."""
    numbers = segment.cpu().numpy()
    _, indices, lengths = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.lexsort((indices, lengths[indices]))
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    sizes, segments = np.unique(lengths, return_counts=True)
    return Layout(
        torch.from_numpy(order).to(segment.device),
        torch.from_numpy(inverse).to(segment.device),
        tuple((int(n), int(length)) for n, length in zip(segments, sizes, strict=True)),
    )


def visible_rows(content: Pack) -> torch.Tensor:
    """`(T,)` bool: tokens that the trunk encodes under the masks."""
    return content.action != Action.DROP


def predicted_rows(content: Pack) -> torch.Tensor:
    """`(T,)` bool: the targets and, last, the dummy, so that every head runs on every batch."""
    rows = content.target.clone()
    rows[-1] = True
    return rows
