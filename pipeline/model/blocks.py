"""Transformer blocks over packed segments."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.model.batch import Layout, layout


class Attention(nn.Module):
    """Multi-head self-attention within segments (Vaswani et al. 2017).

    No biases before the scores: a key bias has no true gradient and only drifts with rounding.
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
        # One split, not a slice a group: its backward is one concatenation instead of a full-sized zero a group.
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
    """Blocks and a last norm over tokens `(T, D)` whose segments are numbered `(T,)`."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, segment: torch.Tensor, inner: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Tokens after the last norm; what goes into each block is appended to `inner` where that is given."""
        plan: Layout = layout(segment)
        x = x.index_select(0, plan.order)
        for block in self.blocks:
            if inner is not None:
                inner.append(x.index_select(0, plan.inverse))
            x = block(x, plan.groups)
        return self.norm(x).index_select(0, plan.inverse)


def segment_mean(x: torch.Tensor, segment: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of tokens `(T, D)` by segment number: `(count, D)` in float32, zero where a segment has no tokens."""
    total = x.new_zeros(count, x.shape[1], dtype=torch.float32).index_add(0, segment, x.float())
    members = torch.bincount(segment, minlength=count).clamp(min=1)
    return total / members.unsqueeze(1)
