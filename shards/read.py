"""Samples from shards by random access: offsets from the index, bytes by pread."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl

from shards.manifest import Manifest, check, index_path

OPEN_FILES = 128
"""Tars of a split that a process keeps open, well below the usual limit of 1,024 descriptors."""

Members = dict[str, dict[str, bytes]]
"""A sample's bytes by modality and extension: `{"image": {"png": ...}, "labels": {"json": ...}}`."""


class Index(NamedTuple):
    """The samples of one shard. Sample i owns members `starts[i]` to `starts[i + 1]`."""

    keys: list[str]
    groups: list[str]
    starts: np.ndarray
    members: list[str]
    offsets: np.ndarray
    sizes: np.ndarray


def load_index(tar: Path) -> Index:
    """The index beside a tar."""
    rows = pl.read_parquet(index_path(tar))
    first = np.flatnonzero(np.r_[True, rows["key"].to_numpy()[1:] != rows["key"].to_numpy()[:-1]][: len(rows)])
    return Index(
        rows["key"].gather(first).to_list(),
        rows["group"].gather(first).to_list(),
        np.r_[first, len(rows)],
        rows["member"].to_list(),
        rows["offset"].to_numpy(),
        rows["size"].to_numpy(),
    )


class Split:
    """The samples of one split of a folder of shards, by shard and number.

    verify: compare the tars' sha256 with the manifest first, not their sizes alone.

    Raises:
        ValueError: no manifest, an empty split, or a shard that is not what the manifest says.
    """

    def __init__(self, folder: Path, split: str, verify: bool = False):
        self._files: dict[int, BinaryIO] = {}
        self.folder, self.split = folder, split
        self.manifest = Manifest.read(folder)
        self.shards = self.manifest.of(split)
        self.sizes = tuple(shard.samples for shard in self.shards)
        if not sum(self.sizes):
            held = ", ".join(f"{name} {count:,}" for name, count in self.manifest.counts().items())
            raise ValueError(f"the {split} split of {folder} is empty ({held})")
        for shard in self.shards:
            check(folder, shard, contents=verify)

    def __len__(self) -> int:
        return sum(self.sizes)

    @cached_property
    def _indexes(self) -> list[Index]:
        return [load_index(self.folder / shard.name) for shard in self.shards]

    def _file(self, shard: int) -> BinaryIO:
        """A shard's tar; the least recently used one is closed where more than `OPEN_FILES` are open."""
        file = self._files.pop(shard, None) or (self.folder / self.shards[shard].name).open("rb", buffering=0)
        self._files[shard] = file  # a dict keeps its order: the last used stands last
        if len(self._files) > OPEN_FILES:
            self._files.pop(next(iter(self._files))).close()
        return file

    def key(self, shard: int, number: int) -> str:
        """The key of a sample."""
        return self._indexes[shard].keys[number]

    def read(self, shard: int, number: int) -> Members:
        """All members of a sample."""
        index = self._indexes[shard]
        sample: Members = {}
        for i in range(index.starts[number], index.starts[number + 1]):
            modality, _, extension = index.members[i].partition(".")
            data = os.pread(self._file(shard).fileno(), int(index.sizes[i]), int(index.offsets[i]))
            sample.setdefault(modality, {})[extension.lower()] = data
        return sample

    def locations(self) -> list[tuple[str, str, int, int]]:
        """(key, group, shard, number) of every sample."""
        return [
            (key, group, shard, number)
            for shard, index in enumerate(self._indexes)
            for number, (key, group) in enumerate(zip(index.keys, index.groups, strict=True))
        ]

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}
