"""Samples from shards by random access: offsets from the index, bytes by pread, of small samples by a memory map."""

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
from shards.remote import Cache, ShardError, Store, open_store
from shards.select import Selection

OPEN_SHARDS = 256
"""Shards that a process keeps open, of all its sets; each takes two descriptors at most, of the usual 1,024."""
MAX_MEMBER_BYTES = 2**30
"""Of a member of a sample; a longer one is a fault of its sample."""
MAPPED_BYTES = 4096
"""Shards whose samples take no more on average are mapped: a system call a sample would cost more than its bytes."""

T = TypeVar("T")
Members = dict[str, dict[str, bytes]]
"""A sample's bytes by modality and extension: `{"image": {"png": ...}, "labels": {"json": ...}}`."""


class ShardIndex(NamedTuple):
    """The samples of one shard. Sample i owns members `starts[i]` to `starts[i + 1]`.

    Member j is `sizes[j]` bytes at `offsets[j]`, and of the kind (modality, extension) `kinds[names[j]]`. Columns are
    arrays, not lists of objects, so that an open shard takes little memory.
    """

    keys: pyarrow.Array
    starts: np.ndarray
    kinds: list[tuple[str, str]]
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


def load_index(store: Store, shard: Shard) -> ShardIndex:
    """The index of a shard.

    Raises:
        ShardError: it cannot be fetched, is no index, or names what is not in the tar.
    """
    rows, keys, starts = _rows(store, shard, "member", "offset", "size")
    offsets, sizes = np.from_dlpack(rows["offset"]), np.from_dlpack(rows["size"])
    if ((offsets < 0) | (sizes < 0) | (sizes > shard.bytes - offsets)).any():
        where = f"index {store.location}/{shard.index.name}"
        raise ShardError(f"{where} names members beyond the end of its tar: index the tars again")
    members = rows["member"].dictionary_encode()
    parts = [member.partition(".") for member in members.dictionary.to_pylist()]
    kinds = [(modality, extension.lower()) for modality, _, extension in parts]
    return ShardIndex(keys, starts, kinds, np.from_dlpack(members.indices), offsets, sizes)


def _rows(store: Store, shard: Shard, *columns: str) -> tuple[dict[str, pyarrow.Array], pyarrow.Array, np.ndarray]:
    """Columns of an index with a row a member, the key of each sample, and where its members start and the last end.

    Arrays of pyarrow become NumPy's by DLPack: `to_numpy` would import pandas in every worker.
    """
    where = f"index {store.location}/{shard.index.name}"
    with store.open(shard.index) as opened:
        data = opened.read(shard.index.size + 1)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise ShardError(f"{where} has a wrong checksum: {store.remedy}")
    rows = read_index(data, shard.bytes, where, ("key", *columns))
    keys = rows["key"]
    runs = compute.run_end_encode(keys.dictionary_decode() if isinstance(keys, pyarrow.DictionaryArray) else keys)
    if len(runs.values) != shard.samples:
        raise ShardError(f"{where} holds {len(runs.values):,} samples, not {shard.samples:,}: index the tars again")
    return rows, runs.values, np.r_[0, np.from_dlpack(runs.run_ends)]


class Tar:
    """An open tar, mapped where its samples are small.

    Raises:
        ShardError: it cannot be fetched, or is not what the manifest says.
    """

    def __init__(self, store: Store, shard: Shard):
        self.file = store.open(shard.tar)
        self.mapped: mmap.mmap | None = None
        if shard.bytes <= MAPPED_BYTES * shard.samples:
            self.mapped = mmap.mmap(self.file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)

    @property
    def removed(self) -> bool:
        """Whether it is no longer to be found where it was, but takes disk as long as it is open."""
        return os.fstat(self.file.fileno()).st_nlink == 0

    def read_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        """So many bytes from each offset on."""
        places = zip(offsets, sizes, strict=True)
        if (mapped := self.mapped) is not None:
            return [mapped[offset : offset + size] for offset, size in places]
        descriptor = self.file.fileno()
        return [os.pread(descriptor, size, offset) for offset, size in places]

    def __del__(self) -> None:
        if hasattr(self, "file"):  # it could be opened
            self.file.close()


