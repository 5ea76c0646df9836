"""Table files: CSV, TSV and Parquet as rows of cells, each column of one type over all files."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import polars as pl

from modalities.base import count_change
from modalities.cells import (
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

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz")
WITHOUT_MINUS = tuple(sorted(MISSING_WORDS - {"-"}))
"""What means missing in a column of plus and minus."""
MAX_CELL = 10_000_000
"""Characters of a cell; what is longer is a quote without an end."""
_SEPARATORS = (",", "\t", ";")
_SNIFFED = 50
"""Lines by which the separator is found."""
_AT_ONCE = 50_000
"""Rows that are texts of Python at a time, which take some ten times the memory of those in a frame."""
_NAMELESS = "column "
"""How the names of columns begin that have none, as where a spreadsheet ends in empty columns."""


class BrokenFileError(ValueError):
    """A file that ends before its end, or that the disk does not give."""


class Line(NamedTuple):
    """A row of a table by the number of its first line, and why it cannot be read, if so."""

    number: int
    cells: list[str]
    fault: str = ""


def rows_of(path: Path) -> Iterator[Line]:
    """The rows of a CSV or TSV file (also `.gz`), the header first; a row that cannot be read has a fault.

    Cells are separated by commas in `.csv`, by tabs in other files, or by another of comma, tab and semicolon if that
    alone gives the first rows one length. Between tabs a quote is a character like any other, as databases write it,
    unless each cell that begins with one ends with one too, as R and spreadsheets quote. After a row with a fault the
    next line is a row again.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or UTF-16, or is empty.
    """
    with _text_lines(path) as lines:
        first = list(itertools.islice(lines, _SNIFFED))
    if not any(line.strip() for line in first):
        raise ValueError(f"{path} cannot be read: it is empty")
    if "\0" in first[0]:
        raise ValueError(f"{path} cannot be read: it is not text in UTF-8")
    usual = "," if ".csv" in [suffix.lower() for suffix in path.suffixes[-2:]] else "\t"
    mark = _separator(first, usual)
    parse = _parsed_csv if mark != "\t" or _has_line_breaks(path) else _parsed_tabs
    unquote = parse is _parsed_tabs and _is_quoted(path)
    with _text_lines(path) as lines:
        width = 0
        feed = _Feed(lines)
        for line in parse(feed, mark):
            width = width or len(line.cells)
            if not line.fault and len(line.cells) != width:
                feed.take_back()
                line = line._replace(fault=f"{len(line.cells)} cells under a header of {width}")
            yield line._replace(cells=[_unquoted(cell) for cell in line.cells]) if unquote else line


def _separator(lines: Sequence[str], usual: str) -> str:
    """The mark that gives a file's first lines rows of one length, the usual one if it does."""
    rows = {mark: [row for row in csv.reader(lines, delimiter=mark) if row] for mark in (usual, *_SEPARATORS)}
    if len(lines) == _SNIFFED:  # the last row may go on
        rows = {mark: cells[:-1] or cells for mark, cells in rows.items()}
    even = [mark for mark, cells in rows.items() if len(cells[0]) > 1 and len(set(map(len, cells))) == 1]
    return even[0] if even else max(rows, key=lambda mark: len(rows[mark][0]))


def _has_line_breaks(path: Path) -> bool:
    """Whether a tab-separated file has cells with tabs or line breaks in quotes: parsed so, all its rows are sound."""
    with _text_lines(path) as lines:
        if len({line.count("\t") for line in lines if line.strip("\r\n")}) == 1:
            return False
    with _text_lines(path) as lines:
        rows = list(_parsed_csv(_Feed(lines), "\t"))
        return len({len(row.cells) for row in rows}) == 1 and not any(row.fault for row in rows)


def _is_quoted(path: Path) -> bool:
    """Whether a tab-separated file of one row a line quotes cells: each that begins with a quote ends with one."""
    with _text_lines(path) as lines:
        cells = (cell for line in lines if '"' in line for cell in line.rstrip("\r\n").split("\t"))
        return all(len(cell) > 1 and cell.endswith('"') for cell in cells if cell.startswith('"'))


def _unquoted(cell: str) -> str:
    """A cell without its quotes; those within it are doubled or, by R, follow a backslash."""
    return cell[1:-1].replace('""', '"').replace('\\"', '"') if cell.startswith('"') else cell


def _parsed_tabs(feed: _Feed, mark: str) -> Iterator[Line]:
    """Rows of one line each; blank lines are passed over."""
    while True:
        feed.begin()
        line = next(feed, None)
        if line is None:
            return
        if text := line.rstrip("\r\n"):
            yield Line(feed.first, text.split(mark))


