"""Rows of a CSV, TSV or Parquet file: cells are content, or name files that hold it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl

from modalities.base import ContentError, Modality
from modalities.smiles import Smiles
from modalities.table import EMPTY, Table
from modalities.text import Text
from shards.names import need_columns
from shards.sources.base import Sample, Source, matching, register
from shards.sources.chemistry import scaffold, structure


class Item(NamedTuple):
    """A row: its file's folder, its number, its cells (None where the file cannot be read), and these as written."""

    folder: Path
    number: int
    cells: dict[str, Any] | None
    written: dict[str, str]


@register
@dataclass(frozen=True, kw_only=True)
class Rows(Source):
    """One row one sample.

    file: below the raw folder. columns: for each modality its column (text itself, or the path below the table's
    folder of a file as `Modality.members` reads it) or a list of columns: cells of a table, words of one text. key:
    column that identifies a row, as it is written; without one it is the row's number, counted over all files. labels:
    columns kept apart from the content. A split can be made by any column as it is written, or by `scaffold` of a
    SMILES; both are empty where there is none. Of several files one that cannot be read is left out and counted.
    """

    type: ClassVar[str] = "rows"
    requires: ClassVar[tuple[str, ...]] = ("polars",)

    file: str = "*.csv"
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    key: str | None = None
    labels: tuple[str, ...] = ()

    def items(self, raw: Path) -> Iterator[Item]:
        paths = matching(raw, self.file)
        wanted = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        wanted += self.labels
        numbers = itertools.count(1)
        for path in paths:
            try:
                written = read_written(path)
            except ValueError:
                if len(paths) == 1:
                    raise
                yield Item(path.parent, next(numbers), None, {})
                continue
            need_columns(path, written.columns, [*wanted, *([self.key] if self.key else [])])
            rows = typed(written).iter_rows(named=True)
            for row, as_written in zip(rows, written.iter_rows(named=True), strict=True):
                yield Item(path.parent, next(numbers), row, as_groups(as_written))

    def make(self, item: Item, modalities: Mapping[str, Modality]) -> Sample:
        folder, number, row, written = item
        if row is None:
            raise ContentError("table file that cannot be read")
        if self.key and not written[self.key]:
            raise ContentError(f"row without {self.key}")
        groups = dict(written)
        members: dict[str, bytes] = {}
        canonical: dict[str, str] = {}
        for name, column in self.columns.items():
            if name not in modalities:
                raise ValueError(f"data.source names the modality {name!r}, which the recipe has not")
            modality = modalities[name]
            if isinstance(modality, Table) or not isinstance(column, str):
                members |= cells(row, {name: column}, modalities)
            elif column not in written:
                raise ContentError(f"{name} is a column of neither text nor names of files")
            elif not (cell := written[column]):
                if isinstance(modality, Smiles):
                    groups.setdefault("scaffold", "")
            elif isinstance(modality, Smiles):
                smiles, canonical[name], molecule = structure(cell)
                groups["scaffold"] = scaffold(molecule)
                members[f"{name}.txt"] = smiles.encode()
            elif modality.extensions == ("txt",):
                members[f"{name}.txt"] = cell.encode()
            else:
                try:
                    held = modality.members(folder / cell)
                except OSError as error:  # such as of a name that is too long for one
                    raise ContentError(f"{name} file that cannot be read", error.strerror or "") from error
                members |= {f"{name}.{extension}": data for extension, data in held.items()}
        if self.labels:
            members["labels.json"] = as_json(row, self.labels)
        if not members:
            raise ContentError("row without content")  # one with labels may be a partner in a join
        return Sample(written[self.key] if self.key else f"{number}", members, groups, canonical=canonical)


def as_groups(row: Mapping[str, Any]) -> dict[str, str]:
    """What a split can be made by: cells as text, empty where there is none; bytes, lists and the like are left out."""
    simple = {name: value for name, value in row.items() if not isinstance(value, (bytes, list, dict))}
    return {name: "" if value is None else str(value) for name, value in simple.items()}


