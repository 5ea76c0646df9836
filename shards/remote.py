"""The store of a URL: files that fsspec can reach, downloaded to a cache of limited size on local disk."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from shards.store import Local, ShardError, ShardFile, Store
from shards.transfer import download

GIB = 2**30
POLL_S = 0.1
"""Interval between two looks for room in the cache."""


@dataclass(frozen=True)
class Cache:
    """How remote shards are downloaded and cached on local disk.

    Attributes:
        folder: Folder on local disk, which the processes of a machine share.
        size_gib: Largest size of the folder. The least recently opened shards are removed first; a process that has
            one of them open keeps reading it.
        timeout_s: Time without data after which a connection is closed.
        give_up_s: Time without progress after which a download fails; until then it is retried with growing pauses.

    Raises:
        ValueError: a size or time is not positive and finite.
    """

    folder: str = "~/.cache/sensorium/shards"
    size_gib: float = 100.0
    timeout_s: float = 30.0
    give_up_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("size_gib", "timeout_s", "give_up_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"data.cache.{name} is {getattr(self, name)}: it must be more than 0 and finite")


def open_store(location: Path | str | Store, cache: Cache | None = None) -> Store:
    """Return the store at a path or URL; a store is returned as it is."""
    if not isinstance(location, (str, Path)):
        return location
    if isinstance(location, Path) or "://" not in location:
        return Local(Path(location))
    protocol, _, path = location.partition("://")
    return Local(Path(path)) if protocol == "file" else Remote(location.rstrip("/"), cache or Cache())


@dataclass(frozen=True)
class Remote:
    """A folder at a URL. The cache names files by their sha256, so a file that changes is fetched again.

    One process fetches a file, into a separate folder and under a lock that ends with the process; others wait for it.
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
        with tempfile.TemporaryDirectory() as folder:
            return self._download(name, Path(folder), limit).read_bytes()

    def check(self, files: Iterable[ShardFile], contents: bool) -> None:
        """Do nothing, because every file is checked when it is fetched."""

    def open(self, file: ShardFile) -> BinaryIO:
        cached = self._root / file.sha256
        if (stream := _open_cached(cached, file)) is not None:
            return stream
        with self._lock(file.sha256):
            if (stream := _open_cached(cached, file)) is not None:  # another process has just fetched it
                return stream
            return self._fetch(file, cached)

    def _lock(self, sha256: str) -> FileLock:
        """The lock for fetching a file; files share locks, so that a cache has at most 256 lock files."""
        locks = self._root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / sha256[:2])

    def _fetch(self, file: ShardFile, cached: Path) -> BinaryIO:
        """Fetch a file into the cache, twice if its content is wrong; open it before other processes can evict it."""
        for _ in range(2):
            folder = self._reserve(file)
            try:
                path = self._download(file.name, folder, file.size)
                stream = path.open("rb", buffering=0)
                if hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256:
                    os.fsync(stream.fileno())
                    path.rename(cached)
                    stream.seek(0)
                    return stream
                stream.close()
            except FileNotFoundError as error:
                raise ShardError(f"{file.kind} {self.location}/{file.name} is missing: upload it again") from error
            finally:
                shutil.rmtree(folder)
        raise ShardError(
            f"{file.kind} {self.location}/{file.name} has a wrong checksum, even after a second download: "
            "upload it again"
        )

    def _reserve(self, file: ShardFile) -> Path:
        """Create a folder to fetch a file into. It counts as the file's full size.

        Folders of killed processes are removed, then the least recently opened files. If other downloads take all the
        room, this waits for them.

        Raises:
            ShardError: the file is larger than the cache.
        """
        capacity = int(self.cache.size_gib * GIB)
        if file.size > capacity:
            raise ShardError(
                f"{file.kind} {self.location}/{file.name} has {file.size:,} bytes, more than data.cache.size_gib "
                f"{self.cache.size_gib:g}: raise it"
            )
        folder = self._root / f"{file.sha256}.{file.size}.part"
        while True:
            with FileLock(self._root / "lock"):
                for abandoned in self._root.glob(f"{file.sha256[:2]}*.part"):  # this process holds their lock
                    shutil.rmtree(abandoned)
                fetching = sum(self._in_flight(part) for part in self._root.glob("*.part"))
                cached = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in self._root.glob("[0-9a-f]" * 64))
                free = capacity - fetching - sum(size for _, size, _ in cached)
                for _, size, path in cached:
                    if free >= file.size:
                        break
                    path.unlink()
                    free += size
                if free >= file.size:
                    folder.mkdir()
                    return folder
            time.sleep(POLL_S)

    def _in_flight(self, part: Path) -> int:
        """Bytes reserved by a download in progress; 0 if its process has ended, whose folder is then removed."""
        sha256, size, _ = part.name.split(".")
        try:
            with self._lock(sha256).acquire(blocking=False), suppress(FileNotFoundError):  # it may have just ended
                shutil.rmtree(part)
        except Timeout:
            return int(size)
        return 0

    def _download(self, name: str, folder: Path, limit: int) -> Path:
        url = f"{self.location}/{name}"
        return download(url, folder, limit, timeout_s=self.cache.timeout_s, give_up_s=self.cache.give_up_s)


def _open_cached(path: Path, file: ShardFile) -> BinaryIO | None:
    """Open a file of the cache and mark it as used; None if it is missing, or truncated by a crash of the machine."""
    with suppress(FileNotFoundError):
        stream = path.open("rb", buffering=0)
        size = os.fstat(stream.fileno()).st_size
        if size == file.size or (size and not file.exact):
            os.utime(stream.fileno())
            return stream
        stream.close()
    return None
