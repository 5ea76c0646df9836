"""Checkpoints: parameters and AdamW moments by name, so that any number of ranks at any ZeRO stage can resume."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from pipeline.model.weights import current_name
from pipeline.training.step import Engine
from shards.files import atomic_folder, temporary_path, write_error

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of AdamW's moments. A part of a parameter is one of them, or "" for its value."""


def save_checkpoint(engine: Engine, folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. Every rank calls this and writes its share of the tensors.

    state: saved beside the tensors, as JSON.

    Raises:
        OSError: the disk is full; a checkpoint that was there before stays.
    """
    with atomic_folder(folder) if engine.rank == 0 else nullcontext(temporary_path(folder)) as temporary:
        engine.barrier()
        _write_share(engine, temporary, state)
    engine.barrier()


def _write_share(engine: Engine, folder: Path, state: Mapping[str, Any]) -> None:
    """Write this rank's share of a checkpoint.

    Raises:
        OSError: on every rank, if one of them cannot write its share.
    """
    fault: OSError | None = None
    tensors = _gather_share(engine)
    try:
        _save_tensors(tensors, folder / f"state-{engine.rank:05d}-of-{engine.world:05d}.safetensors")
        if engine.rank == 0:
            (folder / "state.json").write_text(json.dumps({**state, "updates": engine.updates}, indent=1))
    except OSError as error:
        fault = error
    if engine.any(fault is not None):
        raise fault or OSError(errno.EIO, "another rank could not write its share of the checkpoint", str(folder))


def _gather_share(engine: Engine) -> dict[str, torch.Tensor]:
    """The tensors that this rank writes, by `part:name`; gathered in turn, so that memory holds one share."""
    tensors: dict[str, torch.Tensor] = {}
    if engine.updates:
        link_zero_states(engine)
    for i, (name, parameter) in enumerate(engine.unwrapped.named_parameters()):
        for part in ("", *MOMENTS):
            value = _gather(engine, parameter, part)
            if value is not None and i % engine.world == engine.rank:
                tensors[f"{part or 'parameter'}:{name}"] = value.detach().to("cpu", torch.float32).contiguous().clone()
    if engine.rank == 0:
        tensors |= {f"buffer:{name}": buffer.detach().cpu() for name, buffer in engine.unwrapped.named_buffers()}
    return tensors


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full; safetensors itself raises another error.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise write_error(error, path) from error


def load_checkpoint(engine: Engine, folder: Path) -> dict[str, Any]:
    """Load a checkpoint into the engine; returns the state that was saved with it. Every rank calls this.

    Raises:
        ValueError: a part is missing or broken, or its parameters are not those of the module.
    """
    state = json.loads((folder / "state.json").read_text())
    engine.updates = state["updates"]
    tensors = read_checkpoint(folder)
    parameters = dict(engine.unwrapped.named_parameters())
    if missing := [name for name in parameters if f"parameter:{name}" not in tensors]:
        raise ValueError(
            f"checkpoint {folder} has no parameter {missing[0]}: another version of sensorium wrote it; resume with "
            "that version or give another --out"
        )
    for name, parameter in parameters.items():
        _assign(engine, parameter, "", tensors[f"parameter:{name}"])
    if engine.updates:
        create_moments(engine)
        for name, parameter in parameters.items():
            zeros = torch.zeros_like(tensors[f"parameter:{name}"])  # parameters without gradient have no moments
            for part in MOMENTS:
                _assign(engine, parameter, part, tensors.get(f"{part}:{name}", zeros))
    for name, buffer in engine.unwrapped.named_buffers():
        buffer.copy_(tensors[f"buffer:{name}"])
    return state


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by `part:name`, under the present names of parameters.

    Raises:
        ValueError: a part is missing or broken.
    """
    paths = sorted(folder.glob("state-*.safetensors"))
    count = int(paths[0].stem.rpartition("-")[2]) if paths else 1
    if len(paths) != count:
        raise ValueError(f"checkpoint {folder} has {len(paths)} of {count} parts: remove it to resume from an earlier")
    tensors = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()
                tensors.update({_current_tensor_name(name): file.get_tensor(name) for name in names})
        except SafetensorError as error:
            raise ValueError(f"{path} is broken ({error}): remove its folder to resume from an earlier one") from error
    return tensors


def _current_tensor_name(tensor: str) -> str:
    """The present `part:name` of a tensor in a checkpoint that this or an earlier version wrote."""
    part, _, name = tensor.partition(":")
    if name.startswith("model."):
        return f"{part}:model.{current_name(name.removeprefix('model.'))}"
    name = re.sub(r"^objectives\.regression\.place\.", "objectives.regression.position.", name)
    return f"{part}:{name}"


def gather_parameters(engine: Engine) -> dict[str, torch.Tensor] | None:
    """All parameters by name in float32 on rank 0, None on other ranks. Every rank calls this."""
    values = {name: _gather(engine, parameter, "") for name, parameter in engine.unwrapped.named_parameters()}
    if engine.rank != 0:
        return None
    return {
        name: value.detach().to("cpu", torch.float32).clone() for name, value in values.items() if value is not None
    }


def _gather(engine: Engine, parameter: nn.Parameter, part: str) -> torch.Tensor | None:
    """A complete parameter or one of its moments, None if there is none; a collective at stages 1 to 3."""
    if engine.stage == 0:
        return parameter if not part else _adamw(engine).state.get(parameter, {}).get(part)
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not part:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, part) if engine.updates else None


