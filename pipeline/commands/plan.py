"""A dry run: what a recipe asks of data, memory and time, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modalities.base import Modality
from modalities.files.reading import ContentError
from pipeline.data.fit import fit_modalities
from pipeline.data.loader import KeptSamples, tokenize
from pipeline.data.sets import open_training_data
from pipeline.recipe.load import load
from pipeline.recipe.schema import Recipe
from pipeline.training.launch import samples_per_rank, uses_bf16
from pipeline.training.module import build_module
from shards.read import Split

GIB = 2**30
SAMPLED = 256


def plan(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), ranks: int = 1) -> dict[str, Any]:
    """Check a recipe against its data and say what it will take; nothing is written.

    Raises:
        ValueError: a wrong recipe, ranks that cannot divide its batch, or shards that are missing, broken or lack a
            modality.
    """
    checked = load(recipe, overrides)
    rank_samples = samples_per_rank(checked.train, ranks)
    data = open_training_data(checked, verify=checked.data.verify)
    sets, order = data.sets, data.order
    few = checked.model_copy(update={"data": checked.data.model_copy(update={"fit_samples": SAMPLED})})
    fitted = fit_modalities(few, sets)
    module = build_module(checked.model_copy(update={"init": None}), fitted)
    parameters = {
        "total": sum(p.numel() for p in module.parameters()),
        "trunk": sum(p.numel() for p in module.model.trunk.parameters()),
        "decoder": sum(p.numel() for p in module.model.decoder.parameters()),
        "entries": sum(p.numel() for p in module.model.input_embeddings.parameters()),
    }
    some = _some(sets)
    tokens, unusable = _tokens(some, fitted)
    samples = sum(sum(held.epoch_sizes) for held in sets)
    seen = checked.train.steps * checked.train.batch_size
    return {
        "recipe": checked.name,
        "parameters": parameters,
        "data": {
            "training_samples": samples,
            "shards": sum(len(held.sizes) for held in sets),
            "passes": seen / samples,
            "sets": [
                {
                    "path": str(held.folder),
                    "notes": list(held.manifest.notes),
                    "samples_a_pass": sum(held.epoch_sizes),
                    "passes": count / sum(held.epoch_sizes),
                    "imbalance": imbalance,
                }
                for held, count, imbalance in zip(sets, order.counts(seen), order.imbalance, strict=True)
            ],
            "unusable_of_sampled": [unusable, len(some)],
        },
        "tokens_a_sample": tokens,
        "precision": "bf16" if uses_bf16(checked.train) else "fp32",
        "memory_gib_by_zero_stage": memory(parameters["total"], ranks),
        "activations_gib_a_rank": activations(checked, rank_samples * sum(tokens.values())) / GIB,
        "flops_a_step": 6 * parameters["trunk"] * checked.train.batch_size * sum(tokens.values()) * len(module.views),
    }


def _tokens(some: Sequence[tuple[Split, int, int]], fitted: Mapping[str, Modality]) -> tuple[dict[str, float], int]:
    """Mean number of tokens by modality over a few samples, and how many of these cannot be used."""
    counts: dict[str, list[int]] = {name: [] for name in fitted}
    unusable = 0
    for held, shard, number in some:
        try:
            sample = tokenize(held.read(shard, number), fitted)
        except ContentError:
            unusable += 1
            continue
        for name in fitted:
            counts[name].append(sample[name].size if name in sample else 0)
    return {name: float(np.mean(held)) if held else 0.0 for name, held in counts.items()}, unusable


def _some(sets: Sequence[Split]) -> list[tuple[Split, int, int]]:
    """At most `SAMPLED` samples, spread over all."""
    kept = KeptSamples(sets)
    stride = max(len(kept) // SAMPLED, 1)
    return [kept.locate(number) for number in range(0, len(kept), stride)][:SAMPLED]


def memory(parameters: int, ranks: int) -> dict[str, float]:
    """Bytes of weights, gradients and AdamW moments a rank, in GiB by ZeRO stage (Rajbhandari et al. 2020), fp32.

    Stage 1 divides the moments among ranks, 2 the gradients too, 3 the weights too.
    """
    weights = gradients = 4 * parameters
    moments = 8 * parameters
    master = 4 * parameters  # stages 1 to 3 keep a flat copy of the weights they update
    return {
        "0": (weights + gradients + moments) / GIB,
        "1": (weights + gradients + (moments + master) / ranks) / GIB,
        "2": (weights + (gradients + moments + master) / ranks) / GIB,
        "3": ((weights + gradients + moments + master) / ranks) / GIB,
    }


def activations(recipe: Recipe, tokens: float) -> float:
    """Rough bytes kept for the backward: about 11 + 3 mlp_ratio values of the model's width a token and block."""
    model = recipe.model
    size = torch.float32.itemsize
    trunk = model.depth * model.dim * (11 + 3 * model.mlp_ratio)
    decoder = model.decoder.depth * model.decoder.dim * (11 + 3 * model.mlp_ratio)
    return tokens * (trunk + decoder) * size
