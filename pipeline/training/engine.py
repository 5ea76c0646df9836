"""The training step: one module, one optimizer, any number of ranks, through Accelerate and DeepSpeed."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from pipeline.model.batch import Batch
from pipeline.model.modeling import SensoriumModel
from pipeline.model.weights import current_name
from pipeline.objectives.base import Objective, Term
from pipeline.recipe.schema import Schedule, Train
from pipeline.training.launch import keep_freed_memory, zero_stage
from shards.files import atomic_folder, temporary_path, write_error

MOMENTS = ("exp_avg", "exp_avg_sq")


class Pretraining(nn.Module):
    """The model and its objectives as one module, so that both learn alike under every ZeRO stage."""

    def __init__(self, model: SensoriumModel, objectives: Mapping[str, Objective], weights: Mapping[str, float]):
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.weights = dict(weights)
        self.views = tuple(dict.fromkeys(view for objective in objectives.values() for view in objective.views))
        self.decodes = any(objective.decodes for objective in objectives.values())

    def each(self) -> Iterable[tuple[str, Objective]]:
        """Objectives by name."""
        return ((name, cast(Objective, module)) for name, module in self.objectives.items())

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Summands of every term, named `objective/term`."""
        return {f"{name}/{term}": n for name, objective in self.each() for term, n in objective.count(batch).items()}

    def forward(self, batch: Batch) -> dict[str, Term]:
        """Terms named `objective/term`; each distinct encoding is computed once."""
        encodings = self.model(batch, views=self.views, decode=self.decodes)
        device = next(iter(batch.packs.values())).values.device.type
        with torch.autocast(device, enabled=False):  # losses stay in float32
            return {
                f"{name}/{term}": value
                for name, objective in self.each()
                for term, value in objective(encodings, batch).items()
            }


@dataclass(frozen=True)
class StepStats:
    """What a step did: weighted loss, terms by name, gradient norm before clipping, whether it was applied.

    samples, tokens, faults: of all ranks. ending: how many ranks were asked to end.
    """

    loss: float
    terms: dict[str, float]
    gradient_norm: float
    applied: bool
    samples: int
    tokens: int
    faults: int
    stop_requests: int


