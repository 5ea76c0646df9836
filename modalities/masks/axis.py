"""Masks along an axis of a modality: all tokens at some of its values."""

from __future__ import annotations

import numpy as np

from modalities.masks.masking import Masking
from modalities.masks.shapes import draw_runs, first_unique
from modalities.tokens import Axis, Tokens, column

DEFAULT_SPAN = 1
"""`mask.span` along an axis if the recipe sets none."""


def mask_axis(
    tokens: Tokens,
    candidates: np.ndarray,
    ratio: float,
    masking: Masking,
    axis: Axis,
    rng: np.random.Generator,
) -> np.ndarray:
    """Select all candidates at a share `ratio` of an axis's values, in runs of neighboring values.

    candidates: `(M,)` indices of the tokens that may become targets; the result holds some of them.
    """
    values, group = np.unique(column(tokens, axis)[candidates], return_inverse=True)
    count = int(np.floor(ratio * len(values) + rng.random()))  # stochastic rounding: exact on average
    if not len(values):
        return candidates
    indices = draw_runs(np.zeros(len(values)), masking.span_range(DEFAULT_SPAN), rng)
    return candidates[np.isin(group, first_unique(indices, count))]
