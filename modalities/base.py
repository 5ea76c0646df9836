"""The contract of a modality: raw bytes become `Tokens`, and `Tokens` become vectors and losses."""

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

TEXT_EXTENSIONS = frozenset({"txt", "json"})
"""Extensions of members that are readable text."""


def is_text(members: Iterable[str]) -> bool:
    """Whether the members of a sample, by extension, are readable text, unlike an array with a description in JSON."""
    return TEXT_EXTENSIONS.issuperset(members)


class CellContent(NamedTuple):
    """Content made of one cell of a table.

    members: bytes by extension. canonical: normal form, if the cell determines it better than the members do; by
    default `Modality.canonical` of the members. groups: values by which `data.split.by` can group samples, by name.
    """

    members: dict[str, bytes]
    canonical: str | None = None
    groups: Mapping[str, str] = MappingProxyType({})


def fitted(default: Any) -> Any:
    """Declare a dataclass field that `fit` sets and recipes cannot set."""
    return field(default=default, metadata={"fitted": True})


@dataclass(frozen=True, kw_only=True)
class Modality(ABC):
    """One kind of data. The fields of a subclass are the keys of `modalities.NAME` in a recipe, except `fitted` ones.

    Data takes three forms. *Members* are the bytes in a shard, by file extension. A *raw item* is their decoded form
    (a string, an array, a mapping), of any type that the modality chooses. `Tokens` are arrays that the model reads.
    `decode` and `parse` give raw items, `fit` learns constants from them, and `tokenize` turns them into tokens. All
    of these use numpy. `embedding`, `head` and `loss` use torch; `reconstruct` and `show` turn predictions into HTML.

    A subclass is a frozen, keyword-only dataclass decorated with `register` (see `Registry` for other packages), with
    a `type` and `extensions`. It implements the abstract methods. The other methods have defaults; the rest of the
    project calls them and never tests for a particular class, so that a modality of another package can do everything
    that the built-in ones can.

    Fields hold numbers, strings, booleans, bytes, None, and tuples or mappings of these, so that `to_json` can write
    them; recipes are validated against the annotations. Values that make no sense raise `ValueError` in
    `__post_init__`. Instances are pickled to worker processes.

    Content that cannot be used raises `ContentError`, which skips the sample and counts the reason; content that is
    read only in part is reported by `count_change`. Optional packages are imported by `lazy_import` when they are
    needed. Export copies the module of a modality, so it imports names from modules (`from package.module import
    name`) and never modules.

    The first content id, `MISSING` (0), is reserved for special tokens, which are never masked, and the second,
    `UNKNOWN` (1), for content that `fit` did not meet. Tokens with numeric content have any other content id, such
    as 2.

    Attributes:
        mask: How tokens are masked; a list of maskings is applied in turn.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    type: ClassVar[str]
    """Name of this kind of data in recipes, `modalities.NAME.type`."""
    extensions: ClassVar[tuple[str, ...]]
    """File extensions of the members in a shard, lower case, without a dot."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that `decode`, `parse` and `tokenize` import, except for augmentation; never numpy and torch."""

    axes: ClassVar[Axes] = {}
    """Columns of ids and coords that masks can run along, by name: `{"time": ("coords", 0), "channel": ("ids", 1)}`."""
    row_axis: ClassVar[str | None] = None
    """The axis whose values separate rows of tokens; masks of kind `span` do not cross from one row into another."""

    mask: Masking | tuple[Masking, ...] = Masking()

    identifies: ClassVar[bool] = True
    """Whether equal content means the same individual. Not so for tables and texts: many samples share a taxonomy or a
    place, so the search for training samples in a test set ignores them if a sample has other modalities."""
    illustrates: ClassVar[bool] = False
    """Whether a thumbnail shows the object, so that reports put it beside texts."""
    is_recording: ClassVar[bool] = False
    """Whether content is a recording with channels. Sources store the channels that the modality `takes`, as an `npy`
    and a `json` member (`files.recording.to_members`)."""
    cells: ClassVar[Literal["none", "text", "typed"]] = "none"
    """Cells that `from_columns` reads: `text`, as written in the file; `typed`, as numbers, dates and booleans; `none`
    if content cannot be made of several columns."""
    group_names: ClassVar[tuple[str, ...]] = ()
    """Names of the groups that `from_cell` derives, which `data.split.by` can name."""
    build_requires: ClassVar[tuple[str, ...]] = ()
    """Packages that `from_cell` and `canonical` import, beyond `requires`."""

    @property
    def overlap(self) -> int:
        """Number of neighbors on either side that share content with a token; masks hide them together."""
        return 0

    @property
    def example(self) -> str:
        """Python source of a value that `parse` accepts, for the card of an exported model."""
        return "..."

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int, int]:
        """Widths `(P, K, C)` of `Tokens.values`, `ids` and `coords` of a fitted modality."""

    @property
    def num_ids(self) -> int:
        """Number of content ids with MISSING and UNKNOWN; masks draw replacements from the others. 0 if numeric."""
        return 0

    @abstractmethod
    def fit(self, raws: Iterable[Any]) -> Self:
        """Return a copy whose `fitted` fields are set from raw items of the training split.

        `raws` can be iterated only once.

        Raises:
            ValueError: there are no items to fit on.
        """

    def survey(self, raws: Iterable[Any]) -> list[str]:
        """Report the content of all samples of a build, a line per finding; nothing by default.

        `raws` come from `decode` of the modality before `fit`.

        Raises:
            ValueError: the recipe forbids the content.
        """
        return []

    def read_members(self, path: Path) -> dict[str, bytes]:
        """Read a raw file as members by extension: its bytes, and the JSON file beside an `.npy` file.

        Raises:
            ContentError: the file is missing, too large or unreadable.
        """
        extension, beside = path.suffix.lower().lstrip("."), path.with_suffix(".json")
        members = {extension: read_file(path, f"{self.type} file")}
        if extension == "npy" and "json" in self.extensions and beside.is_file():
            members["json"] = read_file(beside, f"{self.type} file")
        return members

    def stored_bytes(self, extension: str, data: bytes) -> bytes:
        """Bytes that a shard stores for a file, such as a sound with its length added to the header."""
        return data

    def from_cell(self, cell: Any) -> CellContent:
        """Make content of one cell: a string, a number, or nested lists and mappings.

        The source `rows` calls it if `txt` is the only extension; otherwise it reads the file that the cell names.
        `hub` calls it for cells that are not files, and `webdataset` for text members.

        Raises:
            ContentError: the cell cannot be used.
        """
        if isinstance(cell, str) and "txt" in self.extensions:
            return CellContent({"txt": cell.encode()})
        raise ContentError(f"{self.type} cannot be made of {type(cell).__name__}")

    def from_columns(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Make members by extension of the cells of one or more columns; empty if all are missing (None).

        The default makes them of a single cell.

        Raises:
            ContentError: the cells cannot be used.
        """
        if len(row) != 1:
            raise ContentError(f"{self.type} cannot be made of {len(row)} columns")
        (cell,) = row.values()
        return {} if cell is None else self.from_cell(cell).members

    def takes(self, label: str) -> bool:
        """Whether this modality reads a channel that a file calls `label`; called if `is_recording`."""
        return True

    def channel_hint(self, label: str) -> str | None:
        """Hint for a channel that the modality must know but does not take; None if it can be left out."""
        return None

    def knows(self, column: str) -> bool:
        """Whether `fit` met a column; called if `cells` is `typed`."""
        return False

    def column_kinds(self) -> dict[str, Literal["number", "date", "boolean", "text"]]:
        """Kinds of the columns that `fit` met, so that new files are read in the same way."""
        return {}

    @property
    def missing_codes(self) -> Mapping[str, tuple[str | int | float, ...]]:
        """By column, the cells that mean a missing value, in place of `strings.cells.MISSING_WORDS`."""
        return {}

    def with_missing_codes(self, codes: Mapping[str, tuple[str | int | float, ...]]) -> Self:
        """Return a copy that also uses these codes of a source; its own codes take precedence."""
        return self

    @abstractmethod
    def decode(self, members: dict[str, bytes]) -> Any:
        """Decode the members of one sample, by extension, into a raw item.

        Raises:
            ContentError: the bytes are damaged, or not of the type that the extension names.
        """

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """Turn a user's value (a path, an array, a string, a mapping) into a raw item.

        Raises:
            ContentError: the value cannot be used.
        """

    @abstractmethod
    def tokenize(self, raw: Any, rng: np.random.Generator | None = None) -> Tokens:
        """Tokenize one raw item. `rng` draws augmentations in training; None means no augmentation.

        Raises:
            ContentError: the item has no tokens, or more than the modality allows.
        """

    def has_content(self, raw: Any) -> bool:
        """Whether any token of a raw item is neither missing nor unknown to the fitted modality."""
        try:
            tokens = self.tokenize(raw)
        except ContentError:
            return False
        return bool((tokens.ids[:, 0] > UNKNOWN).any()) if tokens.ids.shape[1] else bool(tokens.size)

    def canonical(self, raw: Any) -> str | None:
        """Normal form: equal for raw items with the same meaning, such as two spellings of a molecule; None for none.

        A class that overrides this can be compared by `data.dedupe: sequence`.
        """
        return None

    def perceptual_hash(self, raw: Any) -> str | None:
        """64-bit hash in hexadecimal digits; hashes of similar items differ in few bits. None for no hash.

        A class that overrides this can be compared by `data.dedupe: perceptual`.
        """
        return None

    @property
    def comparisons(self) -> tuple[str, ...]:
        """Kinds of `data.dedupe` that apply: `exact` compares bytes, the others results of the methods above."""
        methods = {"perceptual": "perceptual_hash", "sequence": "canonical"}
        overridden = (k for k, name in methods.items() if getattr(type(self), name) is not getattr(Modality, name))
        return ("exact", *overridden)

    @property
    def is_drawing(self) -> bool:
        """Whether images are line drawings, whose perceptual hashes are similar although the contents differ."""
        return False

    def plain(self, raw: Any) -> np.ndarray:
        """Features `(F,)` for a classical baseline; F is the same for all items of a fitted modality.

        The default is the mean and std of the tokens' values or, without values, the share of each content id.
        """
        tokens = self.tokenize(raw)
        if tokens.values.shape[1]:
            return np.concatenate([tokens.values.mean(0), tokens.values.std(0)])
        return np.bincount(tokens.ids[:, 0], minlength=self.num_ids) / tokens.size

    def thumbnail(self, members: Mapping[str, bytes]) -> str:
        """Small HTML of one sample for reports; by default its text, or its tokens as `show` draws them."""
        if is_text(members):
            text = next(iter(members.values())).decode(errors="replace")
            shortened = f"{html.escape(text[:60])}{'…' if len(text) > 60 else ''}"
            return f'<code title="{html.escape(text)}">{shortened}</code>'
        tokens = self.tokenize(self.decode(dict(members)))
        return self.show(tokens, np.zeros(tokens.size, bool), tokens)["original"]

    @abstractmethod
    def embedding(self, dim: int) -> nn.Module:
        """Build the module `(values, ids, coords) -> (content (N, dim), position (N, dim))`.

        values: `(N, P)`. ids: `(N, K)`. coords: `(N, C)`. The position must not depend on the content, because the
        decoder adds it to mask tokens.
        """

    def context(self, dim: int) -> Context | None:
        """Build the module that mixes neighboring tokens after masking; None for no mixing.

        Tokens are neighbors by `coords`, if all their `ids` except the content id are equal.
        """
        return None

    @abstractmethod
    def head(self, dim: int) -> nn.Module:
        """Build the module `(N, dim) -> (N, outputs)` that predicts the content of tokens."""

    @abstractmethod
    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Loss of each token `(N,)` in float32, from the head's output `(N, outputs)` and the true tokens."""

    @abstractmethod
    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        """Turn the head's output `(N, outputs)` into tokens; the true `tokens` supply what is not predicted."""

    @abstractmethod
    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        """Draw `original`, `masked` and `reconstructed` tokens as HTML; `target` `(N,)` bool marks masked ones."""

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON, which `from_json` reads back; bytes become `{"base64": text}`."""
        state = dataclasses.asdict(self)
        binary = {k: {"base64": base64.b64encode(v).decode()} for k, v in state.items() if isinstance(v, bytes)}
        return {"type": self.type, **state, **binary}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Build the modality that `to_json` wrote.

        Raises:
            ValueError: the JSON has a field that this version lacks.
        """
        mask = state.get("mask", {})
        masks = [mask] if isinstance(mask, dict) else mask
        unknown = set(state) - {f.name for f in dataclasses.fields(cls)} - {"type"}
        mask_fields = {f.name for f in dataclasses.fields(Masking)}
        unknown |= {f"mask.{name}" for fields in masks for name in set(fields) - mask_fields}
        if unknown:
            raise ValueError(f"modality '{cls.type}' has no field {', '.join(sorted(unknown))}")
        values = {name: _from_json_value(value) for name, value in state.items() if name not in ("type", "mask")}
        maskings = tuple(
            Masking(**{name: _from_json_value(value) for name, value in fields.items()}) for fields in masks
        )
        return cls(mask=maskings[0] if isinstance(mask, dict) else maskings, **values)


def _from_json_value(value: Any) -> Any:
    """Convert lists to tuples and base64 to bytes, so that a modality equals the one that was written."""
    if isinstance(value, list):
        return tuple(_from_json_value(item) for item in value)
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(value, dict):
        return {name: _from_json_value(item) for name, item in value.items()}
    return value


MODALITY_TYPES: Registry[Modality] = Registry("sensorium.modalities")
"""All modality classes by `type`."""
register = MODALITY_TYPES.register


def from_json(state: dict[str, Any]) -> Modality:
    """Build a modality of any registered type from its JSON.

    Raises:
        ValueError: an unknown type or field.
    """
    return MODALITY_TYPES.find(state.get("type"), "type of a modality").from_json(state)
