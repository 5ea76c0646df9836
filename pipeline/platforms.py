"""Operating systems: Linux, and macOS without DeepSpeed; Windows is refused before any other import."""

from __future__ import annotations

import sys


def check_platform() -> None:
    """Refuse Windows, which lacks the file locks and anonymous memory that shards and workers need.

    Raises:
        ValueError: this is Windows.
    """
    if sys.platform == "win32":
        raise ValueError("sensorium does not run on Windows: run it on Linux, for example in WSL 2")


def check_deepspeed() -> None:
    """Refuse ZeRO and several processes where DeepSpeed does not run.

    Raises:
        ValueError: this is not Linux.
    """
    if sys.platform != "linux":
        raise ValueError(
            "ZeRO and several processes need DeepSpeed, which runs on Linux only: train in one process with "
            "train.zero=null"
        )
