"""Mask shape `random`: single tokens."""

from __future__ import annotations

import numpy as np

from modalities.masks.shapes import MaskRequest, MaskShape, register


@register
class Random(MaskShape):
    """Random tokens (BERT, Devlin et al. 2019; MAE, He et al. 2022)."""

    type = "random"

    def select(self, request: MaskRequest, rng: np.random.Generator) -> np.ndarray:
        """See `MaskShape.select`."""
        return rng.permutation(request.candidates)[: request.num_targets]
