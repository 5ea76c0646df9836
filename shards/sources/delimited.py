"""Read CSV and TSV files as rows of uninterpreted text."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

MAX_CELL = 10_000_000
"""Maximum number of characters in a cell; a longer one is an unclosed quote."""
NAMELESS = "column "
"""Prefix of the names given to unnamed columns, such as empty ones at the end of a spreadsheet."""
_SEPARATORS = (",", "\t", ";")
_SNIFFED = 50
"""Lines that determine the separator."""


class BrokenFileError(ValueError):
    """A truncated or unreadable file."""


class Line(NamedTuple):
    """A row of a table: the number of its first line, its cells, and the reason why it is unreadable, or empty."""

    number: int
    cells: list[str]
    fault: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the rows of a CSV or TSV file (also `.gz`), the header first; an unreadable row has a fault.

    The separator is a comma in `.csv` and a tab in other files, unless only another of comma, tab and semicolon gives
    the first rows equal lengths. In tab-separated files a quote is an ordinary character, as in exports of databases,
    unless every cell that begins with a quote also ends with one, as in exports of R and spreadsheets. After a row with
    a fault, the next line starts a new row.

    Raises:
        ValueError: the file is unreadable, empty, or neither UTF-8 nor UTF-16.
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
                feed.push_back()
                line = line._replace(fault=f"{len(line.cells)} cells under a header of {width}")
            yield line._replace(cells=[_unquoted(cell) for cell in line.cells]) if unquote else line


def _separator(lines: Sequence[str], usual: str) -> str:
    """The separator that gives the first lines of a file equal lengths, preferably the usual one."""
    csv.field_size_limit(MAX_CELL)
    rows = {mark: [row for row in csv.reader(lines, delimiter=mark) if row] for mark in (usual, *_SEPARATORS)}
    if len(lines) == _SNIFFED:  # the last row may continue beyond these lines
        rows = {mark: cells[:-1] or cells for mark, cells in rows.items()}
    even = [mark for mark, cells in rows.items() if len(cells[0]) > 1 and len(set(map(len, cells))) == 1]
    return even[0] if even else max(rows, key=lambda mark: len(rows[mark][0]))


def _has_line_breaks(path: Path) -> bool:
    """Whether a tab-separated file has quoted tabs or line breaks: if parsed with quotes, no row has a fault."""
    with _text_lines(path) as lines:
        if len({line.count("\t") for line in lines if line.strip("\r\n")}) == 1:
            return False
    with _text_lines(path) as lines:
        rows = _parsed_csv(_Feed(lines), "\t")
        width = len(next(rows).cells)
        return all(not row.fault and len(row.cells) == width for row in rows)


def _is_quoted(path: Path) -> bool:
    """Whether a tab-separated file with one row per line has quoted cells: all that begin with a quote end with one."""
    with _text_lines(path) as lines:
        cells = (cell for line in lines if '"' in line for cell in line.rstrip("\r\n").split("\t"))
        return all(len(cell) > 1 and cell.endswith('"') for cell in cells if cell.startswith('"'))


def _unquoted(cell: str) -> str:
    """A cell without its quotes; inner quotes are doubled or, in R, escaped by a backslash."""
    return cell[1:-1].replace('""', '"').replace('\\"', '"') if cell.startswith('"') else cell


def _parsed_tabs(feed: _Feed, mark: str) -> Iterator[Line]:
    """Rows of one line each; skips blank lines."""
    while True:
        feed.begin()
        line = next(feed, None)
        if line is None:
            return
        if text := line.rstrip("\r\n"):
            yield Line(feed.first, text.split(mark))


def _parsed_csv(feed: _Feed, mark: str) -> Iterator[Line]:
    """Rows as parsed by Python's csv module; skips blank lines."""
    csv.field_size_limit(MAX_CELL)
    while True:
        feed.begin()
        try:
            cells = next(csv.reader(feed, delimiter=mark, strict=True), None)
        except csv.Error as error:
            feed.push_back()
            yield Line(feed.first, [""], f"a quoted cell without its end ({error})")
            continue
        if cells is None:
            return
        if cells:
            yield Line(feed.first, cells)


class _Feed:
    """An iterator over lines that can push back all lines of a row except the first."""

    def __init__(self, lines: Iterator[str]):
        self._lines = lines
        self._waiting = deque[str]()
        self._read: list[str] = []
        self.first = 1

    def begin(self) -> None:
        """Start a row with the next line."""
        self.first += len(self._read)
        self._read = []

    def push_back(self) -> None:
        """Push back all lines of the row except the first."""
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
    """Open a text file in UTF-8, or in UTF-16 with a byte order mark, as lines.

    Raises:
        BrokenFileError: the file is unreadable.
        ValueError: the file does not exist or has another encoding; the message names the line.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield decoded_lines(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenFileError(f"{path} cannot be read: {error}") from error


def decoded_lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """Decode the lines of an open file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        ValueError: the file has another encoding; the message names the line.
    """
    first = file.readline(MAX_CELL)
    try:
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield from io.StringIO((first + file.read()).decode("utf-16"), newline="")
            return
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: it is not valid UTF-16") from error
    for number, line in enumerate(itertools.chain([first.removeprefix(codecs.BOM_UTF8)], file), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} cannot be read: line {number} is not UTF-8, save it as UTF-8 text") from error


def valid_rows(path: Path, lines: Iterable[Line]) -> Iterator[Line]:
    """Yield rows and check that none has a fault.

    Raises:
        ValueError: a row has a fault; the message names the line and the fault.
    """
    for line in lines:
        if line.fault:
            raise ValueError(f"{path} cannot be read: line {line.number}, {line.fault}")
        yield line


def column_names(path: Path, line: Line) -> list[str]:
    """The names of a table's columns, from its first row; unnamed columns except the first get a number.

    Raises:
        ValueError: the row is unreadable, or two columns have the same name.
    """
    (line,) = valid_rows(path, [line])
    nameless = [place for place, name in enumerate(line.cells) if not name][1:]
    names = [f"{NAMELESS}{place + 1}" if place in nameless else name for place, name in enumerate(line.cells)]
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} has the column {duplicates[0]!r} twice")
    return names
