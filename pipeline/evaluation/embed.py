"""Embed samples with a pretrained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.loader import FixedBatches
from pipeline.data.workers import prefetch
from pipeline.model.batch import Batch, Fault
from pipeline.model.modeling import SensoriumModel
from shards.read import Split


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The output of a model for N samples.

    keys: keys of the samples. embeddings: `(N, embedding)` of unit length by modality. pooled: `(N, dim)` by modality.
    present: `(N,)` bool by modality. fused: `(N, dim)`. faults: the unusable samples, with their reasons.
    """

    keys: list[str]
    embeddings: dict[str, np.ndarray]
    pooled: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    fused: np.ndarray
    faults: list[Fault]

    def features(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Name, pooled features `(N, dim)` and presence `(N,)` of each modality."""
        for name, values in self.pooled.items():
            yield name, values, self.present[name]


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
        outputs = (full.embeddings, full.pooled, batch.present, {"": full.fused})
        parts.append(tuple({name: _array(value) for name, value in output.items()} for output in outputs))
    embeddings, pooled, present, fused = (
        {name: np.concatenate([part[name] for part in column]) for name in column[0]}
        for column in zip(*parts, strict=True)
    )
    return Embedded(keys=keys, embeddings=embeddings, pooled=pooled, present=present, fused=fused[""], faults=faults)


def _array(value: torch.Tensor) -> np.ndarray:
    """A copy of a tensor as an array, float32 unless it is bool."""
    return (value if value.dtype == torch.bool else value.float()).cpu().numpy().copy()


def encode(model: SensoriumModel, split: Split, locations: Sequence[tuple[int, int]], workers: int = 0) -> Embedded:
    """Embed the samples of a split at (shard, number) `locations`."""
    batches = FixedBatches(split, locations, model.modalities)
    return embed(model, prefetch(batches, range(len(batches)), workers))
