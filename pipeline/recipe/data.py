"""The section `data` of recipes: shard sets, their weights, and how shards are built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

import shards.sources  # noqa: F401  (registers the sources)
from shards.parsing import parse_dataclass, parse_typed, refuse_bools
from shards.remote import Cache
from shards.sources.base import SOURCE_TYPES, Source
from shards.split import SplitBy


class Section(BaseModel):
    """Base of the sections of a recipe: unknown keys are errors, and values are constant."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSet(Section):
    """One shard set, a folder or a URL; or a group of them that counts as one set among its siblings.

    Attributes:
        path: Folder or URL of the set.
        sets: Members of a group, instead of a path.
        weight: Share among siblings: a number, or points `[[step, weight], ...]` that each apply from their step on.
            Without weights, shares are proportional to size^(1 / temperature), with the temperature of the parent.
        temperature: Flattens the shares of a group's members without weights.
        epochs: Number of epochs of the set in the whole run, instead of a weight.
        keep: CSV or Parquet file of the keys to use; all by default.
        weights: Column of `keep` that says how often each key comes in an epoch.
    """

    path: str | None = None
    sets: tuple[DataSet, ...] = ()
    weight: tuple[tuple[int, float], ...] | None = None
    temperature: float = Field(1.0, gt=0)
    epochs: float | None = Field(None, gt=0)
    keep: str | None = None
    weights: str | None = None

    @field_validator("weight", mode="before")
    @classmethod
    def _points(cls, value: Any) -> Any:
        if value is None:
            return None
        points = [[0, value]] if _is_point([0, value]) and value > 0 else value
        if isinstance(points, list | tuple) and points and all(map(_is_point, points)):
            steps = [step for step, _ in points]
            if steps[0] == 0 and steps == sorted(set(steps)):
                return points
        raise ValueError(
            f"weight of shards is {value!r}: give a number above 0, or points [[step, weight], ...] of rising steps "
            "from 0 on and weights of at least 0"
        )

    @model_validator(mode="after")
    def _check_keys(self) -> DataSet:
        if (self.path is None) == (not self.sets):
            raise ValueError("each of data.shards needs either a path or a group of sets")
        name = self.path or "a group of sets"
        if self.weight is not None and self.epochs is not None:
            raise ValueError(f"data.shards: {name} has both weight and epochs, give one")
        if self.weights is not None and self.keep is None:
            raise ValueError(f"data.shards: weights of {name} names a column of its keep file, which is missing")
        if self.sets and (self.epochs is not None or self.keep is not None):
            raise ValueError("data.shards: epochs and keep belong to a set with a path, not to a group")
        if self.path is not None and self.temperature != 1:
            raise ValueError(f"data.shards: temperature of {name} belongs to data or to a group of sets")
        if any(member.epochs is not None for member in self.sets):
            raise ValueError("data.shards: epochs count over the whole run, so a set within a group cannot have them")
        _check_weights(self.sets, self.temperature)
        return self


def _is_point(point: Any) -> bool:
    """Whether a value is `[step, weight]`."""
    return (
        isinstance(point, list | tuple)
        and len(point) == 2
        and type(point[0]) is int
        and type(point[1]) in (int, float)
        and 0 <= point[1] < math.inf
    )


def _check_weights(siblings: Sequence[DataSet], temperature: float) -> None:
    """Raise unless all siblings or none have weights, and at every step at least one weight is above 0."""
    shared = [member for member in siblings if member.epochs is None]
    weighted = [dict(member.weight) for member in shared if member.weight is not None]
    if weighted and len(weighted) < len(shared):
        raise ValueError("data.shards: give a weight to every set of a group or to none")
    if weighted and temperature != 1:
        raise ValueError("data.shards: temperature shares by size, so it is for sets without weights")
    weights = [0.0] * len(weighted)
    for step in sorted({step for points in weighted for step in points}):
        weights = [points.get(step, before) for points, before in zip(weighted, weights, strict=True)]
        if not any(weights):
            raise ValueError(f"data.shards: all weights are 0 from step {step} on")


class Data(Section):
    """Where samples come from. Only `shards build` reads `source`, `split` and `dedupe`.

    Attributes:
        shards: The shard sets to train on, or groups of them.
        temperature: Flattens the shares of sets without weights: a share is proportional to size^(1 / temperature).
        canonical_nodes: Number of streams among which shards are divided, so that each of that many nodes reads only
            its own shards.
        source: The reader of the raw files.
        split: How samples are divided into training, validation and test.
        dedupe: How duplicates are detected: `exact`, `perceptual` or `sequence` for all modalities that it suits, or
            one of them by modality. Of samples that are equal in all modalities named, the first is kept.
        fit_samples: Number of training samples that vocabularies, means and standard deviations are fitted on.
        samples_per_shard: Number of samples in a shard.
        shuffle_block: Number of samples that are shuffled together.
        verify: Whether the tars of a set are compared with the manifest's sha256 before training.
        max_skipped: Share of unusable samples above which training stops.
        cache: How remote shards are downloaded and kept.
    """

    shards: tuple[DataSet, ...] = ()
    temperature: float = Field(1.0, gt=0)
    canonical_nodes: int = Field(1, ge=1)
    source: Source | None = None
    split: SplitBy | None = None
    dedupe: str | dict[str, str] | None = None
    fit_samples: int = Field(20_000, ge=1)
    samples_per_shard: int = Field(1000, ge=1)
    shuffle_block: int = Field(16_384, ge=1)
    verify: bool = True
    max_skipped: float = Field(0.05, ge=0, le=1)
    cache: Cache = Cache()

    @field_validator("dedupe", mode="before")
    @classmethod
    def _dedupe(cls, value: Any) -> Any:
        refuse_bools(value, "data.dedupe")
        return value

    @field_validator("cache", mode="before")
    @classmethod
    def _cache(cls, value: Any) -> Any:
        return value if isinstance(value, Cache) else parse_dataclass(Cache, value, "data.cache")

    @property
    def leaf_sets(self) -> tuple[DataSet, ...]:
        """All sets with a path, in the order of the recipe."""
        pending, leaves = list(self.shards), []
        while pending:
            first = pending.pop(0)
            pending[:0] = first.sets
            leaves += [first] if first.path is not None else []
        return tuple(leaves)

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of all sets."""
        return tuple(leaf.path for leaf in self.leaf_sets if leaf.path is not None)

    @model_validator(mode="after")
    def _weights(self) -> Data:
        _check_weights(self.shards, self.temperature)
        return self

    @field_validator("source", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return parse_typed(value, SOURCE_TYPES, "data.source")

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value if value is None else parse_dataclass(SplitBy, value, "data.split")