class OpenShard:
    """An open shard: its index, and its tar once it is needed."""

    def __init__(self, store: Store, shard: Shard):
        self.store, self.shard = store, shard
        self.index = load_index(store, shard)
        self._tar: Tar | None = None
        self._members: dict[tuple[str, str], np.ndarray] = {}

    @property
    def tar(self) -> Tar:
        """Its tar."""
        if self._tar is None:
            self._tar = Tar(self.store, self.shard)
        return self._tar

    @property
    def removed(self) -> bool:
        """Whether its tar is open and no longer to be found where it was, so that it takes disk as long as it is."""
        return self._tar is not None and self._tar.removed

    def read(self, numbers: np.ndarray) -> list[Members]:
        """All members of the samples of these numbers.

        Raises:
            ContentError: a member is too large.
            ShardError: the tar cannot be fetched, or was cut short.
        """
        firsts = self.index.starts[numbers]
        counts = self.index.starts[numbers + 1] - firsts
        members = np.repeat(firsts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        found = zip(self.index.names[members].tolist(), self._contents(members), strict=True)
        samples: list[Members] = []
        for count in counts.tolist():
            sample: Members = {}
            for name, part in islice(found, count):
                modality, extension = self.index.kinds[name]
                sample.setdefault(modality, {})[extension] = part
            samples.append(sample)
        return samples

    def read_one(self, kind: tuple[str, str], numbers: np.ndarray) -> list[bytes]:
        """The member of one kind of the samples of these numbers.

        Raises:
            ContentError: a sample has none. Else as `read`.
        """
        if kind not in self._members:
            self._members[kind] = self._of(kind)
        members = self._members[kind][numbers]
        if (members < 0).any():
            raise ContentError(f"sample without {'.'.join(kind)}")
        return self._contents(members)

    def _of(self, kind: tuple[str, str]) -> np.ndarray:
        """Number of each sample's member of a kind, -1 where it has none."""
        members = np.full(self.shard.samples, -1)
        if kind in self.index.kinds:
            (own,) = np.nonzero(self.index.names == self.index.kinds.index(kind))
            members[np.searchsorted(self.index.starts, own, side="right") - 1] = own
        return members

    def _contents(self, members: np.ndarray) -> list[bytes]:
        """Contents of members."""
        offsets, sizes = self.index.offsets[members].tolist(), self.index.sizes[members].tolist()
        if max(sizes, default=0) > MAX_MEMBER_BYTES:
            raise ContentError(f"member of more than {MAX_MEMBER_BYTES:,} bytes", f"{max(sizes):,} bytes")
        whole = os.fstat(self.tar.file.fileno()).st_size >= self.shard.bytes  # beyond its end a map kills the process
        parts = self.tar.read_ranges(offsets, sizes) if whole else []
        if sum(map(len, parts)) != sum(sizes):
            raise ShardError(f"shard {self.store.location}/{self.shard.name} was cut short while it was read")
        return parts


class Split:
    """The samples of one split of a folder of shards, by shard and number.

    where: the folder's path, or a URL, whose tars and indexes are fetched to the cache when they are first needed.
    verify: compare the sha256 of a local folder's tars with the manifest first, not their sizes alone; what is fetched
    is always compared. selection: set to keep some samples alone; `sizes` and numbers within shards stay those of all.

    Raises:
        ValueError: no manifest, an empty split, or a shard that is not what the manifest says.
    """

    _opened: ClassVar[dict[tuple[int, int], OpenShard]] = {}
    """The shards that this process has open, by split and number, the most recently used last."""

    def __init__(self, where: Path | str | Store, split: str, verify: bool = False, cache: Cache | None = None):
        self.selection: Selection | None = None
        self.store, self.split = open_store(where, cache), split
        self.manifest = Manifest.read(self.store)
        self.shards = self.manifest.of(split)
        self.sizes = tuple(shard.samples for shard in self.shards)
        if not sum(self.sizes):
            held = ", ".join(f"{name} {count:,}" for name, count in self.manifest.counts().items())
            raise ShardError(f"the {split} split of {self.folder} is empty ({held})")
        check_shards(self.store, self.shards, contents=verify)

    @property
    def folder(self) -> Path | str:
        """Where the shards lie, as messages call it."""
        return self.store.location

    def __len__(self) -> int:
        return sum(self.sizes)

    def _open(self, number: int) -> OpenShard:
        """A shard, from those that this process has open; beyond `OPEN_SHARDS` the least recently used is dropped.

        So are those that were removed from a cache meanwhile, which would take disk as long as they were open.
        """
        held = self._opened.pop((id(self), number), None)
        if held is None:
            held = OpenShard(self.store, self.shards[number])
            for key in [key for key, other in self._opened.items() if other.removed]:
                del self._opened[key]
        self._opened[id(self), number] = held  # a dict keeps its order: the last used stands last
        if len(self._opened) > OPEN_SHARDS:
            del self._opened[next(iter(self._opened))]
        return held

    @property
    def epoch_sizes(self) -> tuple[int, ...]:
        """How many samples a pass takes from each shard: all, or what the selection says."""
        return self.sizes if self.selection is None else self.selection.sizes

    def keys(self, shard: int) -> list[str]:
        """The keys of all samples of a shard, kept or not, from its index."""
        return _rows(self.store, self.shards[shard])[1].to_pylist()

    def sample_numbers(self, shard: int) -> range | np.ndarray:
        """Numbers of the samples of a shard that are kept."""
        return range(self.sizes[shard]) if self.selection is None else self.selection.sample_numbers(shard)

    def sample_at(self, epoch: int, shard: int, slot: int) -> int:
        """The sample of a shard that a slot of a pass holds."""
        return slot if self.selection is None else self.selection.pick(epoch, shard, slot)

    def samples_at(self, epoch: int, shards: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """As `number`, of many slots."""
        if self.selection is None:
            return slots
        return np.array([self.selection.pick(epoch, *place) for place in np.c_[shards, slots].tolist()])

    def key(self, shard: int, number: int) -> str:
        """The key of a sample."""
        return self._open(shard).index.keys[number].as_py()

    def read(self, shard: int, number: int) -> Members:
        """All members of a sample.

        Raises:
            ContentError: a member is too large.
            ShardError: its shard cannot be fetched or read.
        """
        return self.read_many(np.array([shard]), np.array([number]))[0]

    def read_many(self, shards: np.ndarray, numbers: np.ndarray) -> list[Members]:
        """All members of samples by their shards and numbers there, with less work than one at a time.

        Raises:
            ContentError, ShardError: as `read`.
        """
        return self._by_shard(shards, numbers, OpenShard.read)

    def read_members(self, shards: np.ndarray, numbers: np.ndarray, members: Sequence[str]) -> list[list[bytes]]:
        """Of samples these members alone, as `smiles.txt`: a list over the samples for each.

        Raises:
            ContentError: a sample lacks one, or one is too large.
            ShardError: as `read`.
        """
        found = []
        for member in members:
            modality, _, extension = member.partition(".")
            found.append(
                self._by_shard(shards, numbers, partial(OpenShard.read_one, kind=(modality, extension.lower())))
            )
        return found

    def _by_shard(self, shards: np.ndarray, numbers: np.ndarray, read: Callable[..., list[T]]) -> list[T]:
        """What is read of samples, each shard asked for once, in their own order."""
        found: dict[int, T] = {}
        for shard in sorted(set(shards.tolist())):
            positions = np.flatnonzero(shards == shard)
            found.update(zip(positions.tolist(), read(self._open(shard), numbers=numbers[positions]), strict=True))
        return list(map(found.__getitem__, range(len(shards))))

    def locations(self) -> list[tuple[str, str, int, int]]:
        """(key, group, shard, number) of every sample that is kept."""
        found = []
        for shard, held in enumerate(self.shards):
            rows, keys, starts = _rows(self.store, held, "group")
            found += [
                (keys[n].as_py(), rows["group"][starts[n]].as_py(), shard, int(n)) for n in self.sample_numbers(shard)
            ]
        return found

    def contents(self) -> Iterator[tuple[tuple[int, int], str, dict[str, dict[str, bytes]]]]:
        """(shard, number) and group of every sample that is kept, and its members' short hashes, from indexes alone."""
        for shard, held in enumerate(self.shards):
            rows, _, starts = _rows(self.store, held, "member", "group", "content")
            members, groups = rows["member"].to_pylist(), rows["group"].to_pylist()
            hashes = np.from_dlpack(rows["content"]).astype(">i8").tobytes()
            for number in self.sample_numbers(shard):
                found: dict[str, dict[str, bytes]] = {}
                for i in range(starts[number], starts[number + 1]):
                    modality, _, extension = members[i].partition(".")
                    found.setdefault(modality, {})[extension.lower()] = hashes[8 * i : 8 * i + 8]
                yield (shard, int(number)), groups[starts[number]], found

    def close(self) -> None:
        """Close this process's shards; reading opens them again."""
        for key in [key for key in self._opened if key[0] == id(self)]:
            del self._opened[key]

    def __del__(self) -> None:
        self.close()
