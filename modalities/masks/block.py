"""Mask shape `block`: squares on a grid."""

from __future__ import annotations

import numpy as np

from modalities.masks.shapes import MaskRequest, MaskShape, register


@register
class Block(MaskShape):
    """Squares on the grid of the first two coordinates (SSAST, Gong et al. 2022).

    Squares may reach over the grid's edge and over each other; the last one is cut to reach the exact count.
    """

    type = "block"
    coordinates = 2

    def select(self, request: MaskRequest, rng: np.random.Generator) -> np.ndarray:
        """See `MaskShape.select`."""
        candidates, count = request.candidates, request.num_targets
        cells = np.stack([_grid_steps(request.tokens.coords[candidates, axis]) for axis in range(2)], 1)
        shortest, longest = request.masking.span_range(self.default_span)
        size = len(candidates)
        sides = rng.integers(shortest, longest + 1, size) if shortest < longest else np.full(size, shortest)
        hidden, n_hidden = np.zeros(size, bool), 0
        for start, side in zip(rng.permutation(size), sides, strict=True):
            if n_hidden == count:
                break
            offset = cells - cells[start]
            inside = ((offset >= 0) & (offset < side)).all(1) & ~hidden
            new = np.flatnonzero(inside)[: count - n_hidden]
            hidden[new] = True
            n_hidden += len(new)
        return candidates[hidden]


def _grid_steps(values: np.ndarray) -> np.ndarray:
    """Coordinates `(M,)` as whole steps of the grid that they form."""
    levels = np.unique(values)
    return np.rint((values - levels[:1]) / (np.diff(levels).min() if len(levels) > 1 else 1.0)).astype(np.int64)
