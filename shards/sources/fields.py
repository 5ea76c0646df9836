"""Fields of files: parsed from their paths by a pattern, or looked up in a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from modalities.files.reading import ContentError, count_change
from modalities.strings.cells import Codes
from shards.columns import require_columns
from shards.sources.tables import read_rows

_FIELD = re.compile(r"\{(\w*)(?::(\d+))?\}")


def pattern_fields(pattern: str | None) -> tuple[str, ...]:
    """The names of the fields in a recipe's pattern, each once.

    Raises:
        ValueError: the pattern has no field, or a field without a name.
    """
    if pattern is None:
        return ()
    names = [name for name, _ in _FIELD.findall(pattern)]
    if not names or not all(name.isidentifier() for name in names):
        raise ValueError(f"data.source.pattern {pattern!r} needs named fields such as {{speaker}}")
    return tuple(dict.fromkeys(names))


def path_fields(pattern: str | None, path: PurePath, suffixes: Sequence[str]) -> dict[str, str]:
    """The fields of a path by a pattern, `Subject{subject}_{part}.edf` or, with folders, `{species}/{name:15}`.

    A pattern with n parts describes the last n parts of a path. A field is the shortest text that matches,
    `{video:15}` is 15 characters long, and a field that occurs twice has the same text both times.

    Args:
        pattern: The pattern; None has no fields.
        path: The path of a file.
        suffixes: A pattern that ends in none of these matches files with any suffix.

    Raises:
        ContentError: the path does not match the pattern.
    """
    if pattern is None:
        return {}
    target = path if pattern.lower().endswith(tuple(suffixes)) else path.with_suffix("")
    match = _compile(pattern).fullmatch("/".join(target.parts[-pattern.count("/") - 1 :]))
    if match is None:
        raise ContentError(f"file name that is not {pattern}", path.name)
    return match.groupdict()


@lru_cache(maxsize=16)
def _compile(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression."""
    parts, names, end = [], set[str](), 0
    for match in _FIELD.finditer(pattern):
        name, width = match.groups()
        parts.append(re.escape(pattern[end : match.start()]))
        text = rf"[^/]{{{width}}}" if width else "[^/]+?"
        parts.append(f"(?P={name})" if name in names else f"(?P<{name}>{text})")
        names.add(name)
        end = match.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]))


def index_rows(
    path: Path,
    column: str,
    required: Sequence[str] = (),
    normalize: Callable[[str], str] = str,
    codes: Codes | None = None,
) -> dict[str, dict[str, Any]]:
    """The rows of a table by the text in one column; the text stays as written, so that 007 is not 7.

    Args:
        path: The table file.
        column: The column of keys.
        required: Other columns that the table must have.
        normalize: Turns the text of a cell into the key.
        codes: Cells that mean missing, by column.

    Raises:
        ValueError: the file or a column does not exist, or two rows have the same key.
    """
    names, listed = read_rows(path, codes, text=(column,), used=required)
    require_columns(path, names, [column, *required])
    rows: dict[str, dict[str, Any]] = {}
    if unnamed := sum(row[column] is None for row in listed):
        count_change(f"rows of the table without {column} left out", unnamed)
    for row in (row for row in listed if row[column] is not None):
        if rows.setdefault(name := normalize(str(row[column])), row) is not row:
            raise ValueError(f"{path} has two rows with {column} {name!r}, but needs one row each")
    return rows
