"""What kinds of data that are numbers share: patches embedded, and predicted as they are, normalized or as spectra."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

Stem = Literal["linear", "mlp"]
_LEAST = 1e-6


def patch_embedding(width: int, dim: int, stem: Stem) -> nn.Module:
    """From patches `(N, width)` to `(N, dim)`: one linear map (ViT, Dosovitskiy et al. 2021) or a hidden layer."""
    if stem == "linear":
        return nn.Linear(width, dim)
    return nn.Sequential(nn.Linear(width, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))


class SpectralStem(nn.Module):
    """Stretches of a signal `(N, P)` to `(N, dim)`, from values and spectrum (CBraMod, Wang et al. 2025)."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.values = patch_embedding(width, dim, "mlp")
        self.spectrum = nn.Linear(width // 2 + 1, dim)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.values(values) + self.spectrum(log_amplitudes(values))


def log_amplitudes(values: torch.Tensor) -> torch.Tensor:
    """log(1 + amplitude) `(N, P // 2 + 1)` in float32 of each frequency of stretches `(N, P)`, white noise's near 1."""
    with torch.autocast(values.device.type, enabled=False):
        return torch.fft.rfft(values.float(), norm="ortho").abs().log1p()


def squared_error(prediction: torch.Tensor, values: torch.Tensor, normalized: bool) -> torch.Tensor:
    """Mean squared error `(N,)` over each patch `(N, P)` in float32.

    normalized: the target is each patch less its mean, over its std (MAE, He et al. 2022).
    """
    values = values.float()
    if normalized:
        values = (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True, correction=0) + _LEAST).sqrt()
    return (prediction.float() - values).square().mean(1)


def restored(prediction: np.ndarray, values: np.ndarray, normalized: bool) -> np.ndarray:
    """Predicted patches `(N, P)` float32 on the scale of the true `values`, whose mean and std normalized ones
    borrow, as MAE shows them."""
    if normalized:
        spread = np.sqrt(values.var(1, keepdims=True) + _LEAST)
        prediction = prediction * spread + values.mean(1, keepdims=True)
    return prediction.astype(np.float32)


def restored_spectra(prediction: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Stretches `(N, P)` float32 of predicted `log_amplitudes`, which borrow the phases of the true `values`."""
    phases = np.angle(np.fft.rfft(values, norm="ortho"))
    spectra = np.expm1(np.maximum(prediction, 0)) * np.exp(1j * phases)
    return np.fft.irfft(spectra, values.shape[1], norm="ortho").astype(np.float32)
