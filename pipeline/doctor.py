"""What this machine has, what is missing, how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.launch import fast_bf16

NEEDED = ("torch", "transformers", "accelerate", "deepspeed", "safetensors", "polars", "pydantic", "pillow", "rdkit")
EXTRAS = {
    "wandb": "train.trackers: [wandb]",
    "tensorboard": "train.trackers: [tensorboard]",
    "peft": "finetune --mode lora",
}


def doctor() -> dict[str, Any]:
    """Findings by name, and `missing`: what is not there, why it matters and how to get it."""
    missing = []
    versions = {}
    for name in NEEDED:
        versions[name] = _version(name)
        if versions[name] is None:
            missing.append(f"{name} is not installed: pip install {name}")
    for name, use in EXTRAS.items():
        versions[name] = _version(name)
        if versions[name] is None:
            missing.append(f"{name} is not installed, which `{use}` needs: pip install {name}")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        missing.append("no C++ compiler, which DeepSpeed's CPU offload needs: install g++")
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not accelerators:
        missing.append("no GPU that torch can use: small recipes train on CPUs, `sensorium plan` says what one needs")
    if not fast_bf16():
        missing.append("no bf16 arithmetic in hardware: precision 'auto' trains in fp32")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(_memory() / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "accelerators": accelerators,
        "fast_bf16": fast_bf16(),
        "compiler": compiler,
        "packages": versions,
        "missing": missing,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
