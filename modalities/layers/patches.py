"""Patches of numbers: their embedding, and what masked modeling predicts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from modalities.layers.positions import SineCosine

Stem = Literal["linear", "mlp"]
Target = Literal["values", "normalized", "spectrum"]
_EPS = 1e-6
"""Added to the variance of a patch before it is normalized."""


def build_stem(width: int, dim: int, stem: Stem | Literal["spectral"]) -> nn.Module:
    """Build the map from patches `(N, width)` to `(N, dim)`.

    stem: `linear`: one linear map (ViT, Dosovitskiy et al. 2021); `mlp`: one hidden layer; `spectral`: `SpectralStem`.
    """
    if stem == "spectral":
        return SpectralStem(width, dim)
    if stem == "linear":
        return nn.Linear(width, dim)
    return nn.Sequential(nn.Linear(width, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))


class SpectralStem(nn.Module):
    """Embed patches of a signal `(N, P)` as `(N, dim)` by values and spectrum (CBraMod, Wang et al. 2025)."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.values = build_stem(width, dim, "mlp")
        self.spectrum = nn.Linear(width // 2 + 1, dim)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Embeddings `(N, dim)`."""
        return self.values(values) + self.spectrum(log_amplitudes(values))


class PatchEmbedding(nn.Module):
    """Embed the content of patches by a stem, and their position by coordinates and channel.

    Channels (bands of an image, leads of an ECG) are the second column of ids.
    """

    def __init__(self, stem: nn.Module, dim: int, *, scales: Sequence[float], channels: int, positions: int = 0):
        """scales: unit of each coordinate, `(C,)`: coordinates are divided by it.

        positions: number of coordinates that are embedded by sines and cosines, by default all; the others, which
        vary within a patch, by a linear map.
        """
        super().__init__()
        positions = positions or len(scales)
        self.content = stem
        self.position = SineCosine(positions, dim)
        self.channel = nn.Embedding(channels, dim)
        offsets = len(scales) - positions
        self.offsets = nn.Linear(offsets, dim, bias=False) if offsets else None
        self.scales, self.positions = tuple(scales), positions

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Content and position embeddings, `(N, dim)` each."""
        scaled = coords.float() / torch.tensor(self.scales, device=coords.device)
        position = self.position(scaled[:, : self.positions]) + self.channel(ids[:, 1])
        if self.offsets is not None:
            position = position + self.offsets(scaled[:, self.positions :])
        return self.content(values), position


def log_amplitudes(values: torch.Tensor) -> torch.Tensor:
    """log(1 + amplitude) `(N, P // 2 + 1)` in float32 of the frequencies of patches `(N, P)`."""
    with torch.autocast(values.device.type, enabled=False):
        return torch.fft.rfft(values.float(), norm="ortho").abs().log1p()


def compute_targets(values: torch.Tensor, target: Target) -> torch.Tensor:
    """What is predicted of patches `(N, P)`, in float32.

    target: `values`; `normalized`: each patch less its mean, over its std (MAE, He et al. 2022); `spectrum`:
    `log_amplitudes`.
    """
    if target == "spectrum":
        return log_amplitudes(values)
    values = values.float()
    if target == "normalized":
        return (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True, correction=0) + _EPS).sqrt()
    return values


def restore_values(prediction: np.ndarray, values: np.ndarray, target: Target) -> np.ndarray:
    """Turn predictions of a target into patches `(N, P)` float32 in the units of the true `values`.

    The true patches supply what the target leaves out: mean and std (`normalized`, as MAE shows them) or phases
    (`spectrum`).
    """
    if target == "spectrum":
        phases = np.angle(np.fft.rfft(values, norm="ortho"))
        spectra = np.expm1(np.maximum(prediction, 0)) * np.exp(1j * phases)
        return np.fft.irfft(spectra, values.shape[1], norm="ortho").astype(np.float32)
    if target == "normalized":
        std = np.sqrt(values.var(1, keepdims=True) + _EPS)
        prediction = prediction * std + values.mean(1, keepdims=True)
    return prediction.astype(np.float32)
