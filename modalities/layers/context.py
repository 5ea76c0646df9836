"""Convolution over neighboring tokens before the trunk."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Width = Literal[0, 3, 5, 7, 9]
"""Window size along each axis, centered on the token; 0 disables the convolution."""


class Context(nn.Module):
    """Residual convolution over the present tokens of a grid (submanifold sparse convolution, Graham et al. 2018).

    Attention then need not learn local patterns such as bonded atoms, codons and strokes (Xiao et al. 2021). The
    convolution depends on offsets between tokens alone, so it extends to inputs longer than those trained on.
    """

    def __init__(self, dim: int, axes: int, width: int):
        super().__init__()
        self.offsets = tuple(product(range(-(width // 2), width // 2 + 1), repeat=axes))
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(dim * len(self.offsets), dim)

    def forward(
        self, x: torch.Tensor, coords: torch.Tensor, group: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """`(N, dim)` from tokens `(N, dim)`; for the other arguments see `find_neighbors`."""
        neighbors = find_neighbors(coords, group, visible, torch.tensor(self.offsets, device=x.device))
        padded = F.pad(self.norm(x), (0, 0, 0, 1))
        return x + F.silu(self.mix(padded.index_select(0, neighbors.flatten()).view(len(x), -1)))


def find_neighbors(
    coords: torch.Tensor, group: torch.Tensor, visible: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Indices `(N, M)` int64 of the tokens at offsets `(M, C)` from each token; N if there is none.

    coords: `(N, C)`, integers. group: `(N, K)`, integers; neighbors agree in all of them. visible: `(N,)` bool, tokens
    that may be neighbors.
    """
    axes = coords.shape[1]
    cells = torch.cat([group, coords.long()], 1)
    cells = cells - cells.amin(0)
    spans = cells.amax(0) + 1
    spans[-axes:] += offsets.abs().amax(0)  # an empty margin, so that an offset beyond an edge finds no token
    strides = spans.flip(0).cumprod(0).flip(0) // spans
    index = (cells * strides).sum(1)
    sorted_index, order = index.where(visible, torch.iinfo(index.dtype).min).sort()
    queries = index.unsqueeze(1) + (offsets * strides[-axes:]).sum(1)
    at = torch.searchsorted(sorted_index, queries).clamp(max=len(sorted_index) - 1)
    return order[at].where(sorted_index[at] == queries, len(sorted_index))
