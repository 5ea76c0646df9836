"""Samples from shards by random access: offsets from the index, bytes by pread, of small samples by a memory map."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import pyarrow
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from modalities.base import ContentError
from shards.manifest import Manifest, Shard, check
from shards.remote import Cache, ShardError, Store, open_store
from shards.select import Selection

OPEN_SHARDS = 128
"""Shards of a split that a process keeps open, well below the usual limit of 1,024 descriptors."""
MAX_MEMBER_BYTES = 2**30
"""Of a member of a sample; a longer one is a fault of its sample."""
HEADER_BYTES = 512
"""What each member of a tar takes besides its content, at least."""

MAPPED_BYTES = 4096
"""Shards whose samples take no more on average are mapped: a system call a sample would cost more than its bytes."""

_AT_ONCE = getattr(mmap, "MAP_POPULATE", 0)
"""Where the system can, a map's pages are there from the start: a fault each would cost more than the bytes."""

T = TypeVar("T")
Members = dict[str, dict[str, bytes]]
"""A sample's bytes by modality and extension: `{"image": {"png": ...}, "labels": {"json": ...}}`."""


class Index(NamedTuple):
    """The samples of one shard. Sample i owns members `starts[i]` to `starts[i + 1]`.

    Member j is `sizes[j]` bytes at `offsets[j]`, and of the kind (modality, extension) `kinds[names[j]]`. Columns are
    arrays, not lists of objects, so that an open shard takes little memory; views of them hand out plain integers.
    """

    keys: pyarrow.Array
    starts: memoryview
    kinds: list[tuple[str, str]]
    names: memoryview
    offsets: memoryview
    sizes: memoryview


def load_index(store: Store, shard: Shard) -> Index:
    """The index of a shard.

    Raises:
        ShardError: it cannot be fetched, is no index, or names what is not in the tar.
    """
    rows, keys, starts = _rows(store, shard, "member", "offset", "size")
    offsets, sizes = np.from_dlpack(rows["offset"]), np.from_dlpack(rows["size"])
    if ((offsets < 0) | (sizes < 0) | (sizes > shard.bytes - offsets)).any():
        where = f"index {store.where}/{shard.index.name}"
        raise ShardError(f"{where} names members beyond the end of its tar: index the tars again")
    members = rows["member"].dictionary_encode()
    parts = [member.partition(".") for member in members.dictionary.to_pylist()]
    kinds = [(modality, extension.lower()) for modality, _, extension in parts]
    return Index(keys, starts.data, kinds, np.from_dlpack(members.indices).data, offsets.data, sizes.data)


def _rows(store: Store, shard: Shard, *columns: str) -> tuple[dict[str, pyarrow.Array], pyarrow.Array, np.ndarray]:
    """Columns of an index with a row a member, the key of each sample, and where its members start and the last end.

    Read by one thread: in a forked loader worker a pool of threads would wait for ever. Arrays of pyarrow become
    NumPy's by DLPack: `to_numpy` would import pandas in every worker.
    """
    where = f"index {store.where}/{shard.index.name}"
    with store.open(shard.index) as opened:
        try:
            file = parquet.ParquetFile(opened)
            if file.metadata.num_rows * HEADER_BYTES > shard.bytes:
                raise ShardError(f"{where} has {file.metadata.num_rows:,} members, more than its tar can hold")
            read = file.read(["key", *columns], use_threads=False)
            rows = {name: read[name].combine_chunks() for name in ("key", *columns)}
            runs = compute.run_end_encode(rows["key"])
        except (pyarrow.ArrowException, KeyError) as error:
            raise ShardError(f"{where} cannot be read ({error}): index the tars again") from error
    if len(runs.values) != shard.samples:
        raise ShardError(f"{where} holds {len(runs.values):,} samples, not {shard.samples:,}: index the tars again")
    return rows, runs.values, np.r_[0, np.from_dlpack(runs.run_ends)]


class Tar(NamedTuple):
    """An open tar; `mapped` where its samples are small."""

    file: BinaryIO
    mapped: mmap.mmap | None

    def close(self) -> None:
        """Close it."""
        if self.mapped is not None:
            self.mapped.close()
        self.file.close()


def open_tar(store: Store, shard: Shard) -> Tar:
    """The tar of a shard.

    Raises:
        ShardError: it cannot be fetched, or is not what the manifest says.
    """
    file = store.open(shard.tar)
    if shard.bytes > MAPPED_BYTES * shard.samples:
        return Tar(file, None)
    with file:  # the map has a descriptor of its own
        return Tar(file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | _AT_ONCE, mmap.PROT_READ))


