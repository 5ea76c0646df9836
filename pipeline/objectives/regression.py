"""Regression of the cells of one modality from the tokens of each other modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import Modality
from modalities.tokens import MISSING
from pipeline.model.batch import Batch, visible_rows
from pipeline.model.modeling import Encoding
from pipeline.objectives.base import Objective, ObjectiveConfig, Term, register

_TYPICAL_TOKENS = 16.0
"""Divisor of the sum over tokens, so that initial predictions are in the range of their targets."""


@register
@dataclass(frozen=True, kw_only=True)
class Regression(ObjectiveConfig):
    """Multi-task regression of a table from other modalities (ChemBERTa-2, Ahmad et al. 2022).

    Attributes:
        target: Modality whose tokens are predicted.
        reads: Encoding whose tokens predict them.
    """

    name = "regression"

    target: str = "table"
    reads: Literal["full", "visible"] = "full"

    def check(self, modalities: Mapping[str, Modality]) -> None:
        if self.target not in modalities:
            raise ValueError(f"objectives.regression.target is {self.target!r}, which is not a modality of this recipe")
        if len(modalities) < 2:
            raise ValueError("objectives.regression needs another modality besides its target")

    def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
        return RegressionObjective(dict(modalities), self.target, self.reads, dim)


class RegressionObjective(Objective):
    """Bilinear readout: a linear function of a sample's features with weights from the cell's position embedding.

    Features are a sum over tokens (Deep Sets, Zaheer et al. 2017), because most descriptors add up over parts, and a
    sum extrapolates to larger objects than those of the training data.
    """

    def __init__(self, modalities: dict[str, Modality], target: str, reads: str, dim: int):
        super().__init__()
        self.views = (reads,)
        self.target = target
        self.modality = modalities[target]
        self.sources = tuple(name for name in modalities if name != target)
        self.features = nn.ModuleDict({name: nn.Sequential(nn.Linear(dim, dim), nn.SiLU()) for name in self.sources})
        self.position = nn.Linear(dim, dim)
        self.head = self.modality.head(dim)

    def _target_rows(self, batch: Batch, source: str) -> torch.Tensor:
        """`(T,)` bool: cells that are not missing, in samples that have the source."""
        content = batch.packs[self.target]
        has_source = F.pad(batch.present[source], (0, 1))[content.sample]
        return has_source & (content.ids[:, 0] != MISSING)

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {f"{source}->{self.target}": self._target_rows(batch, source).sum().float() for source in self.sources}

    def _sum(self, source: str, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Features of samples `(B + 1, dim)` from tokens `(T, dim)`; in `visible`, dropped tokens add nothing."""
        content = batch.packs[source]
        parts = self.features[source](tokens)
        if self.views[0] == "visible":
            parts = parts * visible_rows(content).unsqueeze(1)
        return parts.new_zeros(batch.size + 1, parts.shape[1]).index_add(0, content.sample, parts) / _TYPICAL_TOKENS

    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        encoding, content = encodings[self.views[0]], batch.packs[self.target]
        position = self.position(encoding.position_embeddings[self.target].float())
        counts, terms = self.count(batch), {}
        for source in self.sources:
            features = self._sum(source, encoding.unimodal_tokens[source].float(), batch)
            # index_select, because the backward pass of indexing with [] adds up in the order of threads.
            prediction = self.head(features.index_select(0, content.sample) * position)
            losses = self.modality.loss(prediction, content.values, content.ids)
            total = losses.where(self._target_rows(batch, source), 0.0).sum()
            terms[f"{source}->{self.target}"] = Term(total, counts[f"{source}->{self.target}"])
        return terms
