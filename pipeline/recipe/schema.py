"""The schema of recipes: every section and key, its type, default and checks."""

from __future__ import annotations

import dataclasses
import keyword
import math
import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, field_validator, model_validator
from torch import nn

import modalities  # noqa: F401  (registers the modalities)
import pipeline.objectives  # noqa: F401
from modalities.base import MODALITY_TYPES, Modality
from modalities.masks.plan import MaskPlan, check_masks
from modalities.names import did_you_mean
from pipeline.objectives.base import OBJECTIVE_TYPES, ObjectiveConfig
from pipeline.recipe.data import Data, Section
from shards.dedupe import resolve_dedupe
from shards.parsing import parse_dataclass, parse_typed, refuse_bool_key

RESERVED = {
    "self": "Python gives that name to the processor's own instance",
    "labels": "shards store the labels of a sample under that name",
    "key": "files of embeddings have a column of that name",
    "fused": "files of embeddings have a column of that name",
}
"""Names that a modality cannot have, and why."""
_MODULES = nn.ModuleDict()


class Decoder(Section):
    """The decoder of masked modeling.

    Attributes:
        dim: Width of the decoder; a multiple of `heads`.
        depth: Number of transformer blocks; 0 predicts from the trunk's tokens directly.
        heads: Number of attention heads per block.
    """

    dim: int = Field(192, ge=1)
    depth: int = Field(2, ge=0)
    heads: int = Field(3, ge=1)


