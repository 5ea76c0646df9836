"""The second stage of a build: the samples of the ledger become tars with their indexes, and a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from modalities.base import Modality
from modalities.strings.columns import survey_labels
from shards.files import write_json
from shards.hf_features import FEATURES_FILE, array_type, describe_features
from shards.index import index_path, write_index
from shards.ledger import Ledger, LedgerRow
from shards.manifest import Manifest, Shard, describe_shard
from shards.samples import CHUNK, Job, atomic_work_file, members_of_modality
from shards.split import SPLITS
from shards.versions import relevant_versions

BLOCK_BYTES = 512
"""Members of a tar are padded to a multiple of this size."""


def write_shards(job: Job, raw: Path, work: Path, ledger: Ledger, run: Callable[..., Iterable[Any]]) -> Manifest:
    """Write the shards that are missing, then `features.json` and the manifest.

    Raises:
        ValueError: there is no sample.
    """
    skipped, fields = ledger.counts("skipped"), ledger.counts("fields")
    if not fields:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in skipped.items()) or "no items"
        raise ValueError(f"no usable sample in {raw} ({reasons})")
    batches = (
        (f"{split}-{number:05d}.tar", split, rows)
        for split in SPLITS
        for number, rows in enumerate(ledger.batches(split, job.samples_per_shard))
    )
    calls = ((name, split, None if (work / "entries" / name).exists() else rows) for name, split, rows in batches)
    shards: list[Shard] = []
    arrays: dict[str, set[tuple[str, int]]] = {}
    for name in run(partial(_write_shard, work), calls):
        entry = json.loads((work / "entries" / name).read_bytes())
        shards.append(Shard(**entry["shard"]))
        for member, kinds in entry["arrays"].items():
            arrays.setdefault(member, set()).update(map(tuple, kinds))
    manifest = Manifest(
        shards=tuple(shards),
        fields=fields,
        source={"type": job.source.type, **asdict(job.source)},
        split=asdict(job.split),
        skipped=skipped,
        dedupe=job.kinds,
        changed=ledger.counts("changed"),
        notes=tuple(_notes(job, work, ledger)),
        versions=relevant_versions(job.versions, fields),
    )
    write_json(work / "shards" / FEATURES_FILE, describe_features(fields, arrays))
    manifest.write(work / "shards")
    return manifest


def _write_shard(work: Path, name: str, split: str, rows: list[LedgerRow] | None) -> str:
    """Write one tar, its index and its manifest entry; `rows` is None if that is already done.

    Headers hold no time or owner, so that equal content gives equal bytes.
    """
    if rows is None:
        return name
    positions = []
    arrays: dict[str, set[tuple[str, int]]] = {}
    tar = work / "shards" / name
    with atomic_work_file(work, tar) as path:
        with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o644) as writer:
            for row in rows:
                for member, byte_range in row.members.items():
                    data = byte_range.read(work)
                    writer.write({"__key__": row.key, member: data})  # one at a time: a member may take 1 GiB
                    offset = writer.tarstream.offset - -(-len(data) // BLOCK_BYTES) * BLOCK_BYTES
                    positions.append((row.key, member, offset, len(data), row.group))
                    if member.endswith(".npy"):
                        arrays.setdefault(member, set()).add(array_type(data))
        write_index(path, positions)
        index_path(path).replace(index_path(tar))
    shard = describe_shard(tar.parent, name, split, len({key for key, *_ in positions}))
    entry = {"shard": asdict(shard), "arrays": {member: sorted(kinds) for member, kinds in arrays.items()}}
    with atomic_work_file(work, work / "entries" / name) as path:
        path.write_text(json.dumps(entry))
    return name


def _notes(job: Job, work: Path, ledger: Ledger) -> Iterator[str]:
    """Notes of the modalities and of the labels on the content of all samples."""
    for name, modality in job.modalities.items():
        if type(modality).survey is not Modality.survey:
            rows = (row for split in SPLITS for batch in ledger.batches(split, job.samples_per_shard) for row in batch)
            by_extension = (members_of_modality(row.members, name) for row in rows)
            raws = (
                modality.decode({extension: byte_range.read(work) for extension, byte_range in ranges.items()})
                for ranges in by_extension
                if ranges
            )
            yield from (f"{name}, {line}" for line in modality.survey(raws))
    yield from (f"label {line}" for line in survey_labels(_labels(work, ledger), job.source.missing))


def _labels(work: Path, ledger: Ledger) -> Iterator[dict[str, Any]]:
    """The labels of all samples, without lists and mappings."""
    for split in SPLITS:
        for row in (row for batch in ledger.batches(split, CHUNK) for row in batch):
            if "labels.json" in row.members:
                labels = json.loads(row.members["labels.json"].read(work))
                yield {name: label for name, label in labels.items() if not isinstance(label, (list, dict))}
