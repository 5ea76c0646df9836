"""What the neighbours of a token add to it before the trunk."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Width = Literal[0, 3, 5, 7, 9]
"""Tokens along each axis that one sees, itself in the middle; 0 for none but itself."""


class Context(nn.Module):
    """A residual convolution over the tokens of a grid that are there (submanifold sparse convolution, Graham et al.
    2018), so that local patterns - bonded atoms, codons, strokes - need not be learned by attention (Xiao et al. 2021).

    It sees what lies next to a token and not where that is, so it serves wholes longer than those trained on.
    """

    def __init__(self, dim: int, axes: int, width: int):
        super().__init__()
        self.offsets = tuple(product(range(-(width // 2), width // 2 + 1), repeat=axes))
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(dim * len(self.offsets), dim)

    def forward(self, x: torch.Tensor, coords: torch.Tensor, group: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
        """`(N, dim)` from tokens `(N, dim)`; the other arguments are those of `neighbours`."""
        beside = find_neighbors(coords, group, here, torch.tensor(self.offsets, device=x.device))
        padded = F.pad(self.norm(x), (0, 0, 0, 1))
        return x + F.silu(self.mix(padded.index_select(0, beside.flatten()).view(len(x), -1)))


def find_neighbors(
    coords: torch.Tensor, group: torch.Tensor, here: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """`(N, M)` int64: the token that lies at each of the offsets `(M, C)` from each token, N where there is none.

    coords: `(N, C)`, whole numbers. group: `(N, K)`, whole numbers; neighbours have all of them in common. here: `(N,)`
    bool, tokens that others may see.
    """
    axes = coords.shape[1]
    places = torch.cat([group, coords.long()], 1)
    places = places - places.amin(0)
    spans = places.amax(0) + 1
    spans[-axes:] += offsets.abs().amax(0)  # a margin where nothing lies, so that past an edge nothing is found
    strides = spans.flip(0).cumprod(0).flip(0) // spans
    own = (places * strides).sum(1)
    known, order = own.where(here, torch.iinfo(own.dtype).min).sort()
    wanted = own.unsqueeze(1) + (offsets * strides[-axes:]).sum(1)
    at = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    return order[at].where(known[at] == wanted, len(known))
