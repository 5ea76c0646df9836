"""Read the columns of tables and labels: missing cells, numbers, dates, and reports about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from modalities.strings.cells import (
    Cell,
    Codes,
    Column,
    column_of,
    is_missing,
    to_bound,
    to_days,
    to_number,
    to_quantity,
)
from modalities.strings.scaling import LARGEST, find_codes, format_number

Row = dict[str, Cell]
InvalidCells = Literal["missing", "bound", "error"]


@dataclass(frozen=True, kw_only=True)
class CellReader:
    """Reads cells by the settings of a recipe.

    missing: by column, cells that mean a missing value, in place of the usual words.
    invalid_cells: how to read cells of number or date columns that are neither, for all columns or by column.
    exclude: columns to ignore.
    signed: columns with plus as a value, in which minus is a value too.
    """

    missing: Codes = field(default_factory=dict)
    invalid_cells: InvalidCells | Mapping[str, InvalidCells] = "missing"
    exclude: tuple[str, ...] = ()
    signed: frozenset[str] = frozenset()

    def collect(self, rows: Iterable[Row]) -> dict[str, list[Cell]]:
        """Collect the filled cells of each column; in a column with plus, minus is a value.

        Raises:
            ValueError: `invalid_cells` names a column that the rows lack.
        """
        cells: dict[str, list[Cell]] = {}
        minus, names = Counter[str](), set[str]()
        for row in rows:
            names |= row.keys()
            for column, cell in row.items():
                if column not in self.exclude and not self.is_empty(column, cell):
                    cells.setdefault(column, []).append(cell)
                elif cell == "-" and column not in self.missing:
                    minus[column] += 1
        named = () if isinstance(self.invalid_cells, str) else self.invalid_cells
        if names and (unknown := [name for name in named if name not in names]):
            raise ValueError(f"table `invalid_cells` names {unknown[0]!r}, which is no column of it")
        for column, times in minus.items():
            if "+" in cells.get(column, ()):
                cells[column] += ["-"] * times
        return cells

    def is_empty(self, column: str, cell: Cell) -> bool:
        """Whether a cell is missing or larger than float32."""
        if cell == "-" and column in self.signed and column not in self.missing:
            return False
        return is_missing(cell, column, self.missing) or not (isinstance(cell, str) or abs(cell or 0) <= LARGEST)

    def policy(self, column: str) -> InvalidCells:
        """How to read invalid cells of a column."""
        return self.invalid_cells if isinstance(self.invalid_cells, str) else self.invalid_cells.get(column, "missing")

    def refuse_invalid(self, name: str, column: Column) -> None:
        """Check a column whose invalid cells are errors.

        Raises:
            ValueError: it has some.
        """
        if column.invalid and self.policy(name) == "error":
            raise ValueError(
                f"{column.summary(name)}: correct them, or set `invalid_cells` of the table to missing or bound"
            )

    def numbers(self, name: str, column: Column, cells: Iterable[Cell]) -> np.ndarray:
        """The numbers of a column, dates in days since 1970."""
        numbers = (self.number(name, cell, column.kind == "date", column.unit) for cell in cells)
        return np.array([number for number in numbers if number is not None], np.float64)

    def number(self, column: str, cell: Cell, is_date: bool, unit: str) -> float | None:
        """The number of a cell of a number or date column; None if it is not one."""
        number: float | None
        if not isinstance(cell, str):
            number = None if is_date or unit or cell is None else float(cell)
        elif is_date:
            number = to_days(cell)
        elif unit:
            quantity = to_quantity(cell)
            number = quantity[0] if quantity and quantity[1] == unit else None
        else:
            number = to_number(cell)
        if number is None and isinstance(cell, str) and not is_date and self.policy(column) == "bound":
            number = to_bound(cell.strip().removesuffix(unit).strip()) if cell.strip().endswith(unit) else None
        return number if number is not None and abs(number) <= LARGEST else None

    def codes(self, name: str, numbers: np.ndarray) -> tuple[float, ...]:
        """Probable codes for missing values among a column's numbers; none if the recipe says so with `[]`."""
        return find_codes(numbers) if self.missing.get(name, ("",)) else ()

    def report_codes(self, name: str, column: Column, cells: list[Cell]) -> list[str]:
        """Report probable codes for missing values, a line each."""
        if column.kind not in ("number", "date"):
            return []
        numbers = [(self.number(name, cell, column.kind == "date", column.unit), cell) for cell in cells]
        lines = []
        for code in self.codes(name, np.array([number for number, _ in numbers if number is not None], np.float64)):
            same = [cell for number, cell in numbers if number == code]
            cell = next((f'"{cell.strip()}"' for cell in same if isinstance(cell, str)), format_number(code))
            lines.append(
                f"{name}: {len(same):,} of {len(numbers):,} cells are {cell}, far from all others: if that means "
                f"missing, say `missing: {{{name}: [{cell}]}}` in data.source"
            )
        return lines


def survey_labels(rows: Iterable[Row], missing: Codes) -> list[str]:
    """Report labels, a line per finding: invalid cells, and probable codes for missing values."""
    reader, lines = CellReader(missing=missing), []
    for name, cells in sorted(reader.collect(rows).items()):
        column = describe_column(cells)
        lines += [line for line in [column.summary(name)] if line]
        lines += reader.report_codes(name, column, cells)
    return lines


def cell_text(cell: Cell) -> str:
    """A cell as the name of a category."""
    return str(cell).lower() if isinstance(cell, bool) else str(cell).strip()


def describe_column(cells: Iterable[Cell]) -> Column:
    """Describe a column of cells from JSON; its strings are text, unless there are numbers beside them."""
    texts, numbers, booleans = Counter[str](), 0, 0
    for cell in cells:
        if isinstance(cell, str):
            texts[cell.strip()] += 1
        elif isinstance(cell, bool):
            booleans += 1
        else:
            numbers += 1
    return column_of(texts, numbers, booleans, typed=True)
