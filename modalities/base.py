"""The contract every kind of data fulfils: raw bytes become `Tokens`, `Tokens` become vectors and losses."""

from __future__ import annotations

import base64
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from modalities.files.reading import read_file
from modalities.layers.context import Context
from modalities.masks.masking import Masking
from modalities.registry import Registry
from modalities.tokens import Axes, Tokens


def fitted(default: Any) -> Any:
    """A dataclass field that `fit` learns; recipes may not set it."""
    return field(default=default, metadata={"fitted": True})


@dataclass(frozen=True, kw_only=True)
class Modality(ABC):
    """One kind of data. Fields are the recipe's keys, save those marked `fitted`.

    Attributes:
        mask: How tokens are masked; a list of maskings is applied in turn.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    type: ClassVar[str]
    extensions: ClassVar[tuple[str, ...]]
    """File extensions of this modality's members in a shard."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that `decode`, `parse` and `tokenize` need beyond numpy and torch, augmentation aside."""

    axes: ClassVar[Axes] = {}
    """Columns of ids and coords that masks may run along, by name."""
    row_axis: ClassVar[str | None] = None
    """Axis whose values separate rows of tokens; masks of kind `span` do not cross from one row into another."""

    mask: Masking | tuple[Masking, ...] = Masking()

    @property
    def overlap(self) -> int:
        """How many neighbours on either side share content with a token."""
        return 0

    @property
    def example(self) -> str:
        """Python source of something that `parse` takes, for model cards."""
        return "..."

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int, int]:
        """`(P, K, C)`: the widths of values, ids and coords once fitted."""

    @property
    def num_ids(self) -> int:
        """Number of content ids: replacements drawn at random are below it; 0 if content is numeric."""
        return 0

    @abstractmethod
    def fit(self, raws: Iterable[Any]) -> Self:
        """A copy that has learned its constants from training data.

        Raises:
            ValueError: nothing to fit on.
        """

    def survey(self, raws: Iterable[Any]) -> list[str]:
        """What a build says of the content of all samples, a line each; nothing by default.

        Raises:
            ValueError: content that the recipe does not allow.
        """
        return []

    def members(self, path: Path) -> dict[str, bytes]:
        """The members of a sample, by extension, that a raw file becomes: its bytes, with an array its description.

        Raises:
            ContentError: the file is missing, too large or cannot be read.
        """
        extension, beside = path.suffix.lower().lstrip("."), path.with_suffix(".json")
        members = {extension: read_file(path, f"{self.type} file")}
        if extension == "npy" and "json" in self.extensions and beside.is_file():
            members["json"] = read_file(beside, f"{self.type} file")
        return members

    @abstractmethod
    def decode(self, members: dict[str, bytes]) -> Any:
        """Raw data from all of a sample's members of this modality, by extension.

        Raises:
            ContentError: the bytes are not what the extension says.
        """

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """Raw data from what a user hands over (a path, an array, a string, a dict).

        Raises:
            ContentError: the value cannot be used.
        """

    @abstractmethod
    def tokenize(self, raw: Any, rng: np.random.Generator | None = None) -> Tokens:
        """Tokens of one raw item; `rng` drives augmentation in training and is None elsewhere.

        Raises:
            ContentError: the item has no tokens or more than the modality allows.
        """

    @abstractmethod
    def embedding(self, dim: int) -> nn.Module:
        """Module `(values, ids, coords) -> (content (N, dim), place (N, dim))`; place says nothing of the content."""

    def context(self, dim: int) -> Context | None:
        """Module that adds to each token what its neighbours hold, after masking; None for none."""
        return None

    @abstractmethod
    def head(self, dim: int) -> nn.Module:
        """Module `(N, dim) -> (N, outputs)` that predicts a token's content."""

    @abstractmethod
    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Loss of each token `(N,)` in float32, given the head's output and the true token."""

    @abstractmethod
    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        """Tokens as predicted by the head; `tokens` are the true ones and lend what was not predicted."""

    @abstractmethod
    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        """HTML of `original`, `masked` (where `target` is true) and `reconstructed`."""

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs; binary assets (fields of bytes) become `{"base64": text}`."""
        state = dataclasses.asdict(self)
        binary = {k: {"base64": base64.b64encode(v).decode()} for k, v in state.items() if isinstance(v, bytes)}
        return {"type": self.type, **state, **binary}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """The modality that `to_json` described.

        Raises:
            ValueError: a key that this version does not know.
        """
        held = state.get("mask", {})
        masks = [held] if isinstance(held, dict) else held
        unknown = set(state) - {f.name for f in dataclasses.fields(cls)} - {"type"}
        known = {f.name for f in dataclasses.fields(Masking)}
        unknown |= {f"mask.{name}" for mask in masks for name in set(mask) - known}
        if unknown:
            raise ValueError(f"modality '{cls.type}' has no field {', '.join(sorted(unknown))}")
        fields = {name: _thaw(value) for name, value in state.items() if name not in ("type", "mask")}
        maskings = tuple(Masking(**{name: _thaw(value) for name, value in mask.items()}) for mask in masks)
        return cls(mask=maskings[0] if isinstance(held, dict) else maskings, **fields)


def _thaw(value: Any) -> Any:
    """JSON lists as tuples and base64 as bytes, so that a modality read back equals the one written."""
    if isinstance(value, list):
        return tuple(_thaw(item) for item in value)
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(value, dict):
        return {name: _thaw(item) for name, item in value.items()}
    return value


MODALITY_TYPES: Registry[Modality] = Registry("sensorium.modalities")
"""All modality classes by the `type` that recipes give."""
register = MODALITY_TYPES.register


def from_json(state: dict[str, Any]) -> Modality:
    """Rebuild any registered modality from its JSON.

    Raises:
        ValueError: an unknown type or field.
    """
    return MODALITY_TYPES.find(state.get("type"), "type of a modality").from_json(state)