def learning_rate(step: int, peak: float, schedule: Schedule, steps: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then the schedule's decay."""
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
    """Matrices decay; vectors, norms and embedding tables do not."""
    tables = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed = [p for p in module.parameters() if p.ndim > 1 and id(p) not in tables]
    others = [p for p in module.parameters() if p.ndim <= 1 or id(p) in tables]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Engine:
    """Steps over batches, alike with and without DeepSpeed."""

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

    def step(self, batches: Sequence[Batch], rate: float, ending: Callable[[], bool] = lambda: False) -> StepStats:
        """One optimizer step over the passes of a step.

        ending: whether this rank was asked to end by now, which all learn.
        Loss and gradients are checked on all ranks first; a step that is not finite anywhere is not applied.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = [batch.to(self.device) for batch in batches]
        counts = [self.unwrapped.count(batch) for batch in batches]
        names = list(counts[0])
        held = torch.stack([sum((count[name] for count in counts[1:]), counts[0][name]) for name in names])
        extra = [
            sum(b.size - len(b.faults) for b in batches),
            sum(b.tokens for b in batches),
            sum(len(b.faults) for b in batches),
        ]
        everyone = self._sum(torch.cat([held.double(), torch.tensor(extra, device=self.device).double()]))
        total = everyone[: len(names)].clamp(min=1).float()
        sums = torch.zeros(len(names), device=self.device)
        for number, batch in enumerate(batches):
            sums += self._pass(batch, names, total, last=number == len(batches) - 1)
        finite = torch.isfinite(sums).all() & self._gradients_finite()
        flags = torch.stack([~finite, torch.tensor(ending(), device=self.device)])
        shared, (broken, asked) = self._sum(torch.cat([sums.double(), flags.double()])).split([len(names), 2])
        applied = broken.item() == 0
        norm = self._update() if applied else self._discard_step()
        if applied:
            self.updates += 1
            for _, objective in self.unwrapped.each():
                objective.after_step()
        values = (shared.float() / total).tolist()
        weights = [self.unwrapped.weights[name.split("/")[0]] for name in names]
        return StepStats(
            sum(weight * value for weight, value in zip(weights, values, strict=True)),
            dict(zip(names, values, strict=True)),
            norm,
            applied,
            *(int(n) for n in (*everyone[len(names) :].tolist(), asked.item())),
        )

    def _pass(self, batch: Batch, names: list[str], total: torch.Tensor, last: bool) -> torch.Tensor:
        """Forward and backward of one pass; the sums of its terms `(len(names),)`."""
        with self.accelerator.autocast():
            terms = self.module(batch)
        sums = torch.stack([terms[name].sum.float() for name in names])
        weights = torch.tensor([self.unwrapped.weights[name.split("/")[0]] for name in names], device=self.device)
        loss = (weights * sums / total).sum() * self.world  # DeepSpeed averages over ranks
        if self.deepspeed is None:
            self.accelerator.backward(loss)
        else:
            self.deepspeed.set_gradient_accumulation_boundary(last)
            self.deepspeed.backward(loss, scale_wrt_gas=False)
        return sums.detach()

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def _gradients(self) -> list[torch.Tensor]:
        """This rank's gradients or its partition of them."""
        if self.deepspeed is not None and self.stage > 0:
            held = self.deepspeed.optimizer.averaged_gradients.values()
            return [gradient for part in held if part is not None for gradient in part if gradient is not None]
        return [p.grad for p in self.unwrapped.parameters() if p.grad is not None]

    def _gradients_finite(self) -> torch.Tensor:
        """One flag: a sum of squares is not finite where any gradient is not."""
        gradients = self._gradients()
        if not gradients:
            return torch.tensor(True, device=self.device)
        return torch.isfinite(torch.stack([gradient.float().abs().max() for gradient in gradients])).all()

    def _update(self) -> float:
        if self.deepspeed is not None:
            norm = torch.nn.utils.get_total_norm(self._gradients()) if self.stage == 0 else None
            self.deepspeed.step()
            return float(norm if norm is not None else self.deepspeed.get_global_grad_norm())
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.train.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def _discard_step(self) -> float:
        """Leave everything as if the step's batches had never been seen."""
        if self.deepspeed is None:
            self.optimizer.zero_grad()
            return math.nan
        self.deepspeed.zero_grad()
        if self.stage > 0:
            self.deepspeed.optimizer.zero_grad()
            held = self.deepspeed.optimizer.averaged_gradients
            for group in held:
                held[group] = None
            if self.stage == 3:
                held.clear()
        return math.nan

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint that any number of ranks at any ZeRO stage can load; every rank calls this.

        Parameters and moments by name, gathered in turn, each rank writing its share. Everything is written to a
        folder aside, which is renamed when whole.

        Raises:
            OSError: the disk is full; nothing that stood before is touched.
        """
        with atomic_folder(folder) if self.rank == 0 else nullcontext(temporary_path(folder)) as temporary:
            self.barrier()
            self._write(temporary, state)
        self.barrier()

    def _write(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Write this rank's part of a checkpoint.

        Raises:
            OSError: on every rank, if one of them cannot write its part.
        """
        mine: dict[str, torch.Tensor] = {}
        if self.updates:
            self._link_zero_states()
        for number, (name, parameter) in enumerate(self.unwrapped.named_parameters()):
            for part in ("", *MOMENTS):
                whole = self._full(parameter, part)
                if whole is not None and number % self.world == self.rank:
                    mine[f"{part or 'parameter'}:{name}"] = whole.detach().to("cpu", torch.float32).contiguous().clone()
        if self.rank == 0:
            mine |= {f"buffer:{name}": buffer.detach().cpu() for name, buffer in self.unwrapped.named_buffers()}
        fault: OSError | None = None
        try:
            _save(mine, folder / f"state-{self.rank:05d}-of-{self.world:05d}.safetensors")
            if self.rank == 0:
                (folder / "state.json").write_text(json.dumps({**state, "updates": self.updates}, indent=1))
        except OSError as error:
            fault = error
        if self._any(fault is not None):
            raise fault or OSError(errno.EIO, "another rank could not write its part of the checkpoint", str(folder))

    def load(self, folder: Path) -> dict[str, Any]:
        """Take up a checkpoint; returns the state it was saved with. Every rank calls this."""
        state = json.loads((folder / "state.json").read_text())
        self.updates = state["updates"]
        found = read_checkpoint(folder)
        for name, parameter in self.unwrapped.named_parameters():
            self._set(parameter, "", found[f"parameter:{name}"])
        if self.updates:
            self._create_moments()
            for name, parameter in self.unwrapped.named_parameters():
                none = torch.zeros_like(found[f"parameter:{name}"])  # what no objective reads has no moments
                for part in MOMENTS:
                    self._set(parameter, part, found.get(f"{part}:{name}", none))
        for name, buffer in self.unwrapped.named_buffers():
            buffer.copy_(found[f"buffer:{name}"])
        return state

    def parameters(self) -> dict[str, torch.Tensor] | None:
        """All parameters by name in float32 on rank 0, None on others. Every rank calls this."""
        whole = {name: self._full(parameter, "") for name, parameter in self.unwrapped.named_parameters()}
        if self.rank != 0:
            return None
        return {
            name: value.detach().to("cpu", torch.float32).clone() for name, value in whole.items() if value is not None
        }

    def _full(self, parameter: nn.Parameter, part: str) -> torch.Tensor | None:
        """A whole parameter (part "") or one of its moments; collective at stages 1 to 3."""
        if self.stage == 0:
            return parameter if not part else self._inner().state.get(parameter, {}).get(part)
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if not part:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, part) if self.updates else None

    def _set(self, parameter: nn.Parameter, part: str, value: torch.Tensor) -> None:
        value = value.to(self.device)
        if self.stage == 0:
            with torch.no_grad():
                (parameter if not part else self._inner().state[parameter][part]).copy_(value)
            return
        from deepspeed import utils

        if self.stage == 3:  # its setters of whole values cut beyond the end of those that do not divide evenly
            partition: torch.Tensor = parameter.ds_tensor  # type: ignore[attr-defined]  # set by DeepSpeed
            size = partition.numel()
            own = F.pad(value.flatten(), (0, size * self.world - value.numel()))[self.rank * size :][:size]
            if part:
                utils.safe_set_local_optimizer_state(parameter, own, part)
            else:
                utils.safe_set_local_fp32_param(parameter, own)
                partition.data.copy_(own)  # what the next forward gathers
        elif part:
            utils.safe_set_full_optimizer_state(parameter, value, part)
        else:
            utils.safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)

    def _inner(self) -> torch.optim.Optimizer:
        """The AdamW inside the wrappers."""
        optimizer = self.optimizer
        while not isinstance(optimizer, torch.optim.AdamW):
            optimizer = optimizer.optimizer
        return optimizer

    def _owned(self) -> list[torch.Tensor]:
        """What this rank's AdamW updates: parameters, or flat partitions of them."""
        if self.stage == 0:
            return [p for group in self._inner().param_groups for p in group["params"]]
        held = self.deepspeed.optimizer
        return held.fp32_partitioned_groups_flat if self.stage == 3 else held.single_partition_of_fp32_groups

    def _create_moments(self) -> None:
        """Make AdamW hold moments of everything it owns, which it does lazily, at the right count of updates."""
        for owned in self._owned():
            state = self._inner().state[owned]
            state["step"] = torch.tensor(float(self.updates))
            for part in MOMENTS:
                state.setdefault(part, torch.zeros_like(owned))
        self._link_zero_states()

    def _link_zero_states(self) -> None:
        """Let DeepSpeed find the moments by parameter: by itself it does so after stepping its first group alone."""
        if self.stage in (1, 2):
            self.deepspeed.optimizer._hp_optimizer_states_linked = False
            self.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()

    def _any(self, flag: bool) -> bool:
        return self._sum(torch.tensor([float(flag)], device=self.device)).item() > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.accelerator.wait_for_everyone()


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write safetensors; what its library raises on a full disk becomes an OSError."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise write_error(error, path) from error


def current_tensor_name(name: str) -> str:
    """The present name `part:name` of a tensor in a checkpoint that any version wrote."""
    part, _, name = name.partition(":")
    if name.startswith("model."):
        return f"{part}:model.{current_name(name.removeprefix('model.'))}"
    name = re.sub(r"^(objectives\.[^.]+)\.place\.", r"\1.position.", name)
    return f"{part}:{name}"


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by `part:name`.

    Raises:
        ValueError: a part is missing or broken.
    """
    paths = sorted(folder.glob("state-*.safetensors"))
    wanted = int(paths[0].stem.rpartition("-")[2]) if paths else 1
    if len(paths) != wanted:
        raise ValueError(f"checkpoint {folder} has {len(paths)} of {wanted} parts: remove it to resume from an earlier")
    found = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                found.update({current_tensor_name(name): file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  (no mapping)
        except SafetensorError as error:
            raise ValueError(f"{path} is broken ({error}): remove its folder to resume from an earlier one") from error
    return found
