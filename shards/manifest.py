"""What a folder of shards holds: its manifest, its indexes and their checks."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from shards.engines import worker_pool
from shards.files import temporary_path, write_json
from shards.index import SLACK_BYTES, SUFFIX, index_path, read_index, write_index
from shards.remote import Cache, File, ShardError, Store, open_store
from shards.split import SPLITS

VERSION = 1
NAME = "manifest.json"
MAX_BYTES = 2**30
"""Of a manifest; one of 100,000 shards has about 30 MB."""

_NAME, _CHECKSUMS = re.compile(r"[^/\\\0]*[^/\\\0.][^/\\\0]*"), re.compile("[0-9a-f]{64} [0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: its file name, split, number of samples, size in bytes and checksums.

    Raises:
        ValueError: a name that leads out of the folder, or a value that cannot be.
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
            raise ValueError(f"{self.name} is of the split {self.split!r}, not of {', '.join(SPLITS)}")
        if type(self.samples) is not int or type(self.bytes) is not int or self.samples < 0 or self.bytes < 0:
            raise ValueError(f"{self.name} has {self.samples!r} samples and {self.bytes!r} bytes")
        if not _CHECKSUMS.fullmatch(f"{self.sha256} {self.index_sha256}"):
            raise ValueError(f"{self.name} has a checksum that is not a sha256")

    @property
    def tar(self) -> File:
        """The tar as a file to be checked."""
        return File(self.name, self.sha256, self.bytes)

    @property
    def index(self) -> File:
        """The index as a file to be checked."""
        name = self.name.removesuffix(".tar") + SUFFIX
        return File(name, self.index_sha256, self.bytes + SLACK_BYTES, exact=False)


@dataclass(frozen=True)
class Manifest:
    """What stands beside a folder of shards.

    fields: number of samples that have each member. source, split: what the shards were built from and by.
    skipped: raw items left out, by reason. changed: what samples lost, or what was read otherwise than it is written,
    by reason and how often. notes: what else a build says of the content, a sentence each. dedupe: how contents were
    compared, by modality. versions: of the packages that read raw files and made content of them (`shards.versions`).

    Raises:
        ValueError: a value that cannot be.
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
            raise ValueError(f"versions are {self.versions!r}, not a text each")
        if not isinstance(self.notes, (list, tuple)) or not all(isinstance(note, str) for note in self.notes):
            raise ValueError(f"notes are {self.notes!r}, not a list of sentences")
        object.__setattr__(self, "notes", tuple(self.notes))

    def of(self, split: str) -> tuple[Shard, ...]:
        """The shards of one split."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def modalities(self) -> set[str]:
        """Modalities that samples may have; `labels` where there are any."""
        return {field.partition(".")[0] for field in self.fields}

    def counts(self) -> dict[str, int]:
        """Samples by split."""
        return {split: sum(shard.samples for shard in self.of(split)) for split in SPLITS}

    def write(self, folder: Path) -> None:
        """Write `manifest.json`, replacing an old one at once."""
        write_json(folder / NAME, asdict(self))

    @classmethod
    def read(cls, where: Path | str | Store) -> Manifest:
        """The manifest of a folder at a path or URL.

        Raises:
            ValueError: there is none, it cannot be fetched, or it is not one this version reads.
        """
        store = open_store(where)
        path = f"{store.where}/{NAME}"
        try:
            state = json.loads(store.read(NAME, MAX_BYTES))
            if state["version"] != VERSION:
                raise ShardError(f"{path} has format version {state['version']}, this program reads {VERSION}")
            return cls(**{**state, "shards": tuple(Shard(**shard) for shard in state["shards"])})
        except FileNotFoundError as error:
            raise ShardError(
                f"no shards at {store.where}: build them with `sensorium shards build`, "
                "or index tars with `sensorium shards index`"
            ) from error
        except ShardError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ShardError(f"{path} is not a manifest of shards ({error}): build the shards again") from error


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(store: Store, shards: Iterable[Shard], contents: bool = True) -> None:
    """Compare shards with what the manifest says of them, where that costs no transfer.

    contents: compare their sha256 too, not that they are there and the size of tars alone.

    Raises:
        ValueError: a tar or index is missing, truncated or changed; the message names it.
    """
    store.check((file for shard in shards for file in (shard.tar, shard.index)), contents)


def describe(folder: Path, name: str, split: str, samples: int, index: Path | None = None) -> Shard:
    """The manifest's entry for a tar of so many samples and its index, by default the one beside it, as they lie on
    disk."""
    tar = folder / name
    return Shard(name, split, samples, tar.stat().st_size, sha256(tar), sha256(index or index_path(tar)))


def members(tar: Path, names: Mapping[str, str]) -> Iterator[tuple[str, str, int, int]]:
    """(key, member, offset, size) of each file of a sample in a tar; links, folders and devices are passed over.

    As in webdataset the key is the path up to the first dot of the file's name. Files without an extension and hidden
    ones belong to no sample. names: what to call members, by all that follows the key, in upper or lower case, such
    as `{"jpg": "image", "seg.png": "mask"}` for `000.jpg` and `000.seg.png`.

    Raises:
        ValueError: not a tar, or a member's name is not UTF-8 or leads outside, or a member is not stored byte by byte.
    """
    with tar.open("rb") as file:
        yield from members_of(file, tar, names)


def members_of(file: BinaryIO, where: Path | str, names: Mapping[str, str]) -> Iterator[tuple[str, str, int, int]]:
    """`members` of an open tar; `where` is what errors call it."""
    named = {extension.lower(): name for extension, name in names.items()}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.size < 0:  # before the next is looked for, which would lie further back
                    raise ShardError(f"{where} holds a member of {entry.size} bytes: {entry.name!r}")
                if not entry.isfile():
                    continue
                if re.search("[\ud800-\udfff]", entry.name):  # surrogates stand for what could not be decoded
                    raise ShardError(f"{where} holds a member whose name is not UTF-8: {entry.name!r}")
                if entry.name.startswith("/") or ".." in entry.name.split("/"):
                    raise ShardError(f"{where} holds a member that leads outside: {entry.name!r}")
                if entry.issparse():
                    raise ShardError(f"{where} holds a sparse member, which cannot be read in place: {entry.name!r}")
                folder, _, base = entry.name.rpartition("/")
                stem, _, rest = base.partition(".")
                if not (stem and rest):
                    continue
                name = named.get(rest.lower(), None if "." in rest else rest)
                member = f"{name}.{rest.rpartition('.')[2]}" if name else rest
                yield f"{folder}/{stem}" if folder else stem, member, entry.offset_data, entry.size
    except tarfile.TarError as error:
        raise ShardError(f"{where} is not a readable tar ({error})") from error


def index(
    folder: Path,
    names: Mapping[str, str],
    report: Callable[[str], None] = lambda _: None,
    workers: int | None = 1,
) -> Manifest:
    """Write indexes and a manifest for tars that others wrote; the tars stay as they are.

    A tar whose name begins with the word `train`, `validation` (or `valid`, `val`) or `test` belongs to that split, any
    other to train.
    names: what to call members, as `members` has it. workers: tars at a time, None for one a core.

    Raises:
        ValueError: no tar there, one cannot be read, a sample has a member twice, or one of `names` is of no member.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ValueError(f"no .tar files in {folder}")
    shards, fields = [], Counter[str]()
    try:
        with worker_pool("local", workers) as run:
            for shard, found in run(partial(_index, names), ((tar,) for tar in tars)):
                shards.append(shard)
                fields.update(found)
                report(f"{shard.name}: {shard.samples:,} samples, {sum(found.values()):,} members")
        _check_names(tars, names, fields)
        for tar in tars:
            _temporary_index(tar).replace(index_path(tar))
    finally:
        for tar in tars:
            _temporary_index(tar).unlink(missing_ok=True)
    manifest = Manifest(tuple(shards), dict(sorted(fields.items())), source={"type": "tars"})
    manifest.write(folder)
    return manifest


