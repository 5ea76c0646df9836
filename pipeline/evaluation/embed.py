"""Embeddings of whole samples by a pretrained model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.model.batch import Batch, Fault
from pipeline.model.modeling import SensoriumModel


@dataclass(frozen=True)
class Embedded:
    """What a model makes of N samples.

    embeddings: `(N, embedding)` of unit length, pooled: `(N, dim)`, present: `(N,)` bool, all by modality.
    fused: `(N, dim)`. keys: the samples' keys. faults: why samples have no embedding.
    """

    keys: list[str]
    embeddings: dict[str, np.ndarray]
    pooled: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    fused: np.ndarray
    faults: list[Fault]


@torch.inference_mode()
def embed(model: SensoriumModel, batches: Iterable[Batch]) -> Embedded:
    """Embed the samples of batches, in float32."""
    keys: list[str] = []
    faults: list[Fault] = []
    parts: list[tuple[dict[str, np.ndarray], ...]] = []
    for batch in batches:
        full = model(batch.to(model.device), views=("full",))["full"]
        keys += batch.keys
        faults += batch.faults
        made = (full.embeddings, full.pooled, batch.present, {"": full.fused})
        parts.append(tuple({name: _array(value) for name, value in each.items()} for each in made))
    embeddings, pooled, present, fused = (
        {name: np.concatenate([each[name] for each in several]) for name in several[0]}
        for several in zip(*parts, strict=True)
    )
    return Embedded(keys, embeddings, pooled, present, fused[""], faults)


def _array(value: torch.Tensor) -> np.ndarray:
    """A tensor's copy as an array, numbers in float32."""
    return (value if value.dtype == torch.bool else value.float()).cpu().numpy().copy()
