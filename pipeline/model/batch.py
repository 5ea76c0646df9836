"""Samples packed into one batch: no padding, segments instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch

from modalities.masks.masking import Action, Mask
from modalities.tokens import Tokens

SampleTokens = Mapping[str, Tokens]
"""A sample's tokens by modality; modalities may be absent."""


@dataclass(frozen=True)
class Pack:
    """All tokens of one modality in a batch.

    values `(T, P)`, ids `(T, K)`, coords `(T, C)`: the true tokens, the targets of masked modelling.
    input_values, input_ids: as the encoder sees them; the same tensors where nothing is corrupted.
    target `(T,)` bool, action `(T,)` uint8: masks. sample `(T,)` int64: the slot each token belongs to.
    The last row is a constant dummy token of the slot after the last, always there, so that every rank runs the same
    modules on every batch and no gradient is None.
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
        """The same pack on a device."""
        return Pack(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


class Fault(NamedTuple):
    """Why a slot is empty: the sample's shard and key, and a reason that quotes no content."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Packed samples. `size` counts slots; a slot whose sample is corrupt or lacks a modality has no tokens of it.

    present: `(size,)` bool by modality. keys: the sample in each slot, empty where it was left out.
    """

    size: int
    packs: dict[str, Pack]
    present: dict[str, torch.Tensor]
    keys: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Why slots are empty, one each."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        device = torch.device(device)
        return replace(
            self,
            packs={name: pack.to(device) for name, pack in self.packs.items()},
            present={name: mask.to(device, non_blocking=True) for name, mask in self.present.items()},
        )

    @property
    def tokens(self) -> int:
        """Number of true tokens, dummies aside."""
        return sum(len(pack.sample) - 1 for pack in self.packs.values())


def pack(
    samples: Sequence[SampleTokens],
    widths: Mapping[str, tuple[int, int, int]],
    masks: Sequence[Mapping[str, Mask]] | None = None,
    seen: Sequence[SampleTokens] | None = None,
    keys: Iterable[str] = (),
    faults: Iterable[Fault] = (),
) -> Batch:
    """Pack samples.

    widths: `(P, K, C)` of every modality of the model, whether or not a sample has it. masks: by sample and modality;
    without them every token is kept and none is a target. seen: tokens as corrupted by the masks.

    Raises:
        ValueError: a modality the model has not, or tokens of other widths than it was fitted to.
    """
    for sample in samples:
        for name, tokens in sample.items():
            if name not in widths:
                raise ValueError(f"modality {name!r} is not among the model's: {', '.join(widths)}")
            got = tuple(part.shape[1] for part in tokens)
            if got != widths[name]:
                raise ValueError(f"{name} tokens have widths {got}, the model was fitted to {widths[name]}")
    size = len(samples)
    packs, present = {}, {}
    for name, width in widths.items():
        slots = [i for i, sample in enumerate(samples) if name in sample and sample[name].size]
        true = [samples[i][name] for i in slots]
        values, ids, coords = (_stack([tokens[part] for tokens in true], width[part], part) for part in range(3))
        if seen is None:
            input_values, input_ids = values, ids
        else:
            corrupted = [seen[i][name] for i in slots]
            changed = any(a.ids is not b.ids for a, b in zip(true, corrupted, strict=True))
            input_values, input_ids = (
                (_stack([tokens[part] for tokens in corrupted], width[part], part) for part in range(2))
                if changed
                else (values, ids)
            )
        counts = [tokens.size for tokens in true]
        chosen = [masks[i][name] for i in slots] if masks is not None else []
        target = np.zeros(sum(counts) + 1, bool)
        action = np.zeros(sum(counts) + 1, np.uint8)
        if chosen:
            target[:-1] = np.concatenate([mask.target for mask in chosen])
            action[:-1] = np.concatenate([mask.action for mask in chosen])
        packs[name] = Pack(
            values,
            ids,
            coords,
            input_values,
            input_ids,
            torch.from_numpy(target),
            torch.from_numpy(action),
            torch.from_numpy(np.append(np.repeat(np.array(slots, np.int64), counts), size)),
        )
        here = np.zeros(size, bool)
        here[slots] = True
        present[name] = torch.from_numpy(here)
    return Batch(size, packs, present, tuple(keys), tuple(faults))


def _stack(parts: list[np.ndarray], width: int, part: int) -> torch.Tensor:
    """Rows of all samples and the dummy row, whose content is known (id 1) and at the origin."""
    kind = np.int64 if part == 1 else np.float32
    dummy = np.full((1, width), part == 1, kind)
    return torch.from_numpy(np.concatenate([*parts, dummy]).astype(kind, copy=False))


def unpack(batch: Batch) -> list[dict[str, Tokens]]:
    """The samples of a batch again, as they were before masking."""
    samples: list[dict[str, Tokens]] = [{} for _ in range(batch.size)]
    for name, content in batch.packs.items():
        slot = content.sample.numpy()
        for i in np.flatnonzero(batch.present[name].numpy()):
            own = slot == i
            samples[i][name] = Tokens(
                content.values.numpy()[own], content.ids.numpy()[own], content.coords.numpy()[own]
            )
    return samples


class Layout(NamedTuple):
    """How tokens are grouped for attention within segments.

    order `(T,)`: tokens sorted by segment length, then segment. inverse `(T,)` undoes it. groups: (segments, length)
    of each run of equally long segments, so that attention runs once a group on plain views.
    """

    order: torch.Tensor
    inverse: torch.Tensor
    groups: tuple[tuple[int, int], ...]


def layout(segment: torch.Tensor) -> Layout:
    """The layout of tokens whose segments are given by number `(T,)`."""
    number = segment.cpu().numpy()
    _, which, lengths = np.unique(number, return_inverse=True, return_counts=True)
    order = np.lexsort((which, lengths[which]))
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    sizes, segments = np.unique(lengths, return_counts=True)
    return Layout(
        torch.from_numpy(order).to(segment.device),
        torch.from_numpy(inverse).to(segment.device),
        tuple((int(n), int(length)) for n, length in zip(segments, sizes, strict=True)),
    )


def visible_rows(content: Pack) -> torch.Tensor:
    """`(T,)` bool: tokens that are encoded under the masks."""
    return content.action != Action.DROP