class Split:
    """The samples of one split of a folder of shards, by shard and number.

    where: the folder's path, or a URL, whose tars and indexes are fetched to the cache when they are first needed.
    verify: compare the sha256 of a local folder's tars with the manifest first, not their sizes alone; what is fetched
    is always compared. selection: set to keep some samples alone; `sizes` and numbers within shards stay those of all.

    Raises:
        ValueError: no manifest, an empty split, or a shard that is not what the manifest says.
    """

    def __init__(self, where: Path | str | Store, split: str, verify: bool = False, cache: Cache | None = None):
        self._indexes: dict[int, Index] = {}
        self._tars: dict[int, Tar] = {}
        self.selection: Selection | None = None
        self.store, self.split = open_store(where, cache), split
        self.manifest = Manifest.read(self.store)
        self.shards = self.manifest.of(split)
        self.sizes = tuple(shard.samples for shard in self.shards)
        if not sum(self.sizes):
            held = ", ".join(f"{name} {count:,}" for name, count in self.manifest.counts().items())
            raise ShardError(f"the {split} split of {self.folder} is empty ({held})")
        for shard in self.shards:
            check(self.store, shard, contents=verify)

    @property
    def folder(self) -> Path | str:
        """Where the shards lie, as messages call it."""
        return self.store.where

    def __len__(self) -> int:
        return sum(self.sizes)

    def _index(self, number: int) -> Index:
        return _recent(self._indexes, number, lambda: load_index(self.store, self.shards[number]), lambda _: None)

    def _tar(self, number: int) -> Tar:
        return _recent(self._tars, number, lambda: open_tar(self.store, self.shards[number]), Tar.close)

    @property
    def slots(self) -> tuple[int, ...]:
        """How many samples a pass takes from each shard: all, or what the selection says."""
        return self.sizes if self.selection is None else self.selection.sizes

    def keys(self, shard: int) -> list[str]:
        """The keys of all samples of a shard, kept or not, from its index."""
        return _rows(self.store, self.shards[shard])[1].to_pylist()

    def kept(self, shard: int) -> range | np.ndarray:
        """Numbers of the samples of a shard that are kept."""
        return range(self.sizes[shard]) if self.selection is None else self.selection.kept(shard)

    def number(self, turn: int, shard: int, slot: int) -> int:
        """The sample of a shard that a slot of a pass holds."""
        return slot if self.selection is None else self.selection.pick(turn, shard, slot)

    def key(self, shard: int, number: int) -> str:
        """The key of a sample."""
        return self._index(shard).keys[number].as_py()

    def read(self, shard: int, number: int) -> Members:
        """All members of a sample.

        Raises:
            ContentError: a member is too large.
            ShardError: its shard cannot be fetched or read.
        """
        return self.read_many([(shard, number)])[0]

    def read_many(self, places: Sequence[tuple[int, int]]) -> list[Members]:
        """All members of the samples at (shard, number), with less work than one at a time.

        Raises:
            ContentError, ShardError: as `read`.
        """
        indexes = {shard: self._index(shard) for shard in {shard for shard, _ in places}}
        for shard in indexes:
            self._tar(shard)
        samples = []
        for shard, number in places:
            _, starts, kinds, names, offsets, sizes = indexes[shard]
            file, mapped = self._tars.get(shard) or self._tar(shard)  # closed again where places are on many shards
            sample: Members = {}
            for i in range(starts[number], starts[number + 1]):
                modality, extension = kinds[names[i]]
                offset, size = offsets[i], sizes[i]
                if size > MAX_MEMBER_BYTES:
                    raise ContentError(f"member of more than {MAX_MEMBER_BYTES:,} bytes", f"{modality}.{extension}")
                data = os.pread(file.fileno(), size, offset) if mapped is None else mapped[offset : offset + size]
                if len(data) != size:
                    raise ShardError(f"shard {self.folder}/{self.shards[shard].name} was cut short while it was read")
                if modality in sample:
                    sample[modality][extension] = data
                else:
                    sample[modality] = {extension: data}
            samples.append(sample)
        return samples

    def locations(self) -> list[tuple[str, str, int, int]]:
        """(key, group, shard, number) of every sample that is kept."""
        found = []
        for shard, held in enumerate(self.shards):
            rows, keys, starts = _rows(self.store, held, "group")
            found += [(keys[n].as_py(), rows["group"][starts[n]].as_py(), shard, int(n)) for n in self.kept(shard)]
        return found

    def close(self) -> None:
        """Close this process's shards; reading opens them again."""
        while self._tars:
            self._tars.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tars": {}, "_indexes": {}}


def _recent(held: dict[int, T], number: int, make: Callable[[], T], drop: Callable[[T], None]) -> T:
    """Shard `number`'s entry, made where there is none; beyond `OPEN_SHARDS` the least recently used is dropped."""
    entry = held.pop(number) if number in held else make()
    held[number] = entry  # a dict keeps its order: the last used stands last
    if len(held) > OPEN_SHARDS:
        drop(held.pop(next(iter(held))))
    return entry
