"""Columns derived from others: a word, the match of a pattern, or a part of a date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modalities.files.reading import count_change
from modalities.names import did_you_mean
from shards.sources.tables import parse_cell

Derivation = Mapping[str, str | int | tuple[str, ...]]
"""`column` (a name, or several: the first filled one counts) and one of `word`, `pattern` and `date`."""
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*([NSEW])")
_KEYS = {"column", "word", "pattern", "date"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATES = {
    "year": re.compile(r"(?<!\d)(\d{4})(?!\d)"),
    "month": re.compile(
        rf"\b({'|'.join(_MONTHS)})(?:r?uary|ch|il|e|y|ust|t?(?:em|o)?ber)?\b|(?<!\d)\d{{4}}-(0[1-9]|1[0-2])(?!\d)",
        re.IGNORECASE,
    ),
}
"""Parts of a date, written as in GenBank (`21-May-2019`, `May-2019`) or ISO 8601 (`2019-05-21`, `2019-05`)."""
_YEARS = re.compile(r"\d{4}(/\d{4})?")


def check_derive(derive: Mapping[str, Derivation]) -> None:
    """Check the recipe key `data.source.derive`.

    Raises:
        ValueError: a key is unknown or missing, a pattern is not a regular expression, or a part of a date is unknown.
    """
    for name, spec in derive.items():
        if unknown := set(spec) - _KEYS:
            raise ValueError(
                f"unknown key 'data.source.derive.{name}.{sorted(unknown)[0]}'; known: {', '.join(sorted(_KEYS))}"
            )
        if not spec.get("column") or len(spec) != 2:
            raise ValueError(f"data.source.derive.{name} needs column and one of word, pattern and date")
        if (part := spec.get("date", "month")) not in _DATES:
            raise ValueError(f"data.source.derive.{name}.date is {part!r}{did_you_mean(str(part), _DATES)}")
        word = spec.get("word", 1)
        if not isinstance(word, int) or word < 1:
            raise ValueError(f"data.source.derive.{name}.word is {word!r}: words are counted from 1")
        check_regex(str(spec.get("pattern", "")), f"data.source.derive.{name}.pattern")


def check_regex(pattern: str, key: str) -> None:
    """Check the regular expression at a recipe key.

    Raises:
        ValueError: it is invalid.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key} is not a regular expression: {error}") from error


def derive_columns(row: Mapping[str, Any], derive: Mapping[str, Derivation]) -> dict[str, Any]:
    """The row with its derived columns; None if the cell is empty or does not match.

    A cell that should be a date but has no such part is counted as a change.
    """
    return {**row, **{name: _derive(row, name, spec) for name, spec in derive.items()}}


def derived_from(spec: Derivation) -> tuple[str, ...]:
    """The possible names of the column that a column is derived from."""
    column = spec["column"]
    return column if isinstance(column, tuple) else (str(column),)


def _derive(row: Mapping[str, Any], name: str, spec: Derivation) -> str | float | None:
    column = next((column for column in derived_from(spec) if row.get(column) is not None), None)
    if column is None:
        return None
    cell = str(row[column])
    if "word" in spec:
        words = cell.split()
        number = int(spec["word"])  # type: ignore[arg-type]
        part = words[number - 1] if number <= len(words) else ""
    elif "date" in spec:
        return _date_part(cell, str(spec["date"]), column, name)
    else:
        match = re.search(str(spec["pattern"]), cell)
        part = (match[1] if match.re.groups else match[0]) or "" if match else ""
    if degrees := _DEGREES.fullmatch(part.strip()):
        return float(degrees[1]) * (-1 if degrees[2] in "SW" else 1)
    return parse_cell(part)


def _date_part(cell: str, part: str, column: str, name: str) -> str | int | None:
    """The month or year of the first date in a cell; None if there is none. A bare year needs no month."""
    match = _DATES[part].search(cell)
    if match is None:
        if cell.strip() and not _YEARS.fullmatch(cell.strip()):
            count_change(f"{column} without a {part} that can be read: {name} is missing")
        return None
    if part == "year":
        return int(match[1])
    return match[1].title() if match[1] else _MONTHS[int(match[2]) - 1]
