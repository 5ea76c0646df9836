"""Raw files to shards: in parallel, going on where a killed build stood, the same bytes however it was run.

A build works in `OUT.building/FINGERPRINT`, where everything is written aside and renamed when whole:

    made/N, made/N.json        the members and descriptions of the samples of chunk N of the items
    versions.json              by which versions of parsers (`shards.versions`)
    ledger                     which samples are taken, and of which split: all chunks are made
    shards/, written/NAME      shards, and for each that is whole its entry in the manifest

The fingerprint is that of recipe, raw files and versions of parsers, so a build that finds its own folder goes on with
what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import itertools
import json
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.table import Table
from shards import features, ledger
from shards.dedupe import fingerprint, resolve_dedupe
from shards.engines import Mapper, worker_pool
from shards.files import atomic_file, write_json
from shards.index import index_path, write_index
from shards.ledger import Ledger, LedgerRow
from shards.manifest import VERSION, Manifest, Shard, describe
from shards.sources.base import ByteRange, Sample, Source, StoredSample
from shards.sources.paths import walk
from shards.split import SPLITS, SplitBy
from shards.versions import installed_versions, relevant_versions, required_packages, version_differences

CHUNK = 64
"""Items that are made at a time. What a killed build has begun of them is made again."""
WORK_FORMAT = 2
"""Version of the files in the working folder; an unfinished build of another version starts anew."""
_VERSIONS = "versions.json"


@dataclass(frozen=True)
class _Job:
    """What makes the bytes of shards, beside the raw files."""

    source: Source
    modalities: Mapping[str, Modality]
    split: SplitBy
    kinds: dict[str, str]
    samples_per_shard: int
    versions: dict[str, str]

    def fingerprint(self, raw: Path, exclude: tuple[Path, ...]) -> str:
        """Hexadecimal hash of the job and of the raw files' paths, sizes and times."""
        told = {
            "version": VERSION,
            "work_format": WORK_FORMAT,
            "source": [self.source.type, asdict(self.source)],
            "modalities": {name: [modality.type, asdict(modality)] for name, modality in self.modalities.items()},
            "split": asdict(self.split),
            "dedupe": self.kinds,
            "samples_per_shard": self.samples_per_shard,
            "versions": self.versions,
        }
        hashed = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for path, size, time_ns in _listing(raw, exclude):
            hashed.update(f"\0{path}\0{size}\0{time_ns}".encode(errors="surrogateescape"))
        return hashed.hexdigest()[:32]


def _listing(raw: Path, exclude: tuple[Path, ...]) -> Iterator[tuple[Path, int, int]]:
    """Path, size and time of all files, in order."""
    root = raw if raw.is_dir() else raw.parent
    left_out = [path.resolve() for path in exclude]
    for folder, names in walk(raw, exclude=left_out) if raw.is_dir() else [(root, [raw.name])]:
        for path in (folder / name for name in names):
            yield path.relative_to(root), path.stat().st_size, path.stat().st_mtime_ns


