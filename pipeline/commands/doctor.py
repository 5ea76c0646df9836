"""What this machine has, what is missing, how to get it."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

import modalities
import shards.sources
from modalities.extras import install_command
from pipeline.machine import fast_bf16

REQUIRED = ("torch", "transformers", "accelerate", "deepspeed", "safetensors", "polars", "pydantic")
OPTIONAL = {
    "matplotlib": "sensorium report",
    "ray": "sensorium shards build --engine ray",
    "s3fs": "shards at s3://",
    "gcsfs": "shards at gs://",
    "tensorboard": "train.trackers: [tensorboard]",
    "wandb": "train.trackers: [wandb]",
}


def doctor() -> dict[str, Any]:
    """Findings by name.

    parsers: packages that read files, and what for. missing: what is not there, why it matters and how to get it.
    """
    missing = []
    versions = {}
    for name in REQUIRED:
        versions[name] = _version(name)
        if versions[name] is None and not (name == "deepspeed" and sys.platform != "linux"):
            missing.append(f"{name} is not installed: {install_command(name)}")
    for name, use in OPTIONAL.items():
        versions[name] = _version(name)
        if versions[name] is None:
            missing.append(f"{name} is not installed ({use}): {install_command(name)}")
    reading = {}
    for name, uses in parsers().items():
        reading[name] = {"version": _version(name), "for": uses}
        if reading[name]["version"] is None:
            missing.append(f"{name} is not installed ({'; '.join(uses)}): {install_command(name)}")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        missing.append("no C++ compiler, which DeepSpeed's CPU offload needs: install g++")
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not accelerators:
        missing.append("no GPU that torch can use: small recipes train on CPUs, `sensorium plan` says what one needs")
    if torch.backends.mps.is_available():
        missing.append("no training on Apple GPUs (MPS): models train on the CPU of this machine")
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
        "parsers": reading,
        "missing": missing,
    }


def parsers() -> dict[str, list[str]]:
    """Packages that modalities and sources load when they first need them (`lazy_import`), and what each is for."""
    found: dict[str, list[str]] = {}
    for package in (modalities, shards.sources):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            use = f"{path.stem}: {(ast.get_docstring(tree) or '').partition(chr(10))[0]}"
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_import":
                    name = str(ast.literal_eval(node.args[1]))
                    if use not in found.setdefault(name, []):
                        found[name].append(use)
    return dict(sorted(found.items()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
