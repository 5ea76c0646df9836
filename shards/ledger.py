"""The samples that a build writes, and their splits, in SQLite, so that memory does not grow with their number."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from modalities.names import format_names
from shards.dedupe import DuplicateIndex
from shards.sources.base import ByteRange, StoredSample
from shards.split import SplitBy, divide, rank, sample_key

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE samples (number INTEGER PRIMARY KEY, key TEXT UNIQUE, group_name TEXT, members TEXT);
CREATE TABLE splits (group_name TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID;
CREATE TABLE counts (kind TEXT, name TEXT, count INTEGER);
"""
_GROUPS = """
CREATE TABLE group_sizes AS
SELECT group_name, COUNT(*) AS size FROM samples GROUP BY group_name ORDER BY rank(group_name), group_name
"""
_SPLIT = """
SELECT key, group_name, members FROM samples LEFT JOIN splits USING (group_name)
WHERE COALESCE(split, 'train') = ? ORDER BY number
"""


class LedgerRow(NamedTuple):
    """A sample to write: its key, its group, and the byte range of each member."""

    key: str
    group: str
    members: dict[str, ByteRange]


def write_ledger(
    path: Path,
    samples: Iterable[StoredSample | str],
    split: SplitBy,
    kinds: Mapping[str, str],
    changes: Mapping[str, int] | None = None,
) -> None:
    """Write the ledger, and count skipped items by reason, duplicates, members, and changes of content.

    kinds: how contents are compared, by modality; of samples that are equal in all of these the first is written.
    changes: changes of whole files (not of one sample), counted while `samples` are consumed.

    Raises:
        ValueError: no sample has the group that the split is made by. If only some have none, they form one group.
    """
    skipped: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    duplicate_reason = f"duplicate by {', '.join(f'{name} ({kind})' for name, kind in sorted(kinds.items()))}"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(_TABLES)
        duplicates = DuplicateIndex(database, kinds)
        group_names: dict[str, None] = {}
        for sample in samples:
            if isinstance(sample, str):
                skipped[sample] += 1
                continue
            group_names |= dict.fromkeys(sample.groups)
            key = sample_key(sample.identity)
            group = to_utf8(sample.groups.get(split.by, "")) if split.by is not None else key
            row = (key, group, json.dumps(sample.members, sort_keys=True))
            if database.execute("SELECT 1 FROM samples WHERE key = ?", (key,)).fetchone():
                skipped["duplicate"] += 1
            elif kinds and not duplicates.add(sample.fingerprints):
                skipped[duplicate_reason] += 1
            else:
                database.execute("INSERT INTO samples (key, group_name, members) VALUES (?, ?, ?)", row)
                fields.update(sample.members.keys())
                changed.update(sample.changes)
        if group_names and split.by is not None and split.by not in group_names:
            raise ValueError(
                f"data.split.by is {split.by!r}, but samples can be grouped by {format_names(group_names)}"
            )
        changed.update(changes or {})
        _assign_splits(database, split)
        for kind, counts in (("skipped", skipped), ("fields", fields), ("changed", changed)):
            rows = [(kind, name, count) for name, count in sorted(counts.items())]
            database.executemany("INSERT INTO counts VALUES (?, ?, ?)", rows)
        database.commit()


def to_utf8(name: str) -> str:
    """A file name that can be encoded in UTF-8: bytes that are not UTF-8 (on old disks) are written as `\\xNN`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _assign_splits(database: sqlite3.Connection, split: SplitBy) -> None:
    """Store the split of each group, as computed by `shards.split.assign`, unless it is train."""
    database.create_function("rank", 1, lambda group: rank(group, split.seed), deterministic=True)
    database.execute(_GROUPS)
    groups, total = database.execute("SELECT COUNT(*), TOTAL(size) FROM group_sizes").fetchone()
    by_size = "SELECT group_name FROM group_sizes ORDER BY size DESC, rowid DESC LIMIT 1"
    (largest,) = database.execute(by_size).fetchone() or ("",)
    ranked = database.execute("SELECT group_name, size FROM group_sizes ORDER BY rowid")
    divided = divide(ranked, largest, groups, total, split.validation, split.test, split.large)
    database.executemany("INSERT INTO splits VALUES (?, ?)", (row for row in divided if row[1] != "train"))


class Ledger:
    """A ledger that `write_ledger` has written, open for reading."""

    def __init__(self, path: Path):
        self._database = sqlite3.connect(path)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def counts(self, kind: str) -> dict[str, int]:
        """Counts of one kind: `skipped` items or `changed` samples by reason, or samples by member (`fields`)."""
        return dict(self._database.execute("SELECT name, count FROM counts WHERE kind = ? ORDER BY name", (kind,)))

    def batches(self, split: str, size: int) -> Iterator[list[LedgerRow]]:
        """The samples of a split in input order, `size` at a time."""
        rows = self._database.execute(_SPLIT, (split,))
        while batch := list(itertools.islice(rows, size)):
            yield [
                LedgerRow(
                    key, group, {name: ByteRange(*byte_range) for name, byte_range in json.loads(members).items()}
                )
                for key, group, members in batch
            ]
