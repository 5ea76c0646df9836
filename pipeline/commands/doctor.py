"""Report the hardware and packages of this machine, and how to install missing ones."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import modalities
import shards.sources
from modalities.extras import install_command
from pipeline.commands.result import Result
from pipeline.machine import fast_bf16

REQUIRED = ("torch", "transformers", "accelerate", "deepspeed", "peft", "safetensors", "polars", "pydantic")
OPTIONAL = {
    "matplotlib": "sensorium report",
    "ray": "sensorium shards build --engine ray",
    "s3fs": "shards at s3://",
    "gcsfs": "shards at gs://",
    "tensorboard": "train.trackers: [tensorboard]",
    "wandb": "train.trackers: [wandb]",
}


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A package that reads files: its version, None if it is not installed, and the modules that use it."""

    version: str | None
    uses: list[str]


@dataclass(frozen=True, kw_only=True)
class DoctorResult(Result):
    """This machine. missing: a line for each missing package or device, with its use and how to install it."""

    python: str
    platform: str
    cores: int | None
    memory_gib: float
    disk_free_gib: float
    accelerators: list[str]
    fast_bf16: bool
    compiler: str | None
    packages: dict[str, str | None]
    parsers: dict[str, Parser]
    missing: list[str]

    def lines(self) -> list[str]:
        listed = {"packages", "parsers", "missing"}
        lines = [f"{key}: {value}" for key, value in self.to_json().items() if key not in listed]
        lines.append("packages: " + ", ".join(f"{name} {version or '-'}" for name, version in self.packages.items()))
        for name, parser in self.parsers.items():
            lines.append(f"parser {name} {parser.version or '-'}, for {'; '.join(parser.uses)}")
        return [*lines, *(f"missing: {line}" for line in self.missing)]


def doctor() -> DoctorResult:
    """Look for packages, parsers, a compiler and accelerators."""
    packages = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    readers = {name: Parser(version=_version(name), uses=uses) for name, uses in parsers().items()}
    compiler = shutil.which("g++") or shutil.which("c++")
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    missing = [
        *_missing_packages(packages, readers),
        *(["no C++ compiler, which DeepSpeed's CPU offload needs: install g++"] if compiler is None else []),
        *(
            []
            if accelerators
            else ["no GPU that torch can use: small recipes train on CPUs, `sensorium plan` estimates what one needs"]
        ),
        *(
            ["no training on Apple GPUs (MPS): models train on the CPU of this machine"]
            if torch.backends.mps.is_available()
            else []
        ),
        *([] if fast_bf16() else ["no bf16 arithmetic in hardware: precision 'auto' trains in fp32"]),
    ]
    return DoctorResult(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_gib=round(_memory() / 2**30, 1),
        disk_free_gib=round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        accelerators=accelerators,
        fast_bf16=fast_bf16(),
        compiler=compiler,
        packages=packages,
        parsers=readers,
        missing=missing,
    )


def _missing_packages(packages: dict[str, str | None], readers: dict[str, Parser]) -> list[str]:
    """A line for each package that is not installed."""
    missing = []
    for name, version in packages.items():
        if version is None and not (name == "deepspeed" and sys.platform != "linux"):
            use = f" ({OPTIONAL[name]})" if name in OPTIONAL else ""
            missing.append(f"{name} is not installed{use}: {install_command(name)}")
    for name, parser in readers.items():
        if parser.version is None:
            missing.append(f"{name} is not installed ({'; '.join(parser.uses)}): {install_command(name)}")
    return missing


def parsers() -> dict[str, list[str]]:
    """Packages that modalities and sources import lazily (`lazy_import`), and the modules that use them."""
    packages: dict[str, list[str]] = {}
    for package in (modalities, shards.sources):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            use = f"{path.stem}: {(ast.get_docstring(tree) or '').partition(chr(10))[0]}"
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_import":
                    name = str(ast.literal_eval(node.args[1]))
                    if use not in packages.setdefault(name, []):
                        packages[name].append(use)
    return dict(sorted(packages.items()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
