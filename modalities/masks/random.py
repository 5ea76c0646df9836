"""Mask shape `random`: single tokens."""

from __future__ import annotations

import numpy as np

from modalities.masks.masking import Masking, MaskRules
from modalities.masks.shapes import MaskShape, register
from modalities.tokens import Tokens


@register
class Random(MaskShape):
    """Random tokens (BERT, Devlin et al. 2019; MAE, He et al. 2022)."""

    type = "random"

    def select(
        self,
        tokens: Tokens,
        candidates: np.ndarray,
        count: int,
        masking: Masking,
        rules: MaskRules,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """See `MaskShape.select`."""
        return rng.permutation(candidates)[:count]
