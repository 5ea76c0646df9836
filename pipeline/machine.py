"""The machine that this process runs on: its packages, bf16 support and memory allocator."""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any

import torch

from shards.versions import installed_versions

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "numpy", "polars", "safetensors")
"""Packages whose versions a run records."""


def environment() -> dict[str, Any]:
    """Python, platform, threads, accelerator and package versions, for `environment.json` of a run."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": installed_versions(PACKAGES),
    }


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware; emulation is a hundred times slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: returning them to the system costs a CPU training step a fifth of its time."""
    if torch.cuda.is_available() or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
