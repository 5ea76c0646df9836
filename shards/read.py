"""Samples from shards by random access: offsets from the index, bytes by pread, of small samples by a memory map."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow.parquet as parquet

from shards.manifest import Manifest, check, index_path

OPEN_SHARDS = 128
"""Shards of a split that a process keeps open, well below the usual limit of 1,024 descriptors."""

MAPPED_BYTES = 4096
"""Shards whose samples take no more on average are mapped: a system call a sample would cost more than its bytes."""

Members = dict[str, dict[str, bytes]]
"""A sample's bytes by modality and extension: `{"image": {"png": ...}, "labels": {"json": ...}}`."""


class Index(NamedTuple):
    """The samples of one shard. Sample i owns members `starts[i]` to `starts[i + 1]`.

    Member j is `sizes[j]` bytes at `offsets[j]`, and of the kind (modality, extension) `kinds[names[j]]`. Columns are
    arrays, not lists of objects, so that an open shard takes little memory; views of them hand out plain integers.
    """

    keys: np.ndarray
    groups: np.ndarray
    starts: memoryview
    kinds: list[tuple[str, str]]
    names: memoryview
    offsets: memoryview
    sizes: memoryview


def load_index(tar: Path) -> Index:
    """The index beside a tar, read by one thread: in a forked loader worker a pool of threads would wait for ever."""
    rows = parquet.read_table(index_path(tar), use_threads=False)
    keys, groups = rows["key"].to_numpy(), rows["group"].to_numpy()
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
    members = rows["member"].combine_chunks().dictionary_encode()
    parts = [member.partition(".") for member in members.dictionary.to_pylist()]
    return Index(
        keys[first].astype(np.dtypes.StringDType()),
        groups[first].astype(np.dtypes.StringDType()),
        np.r_[first, len(keys)].data,
        [(modality, extension.lower()) for modality, _, extension in parts],
        members.indices.to_numpy().data,
        rows["offset"].to_numpy().data,
        rows["size"].to_numpy().data,
    )


class Shard(NamedTuple):
    """An open shard; `mapped` where its samples are small."""

    file: BinaryIO
    rows: Index
    mapped: mmap.mmap | None

    def close(self) -> None:
        """Close its tar."""
        if self.mapped is not None:
            self.mapped.close()
        self.file.close()


class Split:
    """The samples of one split of a folder of shards, by shard and number.

    verify: compare the tars' sha256 with the manifest first, not their sizes alone.

    Raises:
        ValueError: no manifest, an empty split, or a shard that is not what the manifest says.
    """

    def __init__(self, folder: Path, split: str, verify: bool = False):
        self._open: dict[int, Shard] = {}
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
            about = self.shards[number]
            tar = self.folder / about.name
            file, rows, mapped = tar.open("rb", buffering=0), load_index(tar), None
            if about.bytes <= MAPPED_BYTES * about.samples:
                with file:  # the map has a descriptor of its own
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            shard = Shard(file, rows, mapped)
        self._open[number] = shard  # a dict keeps its order: the last used stands last
        if len(self._open) > OPEN_SHARDS:
            self._open.pop(next(iter(self._open))).close()
        return shard

    def key(self, shard: int, number: int) -> str:
        """The key of a sample."""
        return self._shard(shard).rows.keys[number]

    def read(self, shard: int, number: int) -> Members:
        """All members of a sample."""
        return self.read_many([(shard, number)])[0]

    def read_many(self, places: Sequence[tuple[int, int]]) -> list[Members]:
        """All members of the samples at (shard, number), with less work than one at a time."""
        for shard in {shard for shard, _ in places}:
            self._shard(shard)
        samples = []
        for shard, number in places:
            file, (_, _, starts, kinds, names, offsets, sizes), mapped = self._open.get(shard) or self._shard(shard)
            sample: Members = {}
            for i in range(starts[number], starts[number + 1]):
                modality, extension = kinds[names[i]]
                offset, size = offsets[i], sizes[i]
                data = os.pread(file.fileno(), size, offset) if mapped is None else mapped[offset : offset + size]
                if modality in sample:
                    sample[modality][extension] = data
                else:
                    sample[modality] = {extension: data}
            samples.append(sample)
        return samples

    def locations(self) -> list[tuple[str, str, int, int]]:
        """(key, group, shard, number) of every sample."""
        return [
            (key, group, shard, number)
            for shard in range(len(self.shards))
            for index in [self._shard(shard).rows]
            for number, (key, group) in enumerate(zip(index.keys, index.groups, strict=True))
        ]

    def close(self) -> None:
        """Close this process's shards; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}
