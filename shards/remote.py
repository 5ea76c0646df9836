"""Where shards lie: in a local folder, or wherever fsspec reaches, copied whole to a bounded cache on local disk."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from aiohttp import ClientTimeout
from filelock import FileLock, Timeout
from fsspec.callbacks import NoOpCallback
from fsspec.core import url_to_fs

from modalities.extras import install_command

GIB = 2**30
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Pauses between attempts double from the first to the longest, each shortened at random lest ranks fall in step."""
POLL_S = 0.1
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Errors of botocore and google-auth, which may not be installed."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""Packages that fsspec needs, by the protocol of a URL."""
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ShardError(ValueError):
    """Shards that cannot be fetched or are not what their manifest says; the run must stop."""


class TooLargeError(ShardError):
    """A file of more bytes than it may have."""


@dataclass(frozen=True)
class Cache:
    """How remote shards are downloaded and kept on local disk.

    Attributes:
        folder: Folder on local disk, which processes of a machine share.
        size_gib: Largest size of the folder. The least recently opened shards are removed first; a process that has
            one of them open keeps reading it.
        timeout_s: Time without data after which a connection is closed.
        give_up_s: Time without progress after which a download fails; until then it is retried with growing pauses.

    Raises:
        ValueError: a size or time that is not positive and finite.
    """

    folder: str = "~/.cache/sensorium/shards"
    size_gib: float = 100.0
    timeout_s: float = 30.0
    give_up_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("size_gib", "timeout_s", "give_up_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"data.cache.{name} is {getattr(self, name)}: it must be more than 0 and finite")


class File(NamedTuple):
    """A file that a manifest names. size: its bytes, or where it is not `exact` the most that it may have."""

    name: str
    sha256: str
    size: int
    exact: bool = True

    @property
    def kind(self) -> str:
        """What to call it in messages."""
        return "shard" if self.exact else "index"


class Store(Protocol):
    """A folder of shards, wherever it lies."""

    @property
    def location(self) -> Path | str:
        """The folder's path or URL."""

    @property
    def remedy(self) -> str:
        """What to do about a file that is not what the manifest says."""

    def read(self, name: str, limit: int) -> bytes:
        """A small file of no known checksum.

        Raises:
            FileNotFoundError: there is none.
            ShardError: it cannot be fetched, or is larger than `limit` bytes.
        """

    def check(self, files: Iterable[File], contents: bool) -> None:
        """Compare files with the manifest before they are needed, where that costs no transfer.

        contents: by their sha256, not by their size alone.

        Raises:
            ShardError: one is missing, cut short or changed.
        """

    def open(self, file: File) -> BinaryIO:
        """A file of the manifest, unbuffered, at its start.

        Raises:
            ShardError: it cannot be fetched, or is not what the manifest says.
        """


def open_store(where: Path | str | Store, cache: Cache | None = None) -> Store:
    """The store at a path or URL; a store is itself."""
    if not isinstance(where, (str, Path)):
        return where
    if isinstance(where, Path) or "://" not in where:
        return Local(Path(where))
    protocol, _, path = where.partition("://")
    return Local(Path(path)) if protocol == "file" else Remote(where.rstrip("/"), cache or Cache())


@dataclass(frozen=True)
class Local:
    """A folder on this machine, read in place."""

    location: Path
    remedy: str = field(default="copy it again or build the shards again", init=False)

    def read(self, name: str, limit: int) -> bytes:
        path = self.location / name
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if path.stat().st_size > limit:
            raise ShardError(f"{path} is larger than {limit:,} bytes")
        return path.read_bytes()

    def check(self, files: Iterable[File], contents: bool) -> None:
        # One listing and os's own functions, for the 200,000 files that there may be.
        here = {entry.name for entry in os.scandir(self.location) if entry.is_file()}
        for file in files:
            path = f"{self.location}/{file.name}"
            if file.name not in here:
                raise ShardError(f"{file.kind} {path} is missing: {self.remedy}")
            if file.exact and (size := os.stat(path).st_size) != file.size:  # noqa: PTH116
                raise ShardError(f"{file.kind} {path} has {size:,} bytes instead of {file.size:,}: {self.remedy}")
            if contents:
                with Path(path).open("rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                        raise ShardError(f"{file.kind} {path} has a wrong checksum: {self.remedy}")

    def open(self, file: File) -> BinaryIO:
        return (self.location / file.name).open("rb", buffering=0)


@dataclass(frozen=True)
class Remote:
    """A folder at a URL. Its files are kept in the cache by their sha256, so what changes there is fetched anew.

    One process fetches a file, aside and under a lock that ends with the process; the others wait for it.
    """

    location: str
    cache: Cache

    @property
    def remedy(self) -> str:
        return f"remove it from the cache {self._root} or upload it again"

    @property
    def _root(self) -> Path:
        return Path(self.cache.folder).expanduser()

    def read(self, name: str, limit: int) -> bytes:
        with tempfile.TemporaryDirectory() as aside:
            return self._download(name, Path(aside), limit).read_bytes()

    def check(self, files: Iterable[File], contents: bool) -> None:
        """Nothing: each file is checked as it is fetched."""

    def open(self, file: File) -> BinaryIO:
        kept = self._root / file.sha256
        if (opened := _opened(kept, file)) is not None:
            return opened
        with self._lock(file.sha256):
            if (opened := _opened(kept, file)) is not None:  # another process has fetched it meanwhile
                return opened
            return self._fetch(file, kept)

    def _lock(self, sha256: str) -> FileLock:
        """A lock for fetching: shared by few files, so that no more than 256 lock files ever stand in a cache."""
        locks = self._root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / sha256[:2])

    def _fetch(self, file: File, kept: Path) -> BinaryIO:
        """Fetch a file into the cache, once again where its contents are wrong; opened before others can evict it."""
        for _ in range(2):
            aside = self._reserve(file)
            try:
                path = self._download(file.name, aside, file.size)
                opened = path.open("rb", buffering=0)
                if hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256:
                    os.fsync(opened.fileno())
                    path.rename(kept)
                    opened.seek(0)
                    return opened
                opened.close()
            except FileNotFoundError as error:
                raise ShardError(f"{file.kind} {self.location}/{file.name} is missing: upload it again") from error
            finally:
                shutil.rmtree(aside)
        raise ShardError(
            f"{file.kind} {self.location}/{file.name} has a wrong checksum, also when fetched again: upload it again"
        )

    def _reserve(self, file: File) -> Path:
        """A folder to fetch a file into, which counts as the file's full size; the least recently opened make room.

        What a killed process left is removed. Where all room is taken by what others fetch, waits for them.

        Raises:
            ShardError: the file is larger than the cache.
        """
        bound = int(self.cache.size_gib * GIB)
        if file.size > bound:
            raise ShardError(
                f"{file.kind} {self.location}/{file.name} has {file.size:,} bytes, more than data.cache.size_gib "
                f"{self.cache.size_gib:g}: raise it"
            )
        aside = self._root / f"{file.sha256}.{file.size}.part"
        while True:
            with FileLock(self._root / "lock"):
                for left in self._root.glob(f"{file.sha256[:2]}*.part"):  # whose lock this process holds
                    shutil.rmtree(left)
                fetching = sum(self._in_flight(part) for part in self._root.glob("*.part"))
                kept = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in self._root.glob("[0-9a-f]" * 64))
                free = bound - fetching - sum(size for _, size, _ in kept)
                for _, size, path in kept:
                    if free >= file.size:
                        break
                    path.unlink()
                    free += size
                if free >= file.size:
                    aside.mkdir()
                    return aside
            time.sleep(POLL_S)

    def _in_flight(self, part: Path) -> int:
        """Bytes that a fetch under way will take; one whose process is gone takes none and is removed."""
        sha256, size, _ = part.name.split(".")
        try:
            with self._lock(sha256).acquire(blocking=False), suppress(FileNotFoundError):  # it may have just ended
                shutil.rmtree(part)
        except Timeout:
            return int(size)
        return 0

    def _download(self, name: str, aside: Path, limit: int) -> Path:
        """Fetch a file into a folder, again with growing pauses where the link fails.

        Raises:
            FileNotFoundError: there is none.
            TooLargeError: the file has more than `limit` bytes.
            ShardError: the link is dead.
        """
        url, pause, furthest = f"{self.location}/{name}", FIRST_PAUSE_S, 0
        started = since = time.monotonic()
        attempt = 0
        while True:
            path = aside / str(attempt)  # of its own: a connection given up may still write to the last one's
            try:
                _transfer(url, path, limit, self.cache.timeout_s)
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
                if (got := _size(path)) > furthest:
                    since, furthest = now, got
                path.unlink(missing_ok=True)  # the cache has room for one
                left = since + self.cache.give_up_s - now
                if _refused(error) or left <= 0:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    raise ShardError(
                        f"cannot fetch {url}: {reason} (attempt {attempt + 1}, after {now - started:.0f} s)"
                    ) from error
            time.sleep(min(pause * random.uniform(0.5, 1), left))
            pause = min(2 * pause, LONGEST_PAUSE_S)
            attempt += 1


