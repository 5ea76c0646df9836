"""Read table files (CSV, TSV, Parquet) and infer one type per column over all files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from modalities.files.reading import count_change
from modalities.strings.cells import (
    MISSING_WORDS,
    PLAIN,
    Codes,
    Column,
    Kind,
    column_of,
    decimal_of,
    is_missing,
    number_or_text,
    to_number,
)
from shards.sources.delimited import NAMELESS, BrokenFileError, column_names, read_lines, valid_rows

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz")
WITHOUT_MINUS = tuple(sorted(MISSING_WORDS - {"-"}))
"""Words that mean missing in a column of plus and minus signs."""
_AT_ONCE = 50_000
"""Rows that are Python strings at a time, which take about ten times the memory of a data frame."""


def read_table(path: Path, rows: int | None = None) -> pl.DataFrame:
    """Read a CSV or TSV file as uninterpreted text, or a Parquet file with its types.

    rows: number of rows to read, by default all.

    Raises:
        ValueError: the file does not exist or does not match its suffix, two columns have the same name, or a row is
            unreadable; the message names the row and its fault.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    if path.suffix.lower() == ".parquet":
        try:
            frame = pl.read_parquet(path, n_rows=rows, glob=False).fill_nan(None)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BrokenFileError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        durations = pl.selectors.duration().dt.total_microseconds() / 1e6
        words = (pl.selectors.categorical() | pl.selectors.enum()).cast(pl.String)
        return frame.with_columns(pl.selectors.decimal().cast(pl.Float64), durations, words)
    lines = read_lines(path)
    names = column_names(path, next(lines))
    rest = itertools.islice(valid_rows(path, lines), rows)
    frames = []
    while cells := [line.cells for line in itertools.islice(rest, _AT_ONCE)]:
        columns = zip(*cells, strict=True)
        frames.append(
            pl.DataFrame({name: pl.Series(c, dtype=pl.String) for name, c in zip(names, columns, strict=True)})
        )
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    nameless = [name for name in names if not name or name.startswith(NAMELESS)]
    return frame.drop(name for name in nameless if not (frame[name] != "").any())


