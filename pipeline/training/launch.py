"""Start, coordinate and stop the processes of a run: Accelerator, DeepSpeed, signals."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist

from modalities.files.reading import lazy_import
from pipeline.machine import fast_bf16
from pipeline.platforms import check_deepspeed
from pipeline.recipe.schema import Train

if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # without it DeepSpeed warns that it detected no accelerator

T = TypeVar("T")
_single_process: dict[str, str] = {}
"""Environment variables that this process set for a run without torchrun."""
MAIN_PROCESS_TIMEOUT = timedelta(days=2)
"""How long ranks wait for work of the main process, such as comparing the checksums of a large corpus."""


def on_main_process(accelerator: Any, work: Callable[[], T]) -> T | None:
    """Do some work on the main process while the other ranks wait; returns its result there, None on other ranks.

    If it fails, the other ranks exit and only the main process reports the error.

    Raises:
        BaseException: as `work`, on the main process.
        SystemExit: on the other ranks.
    """
    if accelerator.num_processes == 1:
        return work()
    # A separate group: the timeout of training is for hung ranks, not for a rank that hashes a corpus.
    group = dist.new_group(backend="gloo", timeout=MAIN_PROCESS_TIMEOUT)
    failed = torch.zeros(1)
    result = None
    try:
        if accelerator.is_main_process:
            result = work()
    except BaseException:
        failed += 1
        raise
    finally:
        dist.broadcast(failed, 0, group)
        dist.destroy_process_group(group)
    if failed.item():
        sys.exit(2)
    return result


class GracefulStop:
    """Context that records SIGTERM, which schedulers send before SIGKILL, and Ctrl-C, so that a step can finish.

    A second signal after Ctrl-C interrupts at once. signal: the last one received, if any.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()  # Python runs handlers only there
        signals = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
        self._handlers = {number: signal.signal(number, self._record) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if os.environ.get("RANK", "0") == "0":  # not print: the signal may arrive in the middle of a line
            os.write(2, b"\nstopping after this step and a checkpoint; press Ctrl-C again to stop at once\n")


def zero_stage(train: Train) -> int | None:
    """DeepSpeed's ZeRO stage, None without DeepSpeed; `auto` is stage 2 if there are several ranks."""
    if train.zero == "auto":
        return 2 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    return train.zero


def samples_per_rank(train: Train, ranks: int) -> int:
    """Number of samples of a micro-batch on each rank.

    Raises:
        ValueError: there are no ranks, or a micro-batch cannot be divided among them.
    """
    if ranks < 1:
        raise ValueError(f"there must be at least 1 rank, not {ranks}")
    if train.micro_batch % ranks:
        key = "micro_batch_size" if train.micro_batch_size else "batch_size"
        raise ValueError(
            f"a micro-batch of {train.micro_batch} samples cannot be divided among {ranks} ranks: change train.{key}"
        )
    return train.micro_batch // ranks


def create_accelerator(train: Train, run: Path) -> Any:
    """The Accelerator of this process.

    Raises:
        ValueError: a micro-batch cannot be divided among the ranks, a tracker is not installed, or DeepSpeed is needed
            and does not run on this platform.
    """
    from accelerate import Accelerator, DataLoaderConfiguration, DeepSpeedPlugin, InitProcessGroupKwargs

    for tracker in train.trackers:
        lazy_import(tracker, tracker)
    _reset_process_state()
    rank_samples = samples_per_rank(train, int(os.environ.get("WORLD_SIZE", "1")))
    stage = zero_stage(train)
    options: dict[str, Any] = {
        "log_with": list(train.trackers) or None,
        "project_dir": str(run),
        "dataloader_config": DataLoaderConfiguration(),
        "cpu": not torch.cuda.is_available() and stage is None,
    }
    if stage is None:
        return Accelerator(mixed_precision="bf16" if uses_bf16(train) else "no", **options)
    check_deepspeed()
    _set_single_process_environment()
    import deepspeed

    # Gloo carries collectives on CPUs. DeepSpeed would compile its own kernel at the first start, and a start that is
    # killed during compilation leaves a lock on which every later one waits forever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    return Accelerator(
        mixed_precision="no",
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=_zero_config(train, stage, rank_samples)),
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
        **options,
    )


def _zero_config(train: Train, stage: int, rank_samples: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a ZeRO stage."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": rank_samples,
        "gradient_accumulation_steps": train.batch_size // train.micro_batch,
        "gradient_clipping": train.gradient_clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "overlap_comm": False, "contiguous_gradients": False},
        "steps_per_print": 10**9,
    }
    if uses_bf16(train):  # weights stay in float32, as without DeepSpeed
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return config


def finish(accelerator: Any) -> None:
    """End trackers and leave the process group; a single process keeps its group, because DeepSpeed does."""
    if accelerator.num_processes > 1:
        accelerator.end_training()
    else:
        for tracker in accelerator.trackers:
            tracker.finish()


def uses_bf16(train: Train) -> bool:
    """Whether forward and backward passes run under bf16 autocast."""
    return fast_bf16() if train.precision == "auto" else train.precision == "bf16"


def _set_single_process_environment() -> None:
    """Set the variables that torchrun would set, for DeepSpeed in a single process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    _single_process.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(_single_process)


def _reset_process_state() -> None:
    """Reset what outlives a run within this process: Accelerate's state and the environment that it reads."""
    from accelerate.state import AcceleratorState

    for name in ("ACCELERATE_USE_DEEPSPEED", *_single_process):
        os.environ.pop(name, None)
    _single_process.clear()
    AcceleratorState._reset_state(reset_partial_state=True)
