"""Build a shard set from raw files: in parallel, resumable, with the same bytes however the build is run.

A build works in the folder `OUT.building/FINGERPRINT`, where every file is written atomically:

    samples/N, samples/N.json   members and descriptions of the samples of chunk N of the items (`shards.samples`)
    versions.json               versions of the parsers (`shards.versions`)
    ledger                      the samples to write and their splits, once all chunks are done (`shards.ledger`)
    shards/, entries/NAME       shards, and the manifest entry of each finished shard (`shards.tar_writer`)

The fingerprint is computed from the recipe, the raw files and the versions of the parsers. A build that finds its own
folder continues with what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modalities.base import Modality
from modalities.files.reading import counted_changes
from shards.dedupe import resolve_dedupe
from shards.engines import Mapper, worker_pool
from shards.files import write_json
from shards.ledger import Ledger, write_ledger
from shards.manifest import VERSION, Manifest
from shards.samples import CHUNK, Job, atomic_work_file, convert_items, refuse_empty
from shards.sources.base import Source
from shards.sources.paths import walk
from shards.split import SplitBy
from shards.tar_writer import write_shards
from shards.versions import installed_versions, required_packages, version_differences

WORK_FORMAT = 2
"""Version of the files in the working folder. An unfinished build of another version starts again."""
_VERSIONS = "versions.json"


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
    """Write the shards of all raw items under `raw` to the new folder `out`.

    Unusable items and duplicates are skipped and counted in the manifest. The folder appears when it is complete; until
    then the content takes twice its size on disk. If a build is killed or fails, the same call continues it. A call
    with other settings, raw files or versions of parsers starts again and reports it through `report`.

    dedupe: skip samples that repeat the content of an earlier one (`shards.dedupe`). workers: number of parallel
    workers, None for one per core. engine: `local` or `ray` (`shards.engines`). Neither changes the bytes.
    progress: wraps an iterable of items with the given unit, such as tqdm.

    Raises:
        ValueError: the source contradicts the modalities, `out` is not empty or is being built, or there is no usable
            sample.
        ShardError: a file of a streamed data set cannot be fetched; finished chunks are kept.
        ChildProcessError: a worker process was killed.
    """
    source.check(modalities)
    raw, out = raw.absolute(), out.absolute()  # a cluster may have been started in another folder
    job = _describe_job(source, modalities, split, samples_per_shard, dedupe)
    building = out.with_name(out.name + ".building")
    if _is_occupied(out) and not building.exists():
        raise _occupied_error(out)
    work = building / fingerprint_job(job, raw, (out, building))
    with worker_pool(engine, workers) as run, _locked(building):
        if _is_occupied(out):
            return _finish_cleanup(work, out)
        _prepare(work, job.versions, report)
        manifest = _run_stages(job, raw, work, run, progress)
        if out.exists():
            out.rmdir()
        (work / "shards").rename(out)
        shutil.rmtree(building)
        return manifest


def _describe_job(
    source: Source,
    modalities: Mapping[str, Modality],
    split: SplitBy,
    samples_per_shard: int,
    dedupe: str | Mapping[str, str] | None,
) -> Job:
    """The job of a build, with the kind of comparison of each modality and the versions of the parsers."""
    kinds = resolve_dedupe(dedupe, modalities, source.drawings)
    return Job(
        source=source,
        modalities=modalities,
        split=split,
        kinds=kinds,
        samples_per_shard=samples_per_shard,
        versions=installed_versions(required_packages(modalities, source, kinds.values())),
    )


def _finish_cleanup(work: Path, out: Path) -> Manifest:
    """Remove the working folder of a build that was killed after it had moved its shards to `out`.

    Raises:
        ValueError: the content of `out` is not from this build.
    """
    if not work.exists() or (work / "shards").exists():
        raise _occupied_error(out)
    shutil.rmtree(work.parent)
    return Manifest.read(out)


def _occupied_error(out: Path) -> ValueError:
    return ValueError(f"{out} is not empty: choose another folder or remove it")


def _run_stages(
    job: Job, raw: Path, work: Path, run: Mapper, progress: Callable[[Iterable[Any], str], Iterable[Any]]
) -> Manifest:
    """Convert the items and write the shards, each unless that is already done."""
    if not (work / "ledger").exists():
        with atomic_work_file(work, work / "ledger") as path, counted_changes() as changes:
            samples = job.source.combine(convert_items(job, raw, work, run), work)
            write_ledger(path, progress(refuse_empty(samples), "sample"), job.split, job.kinds, changes)
    with Ledger(work / "ledger") as ledger:
        return write_shards(job, raw, work, ledger, lambda *call: progress(run(*call), "shard"))


def fingerprint_job(job: Job, raw: Path, exclude: tuple[Path, ...]) -> str:
    """Hexadecimal hash of a job and of the paths, sizes and times of its raw files."""
    settings = {
        "version": VERSION,
        "work_format": WORK_FORMAT,
        "source": [job.source.type, asdict(job.source)],
        "modalities": {name: [modality.type, asdict(modality)] for name, modality in job.modalities.items()},
        "split": asdict(job.split),
        "dedupe": job.kinds,
        "samples_per_shard": job.samples_per_shard,
        "versions": job.versions,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path, size, time_ns in _list_files(raw, exclude):
        digest.update(f"\0{path}\0{size}\0{time_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _list_files(raw: Path, exclude: tuple[Path, ...]) -> Iterator[tuple[Path, int, int]]:
    """Path, size in bytes and modification time in ns of all raw files, in order."""
    root = raw if raw.is_dir() else raw.parent
    excluded = [path.resolve() for path in exclude]
    for folder, names in walk(raw, exclude=excluded) if raw.is_dir() else [(root, [raw.name])]:
        for path in (folder / name for name in names):
            yield path.relative_to(root), path.stat().st_size, path.stat().st_mtime_ns


def _is_occupied(out: Path) -> bool:
    return out.exists() and any(out.iterdir())


@contextmanager
def _locked(building: Path) -> Iterator[None]:
    """Lock a folder against other processes; the operating system releases the lock however this process ends.

    Raises:
        ValueError: another process has locked it.
    """
    building.mkdir(parents=True, exist_ok=True)
    with (building / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is building in {building}: wait for it or choose another folder"
            ) from error
        yield


def _prepare(work: Path, versions: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Create the working folder, or report its state if it exists; remove the working folders of other jobs."""
    other_builds = [path for path in work.parent.iterdir() if path.name not in ("lock", work.name)]
    if other_builds:
        files = (path / _VERSIONS for path in other_builds)
        old_versions: dict[str, str] = next((json.loads(path.read_bytes()) for path in files if path.is_file()), {})
        differences = version_differences(old_versions, versions)
        changes = ", ".join(f"{name} {old}, now {new}" for name, old, new in differences)
        reason = f"was begun with {changes}" if changes else "belongs to another recipe or other raw files"
        report(f"{work.parent} {reason}: starting again")
    for path in other_builds:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if work.exists():
        chunks, shards = (sum(1 for _ in work.glob(pattern)) for pattern in ("samples/*.json", "entries/*"))
        report(f"resuming in {work.parent}: {chunks:,} chunks of {CHUNK} items and {shards:,} shards are done")
    shutil.rmtree(work / "temporary", ignore_errors=True)
    for name in ("shards", "samples", "entries", "temporary"):
        (work / name).mkdir(parents=True, exist_ok=True)
    write_json(work / _VERSIONS, versions)
