"""Samples from shards by random access: offsets from the index, bytes by pread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow.parquet as parquet

from shards.manifest import Manifest, check, index_path
from shards.select import Selection

OPEN_SHARDS = 128
"""Shards of a split that a process keeps open, well below the usual limit of 1,024 descriptors."""

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
    """The index beside a tar, read by one thread: in a forked loader worker a pool of threads would wait for ever."""
    rows = parquet.read_table(index_path(tar), use_threads=False)
    keys, groups = rows["key"].to_numpy(), rows["group"].to_numpy()
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
    return Index(
        keys[first].tolist(),
        groups[first].tolist(),
        np.r_[first, len(keys)],
        rows["member"].to_pylist(),
        rows["offset"].to_numpy(),
        rows["size"].to_numpy(),
    )


class Shard(NamedTuple):
    """An open shard."""

    file: BinaryIO
    rows: Index


class Split:
    """The samples of one split of a folder of shards, by shard and number.

    verify: compare the tars' sha256 with the manifest first, not their sizes alone. selection: set to keep some samples
    alone; `sizes` and numbers within shards stay those of all.

    Raises:
        ValueError: no manifest, an empty split, or a shard that is not what the manifest says.
    """

    def __init__(self, folder: Path, split: str, verify: bool = False):
        self._open: dict[int, Shard] = {}
        self.selection: Selection | None = None
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

    def _shard(self, number: int) -> Shard:
        """A shard's tar and index; the least recently used one is closed where more than `OPEN_SHARDS` are open."""
        shard = self._open.pop(number, None)
        if shard is None:
            tar = self.folder / self.shards[number].name
            shard = Shard(tar.open("rb", buffering=0), load_index(tar))
        self._open[number] = shard  # a dict keeps its order: the last used stands last
        if len(self._open) > OPEN_SHARDS:
            self._open.pop(next(iter(self._open))).file.close()
        return shard

    @property
    def slots(self) -> tuple[int, ...]:
        """How many samples a pass takes from each shard: all, or what the selection says."""
        return self.sizes if self.selection is None else self.selection.sizes

    def keys(self, shard: int) -> list[str]:
        """The keys of all samples of a shard, kept or not, from its index."""
        return load_index(self.folder / self.shards[shard].name).keys

    def kept(self, shard: int) -> range | np.ndarray:
        """Numbers of the samples of a shard that are kept."""
        return range(self.sizes[shard]) if self.selection is None else self.selection.kept(shard)

    def key(self, shard: int, number: int) -> str:
        """The key of a sample."""
        return self._shard(shard).rows.keys[number]

    def read(self, shard: int, number: int) -> Members:
        """All members of a sample."""
        file, index = self._shard(shard)
        sample: Members = {}
        for i in range(index.starts[number], index.starts[number + 1]):
            modality, _, extension = index.members[i].partition(".")
            data = os.pread(file.fileno(), int(index.sizes[i]), int(index.offsets[i]))
            sample.setdefault(modality, {})[extension.lower()] = data
        return sample

    def locations(self) -> list[tuple[str, str, int, int]]:
        """(key, group, shard, number) of every sample that is kept."""
        return [
            (index.keys[number], index.groups[number], shard, int(number))
            for shard in range(len(self.shards))
            for index in [self._shard(shard).rows]
            for number in self.kept(shard)
        ]

    def close(self) -> None:
        """Close this process's shards; reading opens them again."""
        while self._open:
            self._open.popitem()[1].file.close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}
