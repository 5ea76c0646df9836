"""Tars on disk: read their headers, index tars that others wrote, verify shards against their manifest."""

from __future__ import annotations

import hashlib
import itertools
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from shards.engines import worker_pool
from shards.files import temporary_path
from shards.index import index_path, read_index, write_index
from shards.manifest import Manifest, Shard, check_shards, describe_shard
from shards.remote import Cache, open_store
from shards.split import SPLITS
from shards.store import ShardError


def iter_files(file: BinaryIO, location: Path | str) -> Iterator[tuple[str, str, int, int]]:
    """Yield (key, extension, offset, size) of each file of a sample in an open tar; links and devices are ignored.

    As in webdataset, the name of a file is split at its first dot: `a/000.seg.png` has the key `a/000` and the
    extension `seg.png`. Hidden files and files without an extension belong to no sample.
    location: what error messages call the tar.

    Raises:
        ShardError: the file is not a tar, a name is not UTF-8 or leads outside, or a file is not stored contiguously.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.size < 0:  # checked before the next header is read, which would be further back
                    raise ShardError(f"{location} has a member of {entry.size} bytes: {entry.name!r}")
                if not entry.isfile():
                    continue
                if re.search("[\ud800-\udfff]", entry.name):  # surrogates replace bytes that cannot be decoded
                    raise ShardError(f"{location} has a member whose name is not UTF-8: {entry.name!r}")
                if entry.name.startswith("/") or ".." in entry.name.split("/"):
                    raise ShardError(f"{location} has a member whose path leads outside: {entry.name!r}")
                if entry.issparse():
                    raise ShardError(f"{location} has a sparse member, which cannot be read in place: {entry.name!r}")
                folder, _, base = entry.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if stem and extension:
                    yield f"{folder}/{stem}" if folder else stem, extension, entry.offset_data, entry.size
    except tarfile.TarError as error:
        raise ShardError(f"{location} is not a readable tar ({error})") from error


def iter_members(tar: Path, names: Mapping[str, str]) -> Iterator[tuple[str, str, int, int]]:
    """Yield (key, member, offset, size) of each file of a sample in a tar, the member as `{modality}.{extension}`.

    names: modality by extension, in upper or lower case, such as `{"jpg": "image", "seg.png": "mask"}`. Any other
    file `000.jpg` becomes `jpg.jpg`, and `000.seg.png` becomes `seg.png`.

    Raises:
        ShardError: as `iter_files`.
    """
    modalities = {extension.lower(): name for extension, name in names.items()}
    with tar.open("rb") as file:
        for key, extension, offset, size in iter_files(file, tar):
            name = modalities.get(extension.lower(), None if "." in extension else extension)
            yield key, f"{name}.{extension.rpartition('.')[2]}" if name else extension, offset, size


def index_tars(
    folder: Path,
    names: Mapping[str, str],
    report: Callable[[str], None] = lambda _: None,
    workers: int | None = 1,
) -> Manifest:
    """Write indexes and a manifest for existing tars, which stay as they are.

    A tar whose name begins with the word `train`, `validation` (or `valid`, `val`) or `test` belongs to that split, any
    other to train.
    names: modality by extension, as in `iter_members`. workers: number of parallel workers, None for one per core.

    Raises:
        ValueError: there is no tar, one cannot be read, a sample has a member twice, or no file has one of the `names`.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ValueError(f"no .tar files in {folder}")
    shards, fields = [], Counter[str]()
    try:
        with worker_pool("local", workers) as run:
            for shard, counts in run(partial(_index_tar, names), ((tar,) for tar in tars)):
                shards.append(shard)
                fields.update(counts)
                report(f"{shard.name}: {shard.samples:,} samples, {sum(counts.values()):,} members")
        _check_names(tars, names, fields)
        for tar in tars:
            _temporary_index(tar).replace(index_path(tar))
    finally:
        for tar in tars:
            _temporary_index(tar).unlink(missing_ok=True)
    manifest = Manifest(shards=tuple(shards), fields=dict(sorted(fields.items())), source={"type": "tars"})
    manifest.write(folder)
    return manifest


