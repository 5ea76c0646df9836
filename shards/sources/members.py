"""Make a sample's members and groups from rows and fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modalities.base import Modality


def is_nested(value: Any) -> bool:
    """Whether a cell holds bytes, a list or a mapping."""
    return isinstance(value, (bytes, list, dict))


def group_values(row: Mapping[str, Any]) -> dict[str, str]:
    """The values that a split can be made by: cells as text, empty if missing, without nested ones."""
    simple = {name: value for name, value in row.items() if not is_nested(value)}
    return {name: "" if value is None else str(value) for name, value in simple.items()}


def cell_members(
    row: Mapping[str, Any], columns: Mapping[str, str | tuple[str, ...]], modalities: Mapping[str, Modality]
) -> dict[str, bytes]:
    """Members of a row by modality: the cells of a table, or the filled cells as the words of one text.

    columns: column or columns of each modality, which must be a table or a text.
    """
    members: dict[str, bytes] = {}
    for name, listed in columns.items():
        names = (listed,) if isinstance(listed, str) else listed
        if modalities[name].cells == "none":
            raise ValueError(f"data.source.columns: {name!r} is of type {modalities[name].type}, not table or text")
        content = modalities[name].from_columns({column: row[column] for column in names})
        members |= {f"{name}.{extension}": data for extension, data in content.items()}
    return members


def table_member(name: str, row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, bytes]:
    """The member of a table; empty if all cells are missing, because such a row has no content."""
    if all(row[column] is None for column in columns):
        return {}
    return {f"{name}.json": dump_cells(row, columns)}


def dump_cells(row: Mapping[str, Any], columns: tuple[str, ...]) -> bytes:
    """Cells by column as JSON; dates and other types without a JSON form become text."""
    return json.dumps({name: row[name] for name in columns}, default=str).encode()


def join_list(value: Any) -> Any:
    """The value of a field as a label, cell or group: the items of a list separated by commas, others unchanged."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
