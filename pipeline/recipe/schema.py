"""Recipes: YAML, checked before anything runs."""

from __future__ import annotations

import dataclasses
import keyword
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator
from torch import nn

import modalities  # noqa: F401  (registers the kinds of data)
import pipeline.objectives  # noqa: F401
import recipes
import shards.sources  # noqa: F401
from modalities.base import MODALITY_TYPES, Modality
from modalities.masks.plan import Plan
from modalities.masks.plan import check as check_masks
from modalities.names import did_you_mean
from modalities.table import Table
from pipeline.objectives.base import OBJECTIVE_TYPES, ObjectiveConfig
from pipeline.recipe.renamed import refuse_renamed
from shards.configs import configured, explain, refuse_bool_key, refuse_bools, typed
from shards.dedupe import resolve
from shards.remote import Cache
from shards.sources.base import SOURCE_TYPES, Source
from shards.split import SplitBy

_MODULES = nn.ModuleDict()
_TAKEN = {"self", "labels", "label", "task", "key", "fused", "unseen", "unseen_classes", "return_tensors"}
"""Names that mean something else beside modalities: in figures, files of embeddings and processors."""
Fraction = Field(ge=0, le=1)
Positive = Field(ge=1)

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 192, "depth": 4, "heads": 3, "decoder": {"dim": 96, "depth": 1, "heads": 3}},
    "small": {"dim": 384, "depth": 12, "heads": 6, "decoder": {"dim": 256, "depth": 2, "heads": 4}},
    "base": {"dim": 768, "depth": 12, "heads": 12, "embedding": 512, "decoder": {"dim": 512, "depth": 4, "heads": 8}},
    "large": {"dim": 1024, "depth": 24, "heads": 16, "embedding": 768, "decoder": {"dim": 512, "depth": 8, "heads": 8}},
}
"""Model sizes by name: widths and depths of ViT-Ti (4 blocks), -S, -B and -L."""


