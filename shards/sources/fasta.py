"""DNA from FASTA files, with a table of the specimens where there is one."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TextIO

from modalities.base import Modality
from modalities.dna import cleaned
from modalities.files.reading import ContentError, count_change, lazy_import
from modalities.names import did_you_mean
from shards.names import need_columns
from shards.sources.base import Sample, Source, register
from shards.sources.checks import require_cells, require_extension, require_modality
from shards.sources.members import cell_members, dump_cells, group_values
from shards.sources.paths import find_files
from shards.sources.tables import parse_cell, read_rows

Row = dict[str, Any]
Derived = Mapping[str, str | int | tuple[str, ...]]
"""A derived column: `column` or several, and one of `word`, `pattern` and `date`."""
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*([NSEW])")
_KEYS = {"column", "word", "pattern", "date"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATES = {
    "year": re.compile(r"(?<!\d)(\d{4})(?!\d)"),
    "month": re.compile(
        rf"\b({'|'.join(_MONTHS)})(?:r?uary|ch|il|e|y|ust|t?(?:em|o)?ber)?\b|(?<!\d)\d{{4}}-(0[1-9]|1[0-2])(?!\d)",
        re.IGNORECASE,
    ),
}
"""Parts of a date as GenBank (`21-May-2019`, `May-2019`) and ISO 8601 (`2019-05-21`, `2019-05`) write it."""
_YEARS = re.compile(r"\d{4}(/\d{4})?")


class Record(NamedTuple):
    """One FASTA record and its table row; `fault` says why it cannot be used."""

    name: str
    sequence: str = ""
    row: Row | None = None
    fault: str = ""


@register
@dataclass(frozen=True, kw_only=True)
class Fasta(Source):
    """FASTA records become samples of a DNA modality; their table rows give other modalities and labels.

    A split can be made by any column, by `id`, or by `sequence`, so that equal ones stay together.

    Attributes:
        files: Glob of the FASTA files below the raw folder; gzip by the suffix.
        pattern: Regular expression for the id in a record's header: its first group, or all that it matches; by
            default the first word.
        table: CSV, TSV or Parquet file below the raw folder, joined by its column `key`; it must fit into memory.
        key: Column of `table` with the ids.
        dna: Name of the DNA modality.
        unique: Whether only the first of equal sequences is used.
        columns: By modality, its column, or a list of columns that become the cells of a table or the words of one
            text.
        derive: New columns: `genus: {column: scientific_name, word: 1}` for a word, `country: {column: country,
            pattern: "[^:]+"}` for the match of a regular expression, `month: {column: collection_date, date: month}`
            for the `month` (`May`) or `year` of the first date, in GenBank's form or ISO 8601. Numbers become numbers,
            and `25.66 S` degrees, negative in the south and west. `column` may be a list of names, of which the first
            filled one counts.
        labels: Columns stored as labels, apart from the content.
    """

    type: ClassVar[str] = "fasta"
    requires: ClassVar[tuple[str, ...]] = ("biopython",)

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
        check_derive(self.derive)
        if self.pattern is not None:
            check_regex(self.pattern, "data.source.pattern")
        if self.table is None and (self.columns or self.derive or self.labels):
            raise ValueError("data.source has columns, derive or labels, but no table to take them from")

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
        """The record by its id, with its table row; the id is added to those used."""
        name = self._id(record.name)
        used.add(name)
        if not name:
            return Record(record.name, fault="DNA without an id")
        if self.table is None:
            return Record(name, record.sequence)
        found = rows.get(name, [])
        if len(found) != 1:
            return Record(name, fault="DNA with several table rows" if found else "DNA without a table row")
        return Record(name, record.sequence, found[0])

    def _id(self, header: str) -> str:
        if self.pattern is None:
            return header.partition(" ")[0].partition("\t")[0]
        match = re.search(self.pattern, header)
        return (match[1] if match.re.groups else match[0]) or "" if match else ""

    def _rows(self, folder: Path) -> dict[str, list[Row]]:
        """Table rows by id."""
        rows: dict[str, list[Row]] = {}
        if self.table is None:
            return rows
        path = folder / self.table
        cells = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        own = [column for column in (*cells, *self.labels) if column not in self.derive]
        parts = {name for spec in self.derive.values() for name in _names(spec)}
        names, table = read_rows(path, self.missing, text={self.key, *parts} - {*own}, used=own)  # 007 is not 7
        derived_from = [
            next((name for name in _names(spec) if name in names), " or ".join(_names(spec)))
            for spec in self.derive.values()
        ]
        need_columns(path, names, [self.key, *derived_from, *own])
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
        sequence = cleaned(item.sequence)
        return Sample(
            identity=sequence if self.unique else item.name,
            members=members,
            groups={"id": item.name, "sequence": sequence, **group_values(row)},
        )


def read_records(path: Path) -> Iterator[Record]:
    """The records of a FASTA file, their whole headers as names; a broken file ends in a record with a fault."""
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


def check_derive(derive: Mapping[str, Derived]) -> None:
    """Check the recipe's key `derive`.

    Raises:
        ValueError: an unknown or missing key, a pattern that is no regular expression, or an unknown part of a date.
    """
    for name, spec in derive.items():
        if unknown := set(spec) - _KEYS:
            raise ValueError(
                f"unknown key 'data.source.derive.{name}.{sorted(unknown)[0]}'; known: {', '.join(sorted(_KEYS))}"
            )
        if not spec.get("column") or len(spec) != 2:
            raise ValueError(f"data.source.derive.{name} needs column and one of word, pattern and date")
        if (part := spec.get("date", "month")) not in _DATES:
            raise ValueError(f"data.source.derive.{name}.date is {part!r}{did_you_mean(str(part), _DATES)}")
        word = spec.get("word", 1)
        if not isinstance(word, int) or word < 1:
            raise ValueError(f"data.source.derive.{name}.word is {word!r}: words are counted from 1")
        check_regex(str(spec.get("pattern", "")), f"data.source.derive.{name}.pattern")


def check_regex(pattern: str, where: str) -> None:
    """Check a regular expression.

    Raises:
        ValueError: it is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where} is not a regular expression: {error}") from error


