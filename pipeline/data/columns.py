"""Assign the columns of a user's table file to modalities."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from modalities.base import Modality
from modalities.names import did_you_mean, format_names
from modalities.strings.cells import Kind
from shards.columns import require_columns
from shards.sources.base import Source
from shards.sources.rows import Rows
from shards.sources.tables import CellTypes, infer_types, is_typed

Columns = Mapping[str, str | tuple[str, ...]]
"""The column of each modality, or its columns."""


@dataclass(frozen=True, kw_only=True)
class ColumnChoice:
    """Selects the columns of a file that each modality reads.

    requested: columns named by the user, by modality, several as `a+b`. source: the source of the recipe, whose columns
    are the default. label: column of the label. excluded: another column that no modality reads.
    """

    path: Path
    modalities: Mapping[str, Modality]
    requested: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None
    label: str | None = None
    excluded: str | None = None

    def rows(self, frame: pl.DataFrame) -> tuple[Rows, CellTypes]:
        """The source that reads the file, and the types of its columns: those that the tables were fitted on.

        Raises:
            ValueError: a column or modality that is missing, or one that a modality cannot read.
        """
        if self.label is not None:
            require_columns(self.path, frame.columns, [self.label])
        codes = self._missing_codes(frame.columns)
        kinds: dict[str, Kind] = {
            column: kind
            for modality in self.modalities.values()
            for column, kind in modality.column_kinds().items()
            if column != self.label
        }
        types = infer_types([frame], codes, kinds=kinds, typed=is_typed(self.path))
        columns = self._columns(frame, types)
        source = Rows(columns=columns, labels=(self.label,) if self.label else (), missing=codes)
        types.count(source.used)
        return source, types

    def _missing_codes(self, columns: Sequence[str]) -> dict[str, tuple[str | int | float, ...]]:
        """Codes for missing cells by column of the file, from the recipe's source and the fitted tables."""
        codes = dict(self.source.missing) if self.source else {}
        for modality in self.modalities.values():
            codes |= modality.missing_codes
        return {name: tuple(values) for name, values in codes.items() if name in columns}

    def _columns(self, frame: pl.DataFrame, types: CellTypes) -> dict[str, str | tuple[str, ...]]:
        """The columns of each modality: requested, read by the recipe's source, of the modality's name, or fitted.

        Print the modalities without a column. A table takes new columns only if they are requested as `a+b`, because
        they may be other labels or row numbers; print those that it could take.
        """
        for name in self.requested:
            if name not in self.modalities:
                raise ValueError(
                    f"--columns names {name!r}, which is not a modality here{did_you_mean(name, self.modalities)}"
                )
        free = [column for column in frame.columns if column not in (self.label, self.excluded)]
        columns: dict[str, str | tuple[str, ...]] = {}
        for name, modality in self.modalities.items():
            if names := self._columns_of(name, modality, frame, types, free):
                columns[name] = names
        if not columns:
            raise ValueError(
                f"{self.path} has no column for {', '.join(self.modalities)}; it has {format_names(frame.columns)}: "
                "name them with --columns modality=column"
            )
        if absent := [name for name in self.modalities if name not in columns]:
            print(
                f"no column for {', '.join(absent)}: if there is one, pass --columns modality=column", file=sys.stderr
            )
        self._print_unused([column for column in free if _is_numeric(frame, types, column)], columns)
        return columns

    def _columns_of(
        self, name: str, modality: Modality, frame: pl.DataFrame, types: CellTypes, free: Sequence[str]
    ) -> str | tuple[str, ...] | None:
        """The columns of one modality, None if there are none."""
        requested = _split_names(self.requested[name], frame) if name in self.requested else []
        require_columns(self.path, frame.columns, requested)
        if labels := [column for column in requested if column in (self.label, self.excluded)]:
            raise ValueError(f"--columns gives the label {labels[0]!r} to {name!r}: leave it out")
        if modality.cells == "typed":
            columns = requested or [column for column in free if modality.knows(column)]
            for column in columns:
                if not (modality.knows(column) or _is_numeric(frame, types, column)):
                    raise ValueError(
                        f"{name!r} takes only numbers from new columns, and {column!r} is not numeric: leave it out"
                    )
            return tuple(columns) or None
        if len(requested) > 1 and modality.cells == "none":
            raise ValueError(
                f"--columns gives {name!r} {len(requested)} columns, but only tables and texts take several"
            )
        if requested:
            return requested[0] if len(requested) == 1 else tuple(requested)
        default = self.source.reads.get(name) if self.source else None
        if default is not None and set(_as_tuple(default)) <= set(free):
            return default
        return {column.lower(): column for column in free}.get(name.lower())

    def _print_unused(self, numeric: Sequence[str], columns: Columns) -> None:
        """Print the numeric columns that no modality reads but a table could."""
        used = {column for names in columns.values() for column in _as_tuple(names)}
        unused = [column for column in numeric if column not in used]
        for name, modality in self.modalities.items():
            if unused and modality.cells == "typed" and name not in self.requested:
                names = "+".join([*columns.get(name, ()), *unused])
                option = f"--columns {name}={names}" if len(names) < 300 else f"them as --columns {name}=a+b"
                print(
                    f"left out as new to {name!r}: {format_names(unused)}; to use them pass {option}", file=sys.stderr
                )


def _is_numeric(frame: pl.DataFrame, types: CellTypes, column: str) -> bool:
    return types.numeric(column) or frame.schema[column].is_numeric()


def _as_tuple(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _split_names(text: str, frame: pl.DataFrame) -> list[str]:
    """Columns given as `a+b`, or one whose name contains a plus."""
    return [text] if text in frame.columns else text.split("+")