def _temporary_index(tar: Path) -> Path:
    """The path of a tar's index until all tars have been read, so that a mistake leaves existing indexes alone."""
    return temporary_path(index_path(tar))


def _check_names(tars: Iterable[Path], names: Mapping[str, str], fields: Iterable[str]) -> None:
    """Check that each of `names` matches some file. If keys contain dots, it would not, and samples would be merged.

    Raises:
        ValueError: one matches none; the message shows how a file name of the tars is split.
    """
    present = {member.lower() for member in fields}
    for extension, name in names.items():
        last = extension.lower().rpartition(".")[2]
        if f"{name}.{last}".lower() in present:
            continue
        files = [file for tar in tars for file in itertools.islice(iter_members(tar, {}), 1000)]
        similar = (file for file in files if file[1].lower().endswith(f".{last}"))
        key, member, *_ = next(similar, files[0] if files else ("", ""))
        first, _, rest = member.partition(".")
        extension_text = first if first == rest else member
        example = f"; {key}.{extension_text} is {extension_text!r} of the sample {key!r}" if files else ""
        raise ValueError(
            f"--as {extension}={name} matches no file in the tars: file names are split at the first dot after the "
            f"folder, into the sample's key and the extension that --as takes{example}"
        )


def _index_tar(names: Mapping[str, str], tar: Path) -> tuple[Shard, dict[str, int]]:
    """Write the index of a tar; returns its manifest entry and the number of samples that have each member."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for key, member, offset, size in iter_members(tar, names):  # the members of a sample may be apart in the tar
        if samples.setdefault(key, {}).setdefault(member, (offset, size)) != (offset, size):
            raise ValueError(f"{tar} has the member {member!r} of {key!r} twice: name one of them otherwise by --as")
    rows = [(key, member, *position, key) for key, members in samples.items() for member, position in members.items()]
    write_index(tar, rows, _temporary_index(tar))
    word = re.match(r"(train|val|valid|validation|test)(?![^\W\d_])", tar.name.lower())
    split = next(split for split in SPLITS if split.startswith(word[1] if word else "train"))
    counts = Counter(member for members in samples.values() for member in members)
    return describe_shard(tar.parent, tar.name, split, len(samples), _temporary_index(tar)), counts


def verify_shards(
    location: Path | str, report: Callable[[str], None] = lambda _: None, cache: Cache | None = None
) -> Manifest:
    """Check every shard against the manifest and every index against its tar.

    Raises:
        ShardError: the first fault, with the shard.
    """
    store = open_store(location, cache)
    manifest = Manifest.read(store)
    check_shards(store, manifest.shards, contents=False)
    for shard in manifest.shards:
        name = f"{store.location}/{shard.name}"
        with store.open(shard.tar) as tar, store.open(shard.index) as index:
            for file, opened in ((shard.tar, tar), (shard.index, index)):
                if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:  # type: ignore[arg-type]
                    raise ShardError(f"{file.kind} {store.location}/{file.name} has a wrong checksum: {store.remedy}")
                opened.seek(0)
            rows = read_index(index.read(), shard.bytes, f"index {store.location}/{shard.index.name}")
            ranges = {(offset, size) for _, _, offset, size in iter_files(tar, name)}
        if ranges != set(zip(rows["offset"].to_pylist(), rows["size"].to_pylist(), strict=True)):
            raise ShardError(f"index of {name} does not match the tar: index it again")
        if (samples := len(rows["key"].unique())) != shard.samples:
            raise ShardError(f"shard {name} has {samples} samples, not {shard.samples}")
        report(f"{shard.name}: {shard.samples:,} samples, {shard.bytes:,} bytes, verified")
    return manifest
