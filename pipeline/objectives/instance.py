"""Contrast within a modality: what is left of a sample under its masks, and the whole of it, attract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from modalities.base import Modality
from pipeline.batch import Batch
from pipeline.model.modeling import Encoding
from pipeline.objectives.base import Objective, ObjectiveConfig, Term, register
from pipeline.objectives.contrastive import LARGEST_SCALE, Bounded, gather, infonce


@register
@dataclass(frozen=True, kw_only=True)
class Instance(ObjectiveConfig):
    """Instance discrimination (Wu et al. 2018) by InfoNCE between two views of a sample (SimCLR, Chen et al. 2020).

    The views are the whole sample and what its masks leave of it (as in MSN, Assran et al. 2022). So features tell
    samples apart by what is spread all over them, where masked modelling alone learns what all of them share.

    modalities: `all`, or a list. scale: initial inverse temperature, learnt and kept within [1, 100].
    """

    name = "instance"
    reads: ClassVar[str] = "visible"

    modalities: Literal["all"] | tuple[str, ...] = "all"
    scale: float = 10.0

    def _names(self, modalities: Mapping[str, Modality]) -> tuple[str, ...]:
        return tuple(modalities) if self.modalities == "all" else self.modalities

    def check(self, modalities: Mapping[str, Modality]) -> None:
        if not self._names(modalities):
            raise ValueError("objectives.instance.modalities names none")
        for name in self._names(modalities):
            if name not in modalities:
                raise ValueError(f"objectives.instance.modalities names {name!r}, which is no modality here")
        if not 1 <= self.scale <= 100:
            raise ValueError(f"objectives.instance.scale is {self.scale}, it must lie within [1, 100]")

    def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
        return InstanceObjective(self._names(modalities), self.scale)


class InstanceObjective(Objective):
    """Each sample adds two cross-entropies a modality; negatives are the pass's samples over all ranks."""

    views = ("full", "visible")

    def __init__(self, names: tuple[str, ...], scale: float):
        super().__init__()
        self.names = names
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: 2 * batch.present[name].sum().float() for name in self.names}

    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        scale = Bounded.apply(self.log_scale, 0.0, LARGEST_SCALE).exp()
        counts, terms = self.count(batch), {}
        for name in self.names:
            whole, seen = (encodings[view].embeddings[name] for view in self.views)
            here = gather(batch.present[name].float()) > 0
            terms[name] = Term(infonce(whole, seen, gather(whole), gather(seen), here, scale), counts[name])
        return terms
