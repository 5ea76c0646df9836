"""Position embeddings."""

from __future__ import annotations

import torch
from torch import nn


class SineCosine(nn.Module):
    """Fixed sine and cosine features of coordinates, then one linear map (Vaswani et al. 2017; 2-D form as in MAE).

    Coordinates `(N, C)` stay in float32, so that long sequences keep their resolution under autocast.
    """

    def __init__(self, coordinates: int, dim: int, longest: float = 10000.0):
        super().__init__()
        half = max(dim // (2 * coordinates), 1)
        self.frequencies = tuple(longest ** (-i / half) for i in range(half))
        self.project = nn.Linear(2 * half * coordinates, dim, bias=False)

    def forward(self, coords: torch.Tensor) -> torch.Tensor:
        """Position embeddings `(N, dim)`."""
        with torch.autocast(coords.device.type, enabled=False):
            angles = coords.float().unsqueeze(-1) * torch.tensor(self.frequencies, device=coords.device)
            features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return self.project(features)
