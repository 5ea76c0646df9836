"""The contract of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from modalities.base import Modality
from modalities.registry import Registry
from pipeline.model.batch import Batch
from pipeline.model.modeling import Encoding


class Term(NamedTuple):
    """A summed loss. The training step divides it by the sum of `count` over all micro-batches and ranks."""

    sum: torch.Tensor
    count: torch.Tensor  # type: ignore[assignment]  # hides tuple.count, which nothing calls


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(ABC):
    """A recipe's `objectives.NAME`; it builds what it describes.

    Attributes:
        weight: Factor of the objective in the loss.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    name: ClassVar[str]

    weight: float = 1.0

    @abstractmethod
    def check(self, modalities: Mapping[str, Modality]) -> None:
        """Check that the objective can train on these modalities, fitted or not.

        Raises:
            ValueError: it cannot.
        """

    @abstractmethod
    def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
        """The objective for fitted modalities and a trunk of width `dim`."""


class Objective(nn.Module, ABC):
    """A self-supervised method: it turns encodings into terms of the loss.

    views: encodings that it reads (`full`, `visible`). decodes: whether it reads the decoder's predictions.
    """

    views: tuple[str, ...]
    decodes: bool = False

    @abstractmethod
    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Number of summands of each term, from the batch alone; the names are the same for every batch and rank."""

    @abstractmethod
    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        """Terms of the loss, under the names of `count`."""

    def after_step(self) -> None:
        """Update buffers after an optimizer step that was applied, in the same way on all ranks."""


OBJECTIVE_TYPES: Registry[ObjectiveConfig] = Registry("sensorium.objectives", attribute="name")
"""All objective configurations by the `name` that recipes give."""
register = OBJECTIVE_TYPES.register
