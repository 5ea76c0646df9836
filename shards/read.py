"""Random access to samples in shards: offsets from the index, bytes by pread, or by a memory map if they are few."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import pyarrow
import pyarrow.compute as compute

from modalities.files.reading import ContentError
from shards.index import read_index
from shards.manifest import Manifest, Shard, check_shards
from shards.remote import Cache, open_store
from shards.select import Selection
from shards.store import ShardError, Store

OPEN_SHARDS = 256
"""Number of shards that a process keeps open over all sets; each takes at most two of the usual 1,024 descriptors."""
MAX_MEMBER_BYTES = 2**30
"""Largest member that can be read; a larger one makes its sample unusable."""
MAPPED_BYTES = 4096
"""Shards with at most this many bytes per sample are mapped, because a system call costs more than so few bytes."""

T = TypeVar("T")
Members = dict[str, dict[str, bytes]]
"""A sample's bytes by modality and extension: `{"image": {"png": ...}, "labels": {"json": ...}}`."""


class ShardIndex(NamedTuple):
    """The samples of one shard. Sample i has members `starts[i]` to `starts[i + 1]`.

    Member j has `sizes[j]` bytes at `offsets[j]`, and `kinds[names[j]]` is its (modality, extension). Columns are
    arrays, not lists of objects, so that an open shard takes little memory.
    """

    keys: pyarrow.Array
    starts: np.ndarray
    kinds: list[tuple[str, str]]
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


def load_index(store: Store, shard: Shard) -> ShardIndex:
    """Load the index of a shard.

    Raises:
        ShardError: the index cannot be fetched, is not an index, or names bytes that are not in the tar.
    """
    rows, keys, starts = _rows(store, shard, "member", "offset", "size")
    offsets, sizes = np.from_dlpack(rows["offset"]), np.from_dlpack(rows["size"])
    if ((offsets < 0) | (sizes < 0) | (sizes > shard.bytes - offsets)).any():
        label = f"index {store.location}/{shard.index.name}"
        raise ShardError(f"{label} names members beyond the end of its tar: index the tars again")
    members = rows["member"].dictionary_encode()
    parts = [member.partition(".") for member in members.dictionary.to_pylist()]
    kinds = [(modality, extension.lower()) for modality, _, extension in parts]
    return ShardIndex(keys, starts, kinds, np.from_dlpack(members.indices), offsets, sizes)


def _rows(store: Store, shard: Shard, *columns: str) -> tuple[dict[str, pyarrow.Array], pyarrow.Array, np.ndarray]:
    """Columns of an index with a row per member, the key of each sample, and its first row, with the end of the last.

    Arrays of pyarrow are converted to NumPy by DLPack, because `to_numpy` would import pandas in every worker.
    """
    label = f"index {store.location}/{shard.index.name}"
    with store.open(shard.index) as opened:
        data = opened.read(shard.index.size + 1)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise ShardError(f"{label} has a wrong checksum: {store.remedy}")
    rows = read_index(data, shard.bytes, label, ("key", *columns))
    keys = rows["key"]
    runs = compute.run_end_encode(keys.dictionary_decode() if isinstance(keys, pyarrow.DictionaryArray) else keys)
    if len(runs.values) != shard.samples:
        raise ShardError(f"{label} has {len(runs.values):,} samples, not {shard.samples:,}: index the tars again")
    return rows, runs.values, np.r_[0, np.from_dlpack(runs.run_ends)]


class Tar:
    """An open tar, mapped into memory if its samples are small.

    Raises:
        ShardError: the tar cannot be fetched or differs from the manifest.
    """

    def __init__(self, store: Store, shard: Shard):
        self.file = store.open(shard.tar)
        self.mapped: mmap.mmap | None = None
        if shard.bytes <= MAPPED_BYTES * shard.samples:
            self.mapped = mmap.mmap(self.file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)

    @property
    def removed(self) -> bool:
        """Whether the file was deleted; it takes disk space as long as it is open."""
        return os.fstat(self.file.fileno()).st_nlink == 0

    def read_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        """Read `sizes[i]` bytes at each `offsets[i]`."""
        ranges = zip(offsets, sizes, strict=True)
        if (mapped := self.mapped) is not None:
            return [mapped[offset : offset + size] for offset, size in ranges]
        descriptor = self.file.fileno()
        return [os.pread(descriptor, size, offset) for offset, size in ranges]

    def __del__(self) -> None:
        if hasattr(self, "file"):  # absent if opening failed
            self.file.close()


