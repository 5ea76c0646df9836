"""The contract every kind of data fulfils: raw bytes become `Tokens`, `Tokens` become vectors and losses."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import nn

from modalities.layers.context import Context
from modalities.masks.masking import Axes, Masking

T = TypeVar("T")

MISSING, UNKNOWN = 0, 1
"""Ids every modality shares: what is not there, and what was not seen while fitting."""
MAX_JSON_BYTES = 1 << 26
"""Of a text of JSON, whose objects take some ten times its size."""
MAX_BYTES = 1 << 30
"""Larger files are left out unread."""


class ContentError(ValueError):
    """One sample's content cannot be used; loaders leave it out and count it by `reason`, which quotes no content."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


_changes: ContextVar[Counter[str] | None] = ContextVar("changes", default=None)


def count_change(reason: str, times: int = 1) -> None:
    """Count something that a sample's content lost, or that was read otherwise than it is written.

    Call it wherever that happens; `counted_changes` around the reading collects it, and without one it is lost.
    reason: what happened to what (`lead V3 left out: missing samples`), the same text for all such samples.
    """
    changes = _changes.get()
    if changes is not None:
        changes[reason] += times


@contextmanager
def counted_changes() -> Iterator[Counter[str]]:
    """Collect what `count_change` counts while the context is open, by reason."""
    changes = Counter[str]()
    token = _changes.set(changes)
    try:
        yield changes
    finally:
        _changes.reset(token)


class Tokens(NamedTuple):
    """What every modality becomes.

    values: `(N, P)` float32, content that is a number (pixels, cells).
    ids: `(N, K)` int64, identity (vocabulary entry, band, column); the first is the content's own id.
    coords: `(N, C)` float32, geometry only (row and column, index, time in s).
    """

    values: np.ndarray
    ids: np.ndarray
    coords: np.ndarray

    @property
    def size(self) -> int:
        """Number of tokens N."""
        return len(self.ids)


def parser(module: str, package: str) -> Any:
    """Import a file parser when it is first needed.

    A model that runs on Tokens must load where no parser is installed, so modalities never import one at the top.

    Raises:
        ValueError: the package is absent or cannot be loaded; the message names it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"reading this data needs the package '{package}': pip install {package}") from error
    except OSError as error:  # a wheel's compiled parts that do not fit, as torchaudio's for CUDA beside a CPU torch
        raise ValueError(f"the package '{package}' cannot be loaded: {error}") from error


def file_bytes(path: Path, noun: str) -> bytes:
    """A file's bytes.

    Raises:
        ContentError: there is none, it is too large, or it cannot be read; reasons call it `noun`.
    """
    try:
        if not path.is_file():
            raise ContentError(f"{noun} is missing", str(path))
        if path.stat().st_size > MAX_BYTES:
            raise ContentError(f"{noun} of more than {MAX_BYTES:,} bytes", str(path))
        return path.read_bytes()
    except OSError as error:
        raise ContentError(f"{noun} that cannot be read", error.strerror or "") from error


def json_of(data: bytes, noun: str) -> Any:
    """What a JSON text says.

    Raises:
        ContentError: it is longer than `MAX_JSON_BYTES`, or no JSON.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ContentError(f"{noun} of more than {MAX_JSON_BYTES:,} bytes of JSON")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{noun} is not JSON") from error


def once_a_file(held: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Decorator of what reads a file: the results for the last `held` files are kept while these stay as they are."""

    def decorate(read: Callable[[Path], T]) -> Callable[[Path], T]:
        @lru_cache(maxsize=held)
        def kept(path: Path, size: int, time_ns: int) -> T:
            return read(path)

        @wraps(read)
        def wrapped(path: Path) -> T:
            if not path.is_file():
                return read(path)
            state = path.stat()
            return kept(path, state.st_size, state.st_mtime_ns)

        return wrapped

    return decorate


def fitted(default: Any) -> Any:
    """A dataclass field that `fit` learns; recipes may not set it."""
    return field(default=default, metadata={"fitted": True})


@dataclass(frozen=True, kw_only=True)
class Modality(ABC):
    """One kind of data. Fields are the recipe's keys, save those marked `fitted`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    type: ClassVar[str]
    extensions: ClassVar[tuple[str, ...]]
    """File extensions of this modality's members in a shard."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that `decode`, `parse` and `tokenize` need beyond numpy and torch, augmentation aside."""

    axes: ClassVar[Axes] = {}
    """Columns of ids and coords that masks may run along, by name."""

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
    def entries(self) -> int:
        """Number of content ids a random replacement may draw from; 0 where content is a number."""
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
        members = {extension: file_bytes(path, f"{self.type} file")}
        if extension == "npy" and "json" in self.extensions and beside.is_file():
            members["json"] = file_bytes(beside, f"{self.type} file")
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


M = TypeVar("M", bound=Modality)
_registry: dict[str, type[Modality]] = {}


def register(cls: type[M]) -> type[M]:
    """Class decorator: makes a modality known to recipes by its `type`."""
    _registry[cls.type] = cls
    return cls


def registry() -> dict[str, type[Modality]]:
    """All registered modalities by type."""
    return dict(_registry)


def from_json(state: dict[str, Any]) -> Modality:
    """Rebuild any registered modality from its JSON.

    Raises:
        ValueError: an unknown type or field.
    """
    if state.get("type") not in _registry:
        raise ValueError(f"unknown modality type {state.get('type')!r}; known: {', '.join(sorted(_registry))}")
    return _registry[state["type"]].from_json(state)


class SineCosine(nn.Module):
    """Fixed sine and cosine features of coordinates, then one linear map (Vaswani et al. 2017, MAE's 2-D form).

    Coordinates `(N, C)` stay in float32, so that long sequences keep their resolution under autocast.
    """

    def __init__(self, coordinates: int, dim: int, longest: float = 10000.0):
        super().__init__()
        half = max(dim // (2 * coordinates), 1)
        self.frequencies = tuple(longest ** (-i / half) for i in range(half))
        self.project = nn.Linear(2 * half * coordinates, dim, bias=False)

    def forward(self, coords: torch.Tensor) -> torch.Tensor:
        with torch.autocast(coords.device.type, enabled=False):
            angles = coords.float().unsqueeze(-1) * torch.tensor(self.frequencies, device=coords.device)
            features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return self.project(features)
