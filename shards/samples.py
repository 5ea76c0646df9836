"""The first stage of a build: raw items become samples on disk, a chunk of items at a time."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from shards.dedupe import fingerprint
from shards.engines import Mapper
from shards.files import atomic_file
from shards.sources.base import ByteRange, Sample, Source, StoredSample
from shards.split import SplitBy

T = TypeVar("T")
CHUNK = 64
"""Number of items that a worker converts at a time. A killed build repeats the chunks that it had begun."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that determines the bytes of a shard set, besides the raw files.

    kinds: how contents are compared, by modality (`shards.dedupe`). versions: of the packages that read raw files.
    """

    source: Source
    modalities: Mapping[str, Modality]
    split: SplitBy
    kinds: dict[str, str]
    samples_per_shard: int
    versions: dict[str, str]


def atomic_work_file(work: Path, path: Path) -> AbstractContextManager[Path]:
    """`atomic_file` with a unique temporary name, because a cluster may run the same task twice at the same time."""
    return atomic_file(path, work / "temporary" / f"{uuid.uuid4().hex}{path.suffix}")


def convert_items(job: Job, raw: Path, work: Path, run: Mapper) -> Iterator[StoredSample | str]:
    """Convert all raw items, in order: yields a sample, or the reason why an item has none."""
    items = job.source.items(raw)
    chunks = enumerate(iter(lambda: list(itertools.islice(items, CHUNK)), []))
    calls = ((n, None if (work / "samples" / f"{n:08d}.json").exists() else chunk) for n, chunk in chunks)
    for number in run(partial(_convert_chunk, job, work), calls):
        for entry in json.loads((work / "samples" / f"{number:08d}.json").read_bytes()):
            if isinstance(entry, str):
                yield entry
            else:
                members = {name: ByteRange(*values) for name, values in entry["members"].items()}
                yield StoredSample(**{**entry, "members": members})


def refuse_empty(samples: Iterator[StoredSample | str]) -> Iterator[StoredSample | str]:
    """Replace samples that have labels but no content by a reason."""
    for sample in samples:
        is_empty = isinstance(sample, StoredSample) and sample.members.keys() <= {"labels.json"}
        yield "sample without content" if is_empty else sample


def _convert_chunk(job: Job, work: Path, number: int, items: list[Any] | None) -> int:
    """Convert the items of a chunk and write their members to one file; `items` is None if that is already done."""
    if items is None:
        return number
    name = f"samples/{number:08d}"
    entries: list[Any] = []
    with atomic_work_file(work, work / name) as path, path.open("wb") as file:
        for item in items:
            result = _convert_item(job, item)
            if isinstance(result, str):
                entries.append(result)
                continue
            sample, fingerprints, changes = result
            ranges = {}
            for member, data in sample.members.items():
                if not (member.isascii() and member[:1].isalpha()):
                    raise ValueError(
                        f"the source {job.source.type} names a member {member!r}: begin with a letter of ASCII"
                    )
                ranges[member] = ByteRange(name, file.tell(), len(data))
                file.write(data)
            stored = StoredSample(
                identity=sample.identity,
                members=ranges,
                groups=sample.groups,
                fingerprints=fingerprints,
                source=sample.source,
                changes=changes,
            )
            entries.append(asdict(stored))
    with atomic_work_file(work, work / f"{name}.json") as path:
        path.write_text(json.dumps(entries))
    return number


def _convert_item(job: Job, item: Any) -> tuple[Sample, dict[str, str], dict[str, int]] | str:
    """A sample that every modality can decode, its fingerprints and counted changes; or the reason why it has none."""
    try:
        with counted_changes() as changes:
            sample = job.source.make(item, job.modalities)
            fingerprints = {}
            for name, modality in job.modalities.items():
                members = members_of_modality(sample.members, name)
                if members:
                    raw = modality.decode(members)
                    if name in job.kinds:
                        canonical = sample.canonical.get(name)
                        fingerprints[name] = fingerprint(job.kinds[name], modality, members, raw, canonical)
        return sample, fingerprints, dict(changes)
    except ContentError as error:
        return error.reason


def members_of_modality(members: Mapping[str, T], modality: str) -> dict[str, T]:
    """The members of one modality by extension."""
    split_names = ((name.partition("."), value) for name, value in members.items())
    return {extension: value for (prefix, _, extension), value in split_names if prefix == modality}
