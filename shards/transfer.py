"""Download files by fsspec: transfers that stall are cut, and failed ones are retried with growing pauses."""

from __future__ import annotations

import errno
import random
import threading
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientTimeout
from fsspec.callbacks import NoOpCallback
from fsspec.core import url_to_fs

from modalities.extras import install_command
from shards.store import ShardError, TooLargeError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Pauses between attempts double from the first to the longest; random shortening keeps ranks out of step."""
POLL_S = 0.1
"""Interval between two looks at a transfer."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Errors of botocore and google-auth, by name because neither needs to be installed."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""Packages that fsspec needs, by the protocol of a URL."""
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def download(url: str, folder: Path, limit: int, *, timeout_s: float, give_up_s: float) -> Path:
    """Download a file into a folder, with retries if the connection fails; return its path.

    timeout_s: time without data after which a connection is closed. give_up_s: time without progress after which the
    download fails.

    Raises:
        FileNotFoundError: the file does not exist.
        TooLargeError: the file has more than `limit` bytes.
        ShardError: the server refuses, or there was no progress for `give_up_s`.
    """
    pause, furthest = FIRST_PAUSE_S, 0
    start = last_progress = time.monotonic()
    attempt = 0
    while True:
        path = folder / str(attempt)  # a new path, because an abandoned connection may still write to the last one
        try:
            transfer(url, path, limit, timeout_s)
            return path
        except ImportError as error:
            package = PACKAGES.get(url.partition("://")[0])
            remedy = f"the package '{package}': {install_command(package)}" if package else f"a package: {error}"
            raise ShardError(f"{url} needs {remedy}") from error
        except (FileNotFoundError, ShardError):
            raise
        except Exception as error:
            if getattr(error, "errno", None) in DISK_FAULTS:
                raise
            now = time.monotonic()
            if (size := _size(path)) > furthest:
                last_progress, furthest = now, size
            path.unlink(missing_ok=True)  # the cache has reserved room for one copy
            remaining_s = last_progress + give_up_s - now
            if _is_final(error) or remaining_s <= 0:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ShardError(
                    f"cannot fetch {url}: {reason} (attempt {attempt + 1}, after {now - start:.0f} s)"
                ) from error
        time.sleep(min(pause * random.uniform(0.5, 1), remaining_s))
        pause = min(2 * pause, LONGEST_PAUSE_S)
        attempt += 1


def transfer(url: str, path: Path, limit: int, timeout_s: float) -> None:
    """Copy a URL to a file once. fsspec runs in a thread, which is abandoned if it stalls or exceeds the limit.

    Raises:
        TimeoutError: no data arrived for `timeout_s`.
        TooLargeError: more than `limit` bytes arrived.
        Exception: any error of the filesystem.
    """
    done: Future[None] = Future()
    stop = threading.Event()

    def work() -> None:
        try:
            filesystem, remote = url_to_fs(url, **_options(url, timeout_s))
            # By default, gcsfs creates a large file at its full size and fills it in parts, so its size shows no
            # progress.
            options = {"concurrency": 1} if url.startswith("gs") else {}
            filesystem.get_file(remote, str(path), callback=_Stoppable(stop), **options)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    size, last_growth = 0, time.monotonic()
    try:
        while not wait([done], POLL_S).done:
            if (now := _size(path)) != size:
                size, last_growth = now, time.monotonic()
            if size > limit:
                break
            if time.monotonic() - last_growth > timeout_s:
                raise TimeoutError(f"no data for {timeout_s:g} s")
        else:
            done.result()
        if _size(path) > limit:
            raise TooLargeError(f"{url} is larger than the {limit:,} bytes allowed")
    finally:
        stop.set()


class _Stoppable(NoOpCallback):
    """Ends a transfer at its next chunk once `stop` is set.

    A NoOpCallback, because with any other the Hub's filesystem leaves its fast path.
    """

    def __init__(self, stop: threading.Event):
        super().__init__()
        self.stop = stop

    def relative_update(self, inc: int = 1) -> None:
        if self.stop.is_set():
            raise InterruptedError("transfer abandoned")


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    """Options of fsspec's filesystem for a URL, so that data arrives steadily and errors arrive early."""
    if url.startswith("http"):  # by default aiohttp allows five minutes per file, however steadily it arrives
        timeout = ClientTimeout(total=None, sock_connect=2 * timeout_s, sock_read=2 * timeout_s)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    if url.startswith("s3"):
        # By default, s3fs collects ten parts of 50 MB in memory before it writes any, which looks like a stalled
        # connection, and botocore retries for longer than the timeout, which hides the server's message.
        return {"max_concurrency": 1, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    return {}


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _is_final(error: Exception) -> bool:
    """Whether an error is a refusal, so that retrying is useless."""
    response = getattr(error, "response", None)  # errors of the Hub; those of other libraries hold the status
    statuses = (getattr(response, "status_code", None), *(getattr(error, name, None) for name in ("status", "code")))
    is_refusal = any(isinstance(s, int) and 400 <= s < 500 and s not in (408, 425, 429) for s in statuses)
    is_refusal |= str(error).startswith("Forbidden: ")  # gcsfs gives no status
    return is_refusal or isinstance(error, (PermissionError, ValueError)) or type(error).__name__ in NO_CREDENTIALS
