"""Base of modalities whose tokens are patches of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from modalities.base import Modality
from modalities.layers.patches import Target, compute_targets, restore_values
from modalities.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class PatchModality(Modality):
    """Images, spectrograms and signals: one head, loss and reconstruction for every `target`.

    Attributes:
        target: What masked modeling predicts: the values of a patch (`values`); each patch less its mean, over its std
            (`normalized`; MAE, He et al. 2022); or the log amplitudes of its frequencies (`spectrum`), which ignore
            phase and are robust to noise (BrainBERT, Wang et al. 2023).
    """

    target: Target = "normalized"

    @property
    def target_width(self) -> int:
        """Number of values of a token that are predicted, from the first on."""
        return self.widths[0]

    def head(self, dim: int) -> nn.Module:
        """Linear map to the target."""
        width = self.target_width
        return nn.Linear(dim, width // 2 + 1 if self.target == "spectrum" else width)

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each patch's target `(N,)`."""
        targets = compute_targets(values[:, : self.target_width], self.target)
        return (prediction.float() - targets).square().mean(1)

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        """Patches in the units of values; the true ones supply what the target leaves out (`restore_values`)."""
        values, width = tokens.values.copy(), self.target_width
        values[:, :width] = restore_values(prediction, values[:, :width], self.target)
        return tokens._replace(values=values)
