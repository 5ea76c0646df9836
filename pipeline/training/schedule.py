"""Learning rate over steps, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pipeline.recipe.schema import Schedule


def learning_rate(step: int, peak: float, schedule: Schedule, steps: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then the decay of the schedule."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    if schedule.kind == "constant":
        return peak
    if schedule.kind == "cosine":
        share = (step - schedule.warmup) / max(steps - schedule.warmup, 1)
        remaining = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    else:
        start = steps - int(schedule.decay * steps)
        remaining = 1.0 if step < start else max(steps - step, 0) / max(steps - start, 1)
    return peak * (schedule.final + (1 - schedule.final) * remaining)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices decay; vectors, norms and embedding tables do not."""
    tables = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed = [p for p in module.parameters() if p.ndim > 1 and id(p) not in tables]
    undecayed = [p for p in module.parameters() if p.ndim <= 1 or id(p) in tables]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
