"""The contract every kind of data fulfils: raw bytes become `Tokens`, `Tokens` become vectors and losses."""

from __future__ import annotations

import base64
import dataclasses
import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from modalities.files.reading import ContentError, read_file
from modalities.layers.context import Context
from modalities.masks.masking import Masking
from modalities.registry import Registry
from modalities.tokens import UNKNOWN, Axes, Tokens

TEXT_EXTENSIONS = ("txt", "json")
"""Extensions of members that people can read."""


class CellContent(NamedTuple):
    """Content from one cell of a table: members by extension, its `canonical` form if known, and groups by name."""

    members: dict[str, bytes]
    canonical: str | None = None
    groups: Mapping[str, str] = MappingProxyType({})


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

    comparisons: ClassVar[tuple[str, ...]] = ("exact",)
    """Kinds of `data.dedupe` that can compare contents: `exact` (bytes), `perceptual` (`perceptual_hash`), `sequence`
    (`canonical`)."""
    identifies: ClassVar[bool] = True
    """Whether content differs between individuals; a table of places or a taxonomy is shared by many."""
    illustrates: ClassVar[bool] = False
    """Whether thumbnails show the object, so that reports put them beside the text of other modalities."""
    is_recording: ClassVar[bool] = False
    """Whether content is a recording of channels, whose sample rate and units a source must know."""
    cells: ClassVar[Literal["none", "text", "typed"]] = "none"
    """Whether content is made of several columns of a table, from cells as they are written or from typed cells."""
    group_names: ClassVar[tuple[str, ...]] = ()
    """Groups that `from_cell` derives from content, by which a split can be made."""
    build_requires: ClassVar[tuple[str, ...]] = ()
    """Packages that `from_cell` and `canonical` need beyond `requires`."""

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

    def read_members(self, path: Path) -> dict[str, bytes]:
        """Read a raw file as members of a sample, by extension: its bytes, and the JSON beside an `.npy` file.

        Raises:
            ContentError: the file is missing, too large or unreadable.
        """
        extension, beside = path.suffix.lower().lstrip("."), path.with_suffix(".json")
        members = {extension: read_file(path, f"{self.type} file")}
        if extension == "npy" and "json" in self.extensions and beside.is_file():
            members["json"] = read_file(beside, f"{self.type} file")
        return members

    def stored_bytes(self, extension: str, data: bytes) -> bytes:
        """The bytes that a shard stores for a file of these bytes."""
        return data

    def from_cell(self, cell: Any) -> CellContent:
        """Content of one cell of a table or data set: a string, bytes, or nested lists and mappings.

        Raises:
            ContentError: the modality cannot be made of this cell.
        """
        if isinstance(cell, str) and "txt" in self.extensions:
            return CellContent({"txt": cell.encode()})
        raise ContentError(f"{self.type} cannot be made of {type(cell).__name__}")

    def from_columns(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Members, by extension, from the cells of several columns (None if missing); none if there is no content.

        Only called if `cells` is not `none`.
        """
        raise NotImplementedError(f"modality type {self.type} is not made of several columns")

    def knows(self, column: str) -> bool:
        """Whether a column of a table was in the training split."""
        return False

    def column_kinds(self) -> dict[str, Literal["number", "date", "boolean", "text"]]:
        """What the cells of each column were in the training split, to read columns of new files the same way."""
        return {}

    @property
    def missing_codes(self) -> Mapping[str, tuple[str | int | float, ...]]:
        """By column, cells that mean a missing value, in place of the usual words."""
        return {}

    def with_missing_codes(self, codes: Mapping[str, tuple[str | int | float, ...]]) -> Self:
        """A copy that also treats these cells as missing, where it has no codes of its own."""
        return self

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

    def has_content(self, raw: Any) -> bool:
        """Whether a fitted modality finds any token in `raw` that is neither missing nor unknown."""
        try:
            tokens = self.tokenize(raw)
        except ContentError:
            return False
        return bool((tokens.ids[:, 0] > UNKNOWN).any()) if tokens.ids.shape[1] else bool(tokens.size)

    def canonical(self, raw: Any) -> str:
        """The same text for all raw items that mean the same, however they are written; compared by `sequence`."""
        raise NotImplementedError(f"modality type {self.type} has no canonical form")

    def perceptual_hash(self, raw: Any) -> str:
        """64-bit hash in hexadecimal digits, of which similar items differ in few bits; compared by `perceptual`."""
        raise NotImplementedError(f"modality type {self.type} has no perceptual hash")

    @property
    def is_drawing(self) -> bool:
        """Whether images are line drawings, whose perceptual hashes are alike although the contents differ."""
        return False

    def plain(self, raw: Any) -> np.ndarray:
        """Simple features `(F,)` for a classical baseline, the same number for all items of a fitted modality.

        By default the mean and std of numeric content, or the share of each content id.
        """
        tokens = self.tokenize(raw)
        if tokens.values.shape[1]:
            return np.concatenate([tokens.values.mean(0), tokens.values.std(0)])
        return np.bincount(tokens.ids[:, 0], minlength=self.num_ids) / tokens.size

    def thumbnail(self, members: Mapping[str, bytes]) -> str:
        """Small HTML of a sample's content for reports: its text, or what `show` draws of its tokens."""
        extension, data = next(iter(members.items()))
        if extension in TEXT_EXTENSIONS:
            text = data.decode(errors="replace")
            shortened = f"{html.escape(text[:60])}{'…' if len(text) > 60 else ''}"
            return f'<code title="{html.escape(text)}">{shortened}</code>'
        tokens = self.tokenize(self.decode(dict(members)))
        return self.show(tokens, np.zeros(tokens.size, bool), tokens)["original"]

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
        mask_state = state.get("mask", {})
        masks = [mask_state] if isinstance(mask_state, dict) else mask_state
        unknown = set(state) - {f.name for f in dataclasses.fields(cls)} - {"type"}
        mask_fields = {f.name for f in dataclasses.fields(Masking)}
        unknown |= {f"mask.{name}" for mask in masks for name in set(mask) - mask_fields}
        if unknown:
            raise ValueError(f"modality '{cls.type}' has no field {', '.join(sorted(unknown))}")
        fields = {name: _thaw(value) for name, value in state.items() if name not in ("type", "mask")}
        maskings = tuple(Masking(**{name: _thaw(value) for name, value in mask.items()}) for mask in masks)
        return cls(mask=maskings[0] if isinstance(mask_state, dict) else maskings, **fields)


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
