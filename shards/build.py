"""Raw files to shards: made in parallel, written in input order, byte-identical whatever the number of workers."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from modalities.base import ContentError, Modality
from shards.manifest import Manifest, describe, write_index
from shards.sources.base import Sample, Source
from shards.split import SPLITS, assign, key_of


@dataclass(frozen=True, kw_only=True)
class SplitBy:
    """How samples are divided: `by` names the group that must not be torn apart (None: every sample by itself)."""

    by: str | None = None
    validation: float = 0.05
    test: float = 0.05
    large: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError("data.split: validation and test are shares, together below 1")


class _Spooled(NamedTuple):
    key: str
    group: str
    members: dict[str, tuple[int, int]]


def build(
    source: Source,
    modalities: Mapping[str, Modality],
    split: SplitBy,
    raw: Path,
    out: Path,
    *,
    samples_per_shard: int = 1000,
    workers: int = 1,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> Manifest:
    """Write the shards of all raw items under `raw` into the new folder `out`.

    Items that cannot be used and duplicates by identity are left out and counted in the manifest. Everything is
    written to a folder aside, which is renamed when whole.

    Raises:
        ValueError: `out` holds something, or no usable sample is left.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another folder or remove it")
    aside = out.with_name(out.name + ".building")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        skipped: Counter[str] = Counter()
        with (aside / "spool").open("wb") as spool:
            made = source.combine(_made(source, modalities, raw, workers), aside)
            samples = list(_spool(progress(made), split.by, spool, skipped))
        if not samples:
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in skipped.items()) or "no items"
            raise ValueError(f"no usable sample in {raw} ({reasons})")
        splits = assign(Counter(s.group for s in samples), split.validation, split.test, split.large, split.seed)
        shards = []
        with (aside / "spool").open("rb") as spooled:
            for name in SPLITS:
                chosen = (sample for sample in samples if splits[sample.group] == name)
                for number, batch in enumerate(iter(lambda: list(itertools.islice(chosen, samples_per_shard)), [])):  # noqa: B023
                    tar = aside / f"{name}-{number:05d}.tar"
                    _write(tar, batch, spooled)
                    shards.append(describe(aside, tar.name, name))
        (aside / "spool").unlink()
        fields = Counter(member for sample in samples for member in sample.members)
        manifest = Manifest(
            tuple(shards),
            dict(sorted(fields.items())),
            source={"type": source.type, **asdict(source)},
            split=asdict(split),
            skipped=dict(sorted(skipped.items())),
        )
        manifest.write(aside)
        if out.exists():
            out.rmdir()
        aside.rename(out)
        return manifest
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _made(source: Source, modalities: Mapping[str, Modality], raw: Path, workers: int) -> Iterator[Sample | str]:
    """Samples in input order, or the reason why an item has none."""
    items = source.items(raw)
    if workers < 2:
        yield from (_make(source, modalities, item) for item in items)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: list[Any] = []
        for chunk in iter(lambda: list(itertools.islice(items, 64)), []):
            waiting.append(pool.submit(_make_many, source, modalities, chunk))
            if len(waiting) > 4 * workers:  # bounded, so that a slow disk does not fill memory
                yield from waiting.pop(0).result()
        for future in waiting:
            yield from future.result()


def _make_many(source: Source, modalities: Mapping[str, Modality], items: list[Any]) -> list[Sample | str]:
    return [_make(source, modalities, item) for item in items]


def _make(source: Source, modalities: Mapping[str, Modality], item: Any) -> Sample | str:
    try:
        sample = source.make(item, modalities)
        for name, modality in modalities.items():
            members = {
                member.partition(".")[2]: data
                for member, data in sample.members.items()
                if member.partition(".")[0] == name
            }
            if members:
                modality.decode(members)
        return sample
    except ContentError as error:
        return error.reason


def _spool(made: Iterable[Sample | str], by: str | None, spool: BinaryIO, skipped: Counter[str]) -> Iterator[_Spooled]:
    """Append the members of new samples to one file; what stays in memory is where they lie."""
    seen: set[str] = set()
    for sample in made:
        if isinstance(sample, str):
            skipped[sample] += 1
            continue
        key = key_of(sample.identity)
        if key in seen:
            skipped["duplicate"] += 1
            continue
        seen.add(key)
        if by is not None and by not in sample.groups:
            raise ValueError(f"data.split.by is {by!r}, but samples can be grouped by {', '.join(sample.groups)}")
        places = {}
        for member, data in sorted(sample.members.items()):
            places[member] = (spool.tell(), len(data))
            spool.write(data)
        yield _Spooled(key, sample.groups[by] if by is not None else key, places)


def _write(tar: Path, samples: list[_Spooled], spool: BinaryIO) -> None:
    """One tar and its index; headers carry no time or owner, so equal content gives equal bytes."""
    rows = []
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for sample in samples:
            for member, (offset, size) in sample.members.items():
                spool.seek(offset)
                entry = tarfile.TarInfo(f"{sample.key}.{member}")
                entry.size = size
                file.addfile(entry, io.BytesIO(spool.read(size)))
                rows.append((sample.key, member, file.offset - -(-size // 512) * 512, size, sample.group))
    write_index(tar, rows)
