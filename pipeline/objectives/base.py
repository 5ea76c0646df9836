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
    """A summed loss; the engine divides it by the count of the whole step over all ranks."""

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
        """See whether these modalities, fitted or not, can serve the objective.

        Raises:
            ValueError: they cannot.
        """

    @abstractmethod
    def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
        """The objective over fitted modalities and a trunk of width `dim`."""


class Objective(nn.Module, ABC):
    """One way to learn.

    views: the encodings it reads (`full`, `visible`). decodes: whether it reads the decoder's predictions.
    """

    views: tuple[str, ...]
    decodes: bool = False

    @abstractmethod
    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Number of summands of each term, from the batch alone; the same names on every batch and rank."""

    @abstractmethod
    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        """Terms by the names of `count`."""

    def after_step(self) -> None:
        """Update running state, alike on all ranks; called after each optimizer step."""


OBJECTIVE_TYPES: Registry[ObjectiveConfig] = Registry("sensorium.objectives", attribute="name")
"""All objective configurations by the `name` that recipes give."""
register = OBJECTIVE_TYPES.register
