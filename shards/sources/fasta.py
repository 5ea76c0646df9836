"""DNA from FASTA files, with an optional table of specimens."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TextIO

import polars as pl

from modalities.base import Modality
from modalities.dna import clean
from modalities.files.reading import ContentError, lazy_import
from shards.columns import require_columns
from shards.sources.base import Sample, Source, register
from shards.sources.checks import require_cells, require_extension, require_modality
from shards.sources.derive import check_derive, check_regex, derive_columns, derived_from
from shards.sources.drafting.columns import Columns, TableFile
from shards.sources.drafting.draft import Draft, Sketch, common_glob
from shards.sources.drafting.settings import TABLE, dna_settings
from shards.sources.drafting.survey import MAX_OPENED, MAX_ROWS, Survey, spread
from shards.sources.members import cell_members, dump_cells, group_values
from shards.sources.paths import find_files
from shards.sources.tables import read_rows

Row = dict[str, Any]
_BINOMIAL = re.compile(r"[A-Z][a-z]+ [a-z][\w .-]*")
_PLACE = re.compile(r"\d+(\.\d+)? [NS] \d+(\.\d+)? [EW]")


class Record(NamedTuple):
    """A FASTA record and its row of the table; `fault` is the reason why it is unusable, or empty."""

    name: str
    sequence: str = ""
    row: Row | None = None
    fault: str = ""


@register
@dataclass(frozen=True, kw_only=True)
class Fasta(Source):
    """FASTA records become samples of a DNA modality; their table rows give other modalities and labels.

    A split can be made by any column, by `id`, or by `sequence`, so that equal sequences stay together.

    Attributes:
        files: Glob of the FASTA files below the raw folder; gzip by the suffix.
        pattern: Regular expression for the id in a record's header: its first group, or its whole match; by
            default the first word.
        table: CSV, TSV or Parquet file below the raw folder, joined by its column `key`; it must fit into memory.
        key: Column of `table` with the ids.
        dna: Name of the DNA modality.
        unique: Whether to use only the first of equal sequences.
        columns: By modality, its column, or a list of columns that become the cells of a table or the words of one
            text.
        derive: New columns: `genus: {column: scientific_name, word: 1}` for a word, `country: {column: country,
            pattern: "[^:]+"}` for the match of a regular expression, `month: {column: collection_date, date: month}`
            for the `month` (`May`) or `year` of the first date, in GenBank's form or ISO 8601. Numbers become numbers,
            and `25.66 S` degrees, negative in the south and west. `column` may be a list of names: the first filled
            one counts.
        labels: Columns stored as labels, apart from the content.
    """

    type: ClassVar[str] = "fasta"
    requires: ClassVar[tuple[str, ...]] = ("biopython",)
    suffixes: ClassVar[tuple[str, ...]] = tuple(
        f".{name}{end}" for end in ("", ".gz") for name in ("fasta", "fa", "fna", "fas", "ffn")
    )
    nouns: ClassVar[tuple[str, str]] = ("FASTA file", "FASTA files")

    files: str = "*.fasta*"
    pattern: str | None = None
    table: str | None = None
    key: str = "id"
    dna: str = "dna"
    unique: bool = False
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    derive: dict[str, dict[str, str | int | tuple[str, ...]]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_derive(self.derive)
        if self.pattern is not None:
            check_regex(self.pattern, "data.source.pattern")
        if self.table is None and (self.columns or self.derive or self.labels):
            raise ValueError("data.source has columns, derive or labels, but no table with these columns")

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        paths = survey.files.get(cls.type, [])
        records = [
            record
            for path in paths[:MAX_OPENED]
            for record in itertools.islice((record for record in read_records(path) if not record.fault), MAX_ROWS)
        ]
        dna = dna_settings([record.sequence for record in spread(records, 500)])
        if dna is None:
            return []
        sketch = Sketch(
            source={"type": cls.type, "files": common_glob(survey, paths)},
            modalities={"dna": dna},
            samples=len(records),
            source_types={cls.type},
        )
        if (table := _find_table([record.name for record in records], tables)) is not None:
            _sketch_table(sketch, survey, *table)
        sketch.groups = sketch.groups or [("sequence", len({record.sequence for record in records}))]
        return [sketch.finish()]

    def check(self, modalities: Mapping[str, Modality]) -> None:
        require_extension(require_modality(self.dna, modalities, "dna"), ["txt"], f"data.source.dna: {self.dna!r}")
        require_cells(self.columns, modalities)

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        return frozenset({self.dna, *self.columns})

    def items(self, raw: Path) -> Iterator[Record]:
        paths = find_files(raw, self.files)
        rows = self._rows(raw.parent if raw.is_file() else raw)
        used: set[str] = set()
        for path in paths:
            for record in read_records(path):
                yield record if record.fault else self._joined(record, rows, used)
        yield from (Record(name, fault="table row without DNA") for name in rows if name not in used)

    def _joined(self, record: Record, rows: Mapping[str, list[Row]], used: set[str]) -> Record:
        """The record with its id and its row of the table; adds the id to `used`."""
        name = self._id(record.name)
        used.add(name)
        if not name:
            return Record(record.name, fault="DNA without an id")
        if self.table is None:
            return Record(name, record.sequence)
        matches = rows.get(name, [])
        if len(matches) != 1:
            return Record(name, fault="DNA with several table rows" if matches else "DNA without a table row")
        return Record(name, record.sequence, matches[0])

    def _id(self, header: str) -> str:
        if self.pattern is None:
            return header.partition(" ")[0].partition("\t")[0]
        match = re.search(self.pattern, header)
        return (match[1] if match.re.groups else match[0]) or "" if match else ""

    def _rows(self, folder: Path) -> dict[str, list[Row]]:
        """Rows of the table by id."""
        rows: dict[str, list[Row]] = {}
        if self.table is None:
            return rows
        path = folder / self.table
        cells = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        stored = [column for column in (*cells, *self.labels) if column not in self.derive]
        parts = {name for spec in self.derive.values() for name in derived_from(spec)}
        names, table = read_rows(path, self.missing, text={self.key, *parts} - {*stored}, used=stored)  # 007 is not 7
        sources = [
            next((name for name in derived_from(spec) if name in names), " or ".join(derived_from(spec)))
            for spec in self.derive.values()
        ]
        require_columns(path, names, [self.key, *sources, *stored])
        for row in table:
            rows.setdefault(str(row[self.key] or "").strip(), []).append(row)
        return rows

    def make(self, item: Record, modalities: Mapping[str, Modality]) -> Sample:
        if item.fault:
            raise ContentError(item.fault)
        row = derive_columns(item.row or {}, self.derive)
        members = {f"{self.dna}.txt": item.sequence.encode()}
        members |= cell_members(row, self.columns, modalities)
        if self.labels:
            members["labels.json"] = dump_cells(row, self.labels)
        sequence = clean(item.sequence)
        return Sample(
            identity=sequence if self.unique else item.name,
            members=members,
            groups={"id": item.name, "sequence": sequence, **group_values(row)},
        )


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a FASTA file, named by their whole headers; a broken file ends in a record with a fault."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            yield from _parsed(file)
    except (OSError, EOFError, zlib.error):
        yield Record("", fault="FASTA file that cannot be read to its end")


def _parsed(file: TextIO) -> Iterator[Record]:
    lines = (line for line in file if line.strip() and not line.startswith(";"))
    first = next(lines, "")
    if not first.startswith(">"):
        yield Record("", fault="file that is not FASTA" if first else "FASTA file that is empty")
        return
    parse = lazy_import("Bio.SeqIO.FastaIO", "biopython").SimpleFastaParser
    for header, sequence in parse(itertools.chain([first], lines)):
        yield Record(header, sequence)


def _find_table(headers: Sequence[str], tables: Sequence[TableFile]) -> tuple[TableFile, str, str | None] | None:
    """The table that shares ids with FASTA headers, its column, and the pattern of an id in a header."""
    for table, pattern in itertools.product(tables, (None, r"^[^|\s]+", r"\|([^|\s]+)")):
        if pattern is None:
            ids = [header.split()[0] for header in headers if header.split()]
        else:
            ids = [match[match.re.groups] for header in headers if (match := re.search(pattern, header))]
        if column := table.find_column(ids):
            return table, column, pattern
    return None


def _sketch_table(sketch: Sketch, survey: Survey, table: TableFile, column: str, pattern: str | None) -> None:
    """Add a table that is joined by a column of ids."""
    columns, derive = table.columns, _draft_derive(table)
    parents = {str(spec["column"]) for spec in derive.values()}
    cells = [name for name in columns.content if name != column and name not in parents]
    cells += [name for name in derive if name != "genus"]
    sketch.labels += [*(name for name in derive if name == "genus"), *columns.labels]
    sketch.source |= {"table": survey.name(table.path), "key": column, **({"pattern": pattern} if pattern else {})}
    sketch.source |= {key: value for key, value in (("derive", derive), ("labels", sketch.labels)) if value}
    if cells:
        sketch.source["columns"], sketch.modalities["table"] = {"table": cells}, TABLE
        sketch.is_linked = True
    sketch.groups += [(name, table.count_values(name)) for name in columns.groups if name != column]
    if "genus" in derive:
        name = str(derive["genus"]["column"])
        genera = table.frame[name].drop_nulls().str.split(" ").list.first().n_unique()
        sketch.groups.insert(0, ("genus", genera))
        sketch.guesses.append(f"genus is the first word of {name}")
    unused = {name: reason for name, reason in columns.unused.items() if name not in parents}
    sketch.columns = Columns(candidates=columns.candidates, unused=unused)
    sketch.tables.add(table.path)
    sketch.guesses.append(f"{survey.name(table.path)} has the ids of the sequences in its column {column}")


def _draft_derive(table: TableFile) -> dict[str, dict[str, str | int]]:
    """Columns to derive from binomial names, and from places such as `25.66 S 54.16 W`."""
    derive: dict[str, dict[str, str | int]] = {}
    for name in table.frame.columns:
        if table.frame[name].dtype != pl.String or name in table.columns.files:
            continue
        cells = spread(table.frame[name].drop_nulls().to_list(), 200)
        if cells and sum(bool(_PLACE.fullmatch(cell)) for cell in cells) >= 0.8 * len(cells):
            derive["latitude"] = {"column": name, "pattern": r"^\S+ [NS]"}
            derive["longitude"] = {"column": name, "pattern": r"\S+ [EW]$"}
        elif (
            name in table.columns.labels
            and "genus" not in table.frame.columns
            and sum(bool(_BINOMIAL.fullmatch(cell)) for cell in cells) >= 0.8 * len(cells)
        ):
            derive.setdefault("genus", {"column": name, "word": 1})
    return derive
