"""Mask shape `span`: runs of neighboring tokens."""

from __future__ import annotations

import numpy as np

from modalities.masks.shapes import MaskRequest, MaskShape, draw_runs, first_unique, register
from modalities.tokens import column


@register
class Span(MaskShape):
    """Runs of neighbors within a row (SpanBERT, Joshi et al. 2020); the last run is cut to reach the exact count."""

    type = "span"

    def select(self, request: MaskRequest, rng: np.random.Generator) -> np.ndarray:
        """See `MaskShape.select`; rows are the values of `rules.row_axis`, the whole sample without one."""
        tokens, candidates, count, masking, rules = request
        if not len(candidates):
            return candidates
        axis = rules.row_axis
        rows = np.zeros(len(candidates)) if axis is None else column(tokens, rules.axes[axis])[candidates]
        order = np.argsort(rows, kind="stable")
        indices = draw_runs(rows[order], masking.span_range(self.default_span), rng)
        return candidates[order][first_unique(indices, count)]
