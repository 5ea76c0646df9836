"""Fields of files: from their names by a pattern, from a table by a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from modalities.files.reading import ContentError, count_change
from modalities.strings.cells import Codes
from shards.names import need_columns
from shards.sources.tables import read_rows

_FIELD = re.compile(r"\{(\w*)(?::(\d+))?\}")


def names_in(pattern: str | None) -> tuple[str, ...]:
    """The fields that a recipe's pattern gives.

    Raises:
        ValueError: it has none, or one without a name.
    """
    if pattern is None:
        return ()
    names = [name for name, _ in _FIELD.findall(pattern)]
    if not names or not all(name.isidentifier() for name in names):
        raise ValueError(f"data.source.pattern {pattern!r} needs named fields such as {{speaker}}")
    return tuple(dict.fromkeys(names))


def fields_of(pattern: str | None, path: PurePath, suffixes: Sequence[str]) -> dict[str, str]:
    """The fields of a path by a pattern, `Subject{subject}_{part}.edf` or, over folders, `{species}/{name:15}`.

    A pattern describes as many last parts of a path as it has itself; one that ends in none of `suffixes` describes
    files of all kinds. A field is the shortest text that fits, `{video:15}` is 15 characters, and one that stands
    twice says the same twice.

    Raises:
        ContentError: the path is made otherwise.
    """
    if pattern is None:
        return {}
    named = path if pattern.lower().endswith(tuple(suffixes)) else path.with_suffix("")
    match = _form(pattern).fullmatch("/".join(named.parts[-pattern.count("/") - 1 :]))
    if match is None:
        raise ContentError(f"file name that is not {pattern}", path.name)
    return match.groupdict()


@lru_cache(maxsize=16)
def _form(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression."""
    parts, seen, end = [], set[str](), 0
    for match in _FIELD.finditer(pattern):
        name, width = match.groups()
        parts.append(re.escape(pattern[end : match.start()]))
        text = rf"[^/]{{{width}}}" if width else "[^/]+?"
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{text})")
        seen.add(name)
        end = match.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]))


def rows_by(
    path: Path,
    column: str,
    wanted: Sequence[str] = (),
    key: Callable[[str], str] = str,
    codes: Codes | None = None,
) -> dict[str, dict[str, Any]]:
    """A table's rows by what `key` makes of one column, whose cells stay as they are written: 007 is not 7.

    codes: what means missing, by column.

    Raises:
        ValueError: no such file, no such column or one of those `wanted`, or a key that stands twice.
    """
    names, listed = read_rows(path, codes, text=(column,), used=wanted)
    need_columns(path, names, [column, *wanted])
    rows: dict[str, dict[str, Any]] = {}
    if nameless := sum(row[column] is None for row in listed):
        count_change(f"rows of the table without {column} left out", nameless)
    for row in (row for row in listed if row[column] is not None):
        if rows.setdefault(name := key(str(row[column])), row) is not row:
            raise ValueError(f"{path} has {column} {name!r} twice, but one row each is wanted")
    return rows
