"""Windows is refused by one line; macOS trains in one process on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.commands.doctor import doctor
from pipeline.data import workers
from pipeline.recipe.schema import Train
from pipeline.training.launch import create_accelerator

WINDOWS = "sensorium does not run on Windows: run it on Linux, for example in WSL 2"


def on_windows(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that takes its platform for Windows and has no module `fcntl`."""
    start = "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)


def test_the_command_refuses_windows_in_one_line() -> None:
    process = on_windows("from pipeline.__main__ import main; main()")
    assert (process.returncode, process.stdout, process.stderr) == (2, "", f"sensorium: {WINDOWS}\n")


def test_the_python_interface_refuses_windows() -> None:
    process = on_windows("import sensorium\ntry: sensorium.pretrain\nexcept ValueError as error: print(error)")
    assert (process.stdout, process.stderr) == (f"{WINDOWS}\n", "")


def test_zero_is_refused_without_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.platforms.sys.platform", "darwin")
    with pytest.raises(ValueError, match=r"Linux only: train in one process with train\.zero=null"):
        create_accelerator(Train(steps=1, batch_size=4, zero=2), tmp_path)


def test_workers_share_memory_without_linux_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    descriptor = workers._anonymous(4096)
    try:
        assert os.fstat(descriptor).st_size == 4096
        os.pwrite(descriptor, b"tokens", 100)
        assert os.pread(descriptor, 6, 100) == b"tokens"
    finally:
        os.close(descriptor)


def test_doctor_reports_that_apple_gpus_are_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("Apple" in line for line in doctor().missing)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "no training on Apple GPUs (MPS): models train on the CPU of this machine" in doctor().missing
