"""How a process starts, works with the others and ends: Accelerator, DeepSpeed, precision, memory, signals."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist

from modalities.files.reading import lazy_import
from pipeline.recipe.schema import Train

if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns where it finds by itself that there is none

_own: dict[str, str] = {}
"""The environment that a run in one process made for itself."""
PATIENCE = timedelta(days=2)
"""How long ranks wait for what one does for all, such as comparing the checksums of a large corpus."""


def on_main_process(accelerator: Any, work: Callable[[], None]) -> None:
    """Do something on the main process alone; where that fails, the others end with it and leave the word to it.

    Raises:
        ValueError, OSError: what `work` raised.
        SystemExit: on the other ranks, with the exit code of a user's mistake.
    """
    if accelerator.num_processes == 1:
        work()
        return
    # Of its own, for the patience of the one that trains is for ranks that hang, not for one that reads a corpus.
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    failed = torch.zeros(1)
    try:
        if accelerator.is_main_process:
            work()
    except (ValueError, OSError):
        failed += 1
        raise
    finally:
        dist.broadcast(failed, 0, group)
        dist.destroy_process_group(group)
    if failed.item():
        sys.exit(2)


class GracefulStop:
    """Notes SIGTERM, which schedulers send before they kill, and Ctrl-C, so that what is under way can be finished.

    Whatever comes after Ctrl-C interrupts. signal: what came, if anything.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        heard = threading.current_thread() is threading.main_thread()  # signals reach no other
        self._former = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT) if heard}
        return self

    def __exit__(self, *_: object) -> None:
        for sent, handler in self._former.items():
            signal.signal(sent, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if os.environ.get("RANK", "0") == "0":  # past Python's buffers, which may be in the middle of a line
            os.write(2, b"\nending when a checkpoint is saved; Ctrl-C again ends at once\n")


def zero_stage(train: Train) -> int | None:
    """DeepSpeed's ZeRO stage, None for no DeepSpeed: `auto` is stage 2 among several ranks."""
    if train.zero == "auto":
        return 2 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    return train.zero


def share(train: Train, ranks: int) -> int:
    """A rank's samples of a pass.

    Raises:
        ValueError: a pass cannot be divided among the ranks, or there is none.
    """
    if ranks < 1:
        raise ValueError(f"{ranks} ranks train nothing: name at least 1")
    if train.micro_batch % ranks:
        key = "micro_batch_size" if train.micro_batch_size else "batch_size"
        raise ValueError(
            f"a micro-batch of {train.micro_batch} samples cannot be divided among {ranks} ranks: change train.{key}"
        )
    return train.micro_batch // ranks


def accelerate(train: Train, run: Path) -> Any:
    """The Accelerator of this process.

    Raises:
        ValueError: the batch cannot be divided among the ranks, or a tracker is not installed.
    """
    from accelerate import Accelerator, DataLoaderConfiguration, DeepSpeedPlugin, InitProcessGroupKwargs

    for tracker in train.trackers:
        lazy_import(tracker, tracker)
    _forget_earlier_runs()
    a_rank = share(train, int(os.environ.get("WORLD_SIZE", "1")))
    options: dict[str, Any] = {
        "log_with": list(train.trackers) or None,
        "project_dir": str(run),
        "dataloader_config": DataLoaderConfiguration(),
        "cpu": not torch.cuda.is_available() and zero_stage(train) is None,
    }
    stage = zero_stage(train)
    if stage is None:
        return Accelerator(mixed_precision="bf16" if bf16(train) else "no", **options)
    _single_process_environment()
    import deepspeed

    # Gloo carries collectives on CPUs. DeepSpeed would compile a kernel for them at the first start, and a start that
    # is killed meanwhile leaves a lock on which every later one waits for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": a_rank,
        "gradient_accumulation_steps": train.batch_size // train.micro_batch,
        "gradient_clipping": train.gradient_clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "overlap_comm": False, "contiguous_gradients": False},
        "steps_per_print": 10**9,
    }
    if bf16(train):  # weights stay in float32, as they do without DeepSpeed
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    return Accelerator(
        mixed_precision="no",
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config),
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
        **options,
    )


def finish(accelerator: Any) -> None:
    """End trackers and leave the other ranks. A process alone keeps its group, which DeepSpeed knows for good."""
    if accelerator.num_processes > 1:
        accelerator.end_training()
    else:
        for tracker in accelerator.trackers:
            tracker.finish()


def bf16(train: Train) -> bool:
    """Whether passes run under bf16 autocast."""
    return fast_bf16() if train.precision == "auto" else train.precision == "bf16"


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware; emulated it is a hundred times slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: returning each to the system costs a CPU training step a fifth of its time."""
    if torch.cuda.is_available() or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _single_process_environment() -> None:
    """What torchrun would set, for DeepSpeed in one process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    _own.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(_own)


def _forget_earlier_runs() -> None:
    """Undo what stays for the whole process: Accelerate's state and the environment that it reads."""
    from accelerate.state import AcceleratorState

    for name in ("ACCELERATE_USE_DEEPSPEED", *_own):
        os.environ.pop(name, None)
    _own.clear()
    AcceleratorState._reset_state(reset_partial_state=True)
