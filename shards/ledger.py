"""Which samples a build takes, and of which split: on disk, so that memory does not grow with their number."""

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
from shards.dedupe import Seen
from shards.sources.base import Made, Span
from shards.split import SplitBy, divide, key_of, rank

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE sample (number INTEGER PRIMARY KEY, key TEXT UNIQUE, bunch TEXT, members TEXT);
CREATE TABLE assigned (bunch TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID;
CREATE TABLE counted (what TEXT, name TEXT, count INTEGER);
"""
_BUNCHES = """
CREATE TABLE bunched AS
SELECT bunch, COUNT(*) AS size FROM sample GROUP BY bunch ORDER BY rank(bunch), bunch
"""


class Row(NamedTuple):
    """A sample that is to be written."""

    key: str
    group: str
    members: dict[str, Span]


def fill(
    path: Path,
    samples: Iterable[Made | str],
    split: SplitBy,
    kinds: Mapping[str, str],
    changes: Mapping[str, int] | None = None,
) -> None:
    """Write the ledger of all samples; reasons why an item has none, duplicates, and samples' changes are counted.

    kinds: by modality, how contents are compared; of samples alike in all of them the first is taken. changes: what was
    read otherwise than it is written in whole files, counted while `samples` are taken.

    Raises:
        ValueError: no sample has such a group as the split is made by; where some have none, those are a group.
    """
    skipped: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    repeated = f"duplicate by {', '.join(f'{name} ({kind})' for name, kind in sorted(kinds.items()))}"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(_TABLES)
        seen = Seen(database, kinds)
        offered: dict[str, None] = {}
        for sample in samples:
            if isinstance(sample, str):
                skipped[sample] += 1
                continue
            offered |= dict.fromkeys(sample.groups)
            key = key_of(sample.identity)
            group = storable(sample.groups.get(split.by, "")) if split.by is not None else key
            row = (key, group, json.dumps(sample.members, sort_keys=True))
            if database.execute("SELECT 1 FROM sample WHERE key = ?", (key,)).fetchone():
                skipped["duplicate"] += 1
            elif kinds and not seen.add(sample.prints):
                skipped[repeated] += 1
            else:
                database.execute("INSERT INTO sample (key, bunch, members) VALUES (?, ?, ?)", row)
                fields.update(sample.members.keys())
                changed.update(sample.changes)
        if offered and split.by is not None and split.by not in offered:
            raise ValueError(f"data.split.by is {split.by!r}, but samples can be grouped by {format_names(offered)}")
        changed.update(changes or {})
        _assign(database, split)
        for what, counts in (("skipped", skipped), ("fields", fields), ("changed", changed)):
            rows = [(what, name, count) for name, count in sorted(counts.items())]
            database.executemany("INSERT INTO counted VALUES (?, ?, ?)", rows)
        database.commit()


def storable(name: str) -> str:
    """A name as text of UTF-8: bytes of file names that are none (old disks have such) are spelled out."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _assign(database: sqlite3.Connection, split: SplitBy) -> None:
    """Note the split of each group, as `shards.split.assign` has it, where it is not train."""
    database.create_function("rank", 1, lambda group: rank(group, split.seed), deterministic=True)
    database.execute(_BUNCHES)
    groups, total = database.execute("SELECT COUNT(*), TOTAL(size) FROM bunched").fetchone()
    largest = database.execute("SELECT bunch FROM bunched ORDER BY size DESC, rowid DESC LIMIT 1").fetchone() or ("",)
    ranked = database.execute("SELECT bunch, size FROM bunched ORDER BY rowid")
    divided = divide(ranked, largest[0], groups, total, split.validation, split.test, split.large)
    database.executemany("INSERT INTO assigned VALUES (?, ?)", (row for row in divided if row[1] != "train"))


class Ledger:
    """A ledger that `fill` has written."""

    def __init__(self, path: Path):
        self._database = sqlite3.connect(path)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def counted(self, what: str) -> dict[str, int]:
        """What was `skipped` or `changed` by reason, or the `fields` of samples by name."""
        return dict(self._database.execute("SELECT name, count FROM counted WHERE what = ? ORDER BY name", (what,)))

    def batches(self, split: str, size: int) -> Iterator[list[Row]]:
        """The samples of a split in input order, `size` at a time."""
        rows = self._database.execute(
            "SELECT key, bunch, members FROM sample LEFT JOIN assigned USING (bunch) "
            "WHERE COALESCE(split, 'train') = ? ORDER BY number",
            (split,),
        )
        while batch := list(itertools.islice(rows, size)):
            yield [
                Row(key, group, {name: Span(*span) for name, span in json.loads(members).items()})
                for key, group, members in batch
            ]