def _temporary_index(tar: Path) -> Path:
    """The path of a tar's index until all tars have been read, so that a mistake leaves existing indexes alone."""
    return temporary_path(index_path(tar))


def _check_names(tars: Iterable[Path], names: Mapping[str, str], fields: Iterable[str]) -> None:
    """Check that each of `names` is of some member: where dots stand in keys, other samples would be merged to one.

    Raises:
        ValueError: one is of none; the message says how names are cut, by the name of a file.
    """
    present = {member.lower() for member in fields}
    for ending, name in names.items():
        kind = ending.lower().rpartition(".")[2]
        if f"{name}.{kind}".lower() in present:
            continue
        files = [file for tar in tars for file in itertools.islice(members(tar, {}), 1000)]
        key, member, *_ = next((f for f in files if f[1].lower().endswith(f".{kind}")), files[0] if files else ("", ""))
        first, _, rest = member.partition(".")
        cut = first if first == rest else member
        example = f"; {key}.{cut} is {cut!r} of the sample {key!r}" if files else ""
        raise ValueError(
            f"--as {ending}={name} matches no file in the tars: file names are cut at the first dot after the folder, "
            f"into the sample's key and what stands before the = of --as{example}"
        )


def _index(names: Mapping[str, str], tar: Path) -> tuple[Shard, dict[str, int]]:
    """Write the index of a tar; its entry in the manifest, and how many samples have each member."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for key, member, offset, size in members(tar, names):  # a sample's members may stand apart in the tar
        if samples.setdefault(key, {}).setdefault(member, (offset, size)) != (offset, size):
            raise ValueError(f"{tar} holds the member {member!r} of {key!r} twice: name one of them otherwise by --as")
    write_index(
        tar,
        [(key, member, *at, key) for key, held in samples.items() for member, at in held.items()],
        _temporary_index(tar),
    )
    word = re.match(r"(train|val|valid|validation|test)(?![^\W\d_])", tar.name.lower())
    split = next(split for split in SPLITS if split.startswith(word[1] if word else "train"))
    found = Counter(member for held in samples.values() for member in held)
    return describe(tar.parent, tar.name, split, len(samples), _temporary_index(tar)), found


def verify(where: Path | str, report: Callable[[str], None] = lambda _: None, cache: Cache | None = None) -> Manifest:
    """Check every shard against the manifest and every index against its tar.

    Raises:
        ValueError: the first fault found, by shard.
    """
    store = open_store(where, cache)
    manifest = Manifest.read(store)
    check(store, manifest.shards, contents=False)
    for shard in manifest.shards:
        name = f"{store.where}/{shard.name}"
        with store.open(shard.tar) as tar, store.open(shard.index) as index:
            for file, opened in ((shard.tar, tar), (shard.index, index)):
                if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:  # type: ignore[arg-type]
                    raise ShardError(f"{file.kind} {store.where}/{file.name} has a wrong checksum: {store.remedy}")
                opened.seek(0)
            rows = read_index(index.read(), shard.bytes, f"index {store.where}/{shard.index.name}")
            spans = {(offset, size) for _, _, offset, size in members_of(tar, name, {})}
        if spans != set(zip(rows["offset"].to_pylist(), rows["size"].to_pylist(), strict=True)):
            raise ShardError(f"index of {name} does not match the tar: index it again")
        if (samples := len(rows["key"].unique())) != shard.samples:
            raise ShardError(f"shard {name} holds {samples} samples, not {shard.samples}")
        report(f"{shard.name}: {shard.samples:,} samples, {shard.bytes:,} bytes, whole")
    return manifest