def _assign(engine: Engine, parameter: nn.Parameter, part: str, value: torch.Tensor) -> None:
    """Set a complete parameter or one of its moments."""
    value = value.to(engine.device)
    if engine.stage == 0:
        with torch.no_grad():
            (parameter if not part else _adamw(engine).state[parameter][part]).copy_(value)
        return
    from deepspeed import utils

    if engine.stage == 3:  # its setters of complete values overrun if the ranks' partitions are uneven
        local: torch.Tensor = parameter.ds_tensor  # type: ignore[attr-defined]  # set by DeepSpeed
        size = local.numel()
        padded = F.pad(value.flatten(), (0, size * engine.world - value.numel()))
        partition = padded[engine.rank * size :][:size]
        if part:
            utils.safe_set_local_optimizer_state(parameter, partition, part)
        else:
            utils.safe_set_local_fp32_param(parameter, partition)
            local.data.copy_(partition)  # the next forward gathers this copy
    elif part:
        utils.safe_set_full_optimizer_state(parameter, value, part)
    else:
        utils.safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(value)


def create_moments(engine: Engine) -> None:
    """Create AdamW's moments, which it creates lazily, and set its count of updates."""
    for tensor in _optimized_tensors(engine):
        state = _adamw(engine).state[tensor]
        state["step"] = torch.tensor(float(engine.updates))
        for part in MOMENTS:
            state.setdefault(part, torch.zeros_like(tensor))
    link_zero_states(engine)


def link_zero_states(engine: Engine) -> None:
    """Let DeepSpeed find the moments of all parameters; by itself it links them after stepping its first group."""
    if engine.stage in (1, 2):
        engine.deepspeed.optimizer._hp_optimizer_states_linked = False
        engine.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()


def _adamw(engine: Engine) -> torch.optim.Optimizer:
    """The AdamW inside the wrappers."""
    optimizer = engine.optimizer
    while not isinstance(optimizer, torch.optim.AdamW):
        optimizer = optimizer.optimizer
    return optimizer


def _optimized_tensors(engine: Engine) -> list[torch.Tensor]:
    """The tensors that this rank's AdamW updates: parameters, or flat partitions of them."""
    if engine.stage == 0:
        return [p for group in _adamw(engine).param_groups for p in group["params"]]
    optimizer = engine.deepspeed.optimizer
    return optimizer.fp32_partitioned_groups_flat if engine.stage == 3 else optimizer.single_partition_of_fp32_groups