def build(
    source: Source,
    modalities: Mapping[str, Modality],
    split: SplitBy,
    raw: Path,
    out: Path,
    *,
    samples_per_shard: int = 1000,
    dedupe: str | Mapping[str, str] | None = None,
    workers: int | None = 1,
    engine: str = "local",
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = lambda items, unit: items,
    report: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write the shards of all raw items under `raw` into the new folder `out`.

    Items that cannot be used and duplicates by identity are left out and counted in the manifest. The folder appears
    when it is whole; until then the disk holds the content twice. What a build that was killed or met an error had
    finished is kept beside it, and the same call goes on from there; a call with other settings, raw files or versions
    of parsers starts anew and tells `report` so.

    dedupe: leave out samples whose content repeats that of an earlier one (`shards.dedupe`). workers: parts at a time,
    None for one a core. engine: `local` or `ray` (`shards.engines`). Neither workers nor engine change the bytes.
    progress: passes on what it is given, items of the unit named.

    Raises:
        ValueError: the source contradicts the modalities, `out` is not empty or is being built, or no usable sample is
            left.
        ShardError: a file of a streamed data set cannot be fetched; what is finished is kept.
        ChildProcessError: a worker process was killed.
    """
    source.check(modalities)
    raw, out = raw.absolute(), out.absolute()  # a cluster may have been started in another folder
    kinds = resolve_dedupe(dedupe, modalities, source.drawings)
    versions = installed_versions(required_packages(modalities, source, kinds.values()))
    job = _Job(source, modalities, split, kinds, samples_per_shard, versions)
    aside = out.with_name(out.name + ".building")
    if _occupied(out) and not aside.exists():
        raise ValueError(f"{out} is not empty: choose another folder or remove it")
    mark = job.fingerprint(raw, (out, aside))
    with worker_pool(engine, workers) as run, _claimed(aside):
        work = aside / mark
        if _occupied(out):
            if not work.exists() or (work / "shards").exists():
                raise ValueError(f"{out} is not empty: choose another folder or remove it")
            shutil.rmtree(aside)  # of this very build, which was killed while cleaning up
            return Manifest.read(out)
        _prepare(work, versions, report)
        if not (work / "ledger").exists():
            with _atomic_file(work, work / "ledger") as path, counted_changes() as changes:
                samples = progress(_filled(source.combine(_made(job, raw, work, run), work)), "sample")
                ledger.write_ledger(path, samples, split, job.kinds, changes)
        with Ledger(work / "ledger") as held:
            manifest = _write(job, raw, work, held, lambda *call: progress(run(*call), "shard"))
        if out.exists():
            out.rmdir()
        (work / "shards").rename(out)
        shutil.rmtree(aside)
        return manifest


def _occupied(out: Path) -> bool:
    return out.exists() and any(out.iterdir())


@contextmanager
def _claimed(aside: Path) -> Iterator[None]:
    """Hold a folder against other processes; the system lets go of it however this one ends.

    Raises:
        ValueError: another process holds it.
    """
    aside.mkdir(parents=True, exist_ok=True)
    with (aside / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is building in {aside}: wait for it or choose another folder") from error
        yield


def _prepare(work: Path, versions: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Make the folders to work in, or tell what is there; works of other fingerprints are removed."""
    others = [path for path in work.parent.iterdir() if path.name not in ("lock", work.name)]
    if others:
        begun: dict[str, str] = next(
            (json.loads(p.read_bytes()) for path in others if (p := path / _VERSIONS).is_file()), {}
        )
        other = ", ".join(f"{name} {old}, now {new}" for name, old, new in version_differences(begun, versions))
        why = f"was begun with {other}" if other else "is of another recipe or other raw files"
        report(f"{work.parent} {why}: starting anew")
    for path in others:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if work.exists():
        chunks, written = (sum(1 for _ in work.glob(files)) for files in ("made/*.json", "written/*"))
        report(f"going on in {work.parent}: {chunks:,} chunks of {CHUNK} items and {written:,} shards are there")
    shutil.rmtree(work / "aside", ignore_errors=True)
    for name in ("shards", "made", "written", "aside"):
        (work / name).mkdir(parents=True, exist_ok=True)
    write_json(work / _VERSIONS, versions)


def _atomic_file(work: Path, path: Path) -> AbstractContextManager[Path]:
    """`atomic_file` with a name that no other worker uses: a cluster may run the same task twice."""
    return atomic_file(path, work / "aside" / f"{uuid.uuid4().hex}{path.suffix}")


def _made(job: _Job, raw: Path, work: Path, run: Mapper) -> Iterator[StoredSample | str]:
    """What all items became, in their order: samples, or the reason why an item has none."""
    items = job.source.items(raw)
    chunks = enumerate(iter(lambda: list(itertools.islice(items, CHUNK)), []))
    calls = ((n, None if (work / "made" / f"{n:08d}.json").exists() else chunk) for n, chunk in chunks)
    for number in run(partial(_make_chunk, job, work), calls):
        for entry in json.loads((work / "made" / f"{number:08d}.json").read_bytes()):
            if isinstance(entry, str):
                yield entry
            else:
                yield StoredSample(
                    **{**entry, "members": {name: ByteRange(*span) for name, span in entry["members"].items()}}
                )


def _filled(made: Iterator[StoredSample | str]) -> Iterator[StoredSample | str]:
    """The same, less samples of nothing but labels."""
    for each in made:
        labels_alone = isinstance(each, StoredSample) and each.members.keys() <= {"labels.json"}
        yield "sample without content" if labels_alone else each


def _make_chunk(job: _Job, work: Path, number: int, items: list[Any] | None) -> int:
    """Make the samples of a chunk, None where that is done, and write them down."""
    if items is None:
        return number
    name = f"made/{number:08d}"
    entries: list[Any] = []
    with _atomic_file(work, work / name) as path, path.open("wb") as file:
        for item in items:
            made = _make(job, item)
            if isinstance(made, str):
                entries.append(made)
                continue
            sample, fingerprints, changes = made
            spans = {}
            for member, data in sample.members.items():
                spans[member] = ByteRange(name, file.tell(), len(data))
                file.write(data)
            entries.append(
                asdict(
                    StoredSample(
                        identity=sample.identity,
                        members=spans,
                        groups=sample.groups,
                        fingerprints=fingerprints,
                        source=sample.source,
                        changes=changes,
                    )
                )
            )
    with _atomic_file(work, work / f"{name}.json") as path:
        path.write_text(json.dumps(entries))
    return number


def _make(job: _Job, item: Any) -> tuple[Sample, dict[str, str], dict[str, int]] | str:
    """A sample that every modality can read, with its fingerprints and changes; or the reason why the item has none."""
    try:
        with counted_changes() as changes:
            sample = job.source.make(item, job.modalities)
            fingerprints = {}
            for name, modality in job.modalities.items():
                members = {
                    member.partition(".")[2]: data
                    for member, data in sample.members.items()
                    if member.partition(".")[0] == name
                }
                if members:
                    raw = modality.decode(members)
                    if name in job.kinds:
                        canonical = sample.canonical.get(name)
                        fingerprints[name] = fingerprint(job.kinds[name], modality, members, raw, canonical)
        return sample, fingerprints, dict(changes)
    except ContentError as error:
        return error.reason


def _write(job: _Job, raw: Path, work: Path, held: Ledger, run: Callable[..., Iterable[Any]]) -> Manifest:
    """Write the shards that are missing, and what stands beside them.

    Raises:
        ValueError: there is no sample.
    """
    skipped, fields = held.counts("skipped"), held.counts("fields")
    if not fields:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in skipped.items()) or "no items"
        raise ValueError(f"no usable sample in {raw} ({reasons})")
    batches = (
        (f"{split}-{number:05d}.tar", split, rows)
        for split in SPLITS
        for number, rows in enumerate(held.batches(split, job.samples_per_shard))
    )
    calls = ((name, split, None if (work / "written" / name).exists() else rows) for name, split, rows in batches)
    shards: list[Shard] = []
    arrays: dict[str, set[tuple[str, int]]] = {}
    for name in run(partial(_write_shard, work), calls):
        written = json.loads((work / "written" / name).read_bytes())
        shards.append(Shard(**written["shard"]))
        for member, kinds in written["arrays"].items():
            arrays.setdefault(member, set()).update(map(tuple, kinds))
    manifest = Manifest(
        tuple(shards),
        fields,
        source={"type": job.source.type, **asdict(job.source)},
        split=asdict(job.split),
        skipped=skipped,
        dedupe=job.kinds,
        changed=held.counts("changed"),
        notes=tuple(_notes(job, work, held)),
        versions=relevant_versions(job.versions, fields),
    )
    write_json(work / "shards" / features.NAME, features.features(fields, arrays))
    manifest.write(work / "shards")
    return manifest


