"""The manifest of a shard set: its shards with their checksums, and what a build counted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shards.files import write_json
from shards.index import SLACK_BYTES, SUFFIX, index_path
from shards.remote import open_store
from shards.split import SPLITS
from shards.store import ShardError, ShardFile, Store

VERSION = 1
NAME = "manifest.json"
MAX_BYTES = 2**30
"""Largest manifest accepted; that of 100,000 shards has about 30 MB."""

_NAME, _CHECKSUMS = re.compile(r"[^/\\\0]*[^/\\\0.][^/\\\0]*"), re.compile("[0-9a-f]{64} [0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar: its file name, split, number of samples, size in bytes and checksums.

    Raises:
        ValueError: the name leads out of the folder, or a value is impossible.
    """

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a file in the folder")
        if self.split not in SPLITS:
            raise ValueError(f"{self.name} has the split {self.split!r}, not one of {', '.join(SPLITS)}")
        if type(self.samples) is not int or type(self.bytes) is not int or self.samples < 0 or self.bytes < 0:
            raise ValueError(f"{self.name} has {self.samples!r} samples and {self.bytes!r} bytes")
        if not _CHECKSUMS.fullmatch(f"{self.sha256} {self.index_sha256}"):
            raise ValueError(f"{self.name} has a checksum that is not a sha256")

    @property
    def tar(self) -> ShardFile:
        """The tar, with its checksum and size."""
        return ShardFile(self.name, self.sha256, self.bytes)

    @property
    def index(self) -> ShardFile:
        """The index, with its checksum and largest possible size."""
        name = self.name.removesuffix(".tar") + SUFFIX
        return ShardFile(name, self.index_sha256, self.bytes + SLACK_BYTES, exact=False)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a shard set, stored beside the shards.

    fields: number of samples that have each member. source, split: settings of the build. skipped: number of raw items
    that were skipped, by reason. changed: number of samples whose content was changed, by reason. notes: further
    remarks of the build on the content, a sentence each. dedupe: how contents were compared, by modality. versions: of
    the packages that read the raw files (`shards.versions`).

    Raises:
        ValueError: a value is impossible.
    """

    shards: tuple[Shard, ...]
    fields: dict[str, int]
    source: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    dedupe: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        for name in ("fields", "source", "split", "skipped", "dedupe", "changed", "versions"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not an object")
        for count in (*self.fields.values(), *self.skipped.values(), *self.changed.values()):
            if type(count) is not int or count < 0:
                raise ValueError(f"{count!r} is not a number of samples")
        if not all(isinstance(version, str) for version in self.versions.values()):
            raise ValueError(f"versions are {self.versions!r}, but each must be a string")
        if not isinstance(self.notes, (list, tuple)) or not all(isinstance(note, str) for note in self.notes):
            raise ValueError(f"notes are {self.notes!r}, not a list of sentences")
        object.__setattr__(self, "notes", tuple(self.notes))

    def of(self, split: str) -> tuple[Shard, ...]:
        """The shards of one split."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def modalities(self) -> set[str]:
        """Modalities that samples may have, and `labels` if any sample has labels."""
        return {field.partition(".")[0] for field in self.fields}

    def counts(self) -> dict[str, int]:
        """Number of samples by split."""
        return {split: sum(shard.samples for shard in self.of(split)) for split in SPLITS}

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        write_json(folder / NAME, asdict(self))

    @classmethod
    def read(cls, location: Path | str | Store) -> Manifest:
        """Read the manifest of the folder at a path or URL.

        Raises:
            ShardError: there is none, it cannot be fetched, or it is not a manifest of this version.
        """
        store = open_store(location)
        path = f"{store.location}/{NAME}"
        try:
            state = json.loads(store.read(NAME, MAX_BYTES))
            if state["version"] != VERSION:
                raise ShardError(f"{path} has format version {state['version']}, this program reads {VERSION}")
            return cls(**{**state, "shards": tuple(Shard(**shard) for shard in state["shards"])})
        except FileNotFoundError as error:
            raise ShardError(
                f"no shards at {store.location}: build them with `sensorium shards build`, "
                "or index tars with `sensorium shards index`"
            ) from error
        except ShardError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ShardError(f"{path} is not a manifest of shards ({error}): build the shards again") from error


def hash_file(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shards(store: Store, shards: Iterable[Shard], contents: bool = True) -> None:
    """Compare shards with their manifest entries, unless that needs a transfer.

    contents: also compare sha256, not only existence and size.

    Raises:
        ShardError: a tar or index is missing, truncated or changed; the message names it.
    """
    store.check((file for shard in shards for file in (shard.tar, shard.index)), contents)


def describe_shard(folder: Path, name: str, split: str, samples: int, index: Path | None = None) -> Shard:
    """The manifest entry of a tar on disk and its index, by default the index beside it."""
    tar = folder / name
    return Shard(
        name=name,
        split=split,
        samples=samples,
        bytes=tar.stat().st_size,
        sha256=hash_file(tar),
        index_sha256=hash_file(index or index_path(tar)),
    )
