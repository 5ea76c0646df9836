"""Rows of a CSV, TSV or Parquet file, with content in cells or in files that cells name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl

from modalities.base import Modality
from modalities.files.reading import ContentError
from shards.columns import require_columns
from shards.sources.base import Sample, Source, register
from shards.sources.checks import require_cells, require_modality
from shards.sources.delimited import BrokenFileError
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft
from shards.sources.drafting.row_drafts import draft_rows
from shards.sources.drafting.survey import Survey
from shards.sources.members import cell_members, dump_cells, is_nested
from shards.sources.paths import find_files
from shards.sources.tables import CellTypes, infer_types, is_typed, read_table


class Item(NamedTuple):
    """A row: its folder and number, its cells as written (None if the file is unreadable), the types of its columns."""

    folder: Path
    number: int
    cells: dict[str, Any] | None
    types: CellTypes


@register
@dataclass(frozen=True, kw_only=True)
class Rows(Source):
    """One sample per row of a table.

    A split can be made by any column, or by the `scaffold` of a SMILES. If there are several files, an unreadable
    one is skipped and counted; the type of a column is inferred over all files.

    Attributes:
        file: CSV, TSV or Parquet file, or a glob for several of them, below the raw folder.
        columns: By modality, its column (the text itself, or the path of a file relative to the table's folder), or a
            list of columns that become the cells of a table or the words of one text.
        key: Column that identifies a row; by default the row's number over all files.
        labels: Columns stored as labels, apart from the content.
    """

    type: ClassVar[str] = "rows"
    requires: ClassVar[tuple[str, ...]] = ("polars",)

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".parquet")
    nouns: ClassVar[tuple[str, str]] = ("table", "tables")

    file: str = "*.csv"
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    key: str | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        def layout(table: TableFile) -> tuple[Path, str, list[str]]:
            return table.path.parent, table.path.suffix, table.frame.columns

        drafts: list[Draft | None] = []
        for (folder, suffix, _), group in itertools.groupby(sorted(tables, key=layout), key=layout):
            alike = list(group)
            paths = [path for path in survey.files[cls.type] if path.parent == folder and path.suffix == suffix]
            if len(paths) == len(alike) > 1:  # one draft for a folder of tables with the same columns
                drafts.append(draft_rows(survey, alike))
            else:
                drafts += [draft_rows(survey, [table]) for table in alike]
        return [draft for draft in drafts if draft]

    @property
    def used(self) -> list[str]:
        """The columns of cells and labels."""
        cells = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        return [*cells, *self.labels]

    def check(self, modalities: Mapping[str, Modality]) -> None:
        if not self.columns:
            raise ValueError("data.source.columns is empty: give the column of each modality")
        for name in self.columns:
            require_modality(name, modalities, "columns")
        lists = {name: column for name, column in self.columns.items() if not isinstance(column, str)}
        require_cells(lists, modalities, "columns, which lists several columns")

    def items(self, raw: Path) -> Iterator[Item]:
        paths = find_files(raw, self.file)
        needed = [*self.used, *([self.key] if self.key else []), *self.missing]
        only = (
            {paths[0]: read_table(paths[0])} if len(paths) == 1 else {}
        )  # several files are read twice, one at a time

        def frames() -> Iterator[pl.DataFrame]:
            for path in paths:
                if (frame := only.get(path) if only else _readable(path)) is not None:
                    require_columns(path, frame.columns, needed)
                    yield frame.select(list(dict.fromkeys(needed)))

        types = infer_types(frames(), self.missing, typed=all(map(is_typed, paths)))
        types.count(needed)
        numbers = itertools.count(1)
        for path in paths:
            frame = only.get(path) if only else _readable(path)
            if frame is None:
                yield Item(path.parent, next(numbers), None, types)
            else:
                yield from self.read(path, frame, types, numbers)

    def read(self, path: Path, frame: pl.DataFrame, types: CellTypes, numbers: Iterator[int]) -> Iterator[Item]:
        """Yield the numbered rows of a file."""
        for row in frame.iter_rows(named=True):
            yield Item(path.parent, next(numbers), row, types)

    def make(self, item: Item, modalities: Mapping[str, Modality]) -> Sample:  # noqa: PLR0912  # a branch for each form of a cell
        folder, number, cells_of_file, types = item
        if cells_of_file is None:
            raise ContentError("table file that cannot be read")
        row = {name: types.cell(name, cells_of_file[name]) for name in self.used}
        written = {name: types.written(name, cell) for name, cell in cells_of_file.items() if not is_nested(cell)}
        if self.key and not written[self.key]:
            raise ContentError(f"row without {self.key}")
        groups = dict(written)
        members: dict[str, bytes] = {}
        canonical: dict[str, str] = {}
        for name, column in self.columns.items():
            modality = modalities[name]
            if modality.cells == "typed" or not isinstance(column, str):
                texts: dict[str, Any] = {column: text or None for column, text in written.items()}
                members |= cell_members(texts if modality.cells == "text" else row, {name: column}, modalities)
            elif column not in written:
                raise ContentError(f"{name} is a column of neither text nor names of files")
            elif not (cell := written[column]):
                for group in modality.group_names:
                    groups.setdefault(group, "")
            elif modality.extensions == ("txt",):
                content = modality.from_cell(cell)
                members |= {f"{name}.{extension}": data for extension, data in content.members.items()}
                groups |= content.groups
                if content.canonical is not None:
                    canonical[name] = content.canonical
            else:
                try:
                    files = modality.read_members(folder / cell)
                except OSError as error:  # such as a name that is too long
                    raise ContentError(f"{name} file that cannot be read", error.strerror or "") from error
                members |= {f"{name}.{extension}": data for extension, data in files.items()}
        if self.labels:
            members["labels.json"] = dump_cells(row, self.labels)
        if not members:
            raise ContentError("row without content")  # a row with labels may be a partner in a join
        return Sample(
            identity=written[self.key] if self.key else f"{number}", members=members, groups=groups, canonical=canonical
        )


def _readable(path: Path) -> pl.DataFrame | None:
    """Read a table file; None if it is truncated or damaged.

    Raises:
        ValueError: a row is unreadable or the text has another encoding; the message names the row.
    """
    try:
        return read_table(path)
    except BrokenFileError:
        return None