def derive_columns(row: Row, derive: Mapping[str, Derived]) -> Row:
    """The row with its derived columns; None where the cell is empty or has no such part.

    A cell that should be a date and has no such part is counted as a change.
    """
    return {**row, **{name: _part(row, name, spec) for name, spec in derive.items()}}


def _names(spec: Derived) -> tuple[str, ...]:
    """What the column that another is derived from may be called."""
    column = spec["column"]
    return column if isinstance(column, tuple) else (str(column),)


def _part(row: Row, name: str, spec: Derived) -> str | float | None:
    column = next((column for column in _names(spec) if row.get(column) is not None), None)
    if column is None:
        return None
    cell = str(row[column])
    if "word" in spec:
        words = cell.split()
        number = int(spec["word"])  # type: ignore[arg-type]
        part = words[number - 1] if number <= len(words) else ""
    elif "date" in spec:
        return _date_part(cell, str(spec["date"]), column, name)
    else:
        match = re.search(str(spec["pattern"]), cell)
        part = (match[1] if match.re.groups else match[0]) or "" if match else ""
    if degrees := _DEGREES.fullmatch(part.strip()):
        return float(degrees[1]) * (-1 if degrees[2] in "SW" else 1)
    return parse_cell(part)


def _date_part(cell: str, part: str, column: str, name: str) -> str | int | None:
    """The month or year of the first date in a cell; None where there is none, which a bare year need not have."""
    match = _DATES[part].search(cell)
    if match is None:
        if cell.strip() and not _YEARS.fullmatch(cell.strip()):
            count_change(f"{column} without a {part} that can be read: {name} is missing")
        return None
    if part == "year":
        return int(match[1])
    return match[1].title() if match[1] else _MONTHS[int(match[2]) - 1]
