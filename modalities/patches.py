"""What kinds of data that are numbers share: patches embedded, and predicted as they are or normalised."""

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


def squared_error(prediction: torch.Tensor, values: torch.Tensor, normalised: bool) -> torch.Tensor:
    """Mean squared error `(N,)` over each patch `(N, P)` in float32.

    normalised: the target is each patch less its mean, over its deviation (MAE, He et al. 2022).
    """
    values = values.float()
    if normalised:
        values = (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True, correction=0) + _LEAST).sqrt()
    return (prediction.float() - values).square().mean(1)


def restored(prediction: np.ndarray, values: np.ndarray, normalised: bool) -> np.ndarray:
    """Predicted patches `(N, P)` float32 on the scale of the true `values`, whose mean and deviation normalised ones
    borrow, as MAE shows them."""
    if normalised:
        spread = np.sqrt(values.var(1, keepdims=True) + _LEAST)
        prediction = prediction * spread + values.mean(1, keepdims=True)
    return prediction.astype(np.float32)
