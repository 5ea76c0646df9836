"""The survey of a folder that sources draft recipes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shards.sources.base import SOURCE_TYPES
from shards.sources.paths import walk

MAX_FILES = 100_000
"""File names that a survey reads."""
MAX_OPENED = 32
"""Files of one source that a draft opens."""
MAX_ROWS = 20_000
"""Rows of a table, and records of a file, that a draft reads."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The files of a folder by the sources that read them.

    files: sorted paths by the `type` of the source whose `suffixes` they have; types without files are left out.
    other_names: names of files that no source reads. is_complete: whether the survey read the names of all files.
    is_modality_name: whether a recipe may give a modality this name.
    """

    root: Path
    files: Mapping[str, list[Path]]
    other_names: tuple[str, ...] = ()
    is_complete: bool
    is_modality_name: Callable[[str], bool] = str.isidentifier

    def name(self, path: Path) -> str:
        """The path of a file relative to the folder."""
        return path.relative_to(self.root).as_posix()


def survey_folder(root: Path, is_modality_name: Callable[[str], bool] = str.isidentifier) -> Survey:
    """Survey the names of at most `MAX_FILES` files, folders near the top first; hidden ones are skipped.

    Raises:
        ValueError: `root` is not a folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the folder of the raw files")
    files: dict[str, list[Path]] = {name: [] for name in SOURCE_TYPES}
    other_names = []
    count = 0
    paths = (folder / name for folder, names in walk(root, include_hidden=False) for name in names)
    for count, path in enumerate(paths, 1):
        if count > MAX_FILES:
            break
        for source_type in (types := source_types(path.name)):
            files[source_type].append(path)
        if not types:
            other_names.append(path.name)
    return Survey(
        root=root,
        files={name: sorted(paths) for name, paths in files.items() if paths},
        other_names=tuple(other_names),
        is_complete=count <= MAX_FILES,
        is_modality_name=is_modality_name,
    )


def source_types(name: str) -> list[str]:
    """The types of the sources that read a file, by the suffix of its name."""
    return [type_ for type_, source in SOURCE_TYPES.items() if name.lower().endswith(source.suffixes or ("\0",))]


def spread(items: Sequence[T], count: int = MAX_OPENED) -> list[T]:
    """At most `count` items, evenly spaced from first to last."""
    step = max(len(items) / count, 1)
    return [items[int(number * step)] for number in range(min(count, len(items)))]
