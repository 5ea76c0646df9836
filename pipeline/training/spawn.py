"""Start several ranks on this machine, as torchrun does."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

CHECKPOINT_S = 300
"""Time in s that ranks have for their step and a checkpoint after a stop request, before they are killed."""


def spawn_ranks(devices: int, arguments: Sequence[str]) -> int:
    """Run `sensorium` with `arguments` in as many processes as `devices`; the rank that fails prints its error.

    Returns:
        the exit code: 0, 2 if a rank reported a user's mistake, 1 for other failures, 128 + signal after a signal.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        1,
        1,
        devices,
        run_id="sensorium",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=CHECKPOINT_S,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", "pipeline", *arguments)
    except ChildFailedError as error:
        return 2 if any(failure.exitcode == 2 for failure in error.failures.values()) else 1
    except SignalException as error:  # the ranks received it too
        return 128 + error.sigval
    return 0
