"""Embed the cells of tables."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

NUMBER = 2
"""Content id of every number; categories follow."""
_FREQUENCIES = 8


class CellEmbedding(nn.Module):
    """Position from the column's name; content from the category, or from the number scaled by the name (TransTab).

    Numbers enter with periodic features (Gorishniy et al. 2022). width: number of values of a token; the first is the
    number, and the others enter as they are.
    """

    def __init__(self, width: int, categories: int, subwords: int, name_length: int, dim: int):
        super().__init__()
        self.category = nn.Embedding(categories, dim)
        self.number = nn.Linear(width + 2 * _FREQUENCIES, dim)
        self.subword = nn.Embedding(subwords, dim)
        self.position = nn.Embedding(name_length, dim)
        self.spelling = nn.LayerNorm(dim)
        self.name = nn.Linear(dim, dim)
        self.scale = nn.Linear(dim, dim)
        self.frequencies = tuple(2.0 ** (i - 2) for i in range(_FREQUENCIES))

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        content, spelled = ids[:, 0], ids[:, 1:]
        letters = F.gelu(self.subword(spelled) + self.position.weight) * (spelled != 0).unsqueeze(-1)
        name = self.name(self.spelling(letters.sum(1)))
        angles = values[:, :1].float() * torch.tensor(self.frequencies, device=values.device)
        number = self.number(torch.cat([values.float(), angles.sin(), angles.cos()], 1))
        kind = self.category(content)
        is_number = (content == NUMBER).unsqueeze(-1)
        return kind + is_number * number * (1 + self.scale(name)), name
