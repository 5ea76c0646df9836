"""Tokens, the arrays that every modality is turned into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

MISSING, UNKNOWN = 0, 1
"""Content ids that mean the same in every modality: no content, and content that `fit` did not see."""

Axis = tuple[Literal["ids", "coords"], int]
"""One column of `Tokens.ids` or `Tokens.coords`."""
Axes = Mapping[str, Axis]
"""Axes that masks may run along, by name: `{"time": ("coords", 3), "channel": ("ids", 1)}`."""


class Tokens(NamedTuple):
    """N tokens of one modality of one sample.

    values: `(N, P)` float32, numeric content (pixels, cells).
    ids: `(N, K)` int64, categorical content and identity (vocabulary entry, band, column); column 0 is the content id.
    coords: `(N, C)` float32, position only (row and column, index, time in s).
    """

    values: np.ndarray
    ids: np.ndarray
    coords: np.ndarray

    @property
    def size(self) -> int:
        """Number of tokens N."""
        return len(self.ids)


def maskable(tokens: Tokens) -> np.ndarray:
    """Find the tokens that masks may hide, `(N,)` bool: all but special tokens, whose content id is MISSING (0)."""
    return tokens.ids[:, 0] != MISSING if tokens.ids.shape[1] else np.ones(len(tokens.ids), bool)


def column(tokens: Tokens, axis: Axis) -> np.ndarray:
    """Read the column `(N,)` of an axis."""
    return (tokens.ids if axis[0] == "ids" else tokens.coords)[:, axis[1]]