def _parsed_csv(feed: _Feed, mark: str) -> Iterator[Line]:
    """Rows as Python's csv reads them; blank lines are passed over."""
    csv.field_size_limit(MAX_CELL)
    while True:
        feed.begin()
        try:
            cells = next(csv.reader(feed, delimiter=mark, strict=True), None)
        except csv.Error as error:
            feed.take_back()
            yield Line(feed.first, [""], f"a quoted cell without its end ({error})")
            continue
        if cells is None:
            return
        if cells:
            yield Line(feed.first, cells)


class _Feed:
    """Lines for a parser, which can be taken back but for the first one of a row."""

    def __init__(self, lines: Iterator[str]):
        self._lines = lines
        self._waiting = deque[str]()
        self._read: list[str] = []
        self.first = 1

    def begin(self) -> None:
        """A row begins with the next line."""
        self.first += len(self._read)
        self._read = []

    def take_back(self) -> None:
        """Only the first line of the row counts as read."""
        self._waiting.extendleft(reversed(self._read[1:]))
        del self._read[1:]

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._read.append(line)
        return line


@contextmanager
def _text_lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a text file of UTF-8, or of UTF-16 with its mark.

    Raises:
        BrokenFileError: it cannot be read.
        ValueError: there is none, or it is in another encoding; the message names the line.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield decoded_lines(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenFileError(f"{path} cannot be read: {error}") from error


def decoded_lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """The lines of an open file of UTF-8, or of UTF-16 with its mark.

    Raises:
        ValueError: it is in another encoding; the message names the line.
    """
    first = file.readline(MAX_CELL)
    try:
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield from io.StringIO((first + file.read()).decode("utf-16"), newline="")
            return
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: it is no whole text in UTF-16") from error
    for number, line in enumerate(itertools.chain([first.removeprefix(codecs.BOM_UTF8)], file), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} cannot be read: line {number} is not UTF-8, save it as UTF-8 text") from error


def read_written(path: Path, rows: int | None = None) -> pl.DataFrame:
    """A CSV or TSV file as a data frame of text as it is written, or a Parquet file with its own types.

    rows: how many to read, all by default.

    Raises:
        ValueError: no such file, one that is not what its name says, a column twice, or a row that cannot be read; the
            message names the row and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    if path.suffix.lower() == ".parquet":
        try:
            frame = pl.read_parquet(path, n_rows=rows, glob=False).fill_nan(None)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BrokenFileError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        lasting = pl.selectors.duration().dt.total_microseconds() / 1e6
        words = (pl.selectors.categorical() | pl.selectors.enum()).cast(pl.String)
        return frame.with_columns(pl.selectors.decimal().cast(pl.Float64), lasting, words)
    lines = rows_of(path)
    names = header_of(path, next(lines))
    rest = itertools.islice(sound(path, lines), rows)
    frames = []
    while cells := [line.cells for line in itertools.islice(rest, _AT_ONCE)]:
        columns = zip(*cells, strict=True)
        frames.append(
            pl.DataFrame({name: pl.Series(c, dtype=pl.String) for name, c in zip(names, columns, strict=True)})
        )
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    nameless = [name for name in names if not name or name.startswith(_NAMELESS)]
    return frame.drop(name for name in nameless if not (frame[name] != "").any())


def sound(path: Path, lines: Iterable[Line]) -> Iterator[Line]:
    """Rows without a fault.

    Raises:
        ValueError: a row has one; the message names it.
    """
    for line in lines:
        if line.fault:
            raise ValueError(f"{path} cannot be read: line {line.number}, {line.fault}")
        yield line


def header_of(path: Path, line: Line) -> list[str]:
    """The names of a table's columns, by its first row; of several without a name all but the first are numbered.

    Raises:
        ValueError: the row cannot be read, or a column stands twice.
    """
    (line,) = sound(path, [line])
    nameless = [place for place, name in enumerate(line.cells) if not name][1:]
    names = [f"{_NAMELESS}{place + 1}" if place in nameless else name for place, name in enumerate(line.cells)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} has the column {twice[0]!r} twice")
    return names


@dataclass(frozen=True)
class CellTypes:
    """What the columns of a table are, and so what its cells mean. codes: what means missing, by column."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    codes: Codes = field(default_factory=dict)
    words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By column, how often each word or code stands for a missing value."""

    def cell(self, name: str, value: Any) -> Any:
        """A cell as the model and labels have it: None where it is missing, a number, a truth value, or as written."""
        if is_missing(value, name, self.codes):
            return None
        if not isinstance(value, str) or name not in self.columns:
            return value
        column = self.columns[name]
        text = value.strip()
        if column.kind == "boolean":
            return text.lower() == "true" if text.lower() in ("true", "false") else value
        if column.kind == "number" and not column.unit and (number := to_number(text, column.notation)) is not None:
            return None if is_missing(number, name, self.codes) else number if column.whole else float(number)
        return value

    def row(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """A row's cells."""
        return {name: self.cell(name, value) for name, value in written.items()}

    def written(self, name: str, value: Any) -> str:
        """A cell as text, as it is written; empty where it is missing."""
        return "" if self.cell(name, value) is None else str(value)

    def numeric(self, name: str) -> bool:
        """Whether a column holds numbers."""
        return name in self.columns and self.columns[name].kind == "number" and not self.columns[name].unit

    def count(self, names: Iterable[str]) -> None:
        """Count what is read otherwise than it is written in some columns: words for missing, notations of numbers."""
        for name in dict.fromkeys(names):
            for word, times in self.words.get(name, {}).items():
                count_change(f"{name}: {word!r} is missing", times)
            column = self.columns.get(name, Column())
            if column.kind == "number" and column.notation.words:
                count_change(f"{name}: numbers with {column.notation.words}", column.filled - column.odd)

    def frame(self, written: pl.DataFrame) -> pl.DataFrame:
        """A frame for statistics: columns of numbers and truth values are so, cells that are none are null."""
        typed = {}
        for name in written.columns:
            cells = [self.cell(name, value) for value in written[name].to_list()]
            kind = self.columns[name].kind if name in self.columns else "text"
            if self.numeric(name):
                numbers = [None if isinstance(cell, (str, bool)) else cell for cell in cells]
                typed[name] = pl.Series(name, numbers, pl.Int64 if self.columns[name].whole else pl.Float64)
            elif written.schema[name] == pl.String:
                typed[name] = pl.Series(name, cells, pl.Boolean if kind == "boolean" else pl.String)
            else:
                typed[name] = written[name]
        return pl.DataFrame(typed)


def cell_types(
    frames: Iterable[pl.DataFrame],
    codes: Codes | None = None,
    *,
    text: Iterable[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    typed: bool = False,
) -> CellTypes:
    """What the columns of frames as `read_written` gives them are, over all of them.

    codes: what means missing, by column. text: columns whose cells stay as they are written. kinds: what columns must
    be, as a model learned it. typed: the frames' types are their file's own, so that text is text.
    """
    texts, words, others = _count_cells(frames, codes or {})
    codes = {**{name: WITHOUT_MINUS for name, counts in texts.items() if "+" in counts}, **(codes or {})}
    for name in texts.keys() & words.keys():
        if codes.get(name) == WITHOUT_MINUS and "-" in words[name]:
            texts[name]["-"] = words[name].pop("-")

    def find(name: str, decimal: str | None = None) -> Column:
        kind = "text" if name in text else (kinds or {}).get(name)
        by_file = typed or name in others
        return column_of(texts[name], others.get(name, 0), typed=by_file, kind=kind, decimal=decimal)

    columns = {name: find(name) for name in texts}
    numeric = {name for name, column in columns.items() if column.kind == "number" and name not in others}
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
    """By column: how often each text stands in it, how often each that means missing, how many cells are no text."""
    texts: dict[str, Counter[str]] = {}
    words: dict[str, Counter[str]] = {}
    others: dict[str, int] = {}
    for frame in frames:
        for name, dtype in frame.schema.items():
            cells = frame[name].drop_nulls().alias("cell")
            if dtype == pl.String:
                for cell, times in cells.value_counts(name="times").iter_rows():
                    if text := cell.strip():
                        counts = words if is_missing(text, name, codes) else texts
                        counts.setdefault(name, Counter())[text] += times
                continue
            others[name] = others.get(name, 0) + len(cells)
            if name in codes and not dtype.is_nested() and dtype != pl.Binary:
                missing = Counter(str(cell) for cell in cells.to_list() if is_missing(cell, name, codes))
                words.setdefault(name, Counter()).update(missing)
    return texts, words, others


def is_typed(path: Path) -> bool:
    """Whether a table file says of what type its columns are."""
    return path.suffix.lower() == ".parquet"


def read_rows(
    path: Path, codes: Codes | None = None, *, text: Iterable[str] = (), used: Iterable[str] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of a table file, and its rows with typed cells.

    used: columns of which is counted what is read otherwise than it is written, all by default.

    Raises:
        ValueError: see `read_written`.
    """
    frame = read_written(path)
    for name in codes or {}:
        if name not in frame.columns:
            raise ValueError(f"data.source.missing names {name!r}, but {path} has no such column")
    types = cell_types([frame], codes, text=text, typed=is_typed(path))
    types.count(frame.columns if used is None else used)
    return frame.columns, [types.row(row) for row in frame.iter_rows(named=True)]


def single_cell(text: str, name: str = "", codes: Codes | None = None) -> int | float | str | None:
    """A cell whose column is not known, such as a comment of a record; None where it is missing."""
    return None if is_missing(text, name, codes) else number_or_text(text)
