"""Rows of a CSV, TSV or Parquet file: cells are content, or name files that hold it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from modalities.base import ContentError, Modality
from modalities.smiles import Smiles
from modalities.table import Table
from modalities.text import Text
from shards.names import need_columns
from shards.sources.base import Sample, Source, matching, register
from shards.sources.molecules import canonical, chemistry, scaffold


@register
@dataclass(frozen=True, kw_only=True)
class Rows(Source):
    """One row one sample.

    file: below the raw folder. columns: for each modality its column (text itself, or the path below the table's
    folder of a file as `Modality.members` reads it) or a list of columns: cells of a table, words of one text. key:
    column that identifies a row, as it is written; without one it is the row's number, counted over all files. labels:
    columns kept apart from the content. A split can be made by any column, or by `scaffold` of a SMILES; both are empty
    where there is none. Of several files one that cannot be read is left out and counted.
    """

    type: ClassVar[str] = "rows"

    file: str = "*.csv"
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    key: str | None = None
    labels: tuple[str, ...] = ()

    def items(self, raw: Path) -> Iterator[tuple[Path, int, dict[str, Any] | None]]:
        paths = matching(raw, self.file)
        wanted = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        wanted += self.labels
        written = (self.key,) if self.key and self.key not in wanted else ()  # as a key 007 is not 7
        numbers = itertools.count(1)
        for path in paths:
            try:
                frame = read_frame(path, text=written)
            except ValueError:
                if len(paths) == 1:
                    raise
                yield path.parent, next(numbers), None
                continue
            need_columns(path, frame.columns, [*wanted, *([self.key] if self.key else [])])
            for row in frame.iter_rows(named=True):
                yield path.parent, next(numbers), row

    def make(self, item: tuple[Path, int, dict[str, Any] | None], modalities: Mapping[str, Modality]) -> Sample:
        folder, number, row = item
        if row is None:
            raise ContentError("table file that cannot be read")
        if self.key and row[self.key] is None:
            raise ContentError(f"row without {self.key}")
        groups = as_groups(row)
        members: dict[str, bytes] = {}
        for name, column in self.columns.items():
            if name not in modalities:
                raise ValueError(f"data.source names the modality {name!r}, which the recipe has not")
            modality = modalities[name]
            if isinstance(modality, Table) or not isinstance(column, str):
                members |= cells(row, {name: column}, modalities)
            elif row[column] is None:
                if isinstance(modality, Smiles):
                    groups.setdefault("scaffold", "")
            elif isinstance(modality, Smiles):
                smiles = canonical(str(row[column]))
                groups["scaffold"] = scaffold(chemistry().MolFromSmiles(smiles))
                members[f"{name}.txt"] = smiles.encode()
            elif modality.extensions == ("txt",):
                members[f"{name}.txt"] = str(row[column]).encode()
            elif not isinstance(row[column], (str, int)):
                raise ContentError(f"{name} is a column of other things than names of files")
            else:
                try:
                    held = modality.members(folder / str(row[column]))
                except OSError as error:  # such as of a name that is too long for one
                    raise ContentError(f"{name} file that cannot be read", error.strerror or "") from error
                members |= {f"{name}.{extension}": data for extension, data in held.items()}
        if self.labels:
            members["labels.json"] = as_json(row, self.labels)
        if not members:
            raise ContentError("row without content")  # one with labels may be a partner in a join
        return Sample(str(row[self.key]) if self.key else f"{number}", members, groups)


def as_groups(row: Mapping[str, Any]) -> dict[str, str]:
    """What a split can be made by: cells as text, empty where there is none."""
    return {name: "" if value is None else str(value) for name, value in row.items()}


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
    """A CSV, TSV or Parquet file as a data frame; empty and NA cells are null.

    text: columns that stay as written. rows: how many to read, all by default.

    Raises:
        ValueError: no such file, not readable as what its name says, or with a column twice.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, n_rows=rows, glob=False).fill_nan(None)
        separator = "\t" if path.suffix in (".tsv", ".txt") else ","
        frame = pl.read_csv(
            path,
            separator=separator,
            n_rows=rows,
            glob=False,
            infer_schema_length=None,
            schema_overrides=dict.fromkeys(text, pl.String),
            null_values=["", "NA", "NaN", "nan", "null"],
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for name in frame.columns:
        first, again, _ = name.rpartition("_duplicated_")  # how polars tells columns of one name apart
        if again and first in frame.columns:
            raise ValueError(f"{path} has the column {first!r} twice")
    return frame
