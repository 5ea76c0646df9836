"""Contract and registry of mask shapes: which tokens of a sample become targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from modalities.masks.masking import Masking, MaskRules
from modalities.registry import Registry
from modalities.tokens import Tokens


class MaskRequest(NamedTuple):
    """What a mask shape selects targets from.

    candidates: `(M,)` indices of the tokens that may become targets. num_targets: how many to select. masking: settings
    of the recipe, such as `span`. rules: axes and rows of the modality.
    """

    tokens: Tokens
    candidates: np.ndarray
    num_targets: int
    masking: Masking
    rules: MaskRules


class MaskShape(ABC):
    """One way to select targets, by its `type`, the recipe's `mask.kind`.

    Subclasses are decorated with `register` and instantiated without arguments; other packages name them as entry
    points of the group `sensorium.mask_shapes`.
    """

    type: ClassVar[str]
    default_span: ClassVar[int] = 3
    """`mask.span` if the recipe sets none."""
    coordinates: ClassVar[int] = 0
    """Number of coordinates that tokens must have."""

    @abstractmethod
    def select(self, request: MaskRequest, rng: np.random.Generator) -> np.ndarray:
        """Indices `(num_targets,)` of the targets, fewer only if there are fewer candidates.

        Random numbers come from `rng` alone, so that masks are a function of its state and the request.
        """


SHAPES: Registry[MaskShape] = Registry("sensorium.mask_shapes")
"""All mask shapes by type."""
register = SHAPES.register


def draw_runs(rows: np.ndarray, span_range: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Indices `(K,)` of runs of neighbors from random starts, run after run in the order drawn; repeats are possible.

    rows: `(M,)`, the row of each item; a run ends with its row.
    """
    starts = rng.permutation(len(rows))
    shortest, longest = span_range
    lengths = rng.integers(shortest, longest + 1, len(rows)) if shortest < longest else np.full(len(rows), shortest)
    steps = np.arange(longest)
    indices = starts[:, None] + steps
    inside = (indices < len(rows)) & (steps < lengths[:, None])
    inside &= rows[np.minimum(indices, len(rows) - 1)] == rows[starts][:, None]
    return indices[inside]


def first_unique(items: np.ndarray, count: int) -> np.ndarray:
    """The first `count` distinct items in order of appearance."""
    _, first = np.unique(items, return_index=True)
    return items[np.sort(first)][:count]