def _notes(job: _Job, work: Path, samples: Ledger) -> Iterator[str]:
    """What modalities say of the content of all samples."""
    for name, modality in job.modalities.items():
        if type(modality).survey is not Modality.survey:
            rows = (row for split in SPLITS for batch in samples.batches(split, job.samples_per_shard) for row in batch)
            members = (
                {
                    member.partition(".")[2]: span
                    for member, span in row.members.items()
                    if member.startswith(f"{name}.")
                }
                for row in rows
            )
            raws = (
                modality.decode({extension: span.read(work) for extension, span in spans.items()})
                for spans in members
                if spans
            )
            yield from (f"{name}, {line}" for line in modality.survey(raws))
    yield from (f"label {line}" for line in Table(missing=job.source.missing).survey_labels(_labels(work, samples)))


def _labels(work: Path, samples: Ledger) -> Iterator[dict[str, Any]]:
    """Plain labels of all samples."""
    for split in SPLITS:
        for row in (row for batch in samples.batches(split, CHUNK) for row in batch):
            if "labels.json" in row.members:
                labels = json.loads(row.members["labels.json"].read(work))
                yield {name: label for name, label in labels.items() if not isinstance(label, (list, dict))}


def _write_shard(work: Path, name: str, split: str, samples: list[LedgerRow] | None) -> str:
    """Write one tar, its index and its entry, None where that is done.

    Headers carry no time or owner, so that equal content gives equal bytes.
    """
    if samples is None:
        return name
    rows = []
    arrays: dict[str, set[tuple[str, int]]] = {}
    tar = work / "shards" / name
    with _atomic_file(work, tar) as path:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
            for sample in samples:
                for member, span in sample.members.items():
                    data = span.read(work)
                    header = tarfile.TarInfo(f"{sample.key}.{member}")
                    header.size = span.size
                    file.addfile(header, io.BytesIO(data))
                    rows.append((sample.key, member, file.offset - -(-span.size // 512) * 512, span.size, sample.group))
                    if member.endswith(".npy"):
                        arrays.setdefault(member, set()).add(features.array_type(data))
        write_index(path, rows)
        index_path(path).replace(index_path(tar))
    shard = describe(tar.parent, name, split, len({key for key, *_ in rows}))
    entry = {"shard": asdict(shard), "arrays": {m: sorted(k) for m, k in arrays.items()}}
    with _atomic_file(work, work / "written" / name) as path:
        path.write_text(json.dumps(entry))
    return name
