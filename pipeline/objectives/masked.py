"""Masked modeling: predict the tokens that masks hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from modalities.base import Modality
from pipeline.model.batch import Batch, predicted_rows
from pipeline.model.modeling import Encoding
from pipeline.objectives.base import Objective, ObjectiveConfig, Term, register


@register
@dataclass(frozen=True, kw_only=True)
class Masked(ObjectiveConfig):
    """Masked modeling in every modality (BERT, Devlin et al. 2019; MAE, He et al. 2022; MultiMAE, Bachmann et al.
    2022).

    The modality decides what is predicted and by which loss.

    Attributes:
        weights: Factors of single modalities; 1 for those not named.
    """

    name = "masked"

    weights: dict[str, float] = field(default_factory=dict)

    def check(self, modalities: Mapping[str, Modality]) -> None:
        if unknown := set(self.weights) - set(modalities):
            raise ValueError(
                f"objectives.masked.weights names {sorted(unknown)[0]!r}, which is not a modality of this recipe"
            )

    def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
        return MaskedObjective(dict(modalities), self.weights)


class MaskedObjective(Objective):
    """Sum of the losses of masked tokens, one term per modality."""

    views = ("visible",)
    decodes = True

    def __init__(self, modalities: dict[str, Modality], weights: Mapping[str, float]):
        super().__init__()
        self.modalities = modalities
        self.weights = dict(weights)

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: batch.packs[name].target.sum().float() for name in self.modalities}

    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        counts, terms = self.count(batch), {}
        for name, modality in self.modalities.items():
            content, prediction = batch.packs[name], encodings["visible"].predictions[name]
            rows = predicted_rows(content)
            losses = modality.loss(prediction, content.values[rows], content.ids[rows])
            total = losses[:-1].sum() + 0 * losses[-1]  # the last one is the dummy's
            terms[name] = Term(self.weights.get(name, 1.0) * total, counts[name])
        return terms
