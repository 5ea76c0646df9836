"""Transformer blocks over packed segments."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.model.batch import layout


class Attention(nn.Module):
    """Multi-head self-attention within segments (Vaswani et al. 2017).

    Queries, keys and values have no bias: the gradient of a key bias is zero up to rounding, so it would only drift.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, groups: tuple[tuple[int, int], ...]) -> torch.Tensor:
        tokens, dim = x.shape
        qkv = self.qkv(x).view(tokens, 3, self.heads, dim // self.heads)
        mixed = []
        # One split instead of a slice per group: its backward is one concatenation, not a full-sized tensor per group.
        parts = qkv.split([segments * length for segments, length in groups])
        for (segments, length), part in zip(groups, parts, strict=True):
            part = part.view(segments, length, 3, self.heads, -1)
            if length == 1:
                mixed.append(part[:, 0, 2].flatten(1))
                continue
            q, k, v = part.permute(2, 0, 3, 1, 4)
            mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(segments * length, dim))
        return self.out(torch.cat(mixed))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor, groups: tuple[tuple[int, int], ...]) -> torch.Tensor:
        x = x + self.attention(self.norm_attention(x), groups)
        return x + self.mlp(self.norm_mlp(x))


class Blocks(nn.Module):
    """Transformer blocks and a final norm over tokens `(T, D)` with segment numbers `(T,)`."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: torch.Tensor, segment: torch.Tensor, block_inputs: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Tokens `(T, D)` after the final norm. block_inputs: a list to which the input of each block is appended."""
        packing = layout(segment)
        x = x.index_select(0, packing.order)
        for block in self.blocks:
            if block_inputs is not None:
                block_inputs.append(x.index_select(0, packing.inverse))
            x = block(x, packing.groups)
        return self.norm(x).index_select(0, packing.inverse)


def segment_mean(x: torch.Tensor, segment: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of the tokens `(T, D)` of each segment: `(count, D)` in float32, zero for segments without tokens."""
    total = x.new_zeros(count, x.shape[1], dtype=torch.float32).index_add(0, segment, x.float())
    members = torch.bincount(segment, minlength=count).clamp(min=1)
    return total / members.unsqueeze(1)