def cells(
    row: Mapping[str, Any], columns: Mapping[str, str | tuple[str, ...]], modalities: Mapping[str, Modality]
) -> dict[str, bytes]:
    """Members of a row: for a table its columns, for other modalities the filled cells as words of one text.

    Raises:
        ValueError: a modality that the recipe has not, or that is no table and no text.
    """
    members: dict[str, bytes] = {}
    for name, given in columns.items():
        if name not in modalities:
            raise ValueError(f"data.source.columns names {name!r}, which is no modality of the recipe")
        names = (given,) if isinstance(given, str) else given
        if isinstance(modalities[name], Table):
            members |= table_member(name, row, names)
        elif isinstance(modalities[name], Text):
            words = " ".join(str(row[column]).strip() for column in names if row[column] is not None)
            if words:
                members[f"{name}.txt"] = words.encode()
        else:
            raise ValueError(f"data.source.columns: {name!r} is of type {modalities[name].type}, not table or text")
    return members


def table_member(name: str, row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, bytes]:
    """The member of a table; none where all its cells are missing, for a row that says nothing is no table."""
    if all(row[column] is None for column in columns):
        return {}
    return {f"{name}.json": as_json(row, columns)}


def as_json(row: Mapping[str, Any], columns: tuple[str, ...]) -> bytes:
    """Cells by column; dates and other types that JSON has not become text."""
    return json.dumps({name: row[name] for name in columns}, default=str).encode()


def read_frame(path: Path, text: Sequence[str] = (), rows: int | None = None) -> pl.DataFrame:
    """A CSV, TSV or Parquet file as a data frame, see `read_written` and `typed`.

    text: columns that stay as written. rows: how many to read, all by default.

    Raises:
        ValueError: see `read_written`.
    """
    return typed(read_written(path, rows), text)


def typed(frame: pl.DataFrame, text: Sequence[str] = ()) -> pl.DataFrame:
    """A frame whose columns of text hold numbers or truth values where all filled cells are such.

    There what a table takes for missing (see `modalities.table.EMPTY`), `#N/A` and `-` are null. text: columns that
    stay as written.
    """
    return frame.with_columns(
        _typed(frame[name]) for name, kind in frame.schema.items() if kind == pl.String and name not in text
    )


def _typed(column: pl.Series) -> pl.Series:
    stripped = column.str.strip_chars()
    lower = stripped.str.to_lowercase()
    filled = stripped.set(lower.is_in([*EMPTY, "#n/a", "-"]), None)
    if filled.null_count() == len(filled):
        return column
    if lower.filter(filled.is_not_null()).is_in(["true", "false"]).all():
        return (lower == "true").set(filled.is_null(), None)
    for kind in (pl.Int64, pl.Float64):
        with suppress(pl.exceptions.InvalidOperationError):
            return filled.cast(kind)
    return column


def read_written(path: Path, rows: int | None = None) -> pl.DataFrame:
    """A CSV or TSV file as a data frame of text as it is written, or a Parquet file; empty and NA cells are null.

    rows: how many to read, all by default.

    Raises:
        ValueError: no such file, not readable as what its name says, or with a column twice.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        kind = path.suffix.lower()
        if kind == ".parquet":
            held = pl.read_parquet(path, n_rows=rows, glob=False).fill_nan(None)
            lasting = pl.selectors.duration().dt.total_microseconds() / 1e6
            return held.with_columns(pl.selectors.decimal().cast(pl.Float64), lasting)
        separator = "\t" if kind in (".tsv", ".txt") else ","
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(1_000_000)
        for mark, word in ((";", "semicolons"), ("\t", "tabs")):
            if mark in header and separator not in header:
                raise ValueError(f"{path} is separated by {word}: save it with commas, or with tabs as .tsv")
        frame = pl.read_csv(
            path,
            separator=separator,
            n_rows=rows,
            glob=False,
            infer_schema=False,
            null_values=["", "NA", "NaN", "nan", "null"],
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for name in frame.columns:
        first, again, _ = name.rpartition("_duplicated_")  # how polars tells columns of one name apart
        if again and first in frame.columns:
            raise ValueError(f"{path} has the column {first!r} twice")
    return frame