class Strict(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Decoder(Strict):
    """The decoder of masked modelling."""

    dim: int = Field(192, ge=1)
    depth: int = Field(2, ge=0)
    heads: int = Field(3, ge=1)


class Model(Strict):
    """Sizes of the model."""

    dim: int = Field(384, ge=2)
    depth: int = Field(6, ge=1)
    heads: int = Field(6, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    embedding: int = Field(256, ge=2)
    fusion_depth: int = Field(0, ge=0)
    decoder: Decoder = Decoder()

    @model_validator(mode="after")
    def _divisible(self) -> Model:
        for name, part in (("model", self), ("model.decoder", self.decoder)):
            if part.dim % part.heads:
                raise ValueError(f"{name}.dim {part.dim} is not divisible by {name}.heads {part.heads}")
        return self


class Shards(Strict):
    """One folder of shards, by path or by URL, or a group of them that counts as one among its siblings.

    weight: share among siblings, a number or points `[[step, weight], ...]` that each hold from their step on; without
    weights shares are as sizes to the power of 1 / temperature, that of `data` or of the group they stand in. epochs:
    how often the whole run passes the set. keep: CSV or Parquet file of the keys to use, `weights` its column that
    says how often a pass takes each.
    """

    path: str | None = None
    sets: tuple[Shards, ...] = ()
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
    def _one(self) -> Shards:
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
            raise ValueError("data.shards: epochs are of the whole run, so they cannot stand within a group of sets")
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


def _check_weights(siblings: Sequence[Shards], temperature: float) -> None:
    """Raise unless all siblings or none have weights, of which at any step one is above 0."""
    shared = [member for member in siblings if member.epochs is None]
    weighted = [dict(member.weight) for member in shared if member.weight is not None]
    if weighted and len(weighted) < len(shared):
        raise ValueError("data.shards: give a weight to every set of a group or to none")
    if weighted and temperature != 1:
        raise ValueError("data.shards: temperature shares by size, so it is for sets without weights")
    held = [0.0] * len(weighted)
    for step in sorted({step for points in weighted for step in points}):
        held = [points.get(step, before) for points, before in zip(weighted, held, strict=True)]
        if not any(held):
            raise ValueError(f"data.shards: all weights are 0 from step {step} on")


class Data(Strict):
    """Where samples come from. `source`, `split` and `dedupe` are read by `shards build` alone.

    canonical_nodes: streams to which whole shards are dealt, so that each of as many nodes needs its own alone.
    dedupe: what content is compared by, so that of samples alike in all modalities named the first is kept: one of the
    kinds in `shards.dedupe`, for all modalities it is for, or a kind for each.
    """

    shards: tuple[Shards, ...] = ()
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
        return value if isinstance(value, Cache) else configured(Cache, value, "data.cache")

    @property
    def leaves(self) -> tuple[Shards, ...]:
        """All sets with a path, as they stand in the recipe."""
        waiting, found = list(self.shards), []
        while waiting:
            first = waiting.pop(0)
            waiting[:0] = first.sets
            found += [first] if first.path is not None else []
        return tuple(found)

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of all sets."""
        return tuple(leaf.path for leaf in self.leaves if leaf.path is not None)

    @model_validator(mode="after")
    def _weights(self) -> Data:
        _check_weights(self.shards, self.temperature)
        return self

    @field_validator("source", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return typed(value, SOURCE_TYPES, "data.source")

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value if value is None else configured(SplitBy, value, "data.split")


class Schedule(Strict):
    """Learning rate over steps: linear warm-up, then decay to `final` of the peak.

    cosine: over all remaining steps. wsd: flat, then linear over the last `decay` share (Hu et al. 2024).
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = Field(0, ge=0)
    decay: float = Field(0.2, ge=0, le=1)
    final: float = Field(0.0, ge=0, le=1)


class Train(Strict):
    """The training run. `batch_size` and `micro_batch_size` (samples a forward) are totals over all ranks.

    precision: bf16 is fp32 weights under autocast; auto is bf16 where the hardware has it. zero: auto is ZeRO stage 2
    among several ranks and no DeepSpeed in one process.
    """

    steps: int = Field(10_000, ge=1)
    batch_size: int = Field(256, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    gradient_clip: float = Field(1.0, gt=0)
    schedule: Schedule = Schedule()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    zero: Literal["auto", 0, 1, 2, 3] = "auto"
    seed: int = Field(0, ge=0)
    workers: int = Field(1, ge=0)
    log_every: int = Field(10, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    max_nonfinite_steps: int = Field(10, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @property
    def micro_batch(self) -> int:
        """Samples of one forward pass over all ranks."""
        return self.micro_batch_size or self.batch_size

    @model_validator(mode="after")
    def _passes(self) -> Train:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Evaluate(Strict):
    """What the verb `evaluate` does: size of the gallery, label to probe, training samples a probe learns from."""

    gallery: int = Field(1000, ge=2)
    probe: str | None = None
    probe_samples: int = Field(2000, ge=2)


class Recipe(Strict):
    """A whole recipe, every value explicit."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    model: Model = Model()
    data: Data = Data()
    modalities: dict[str, Modality]
    masking: Plan = Plan()
    objectives: dict[str, ObjectiveConfig]
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    init: str | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @field_validator("modalities", mode="before")
    @classmethod
    def _modalities(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            raise ValueError("a recipe needs at least one modality")
        for name in value:
            refuse_bool_key(name, "modalities")
            if not can_name(str(name)):
                raise ValueError(f"modality name {name!r} is no plain word, or means something else: choose another")
        return {name: typed(config, MODALITY_TYPES, f"modalities.{name}") for name, config in value.items()}

    @field_validator("modalities")
    @classmethod
    def _with_missing(cls, value: dict[str, Modality], info: pydantic.ValidationInfo) -> dict[str, Modality]:
        """Tables take over what means missing from the source, so that it goes with the model."""
        source = info.data["data"].source if "data" in info.data else None
        codes = {
            column: codes
            for part in getattr(source, "parts", [source])
            if part
            for column, codes in part.missing.items()
        }
        return {
            name: dataclasses.replace(modality, missing={**codes, **modality.missing})
            if codes and isinstance(modality, Table)
            else modality
            for name, modality in value.items()
        }

    @field_validator("masking", mode="before")
    @classmethod
    def _masking(cls, value: Any) -> Any:
        return configured(Plan, value or {}, "masking")

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            raise ValueError("a recipe needs at least one objective")
        for name in value:
            refuse_bool_key(name, "objectives")
            if name not in OBJECTIVE_TYPES:
                raise ValueError(f"unknown objective {name!r}{did_you_mean(str(name), OBJECTIVE_TYPES)}")
        return {
            name: configured(OBJECTIVE_TYPES[name], config or {}, f"objectives.{name}")
            for name, config in value.items()
        }

    @model_validator(mode="after")
    def _dealt(self) -> Recipe:
        size, nodes = self.train.micro_batch, self.data.canonical_nodes
        if size % nodes:
            name = "micro_batch_size" if self.train.micro_batch_size else "batch_size"
            raise ValueError(f"train.{name} {size} is not a multiple of data.canonical_nodes {nodes}")
        return self

    @model_validator(mode="after")
    def _served(self) -> Recipe:
        visible = any(getattr(config, "reads", None) == "visible" for config in self.objectives.values())
        check_masks(self.modalities, self.masking, visible)
        resolve(self.data.dedupe, self.modalities)
        for config in self.objectives.values():
            config.check(self.modalities)
            if not 0 <= config.weight < math.inf:
                raise ValueError(
                    f"objectives.{config.name}.weight is {config.weight}: it must be at least 0 and finite"
                )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data; `load` reads it back to an equal recipe."""
        state = {name: getattr(self, name).model_dump(mode="json") for name in ("model", "train", "evaluate")}
        data = {name: getattr(self.data, name) for name in Data.model_fields}
        data["shards"] = [shards.model_dump(mode="json", exclude_defaults=True) for shards in self.data.shards]
        data["cache"] = _plain(self.data.cache)
        if self.data.source is not None:
            data["source"] = {"type": self.data.source.type, **_plain(self.data.source)}
        if self.data.split is not None:
            data["split"] = _plain(self.data.split)
        return {
            "name": self.name,
            "model": state["model"],
            "data": data,
            "modalities": {name: {"type": m.type, **_plain(m)} for name, m in self.modalities.items()},
            "masking": _plain(self.masking),
            "objectives": {name: _plain(config) for name, config in self.objectives.items()},
            "train": state["train"],
            "evaluate": state["evaluate"],
            "init": self.init,
        }


def _plain(config: Any) -> dict[str, Any]:
    """A dataclass's recipe keys as JSON data, without what `fit` learns."""
    learned = {f.name for f in dataclasses.fields(config) if f.metadata.get("fitted")}
    state = {name: value for name, value in dataclasses.asdict(config).items() if name not in learned}
    return TypeAdapter(dict[str, Any]).dump_python(state, mode="json")


def _keys_at(path: Sequence[Any]) -> list[str]:
    """Known keys of the recipe's part at a path."""
    part: Any = Recipe
    for name in path:
        part = get_args(part)[0] if isinstance(name, int) else part.model_fields[name].annotation
    return list(part.model_fields)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over`, mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["train.steps=100"]` as a nested mapping; values are YAML.

    Raises:
        ValueError: one has no `=`.
    """
    result: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ValueError(f"override {override!r} is not of the form key.key=value")
        nested: Any = _yaml(text, f"override {override!r}")
        for key in reversed(path.split(".")):
            nested = {key: nested}
        result = merge(result, nested)
    return result


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise ValueError(f"{where} is not valid YAML: {line}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as a string; here it is a number, and a key given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1 and key != "<<":
                raise yaml.YAMLError(f"key {key!r} stands twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    key: list(resolvers) for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read(path: Path) -> dict[str, Any]:
    """A recipe file with what it extends, unchecked.

    Raises:
        ValueError: not a mapping, or recipes that extend each other in a circle.
    """
    state, seen = _read_one(path), {path.resolve()}
    while "extends" in state:
        parent = state.pop("extends")
        beside = path.parent / str(parent)
        path = beside if beside.suffix in (".yaml", ".yml") else recipes.find(parent)
        if path.resolve() in seen:
            raise ValueError(f"recipe {path} extends itself")
        seen.add(path.resolve())
        state = merge(_read_one(path), state)
    return state


def _read_one(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no recipe file {path}")
    state = _yaml(path.read_text(), str(path))
    if not isinstance(state, dict):
        raise ValueError(f"recipe {path} is not a mapping of keys")
    return state


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would read as something else, such as a column named `1e5`."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=_short(sequence))

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        return super().represent_mapping(tag, mapping, flow_style=_short(mapping))

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _short(part: Any) -> bool:
    """Whether a list or mapping reads well on one line."""
    return len(str(part)) <= 100 or (isinstance(part, (list, tuple)) and all(isinstance(item, str) for item in part))


def dump(state: Mapping[str, Any]) -> str:
    """A recipe as YAML that `read` reads back to the same; short lists and mappings stand on one line."""
    return yaml.dump(dict(state), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def can_name(name: str) -> bool:
    """Whether a modality can be called so: an argument in Python, a module in torch, a column and key beside others."""
    return name.isidentifier() and not keyword.iskeyword(name) and name not in _TAKEN and not hasattr(_MODULES, name)


def load(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from a file, a name or a mapping, with overrides `key.key=value`.

    `size` picks an entry of the recipe's own `sizes`, or one of tiny, small, base and large; what the recipe says
    itself under `model` wins over the latter, unless the size is an override.

    Raises:
        ValueError: anything wrong, in one line that names the key.
    """
    state = dict(recipe) if isinstance(recipe, Mapping) else read(recipes.find(recipe))
    changes = parse_overrides(overrides)
    state = merge(state, {"size": changes["size"]} if "size" in changes else {})
    sizes = state.pop("sizes", {}) or {}
    size = state.pop("size", None)
    refuse_bools(size, "size")
    if size in sizes:
        state = merge(state, sizes[size])
    elif size in SIZES:
        held = state.get("model") or {}
        state["model"] = merge(held, SIZES[size]) if "size" in changes else merge(SIZES[size], held)
    elif size is not None:
        raise ValueError(f"size is {size!r}{did_you_mean(str(size), [*sizes, *SIZES])}")
    state = merge(state, {key: value for key, value in changes.items() if key != "size"})
    refuse_renamed(state)
    try:
        return Recipe.model_validate(state)
    except pydantic.ValidationError as error:
        raise ValueError(explain(error, keys_at=_keys_at)) from error
