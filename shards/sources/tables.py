"""Table files: CSV, TSV and Parquet as rows of cells, each column of one type over all files."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import polars as pl

from modalities.base import count_change
from modalities.cells import Codes, Column, Kind, column_of, is_missing, number_or_text, to_number

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
MAX_CELL = 10_000_000
"""Characters of a cell; what is longer is a quote without an end."""
_SEPARATORS = (",", "\t", ";")


class BrokenFileError(ValueError):
    """A file that ends before its end, or that the disk does not give."""


class Line(NamedTuple):
    """A row of a table by the number of its first line, and why it cannot be read, if so."""

    number: int
    cells: list[str]
    fault: str = ""


def rows_of(path: Path) -> Iterator[Line]:
    """The rows of a CSV or TSV file (also `.gz`), the header first; a row that cannot be read has a fault.

    Cells are separated by commas in `.csv`, by tabs in other files, or by another of comma, tab and semicolon if the
    header has more of that. Between tabs a quote is a character like any other, as databases write it, unless every
    cell that begins with one is a whole quoted cell. After a row with a fault the next line is a row again.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or UTF-16, or is empty.
    """
    with _text_lines(path) as lines:
        header = next((line for line in lines if line.strip()), "")
    if not header or "\0" in header:
        raise ValueError(f"{path} cannot be read: it is {'not text in UTF-8' if header else 'empty'}")
    usual = "," if ".csv" in path.suffixes[-2:] else "\t"
    mark = max((usual, *_SEPARATORS), key=header.count)
    quoted = mark != "\t" or _is_quoted(path)
    with _text_lines(path) as lines:
        yield from _parsed(lines, mark, quoted)


def _is_quoted(path: Path) -> bool:
    """Whether a tab-separated file quotes cells: each cell that begins with a quote is a whole quoted cell.

    A cell with tabs or line breaks within its quotes lies on several lines or has several parts, so the file is parsed
    as quoted, and is so if that has no fault and rows of one length.
    """
    with _text_lines(path) as lines:
        if not any(line.startswith('"') or '\t"' in line for line in lines):
            return False
    with _text_lines(path) as lines:
        return not any(row.fault for row in _parsed(lines, "\t", True))


def _parsed(lines: Iterator[str], mark: str, quoted: bool) -> Iterator[Line]:
    """Rows of lines of text, blank ones passed over; the first says how many cells the others have."""
    csv.field_size_limit(MAX_CELL)
    feed, width = _Feed(lines), 0
    while True:
        feed.begin()
        fault = ""
        try:
            if quoted:
                cells = next(csv.reader(feed, delimiter=mark, strict=True), None)
            else:
                line = next(feed, None)
                cells = None if line is None else line.rstrip("\r\n").split(mark) if line.strip() else []
        except csv.Error as error:
            cells, fault = [""], f"a quoted cell without its end ({error})"
        if cells is None:
            return
        if not cells:
            continue
        width = width or len(cells)
        if not fault and len(cells) != width:
            fault = f"{len(cells)} cells under a header of {width}"
        if fault:
            feed.take_back()
        yield Line(feed.first, cells, fault)


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
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        lasting = pl.selectors.duration().dt.total_microseconds() / 1e6
        return frame.with_columns(pl.selectors.decimal().cast(pl.Float64), lasting)
    lines = rows_of(path)
    names = header_of(path, next(lines))
    cells = [line.cells for line in itertools.islice(sound(path, lines), rows)]
    return pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String), orient="row")


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
    """The names of a table's columns, by its first row.

    Raises:
        ValueError: the row cannot be read, or a column stands twice.
    """
    (line,) = sound(path, [line])
    if twice := [name for name, count in Counter(line.cells).items() if count > 1]:
        raise ValueError(f"{path} has the column {twice[0]!r} twice")
    return line.cells


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
        if column.kind == "boolean":
            return value.strip().lower() == "true"
        if column.kind == "number" and not column.unit:
            number = to_number(value, column.notation)
            return value if number is None else number if column.whole else float(number)
        return value

    def row(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """A row's cells."""
        return {name: self.cell(name, value) for name, value in written.items()}

    def written(self, name: str, value: Any) -> str:
        """A cell as text, as it is written; empty where it is missing."""
        return "" if is_missing(value, name, self.codes) else str(value)

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
    texts: dict[str, Counter[str]] = {}
    others: dict[str, int] = {}
    words: dict[str, Counter[str]] = {}
    for frame in frames:
        for name, dtype in frame.schema.items():
            if dtype != pl.String:
                others[name] = others.get(name, 0) + len(frame) - frame[name].null_count()
                if name in (codes or {}) and not dtype.is_nested() and dtype != pl.Binary:
                    values = (value for value in frame[name].drop_nulls().to_list() if is_missing(value, name, codes))
                    words.setdefault(name, Counter()).update(map(str, values))
                continue
            for value, times in frame[name].drop_nulls().value_counts().iter_rows():
                stripped = value.strip()
                if not is_missing(stripped, name, codes):
                    texts.setdefault(name, Counter())[stripped] += times
                elif stripped:
                    words.setdefault(name, Counter())[stripped] += times
    columns = {}
    for name, counts in texts.items():
        kind = "text" if name in text else (kinds or {}).get(name)
        columns[name] = column_of(counts, others.get(name, 0), typed=typed or name in others, kind=kind)
    return CellTypes(columns, codes or {}, words)


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
    types = cell_types([frame], codes, text=text, typed=is_typed(path))
    types.count(frame.columns if used is None else used)
    return frame.columns, [types.row(row) for row in frame.iter_rows(named=True)]


def single_cell(text: str, name: str = "", codes: Codes | None = None) -> int | float | str | None:
    """A cell whose column is not known, such as a comment of a record; None where it is missing."""
    return None if is_missing(text, name, codes) else number_or_text(text)
