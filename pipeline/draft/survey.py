"""What lies in a folder of raw files, by the names of a bounded number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shards.sources.audio import AudioFolder
from shards.sources.images import ImageFolder
from shards.sources.paths import walk

FILES = 100_000
"""Files whose names are looked at."""
OPENED = 32
"""Files of a kind that are opened."""
ROWS = 20_000
"""Rows of a table, and records of a FASTA file, that are read."""
KINDS: dict[str, tuple[str, ...]] = {
    "image": ImageFolder.suffixes,
    "audio": AudioFolder.suffixes,
    "wfdb": (".hea",),
    "edf": (".edf", ".bdf"),
    "fasta": (".fasta", ".fa", ".fna", ".fas", ".ffn"),
    "molecules": (".smi", ".sdf", ".sd"),
    "table": (".csv", ".tsv", ".parquet"),
    "tar": (".tar",),
}
"""Suffixes by kind; those of FASTA and molecules may be followed by `.gz`."""

T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """A folder's files by kind, each list sorted. whole: whether it has no more files than were looked at."""

    root: Path
    kinds: dict[str, list[Path]]
    whole: bool

    def name(self, path: Path) -> str:
        """A file's path below the folder."""
        return path.relative_to(self.root).as_posix()


def look(root: Path) -> Survey:
    """Look at the names of at most `FILES` files, folders near the top first; hidden ones are passed over.

    Raises:
        ValueError: not a folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the one that holds the raw files")
    kinds: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    looked = 0
    paths = (folder / name for folder, names in walk(root, include_hidden=False) for name in names)
    for looked, path in enumerate(paths, 1):
        if looked > FILES:
            break
        if (kind := kind_of(path.name)) is not None:
            kinds[kind].append(path)
    return Survey(root, {kind: sorted(paths) for kind, paths in kinds.items() if paths}, looked <= FILES)


def kind_of(name: str) -> str | None:
    """The kind of a file by its name; None where it is not one of `KINDS`."""
    name = name.lower()
    plain = name.removesuffix(".gz")
    for kind, suffixes in KINDS.items():
        if (plain if kind in ("fasta", "molecules") else name).endswith(suffixes):
            return kind
    return None


def spread(items: Sequence[T], count: int = OPENED) -> list[T]:
    """At most `count` items, evenly from first to last."""
    step = max(len(items) / count, 1)
    return [items[int(i * step)] for i in range(min(count, len(items)))]