@dataclass(frozen=True)
class CellTypes:
    """The types of a table's columns, which give its cells their values. codes: cells that mean missing, by column."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    codes: Codes = field(default_factory=dict)
    words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How often each word or code means a missing value, by column."""

    def cell(self, name: str, value: Any) -> Any:
        """The value of a cell: None if missing, else a number, a bool or the text unchanged."""
        if is_missing(value, name, self.codes):
            return None
        if not isinstance(value, str) or name not in self.columns:
            return value
        column = self.columns[name]
        text = value.strip()
        if column.kind == "boolean":
            return text.lower() == "true" if text.lower() in ("true", "false") else value
        if column.kind == "number" and not column.unit and (number := to_number(text, column.notation)) is not None:
            return None if is_missing(number, name, self.codes) else number if column.is_whole else float(number)
        return value

    def row(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row's cells."""
        return {name: self.cell(name, value) for name, value in written.items()}

    def written(self, name: str, value: Any) -> str:
        """The unchanged text of a cell; empty if it means missing."""
        return "" if self.cell(name, value) is None else str(value)

    def numeric(self, name: str) -> bool:
        """Whether the cells of a column are numbers."""
        return name in self.columns and self.columns[name].kind == "number" and not self.columns[name].unit

    def count(self, names: Iterable[str]) -> None:
        """Count values that differ from their text as changes: words that mean missing, notations of numbers."""
        for name in dict.fromkeys(names):
            for word, times in self.words.get(name, {}).items():
                count_change(f"{name}: {word!r} is missing", times)
            column = self.columns.get(name, Column())
            if column.kind == "number" and column.notation.words:
                count_change(f"{name}: numbers with {column.notation.words}", column.filled - column.invalid)

    def frame(self, written: pl.DataFrame) -> pl.DataFrame:
        """A frame with typed columns, for statistics; cells of another type than their column are null."""
        typed = {}
        for name in written.columns:
            cells = [self.cell(name, value) for value in written[name].to_list()]
            kind = self.columns[name].kind if name in self.columns else "text"
            if self.numeric(name):
                numbers = [None if isinstance(cell, (str, bool)) else cell for cell in cells]
                typed[name] = pl.Series(name, numbers, pl.Int64 if self.columns[name].is_whole else pl.Float64)
            elif written.schema[name] == pl.String:
                typed[name] = pl.Series(name, cells, pl.Boolean if kind == "boolean" else pl.String)
            else:
                typed[name] = written[name]
        return pl.DataFrame(typed)


def infer_types(
    frames: Iterable[pl.DataFrame],
    codes: Codes | None = None,
    *,
    text: Iterable[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    typed: bool = False,
) -> CellTypes:
    """Infer the types of columns over all frames of `read_table`.

    Args:
        frames: Rows of the same table or of several.
        codes: Cells that mean missing, by column.
        text: Columns whose cells stay unchanged text.
        kinds: Types that columns must have, because a model was fitted on them.
        typed: Whether the types of the frames are those of their file, so that text is text.
    """
    texts, words, other_counts = _count_cells(frames, codes or {})
    codes = {**{name: WITHOUT_MINUS for name, counts in texts.items() if "+" in counts}, **(codes or {})}
    for name in texts.keys() & words.keys():
        if codes.get(name) == WITHOUT_MINUS and "-" in words[name]:
            texts[name]["-"] = words[name].pop("-")

    def find(name: str, decimal: str | None = None) -> Column:
        kind = "text" if name in text else (kinds or {}).get(name)
        by_file = typed or name in other_counts
        return column_of(texts[name], other_counts.get(name, 0), typed=by_file, kind=kind, decimal=decimal)

    columns = {name: find(name) for name in texts}
    numeric = {name for name, column in columns.items() if column.kind == "number" and name not in other_counts}
    marks = {mark for name in numeric if (mark := decimal_of(texts[name]))}
    for name, counts in texts.items():
        unsure = (name in numeric or columns[name].unclear) and not decimal_of(counts)
        if len(marks) == 1 and unsure and any("," in cell or "." in cell for cell in counts):
            columns[name] = find(name, *marks)
        if (notation := columns[name].notation) != PLAIN and name in codes and columns[name].kind == "number":
            numbers = {cell: number for cell in counts if (number := to_number(cell, notation)) is not None}
            for cell in (cell for cell, number in numbers.items() if is_missing(number, name, codes)):
                words.setdefault(name, Counter())[cell] += counts.pop(cell)
            columns[name] = find(name, notation.decimal)
    return CellTypes(columns, codes, words)


def _count_cells(
    frames: Iterable[pl.DataFrame], codes: Codes
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]], dict[str, int]]:
    """By column: counts of each text, counts of each text that means missing, number of cells that are not text."""
    texts: dict[str, Counter[str]] = {}
    words: dict[str, Counter[str]] = {}
    other_counts: dict[str, int] = {}
    for frame in frames:
        for name, dtype in frame.schema.items():
            cells = frame[name].drop_nulls().alias("cell")
            if dtype == pl.String:
                for cell, times in cells.value_counts(name="times").iter_rows():
                    if text := cell.strip():
                        counts = words if is_missing(text, name, codes) else texts
                        counts.setdefault(name, Counter())[text] += times
                continue
            other_counts[name] = other_counts.get(name, 0) + len(cells)
            if name in codes and not dtype.is_nested() and dtype != pl.Binary:
                missing = Counter(str(cell) for cell in cells.to_list() if is_missing(cell, name, codes))
                words.setdefault(name, Counter()).update(missing)
    return texts, words, other_counts


def is_typed(path: Path) -> bool:
    """Whether a table file states the types of its columns."""
    return path.suffix.lower() == ".parquet"


def read_rows(
    path: Path, codes: Codes | None = None, *, text: Iterable[str] = (), used: Iterable[str] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Read the names of a table's columns, and its rows with typed cells.

    Args:
        path: The table file.
        codes: Cells that mean missing, by column.
        text: Columns whose cells stay unchanged text.
        used: Columns in which changes are counted, by default all.

    Raises:
        ValueError: see `read_table`.
    """
    frame = read_table(path)
    for name in codes or {}:
        if name not in frame.columns:
            raise ValueError(f"data.source.missing names {name!r}, but {path} has no such column")
    types = infer_types([frame], codes, text=text, typed=is_typed(path))
    types.count(frame.columns if used is None else used)
    return frame.columns, [types.row(row) for row in frame.iter_rows(named=True)]


def parse_cell(text: str, name: str = "", codes: Codes | None = None) -> int | float | str | None:
    """The value of a cell without a column, such as a comment of a record; None if it means missing."""
    return None if is_missing(text, name, codes) else number_or_text(text)
