"""Check that tables have the columns that a recipe names."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from modalities.names import format_names


def require_columns(table: object, columns: Collection[str], names: Iterable[str]) -> None:
    """Check that a table has columns.

    Raises:
        ValueError: a column is missing; the message lists the columns of the table.
    """
    for name in names:
        if name not in columns:
            raise ValueError(f"{table} has no column {name!r}; it has {format_names(columns, name)}")