class OpenShard:
    """An open shard: its index, and its tar, which is opened when it is first read."""

    def __init__(self, store: Store, shard: Shard):
        self.store, self.shard = store, shard
        self.index = load_index(store, shard)
        self._tar: Tar | None = None
        self._members: dict[tuple[str, str], np.ndarray] = {}

    @property
    def tar(self) -> Tar:
        """The open tar."""
        if self._tar is None:
            self._tar = Tar(self.store, self.shard)
        return self._tar

    @property
    def removed(self) -> bool:
        """Whether the tar is open but deleted, so that it takes disk space as long as it is open."""
        return self._tar is not None and self._tar.removed

    def read(self, numbers: np.ndarray) -> list[Members]:
        """Read all members of samples by their numbers.

        Raises:
            ContentError: a member is too large.
            ShardError: the tar cannot be fetched, or was cut short.
        """
        firsts = self.index.starts[numbers]
        counts = self.index.starts[numbers + 1] - firsts
        members = np.repeat(firsts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        named_contents = zip(self.index.names[members].tolist(), self._contents(members), strict=True)
        samples: list[Members] = []
        for count in counts.tolist():
            sample: Members = {}
            for name, part in islice(named_contents, count):
                modality, extension = self.index.kinds[name]
                sample.setdefault(modality, {})[extension] = part
            samples.append(sample)
        return samples

    def read_one(self, kind: tuple[str, str], numbers: np.ndarray) -> list[bytes]:
        """Read the member of one (modality, extension) of samples by their numbers.

        Raises:
            ContentError: a sample does not have it, or it is too large.
            ShardError: as `read`.
        """
        if kind not in self._members:
            self._members[kind] = self._find_members(kind)
        members = self._members[kind][numbers]
        if (members < 0).any():
            raise ContentError(f"sample without {'.'.join(kind)}")
        return self._contents(members)

    def _find_members(self, kind: tuple[str, str]) -> np.ndarray:
        """Row in the index of each sample's member of a kind; -1 if it has none."""
        members = np.full(self.shard.samples, -1)
        if kind in self.index.kinds:
            (rows,) = np.nonzero(self.index.names == self.index.kinds.index(kind))
            members[np.searchsorted(self.index.starts, rows, side="right") - 1] = rows
        return members

    def _contents(self, members: np.ndarray) -> list[bytes]:
        """Contents of members by their rows in the index."""
        offsets, sizes = self.index.offsets[members].tolist(), self.index.sizes[members].tolist()
        if max(sizes, default=0) > MAX_MEMBER_BYTES:
            raise ContentError(f"member of more than {MAX_MEMBER_BYTES:,} bytes", f"{max(sizes):,} bytes")
        is_complete = os.fstat(self.tar.file.fileno()).st_size >= self.shard.bytes  # a map fails fatally beyond the end
        parts = self.tar.read_ranges(offsets, sizes) if is_complete else []
        if sum(map(len, parts)) != sum(sizes):
            raise ShardError(f"shard {self.store.location}/{self.shard.name} was cut short while it was read")
        return parts


class Split:
    """The samples of one split of a shard set, addressed by shard and number within the shard.

    Set `selection` to use only some of the samples; `sizes` and numbers still count all of them.

    Args:
        location: Path of the folder, or a URL whose tars and indexes are fetched to the cache when first needed.
        split: `train`, `validation` or `test`.
        verify: Whether to compare the sha256 of local tars with the manifest, not only their sizes. Fetched files are
            always compared.
        cache: How remote shards are cached.

    Raises:
        ShardError: there is no manifest, the split is empty, or a shard differs from the manifest.
    """

    _opened: ClassVar[dict[tuple[int, int], OpenShard]] = {}
    """The open shards of this process by split and number, the most recently used last."""

    def __init__(self, location: Path | str | Store, split: str, verify: bool = False, cache: Cache | None = None):
        self.selection: Selection | None = None
        self.store, self.split = open_store(location, cache), split
        self.manifest = Manifest.read(self.store)
        self.shards = self.manifest.of(split)
        self.sizes = tuple(shard.samples for shard in self.shards)
        if not sum(self.sizes):
            counts = ", ".join(f"{name} {count:,}" for name, count in self.manifest.counts().items())
            raise ShardError(f"the {split} split of {self.folder} is empty ({counts})")
        check_shards(self.store, self.shards, contents=verify)

    @property
    def folder(self) -> Path | str:
        """Path or URL of the shard set."""
        return self.store.location

    def __len__(self) -> int:
        return sum(self.sizes)

    def _open(self, number: int) -> OpenShard:
        """Open a shard, or take it from the open ones. Beyond `OPEN_SHARDS` the least recently used is closed.

        Shards that were meanwhile deleted from the cache are closed too, because they take disk space while open.
        """
        shard = self._opened.pop((id(self), number), None)
        if shard is None:
            shard = OpenShard(self.store, self.shards[number])
            for key in [key for key, other in self._opened.items() if other.removed]:
                del self._opened[key]
        self._opened[id(self), number] = shard  # a dict keeps its order, so the last used is at the end
        if len(self._opened) > OPEN_SHARDS:
            del self._opened[next(iter(self._opened))]
        return shard

    @property
    def epoch_sizes(self) -> tuple[int, ...]:
        """Number of samples that an epoch takes from each shard: all, or as many as the selection has."""
        return self.sizes if self.selection is None else self.selection.sizes

    def keys(self, shard: int) -> list[str]:
        """The keys of all samples of a shard, selected or not, from its index."""
        return _rows(self.store, self.shards[shard])[1].to_pylist()

    def sample_numbers(self, shard: int) -> range | np.ndarray:
        """Numbers of the selected samples of a shard."""
        return range(self.sizes[shard]) if self.selection is None else self.selection.sample_numbers(shard)

    def sample_at(self, epoch: int, shard: int, slot: int) -> int:
        """Number of the sample in a slot of a shard in an epoch."""
        return slot if self.selection is None else self.selection.pick(epoch, shard, slot)

    def samples_at(self, epoch: int, shards: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """`sample_at` for many slots."""
        if self.selection is None:
            return slots
        return np.array([self.selection.pick(epoch, *slot) for slot in np.c_[shards, slots].tolist()])

    def key(self, shard: int, number: int) -> str:
        """The key of a sample."""
        return self._open(shard).index.keys[number].as_py()

    def read(self, shard: int, number: int) -> Members:
        """Read all members of a sample.

        Raises:
            ContentError: a member is too large.
            ShardError: its shard cannot be fetched or read.
        """
        return self.read_many(np.array([shard]), np.array([number]))[0]

    def read_many(self, shards: np.ndarray, numbers: np.ndarray) -> list[Members]:
        """Read all members of samples by shard and number; faster than one at a time.

        Raises:
            ContentError, ShardError: as `read`.
        """
        return self._by_shard(shards, numbers, OpenShard.read)

    def read_members(self, shards: np.ndarray, numbers: np.ndarray, members: Sequence[str]) -> list[list[bytes]]:
        """Read only some members of samples, such as `smiles.txt`: a list over the samples for each member.

        Raises:
            ContentError: a sample does not have a member, or a member is too large.
            ShardError: as `read`.
        """
        columns = []
        for member in members:
            modality, _, extension = member.partition(".")
            columns.append(
                self._by_shard(shards, numbers, partial(OpenShard.read_one, kind=(modality, extension.lower())))
            )
        return columns

    def _by_shard(self, shards: np.ndarray, numbers: np.ndarray, read: Callable[..., list[T]]) -> list[T]:
        """Apply `read` once per shard and return its results in the order of the samples."""
        results: dict[int, T] = {}
        for shard in sorted(set(shards.tolist())):
            positions = np.flatnonzero(shards == shard)
            results.update(zip(positions.tolist(), read(self._open(shard), numbers=numbers[positions]), strict=True))
        return list(map(results.__getitem__, range(len(shards))))

    def locations(self) -> list[tuple[str, str, int, int]]:
        """(key, group, shard, number) of every selected sample."""
        rows_of_samples = []
        for shard, entry in enumerate(self.shards):
            rows, keys, starts = _rows(self.store, entry, "group")
            rows_of_samples += [
                (keys[n].as_py(), rows["group"][starts[n]].as_py(), shard, int(n)) for n in self.sample_numbers(shard)
            ]
        return rows_of_samples

    def contents(self) -> Iterator[tuple[tuple[int, int], str, dict[str, dict[str, bytes]]]]:
        """Yield (shard, number), group and short hashes of the members of every selected sample, from the indexes."""
        for shard, entry in enumerate(self.shards):
            rows, _, starts = _rows(self.store, entry, "member", "group", "content")
            members, groups = rows["member"].to_pylist(), rows["group"].to_pylist()
            hashes = np.from_dlpack(rows["content"]).astype(">i8").tobytes()
            for number in self.sample_numbers(shard):
                digests: dict[str, dict[str, bytes]] = {}
                for i in range(starts[number], starts[number + 1]):
                    modality, _, extension = members[i].partition(".")
                    digests.setdefault(modality, {})[extension.lower()] = hashes[8 * i : 8 * i + 8]
                yield (shard, int(number)), groups[starts[number]], digests

    def close(self) -> None:
        """Close the shards of this split; reading opens them again."""
        for key in [key for key in self._opened if key[0] == id(self)]:
            del self._opened[key]

    def __del__(self) -> None:
        self.close()