class Model(Section):
    """Sizes of the model.

    Attributes:
        dim: Width of the trunk; a multiple of `heads`.
        depth: Number of transformer blocks of the trunk.
        heads: Number of attention heads per block.
        mlp_ratio: Hidden width of a block's MLP, relative to `dim`.
        embedding: Width of the embeddings that objectives contrast.
        fusion_depth: Number of further blocks after the trunk, over all modalities of a sample; 0 for none.
        decoder: Sizes of the decoder of masked modeling.
    """

    dim: int = Field(384, ge=2)
    depth: int = Field(6, ge=1)
    heads: int = Field(6, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    embedding: int = Field(256, ge=2)
    fusion_depth: int = Field(0, ge=0)
    decoder: Decoder = Decoder()

    @model_validator(mode="after")
    def _check_heads(self) -> Model:
        for name, part in (("model", self), ("model.decoder", self.decoder)):
            if part.dim % part.heads:
                raise ValueError(f"{name}.dim {part.dim} is not divisible by {name}.heads {part.heads}")
        return self


class Schedule(Section):
    """Learning rate over steps: linear warm-up, then decay to `final` times the peak.

    Attributes:
        kind: `cosine` decays over all remaining steps; `wsd` stays constant, then decays linearly over the last
            `decay` share (Hu et al. 2024); `constant` does not decay.
        warmup (steps): Number of steps of the linear warm-up.
        decay: Share of the steps in which `wsd` decays.
        final: Last learning rate, relative to the peak.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = Field(0, ge=0)
    decay: float = Field(0.2, ge=0, le=1)
    final: float = Field(0.0, ge=0, le=1)


class Train(Section):
    """The training run. `batch_size` and `micro_batch_size` count samples over all ranks.

    Attributes:
        steps: Number of updates of the weights.
        batch_size (samples): Samples of one step.
        micro_batch_size (samples): Samples of one forward pass, a divisor of `batch_size`; by default the whole batch.
            Gradients are accumulated over a step.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        betas: Decay rates of AdamW's two moments.
        gradient_clip: Largest norm of the gradient; a longer one is scaled down.
        schedule: Learning rate over steps.
        precision: `bf16` keeps float32 weights and computes under autocast; `auto` is bf16 if the hardware has it.
        zero: Stage of DeepSpeed's ZeRO; `auto` is stage 2 on several ranks, and no DeepSpeed in a single process.
        seed: Seed of the order, the masks, the augmentations and the initial weights.
        workers: Number of worker processes per rank that prepare batches; 0 prepares them in the main process.
        log_every (steps): Steps between rows of `metrics.jsonl`.
        checkpoint_every (steps): Steps between checkpoints.
        keep_checkpoints: Number of checkpoints kept; older ones are removed.
        max_nonfinite_steps (steps): Steps in a row with a loss or gradient that is not finite, after which training
            stops.
        trackers: Experiment trackers that also get the metrics.
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
    def _check_micro_batch(self) -> Train:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Evaluate(Section):
    """Settings of the command `evaluate`.

    Attributes:
        gallery (samples): Number of samples among which retrieval searches.
        probe: Label that linear and nearest-neighbor probes predict from frozen features.
        probe_samples (samples): Number of training samples that a probe learns from.
    """

    gallery: int = Field(1000, ge=2)
    probe: str | None = None
    probe_samples: int = Field(2000, ge=2)


class Recipe(Section):
    """A complete recipe with a value for every key.

    Attributes:
        name: Name of the recipe, and of its run directory `runs/NAME`: letters, digits, `_` and `-`.
        model: Sizes of the model.
        data: Where samples come from.
        modalities: The kinds of data, each under a name of your choice.
        masking: How the masks of a sample's modalities go together.
        objectives: What the model learns, by the name of the objective.
        train: The training run.
        evaluate: Settings of the command `evaluate`.
        init: Run directory whose weights the run starts from.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    model: Model = Model()
    data: Data = Data()
    modalities: dict[str, Modality]
    masking: MaskPlan = MaskPlan()
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
            if name in RESERVED:
                raise ValueError(f"a modality cannot be named {name!r}: {RESERVED[name]}")
            if not can_name(str(name)):
                raise ValueError(
                    f"a modality cannot be named {name!r}: use a letter, then letters, digits and _, that is neither a "
                    "keyword of Python nor a method of torch.nn.ModuleDict"
                )
        return {name: parse_typed(config, MODALITY_TYPES, f"modalities.{name}") for name, config in value.items()}

    @field_validator("modalities")
    @classmethod
    def _add_missing_codes(cls, value: dict[str, Modality], info: pydantic.ValidationInfo) -> dict[str, Modality]:
        """Copy the source's codes for missing cells to tables, so that they are saved with the model."""
        source = info.data["data"].source if "data" in info.data else None
        codes = {
            column: codes
            for part in getattr(source, "parts", [source])
            if part
            for column, codes in part.missing.items()
        }
        return {name: modality.with_missing_codes(codes) for name, modality in value.items()}

    @field_validator("masking", mode="before")
    @classmethod
    def _masking(cls, value: Any) -> Any:
        return parse_dataclass(MaskPlan, value or {}, "masking")

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
            name: parse_dataclass(OBJECTIVE_TYPES[name], config or {}, f"objectives.{name}")
            for name, config in value.items()
        }

    @model_validator(mode="after")
    def _check_nodes(self) -> Recipe:
        size, nodes = self.train.micro_batch, self.data.canonical_nodes
        if size % nodes:
            name = "micro_batch_size" if self.train.micro_batch_size else "batch_size"
            raise ValueError(f"train.{name} {size} is not a multiple of data.canonical_nodes {nodes}")
        return self

    @model_validator(mode="after")
    def _check_objectives(self) -> Recipe:
        visible = any(getattr(config, "reads", None) == "visible" for config in self.objectives.values())
        check_masks(self.modalities, self.masking, visible)
        resolve_dedupe(self.data.dedupe, self.modalities)
        if self.data.source is not None:
            self.data.source.check(self.modalities)
        for config in self.objectives.values():
            config.check(self.modalities)
            if not 0 <= config.weight < math.inf:
                raise ValueError(
                    f"objectives.{config.name}.weight is {config.weight}: it must be at least 0 and finite"
                )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data; `load` turns it back into an equal recipe."""
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
    """The recipe keys of a dataclass as JSON data, without fitted fields."""
    fitted = {f.name for f in dataclasses.fields(config) if f.metadata.get("fitted")}
    state = {name: value for name, value in dataclasses.asdict(config).items() if name not in fitted}
    return TypeAdapter(dict[str, Any]).dump_python(state, mode="json")


def can_name(name: str) -> bool:
    """Whether a modality can have this name: it names an argument in Python, a torch module and a member of shards."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
    return plain and not keyword.iskeyword(name) and name not in RESERVED and not hasattr(_MODULES, name)
