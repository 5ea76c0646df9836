"""The training step: forward, backward, check, update, through Accelerate and DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipeline.machine import keep_freed_memory
from pipeline.model.batch import Batch
from pipeline.recipe.schema import Train
from pipeline.training.launch import zero_stage
from pipeline.training.module import Pretraining
from pipeline.training.schedule import parameter_groups


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """Figures of one step over all ranks.

    loss: weighted sum of the terms. terms: mean by name. gradient_norm: before clipping, NaN if the step was not
    applied. applied: whether loss and gradients were finite. samples: without the faulty ones. faults: samples that
    could not be used. stop_requests: ranks that were asked to stop.
    """

    loss: float
    terms: dict[str, float]
    gradient_norm: float
    applied: bool
    samples: int
    tokens: int
    faults: int
    stop_requests: int


class Engine:
    """Runs training steps, in the same way with and without DeepSpeed.

    module: the trained module in its wrappers. deepspeed: DeepSpeed's engine, None without DeepSpeed. stage: ZeRO
    stage, 0 without DeepSpeed. updates: number of steps applied.
    """

    def __init__(self, module: Pretraining, train: Train, accelerator: Any):
        self.train, self.accelerator = train, accelerator
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self.device = accelerator.device
        self.updates = 0
        keep_freed_memory()
        optimizer = torch.optim.AdamW(
            parameter_groups(module, train.weight_decay), lr=train.learning_rate, betas=train.betas
        )
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.deepspeed: Any = self.module if zero_stage(train) is not None else None
        self.stage = zero_stage(train) or 0

    @property
    def unwrapped(self) -> Pretraining:
        """The module without wrappers."""
        return self.accelerator.unwrap_model(self.module)

    def step(
        self, batches: Sequence[Batch], rate: float, stop_requested: Callable[[], bool] = lambda: False
    ) -> StepStats:
        """Take one optimizer step over the micro-batches of this rank.

        Loss and gradients are checked on all ranks first; if any is not finite, no rank applies the step.

        rate: learning rate. stop_requested: whether this rank was asked to stop; all ranks learn of it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = [batch.to(self.device) for batch in batches]
        counts = [self.unwrapped.count(batch) for batch in batches]
        names = list(counts[0])
        summands = torch.stack([sum((count[name] for count in counts[1:]), counts[0][name]) for name in names])
        sizes = [
            sum(b.size - len(b.faults) for b in batches),
            sum(b.tokens for b in batches),
            sum(len(b.faults) for b in batches),
        ]
        totals = self.all_reduce(torch.cat([summands.double(), torch.tensor(sizes, device=self.device).double()]))
        divisors = totals[: len(names)].clamp(min=1).float()
        sums = torch.zeros(len(names), device=self.device)
        for i, batch in enumerate(batches):
            sums += self._forward_backward(batch, names, divisors, last=i == len(batches) - 1)
        finite = torch.isfinite(sums).all() & self._gradients_finite()
        flags = torch.stack([~finite, torch.tensor(stop_requested(), device=self.device)])
        all_sums, (failures, stop_requests) = self.all_reduce(torch.cat([sums.double(), flags.double()])).split(
            [len(names), 2]
        )
        applied = failures.item() == 0
        norm = self._update() if applied else self._discard_step()
        means = (all_sums.float() / divisors).tolist()
        samples, tokens, faults = (int(n) for n in totals[len(names) :].tolist())
        return StepStats(
            loss=sum(weight * mean for weight, mean in zip(self._weights(names), means, strict=True)),
            terms=dict(zip(names, means, strict=True)),
            gradient_norm=norm,
            applied=applied,
            samples=samples,
            tokens=tokens,
            faults=faults,
            stop_requests=int(stop_requests.item()),
        )

    def _weights(self, names: Sequence[str]) -> list[float]:
        """The factor of each term `objective/term` in the loss."""
        return [self.unwrapped.weights[name.split("/")[0]] for name in names]

    def _forward_backward(self, batch: Batch, names: Sequence[str], divisors: torch.Tensor, last: bool) -> torch.Tensor:
        """Forward and backward pass of a micro-batch; returns the sums of its terms `(len(names),)`."""
        with self.accelerator.autocast():
            terms = self.module(batch)
        sums = torch.stack([terms[name].sum.float() for name in names])
        weights = torch.tensor(self._weights(names), device=self.device)
        loss = (weights * sums / divisors).sum() * self.world  # DDP and DeepSpeed average over ranks
        if self.deepspeed is None:
            self.accelerator.backward(loss)
        else:
            self.deepspeed.set_gradient_accumulation_boundary(last)
            self.deepspeed.backward(loss, scale_wrt_gas=False)
        return sums.detach()

    def _gradients(self) -> list[torch.Tensor]:
        """This rank's gradients, or its partitions of them."""
        if self.deepspeed is not None and self.stage > 0:
            groups = self.deepspeed.optimizer.averaged_gradients.values()
            return [gradient for group in groups if group is not None for gradient in group if gradient is not None]
        return [p.grad for p in self.unwrapped.parameters() if p.grad is not None]

    def _gradients_finite(self) -> torch.Tensor:
        """Whether all of this rank's gradients are finite, as a tensor: reading it would wait for the device."""
        gradients = self._gradients()
        if not gradients:
            return torch.tensor(True, device=self.device)
        return torch.isfinite(torch.stack([gradient.float().abs().max() for gradient in gradients])).all()

    def _update(self) -> float:
        """Clip the gradients and update the parameters; returns the gradients' norm before clipping."""
        norm = self._update_zero() if self.deepspeed is not None else self._update_plain()
        self.updates += 1
        for _, objective in self.unwrapped.named_objectives():
            objective.after_step()
        return norm

    def _update_plain(self) -> float:
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.train.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def _update_zero(self) -> float:
        norm = torch.nn.utils.get_total_norm(self._gradients()) if self.stage == 0 else None
        self.deepspeed.step()
        return float(norm if norm is not None else self.deepspeed.get_global_grad_norm())

    def _discard_step(self) -> float:
        """Drop the gradients, so that the step leaves no trace; returns NaN as their norm."""
        if self.deepspeed is None:
            self.optimizer.zero_grad()
            return math.nan
        self.deepspeed.zero_grad()
        if self.stage > 0:
            self.deepspeed.optimizer.zero_grad()
            groups = self.deepspeed.optimizer.averaged_gradients
            for group in groups:
                groups[group] = None
            if self.stage == 3:
                groups.clear()
        return math.nan

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def any(self, flag: bool) -> bool:
        """Whether a flag is true on any rank."""
        return self.all_reduce(torch.tensor([float(flag)], device=self.device)).item() > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.accelerator.wait_for_everyone()