def _opened(kept: Path, file: File) -> BinaryIO | None:
    """A file of the cache, noted as used; None where it is not there, or cut short by a crash of the machine."""
    with suppress(FileNotFoundError):
        opened = kept.open("rb", buffering=0)
        size = os.fstat(opened.fileno()).st_size
        if size == file.size or (size and not file.exact):
            os.utime(opened.fileno())
            return opened
        opened.close()
    return None


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _refused(error: Exception) -> bool:
    """Whether a server or filesystem said no in a way that waiting does not change."""
    answer = getattr(error, "response", None)  # of the Hub; other libraries' errors have the status themselves
    statuses = (getattr(answer, "status_code", None), *(getattr(error, name, None) for name in ("status", "code")))
    told = any(isinstance(s, int) and 400 <= s < 500 and s not in (408, 425, 429) for s in statuses)
    told |= str(error).startswith("Forbidden: ")  # gcsfs says so alone
    return told or isinstance(error, (PermissionError, ValueError)) or type(error).__name__ in NO_CREDENTIALS


class _Stoppable(NoOpCallback):
    """Ends a transfer at its next chunk once told so. Other callbacks take the Hub's filesystem off its fast path."""

    def __init__(self, stop: threading.Event):
        super().__init__()
        self.stop = stop

    def relative_update(self, inc: int = 1) -> None:
        if self.stop.is_set():
            raise InterruptedError("given up")


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    """What fsspec's filesystem of a URL must be told for its files to arrive as `_transfer` expects."""
    if url.startswith("http"):  # aiohttp's own limit is five minutes a file, however well it flows
        timeout = ClientTimeout(total=None, sock_connect=2 * timeout_s, sock_read=2 * timeout_s)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    if url.startswith("s3"):
        # in parts it would hold ten of 50 MB in memory before any is written, which looks like a link that stalls;
        # and botocore would try again for longer than the timeout, which hides what the server says
        return {"max_concurrency": 1, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    return {}


def _transfer(url: str, path: Path, limit: int, timeout_s: float) -> None:
    """Copy a URL to a file by fsspec in a thread, which is left to itself once it brings nothing or too much.

    Raises:
        TimeoutError: nothing came for `timeout_s`.
        TooLargeError: more than `limit` bytes came.
        Exception: whatever the filesystem raises.
    """
    done: Future[None] = Future()
    stop = threading.Event()

    def work() -> None:
        try:
            filesystem, remote = url_to_fs(url, **_options(url, timeout_s))
            # gcsfs would make a large file in full size at once and fill it in parts: nothing shows what has come
            parts = {"concurrency": 1} if url.startswith("gs") else {}
            filesystem.get_file(remote, str(path), callback=_Stoppable(stop), **parts)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    size, moved = 0, time.monotonic()
    try:
        while not wait([done], POLL_S).done:
            if (now := _size(path)) != size:
                size, moved = now, time.monotonic()
            if size > limit:
                break
            if time.monotonic() - moved > timeout_s:
                raise TimeoutError(f"nothing came for {timeout_s:g} s")
        else:
            done.result()
        if _size(path) > limit:
            raise TooLargeError(f"{url} is larger than the {limit:,} bytes that it may have")
    finally:
        stop.set()
