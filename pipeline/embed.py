"""Embeddings of whole samples by a pretrained model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.batch import Batch, Fault
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
    parts: list[tuple[Batch, dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]] = []
    for batch in batches:
        full = model(batch.to(model.device), views=("full",))["full"]
        parts.append(
            (
                batch,
                {name: value.float().cpu().numpy() for name, value in full.embeddings.items()},
                {name: value.float().cpu().numpy() for name, value in full.pooled.items()},
                full.fused.float().cpu().numpy(),
            )
        )
    names = list(model.modalities)
    return Embedded(
        [key for batch, *_ in parts for key in batch.keys],
        {name: np.concatenate([embeddings[name] for _, embeddings, _, _ in parts]) for name in names},
        {name: np.concatenate([pooled[name] for _, _, pooled, _ in parts]) for name in names},
        {name: np.concatenate([batch.present[name].cpu().numpy() for batch, *_ in parts]) for name in names},
        np.concatenate([fused for *_, fused in parts]),
        [fault for batch, *_ in parts for fault in batch.faults],
    )
