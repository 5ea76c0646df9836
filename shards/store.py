"""Interface of a store, which is a folder of shards, and the store of a local folder."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol


class ShardError(ValueError):
    """A shard set cannot be fetched or does not match its manifest; the run must stop."""


class TooLargeError(ShardError):
    """A file is larger than allowed."""


class ShardFile(NamedTuple):
    """A file that a manifest lists.

    Attributes:
        name: File name.
        sha256: Hexadecimal hash of its content.
        size: Number of bytes; an upper bound unless `exact`.
        exact: Whether `size` is exact.
    """

    name: str
    sha256: str
    size: int
    exact: bool = True

    @property
    def kind(self) -> str:
        """Noun for messages."""
        return "shard" if self.exact else "index"


class Store(Protocol):
    """A folder of shards, local or remote."""

    @property
    def location(self) -> Path | str:
        """Path or URL of the folder."""

    @property
    def remedy(self) -> str:
        """Advice for messages about a file that does not match the manifest."""

    def read(self, name: str, limit: int) -> bytes:
        """Read a small file whose checksum is unknown.

        Raises:
            FileNotFoundError: the file does not exist.
            ShardError: it cannot be fetched, or is larger than `limit` bytes.
        """

    def check(self, files: Iterable[ShardFile], contents: bool) -> None:
        """Compare files with the manifest before they are needed, if that costs no transfer.

        contents: compare sha256 too, not only the size.

        Raises:
            ShardError: a file is missing, truncated or changed.
        """

    def open(self, file: ShardFile) -> BinaryIO:
        """Open a file of the manifest, unbuffered.

        Raises:
            ShardError: it cannot be fetched, or does not match the manifest.
        """


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

    def check(self, files: Iterable[ShardFile], contents: bool) -> None:
        # One listing and the functions of `os`, because there may be 200,000 files.
        names = {entry.name for entry in os.scandir(self.location) if entry.is_file()}
        for file in files:
            path = f"{self.location}/{file.name}"
            if file.name not in names:
                raise ShardError(f"{file.kind} {path} is missing: {self.remedy}")
            if file.exact and (size := os.stat(path).st_size) != file.size:  # noqa: PTH116
                raise ShardError(f"{file.kind} {path} has {size:,} bytes instead of {file.size:,}: {self.remedy}")
            if contents:
                with Path(path).open("rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                        raise ShardError(f"{file.kind} {path} has a wrong checksum: {self.remedy}")

    def open(self, file: ShardFile) -> BinaryIO:
        return (self.location / file.name).open("rb", buffering=0)
