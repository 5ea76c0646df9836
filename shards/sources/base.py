"""The contract of a raw format: find the items under a path, make a sample of each."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple

from modalities.base import Modality
from modalities.registry import Registry


@dataclass(frozen=True)
class Sample:
    """One sample on its way into a shard.

    identity: what makes it the same sample as another; its sha256 becomes the key, a second one is a duplicate.
    members: bytes by `{modality}.{extension}`. groups: what a split may be made by, such as its scaffold or speaker.
    source: which of several joined sources it is of. canonical: by modality, what its content says in the one way to
    write it, where the members alone do not say it whole (a SMILES with stereochemical groups).
    """

    identity: str
    members: dict[str, bytes]
    groups: dict[str, str] = field(default_factory=dict)
    source: int = 0
    canonical: dict[str, str] = field(default_factory=dict)


class ByteRange(NamedTuple):
    """Where bytes lie: a file below the folder that a build works in, offset and size in bytes."""

    file: str
    offset: int
    size: int

    def read(self, folder: Path) -> bytes:
        """The bytes."""
        with (folder / self.file).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class StoredSample:
    """A `Sample` that was made, its members on disk.

    prints: by modality, what its content is compared by. changes: what its content lost, or what was read otherwise
    than it is written, by reason and how often (`modalities.files.reading.count_change`).
    """

    identity: str
    members: dict[str, ByteRange]
    groups: dict[str, str]
    fingerprints: dict[str, str] = field(default_factory=dict)
    source: int = 0
    changes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """One raw format. Fields are the keys of a recipe's `data.source`.

    missing: by column, the cells that mean a missing value there, in place of the words that do so elsewhere
    (`modalities.strings.cells.MISSING_WORDS`): `{iron: [-999], country: []}`. It holds for cells, labels and groups.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    type: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that read raw files and make content of them, beyond numpy and those that modalities require."""

    @property
    def parsers(self) -> tuple[str, ...]:
        """`requires`, and what else it takes to read what the fields say."""
        return (*self.requires, *(("polars",) if getattr(self, "table", None) is not None else ()))

    @property
    def drawings(self) -> frozenset[str]:
        """Modalities whose images the source draws itself: lines on white paper."""
        return frozenset()

    missing: dict[str, tuple[str | int | float, ...]] = field(default_factory=dict)

    @property
    def reads(self) -> Mapping[str, str | tuple[str, ...]]:
        """Columns of a table that modalities are read from, by modality, as many sources have them as a field."""
        return getattr(self, "columns", {})

    @abstractmethod
    def items(self, raw: Path) -> Iterator[Any]:
        """Small picklable descriptions of the raw items under a path, in a fixed order.

        Raises:
            ValueError: nothing there, or not of this format.
        """

    @abstractmethod
    def make(self, item: Any, modalities: Mapping[str, Modality]) -> Sample:
        """The sample of one item; called in parallel.

        Raises:
            ContentError: the item cannot be used; it is skipped and counted.
        """

    def combine(self, made: Iterator[StoredSample | str], folder: Path) -> Iterator[StoredSample | str]:
        """What a build takes of all that was made, in the order of the items: samples, or why an item has none.

        folder: where spans lie and new ones are written. A build that goes on calls this again from the start. The
        default takes all as it is.
        """
        return made


def walk(
    root: Path, deepest: int | None = None, leave_out: Collection[Path] = (), hidden: bool = True
) -> Iterator[tuple[Path, list[str]]]:
    """Every folder from `root` down with the names of its files, in a fixed order.

    Folders behind links are among them, each but once, where it truly lies if that is below `root` too. deepest: how
    many levels down. leave_out: resolved folders to pass over. hidden: also what begins with a dot.
    """
    waiting, links, known = deque([(root, 0)]), deque[tuple[Path, int]](), set(leave_out)
    while waiting or links:
        folder, depth = (waiting or links).popleft()
        if (real := folder.resolve()) in known:
            continue
        known.add(real)
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if hidden or not e.name.startswith(".")), key=lambda entry: entry.name)
        if deepest is None or depth < deepest:
            for entry in entries:
                if entry.is_dir():
                    (links if entry.is_symlink() else waiting).append((folder / entry.name, depth + 1))
        yield folder, [entry.name for entry in entries if entry.is_file()]


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a glob, of which `**` stands for any number."""
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        return _fits(path, pattern[1:]) or _fits(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def matching(raw: Path, pattern: str, suffixes: tuple[str, ...] = (), *, anywhere: bool = False) -> list[Path]:
    """The files of a folder by a glob, in order, or the one file given; links to folders are followed.

    suffixes: those that files may have, all by default. anywhere: the glob holds in all folders below too.

    Raises:
        ValueError: there is none, or the glob is an absolute path.
    """
    if raw.is_file():
        found = [raw]
    elif PurePath(pattern).is_absolute():
        raise ValueError(f"data.source names files by the absolute path {pattern}: name them below {raw}")
    else:
        parts = (*(("**",) if anywhere else ()), *PurePath(pattern).parts)
        folders = walk(raw, None if "**" in parts else len(parts) - 1)
        paths = (folder / name for folder, names in folders for name in names)
        found = sorted(path for path in paths if _fits(path.relative_to(raw).parts, parts))
    found = [path for path in found if not suffixes or path.suffix.lower() in suffixes]
    if not found:
        raise ValueError(f"no {', '.join(suffixes)} file {pattern} in {raw}".replace("  ", " "))
    return found


SOURCE_TYPES: Registry[Source] = Registry("sensorium.sources")
"""All source classes by the `type` that recipes give."""
register = SOURCE_TYPES.register
