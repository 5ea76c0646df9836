"""Contrastive learning: embeddings of one sample attract each other, embeddings of different samples repel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from modalities.base import Modality
from pipeline.model.batch import Batch
from pipeline.model.modeling import Encoding
from pipeline.objectives.base import Objective, ObjectiveConfig, Term, register

MAX_LOG_SCALE = math.log(100.0)
"""Upper bound of the logarithm of the inverse temperature."""


@register
@dataclass(frozen=True, kw_only=True)
class Contrastive(ObjectiveConfig):
    """Symmetric InfoNCE (CLIP, Radford et al. 2021) over pairs of modalities, in both directions.

    Attributes:
        loss: The loss.
        pairs: `all`, or a list of pairs of modalities.
        reads: Encoding whose embeddings are contrasted; `visible` contrasts masked samples (FLIP, Li et al. 2023),
            which saves a forward pass.
        scale: Initial inverse temperature; it is learned and stays within [1, 100].
    """

    name = "contrastive"

    loss: Literal["infonce"] = "infonce"
    pairs: Literal["all"] | tuple[tuple[str, str], ...] = "all"
    reads: Literal["full", "visible"] = "full"
    scale: float = 1 / 0.07

    def _pairs(self, modalities: Mapping[str, Modality]) -> tuple[tuple[str, str], ...]:
        return tuple(itertools.combinations(modalities, 2)) if self.pairs == "all" else self.pairs

    def check(self, modalities: Mapping[str, Modality]) -> None:
        pairs = self._pairs(modalities)
        if not pairs:
            raise ValueError("objectives.contrastive needs two modalities or more")
        for name in itertools.chain(*pairs):
            if name not in modalities:
                raise ValueError(f"objectives.contrastive.pairs names {name!r}, which is not a modality of this recipe")
        if same := [a for a, b in pairs if a == b]:
            raise ValueError(f"objectives.contrastive.pairs pairs {same[0]!r} with itself: name two modalities")
        if not 1 <= self.scale <= 100:
            raise ValueError(f"objectives.contrastive.scale is {self.scale}, it must be in [1, 100]")

    def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
        return ContrastiveObjective(self._pairs(modalities), self.reads, self.scale)


class ContrastiveObjective(Objective):
    """Sum of the two cross-entropies of each pair that a sample has.

    Negatives are all samples of the micro-batch on all ranks that have the pair.
    """

    def __init__(self, pairs: tuple[tuple[str, str], ...], reads: str, scale: float):
        super().__init__()
        self.pairs = pairs
        self.views = (reads,)
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {f"{a}-{b}": 2 * (batch.present[a] & batch.present[b]).sum().float() for a, b in self.pairs}

    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        embeddings = encodings[self.views[0]].embeddings
        names = dict.fromkeys(itertools.chain(*self.pairs))
        all_embeddings = {name: gather(embeddings[name]) for name in names}
        all_present = {name: gather(batch.present[name].float()) > 0 for name in names}
        rank = dist.get_rank() if dist.is_initialized() else 0
        scale = Bounded.apply(self.log_scale, 0.0, MAX_LOG_SCALE).exp()
        counts, terms = self.count(batch), {}
        for a, b in self.pairs:
            both = all_present[a] & all_present[b]
            rows = torch.arange(batch.size, device=both.device)
            positives = rank * batch.size + rows
            total = torch.zeros((), device=both.device)
            for queries, keys in ((embeddings[a], all_embeddings[b]), (embeddings[b], all_embeddings[a])):
                logits = scale * queries @ keys.T
                logits = logits.masked_fill(~both, -1e4)  # finite, so that slots without the pair give no NaN
                losses = F.cross_entropy(logits, positives, reduction="none")
                total = total + losses.where(both[positives], 0.0).sum()
            terms[f"{a}-{b}"] = Term(total, counts[f"{a}-{b}"])
        return terms


class Bounded(torch.autograd.Function):
    """Clamp a value to [low, high]; the gradient is zero only if it would push the value further out."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        """Clamp."""
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Zero the gradient if a step against it would leave the interval."""
        (x,), (low, high), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        outward = ((x >= high) & (gradient < 0)) | ((x <= low) & (gradient > 0))
        return gradient.masked_fill(outward, 0.0), None, None


def gather(x: torch.Tensor) -> torch.Tensor:
    """Rows `(B, ...)` of all ranks as `(world * B, ...)`; the backward sums the gradients of all ranks."""
    return Gather.apply(x) if dist.is_initialized() and dist.get_world_size() > 1 else x


class Gather(torch.autograd.Function):
    """All-gather of equally shaped tensors, with gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Concatenate in rank order."""
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, then this rank's rows."""
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
