"""A dry run: check a recipe against its data and estimate the resources that training needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modalities.base import Modality
from modalities.files.reading import ContentError
from pipeline.commands.result import Result
from pipeline.data.fit import fit_modalities
from pipeline.data.loader import KeptSamples, tokenize
from pipeline.data.sets import TrainingData, open_training_data
from pipeline.recipe.load import load
from pipeline.recipe.schema import Recipe
from pipeline.training.launch import samples_per_rank, uses_bf16
from pipeline.training.module import build_module
from shards.read import Split

GIB = 2**30
MAX_SAMPLES = 256
"""Training samples from which token counts are estimated."""


@dataclass(frozen=True, kw_only=True)
class SetPlan:
    """One shard set: samples per epoch, epochs in the run, and notes of its build.

    imbalance: how much more often some samples are read than others, because of the division among nodes.
    """

    path: str
    notes: list[str]
    samples_per_epoch: int
    epochs: float
    imbalance: float


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """All shard sets. unusable_of_sampled: numbers of unusable samples and of samples read."""

    training_samples: int
    shards: int
    epochs: float
    sets: list[SetPlan]
    unusable_of_sampled: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """The resources that a run needs.

    parameters: by part of the model. tokens_per_sample: mean by modality. memory_gib_by_zero_stage: weights, gradients
    and moments of one rank. activations_gib_per_rank and flops_per_step are estimates.
    """

    recipe: str
    ranks: int
    parameters: dict[str, int]
    data: DataPlan
    tokens_per_sample: dict[str, float]
    precision: str
    memory_gib_by_zero_stage: dict[str, float]
    activations_gib_per_rank: float
    flops_per_step: float

    def lines(self) -> list[str]:
        data = self.data
        unusable, sampled = data.unusable_of_sampled
        lines = [
            f"{self.recipe}: {self.parameters['total']:,} parameters "
            f"(trunk {self.parameters['trunk']:,}, decoder {self.parameters['decoder']:,})",
            f"tokens per sample: {', '.join(f'{name} {n:.1f}' for name, n in self.tokens_per_sample.items())}",
            f"data: {data.training_samples:,} training samples in {data.shards} shards, all correct; "
            f"{data.epochs:.1f} epochs; {unusable} of {sampled} samples read are unusable",
        ]
        lines += [
            f"{part.path}: some samples are read {part.imbalance:.1%} more often than others, depending on their node"
            for part in data.sets
            if part.imbalance
        ]
        lines += [f"{part.path}: {note}" for part in data.sets for note in part.notes]
        stages = ", ".join(f"{stage}: {gib:.3f} GiB" for stage, gib in self.memory_gib_by_zero_stage.items())
        return [
            *lines,
            f"precision: {self.precision}",
            f"memory per rank (of {self.ranks}) for weights, gradients and moments, by ZeRO stage: {stages}",
            f"activations per rank, about: {self.activations_gib_per_rank:.2f} GiB",
        ]


def plan(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), ranks: int = 1) -> PlanResult:
    """Check a recipe against its data and estimate the resources that training needs; nothing is written.

    Raises:
        ValueError: a wrong recipe, a number of ranks that does not divide its micro-batch, or shards that are missing,
            broken or lack a modality.
    """
    checked = load(recipe, overrides)
    rank_samples = samples_per_rank(checked.train, ranks)
    data = open_training_data(checked, verify=checked.data.verify)
    small = checked.model_copy(update={"data": checked.data.model_copy(update={"fit_samples": MAX_SAMPLES})})
    fitted = fit_modalities(small, data.sets)
    module = build_module(checked.model_copy(update={"init": None}), fitted)
    parameters = {
        "total": _count(module),
        "trunk": _count(module.model.trunk),
        "decoder": _count(module.model.decoder),
        "input_embeddings": _count(module.model.input_embeddings),
    }
    locations = _spread(data.sets)
    tokens, unusable = _mean_tokens(locations, fitted)
    tokens_per_sample = sum(tokens.values())
    return PlanResult(
        recipe=checked.name,
        ranks=ranks,
        parameters=parameters,
        data=_plan_data(checked, data, (unusable, len(locations))),
        tokens_per_sample=tokens,
        precision="bf16" if uses_bf16(checked.train) else "fp32",
        memory_gib_by_zero_stage=memory(parameters["total"], ranks),
        activations_gib_per_rank=activations(checked, rank_samples * tokens_per_sample) / GIB,
        flops_per_step=6 * parameters["trunk"] * checked.train.batch_size * tokens_per_sample * len(module.views),
    )


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _plan_data(recipe: Recipe, data: TrainingData, unusable_of_sampled: tuple[int, int]) -> DataPlan:
    """The epochs of each set in the run."""
    total = recipe.train.steps * recipe.train.batch_size
    samples = sum(sum(split.epoch_sizes) for split in data.sets)
    return DataPlan(
        training_samples=samples,
        shards=sum(len(split.sizes) for split in data.sets),
        epochs=total / samples,
        sets=[
            SetPlan(
                path=str(split.folder),
                notes=list(split.manifest.notes),
                samples_per_epoch=sum(split.epoch_sizes),
                epochs=count / sum(split.epoch_sizes),
                imbalance=imbalance,
            )
            for split, count, imbalance in zip(data.sets, data.order.counts(total), data.order.imbalance, strict=True)
        ],
        unusable_of_sampled=unusable_of_sampled,
    )


def _mean_tokens(
    locations: Sequence[tuple[Split, int, int]], fitted: Mapping[str, Modality]
) -> tuple[dict[str, float], int]:
    """Mean number of tokens of the samples at `locations` by modality, and the number of unusable ones."""
    counts: dict[str, list[int]] = {name: [] for name in fitted}
    unusable = 0
    for split, shard, number in locations:
        try:
            sample = tokenize(split.read(shard, number), fitted)
        except ContentError:
            unusable += 1
            continue
        for name in fitted:
            counts[name].append(sample[name].size if name in sample else 0)
    return {name: float(np.mean(sizes)) if sizes else 0.0 for name, sizes in counts.items()}, unusable


def _spread(sets: Sequence[Split]) -> list[tuple[Split, int, int]]:
    """At most `MAX_SAMPLES` samples, spread over all sets."""
    samples = KeptSamples(sets)
    stride = max(len(samples) // MAX_SAMPLES, 1)
    return [samples.locate(index) for index in range(0, len(samples), stride)][:MAX_SAMPLES]


def memory(parameters: int, ranks: int) -> dict[str, float]:
    """GiB of float32 weights, gradients and AdamW moments per rank, by ZeRO stage (Rajbhandari et al. 2020).

    Stage 1 divides the moments among ranks, 2 also the gradients, 3 also the weights.
    """
    weights = gradients = 4 * parameters
    moments = 8 * parameters
    master = 4 * parameters  # stages 1 to 3 keep a flat copy of the weights that they update
    return {
        "0": (weights + gradients + moments) / GIB,
        "1": (weights + gradients + (moments + master) / ranks) / GIB,
        "2": (weights + (gradients + moments + master) / ranks) / GIB,
        "3": ((weights + gradients + moments + master) / ranks) / GIB,
    }


def activations(recipe: Recipe, tokens: float) -> float:
    """Estimated bytes of activations stored for the backward pass.

    About 11 + 3 mlp_ratio values of the model's width per token and block.
    """
    model = recipe.model
    size = torch.float32.itemsize
    trunk = model.depth * model.dim * (11 + 3 * model.mlp_ratio)
    decoder = model.decoder.depth * model.decoder.dim * (11 + 3 * model.mlp_ratio)
    return tokens * (trunk + decoder) * size
