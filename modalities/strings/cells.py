"""Cells of tables: missing ones, numbers, dates and quantities, and the kind of a column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, NamedTuple

Cell = float | int | str | bool | None
Codes = Mapping[str, Sequence[str | float]]
"""By column, the cells that mean a missing value, in place of `MISSING_WORDS`."""

MISSING_WORDS = frozenset({"NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "?", "-"})
"""Cells that mean a missing value; case matters, because `Na` is sodium. Empty cells are missing in every column."""
NEARLY = 0.9
"""Share of a column's filled cells that must be of one kind, so that the column is of that kind."""
CONTINUOUS = 20
"""A column with more distinct numbers is a measurement, in which limits such as `<0.01` count as numbers."""
_EXACT = 2**53
"""Largest integer that floats represent exactly; columns with larger ones are identifiers and stay text."""
_EXAMPLES = 5
_LEADING_ZERO = re.compile(r"0\d+")
_LONGEST = 64
"""Largest length of a number in characters; longer cells are text."""
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(rf"([-+]?{_NUMBER})\s*(?![eE][-+]?\d)([^\W\d_]\S{{0,15}}|[%°‰]\S{{0,15}})")
_BOUND = re.compile(rf"(?:<=?|>=?|[≤≥~≈]|ca\.?|c\.)\s*([-+]?{_NUMBER})|([-+]?{_NUMBER})\s*\?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].+)?")
_OTHER_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{4}")
_EXPONENT, _DIGITS = re.compile(r"\d+[eE]\d+"), re.compile(r"\d+")
_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2212": "-"})
"""Non-breaking and thin spaces become spaces, the typographic minus sign becomes a hyphen."""

Kind = Literal["number", "date", "boolean", "text"]


class Notation(NamedTuple):
    """How a column writes numbers: its decimal mark and its separator of thousands."""

    decimal: str = "."
    thousands: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Pattern of numbers in this notation; numbers without marks match every notation."""
        mark, group = re.escape(self.decimal), re.escape(self.thousands)
        exponent = r"(?:[eE][-+]?\d+)?"
        plain = rf"(?:\d+(?:{mark}\d*)?|{mark}\d+){exponent}"
        grouped = rf"|[1-9]\d{{0,2}}(?:{group}\d{{3}})+(?:{mark}\d*)?" if group else ""
        return re.compile(rf"[-+]?(?:{plain}{grouped})")

    @property
    def words(self) -> str:
        """The notation in words; empty for a decimal point without separators."""
        marks = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}
        parts = [f"{marks[self.thousands]} between thousands"] if self.thousands else []
        return " and ".join([*parts, *(["decimal commas"] if self.decimal == "," else [])])


PLAIN, COMMA, THOUSANDS = Notation(), Notation(","), Notation(".", ",")
NOTATIONS = (
    *(PLAIN, COMMA, THOUSANDS, Notation(",", ".")),
    *(Notation(".", " "), Notation(",", " "), Notation(".", "'")),
)
"""All notations, from the most probable one, which wins if several match equally many cells."""
_PATTERNS = {notation: notation.pattern for notation in NOTATIONS}


@dataclass(frozen=True, kw_only=True)
class Column:
    """Kind and format of a column.

    kind: number, possibly with a `unit`; ISO date; boolean; or text. notation: how numbers are written. is_whole:
    whether all numbers are integers. filled: number of cells that are not missing. invalid: number of filled cells of
    another kind. examples: the most frequent of these. numbers: number of cells that are numbers, for any kind.
    identifier: a cell of digits that is not a number (`007`) and makes the column text. unclear: why the column is
    text although its cells look like numbers or dates.
    """

    kind: Kind = "text"
    unit: str = ""
    notation: Notation = PLAIN
    is_whole: bool = False
    filled: int = 0
    invalid: int = 0
    examples: tuple[str, ...] = ()
    numbers: int = 0
    identifier: str = ""
    unclear: str = ""

    def summary(self, name: str) -> str:
        """A line about invalid cells, or about why the column is text; empty if there is nothing to report."""
        kinds = {"number": f"numbers in {self.unit}" if self.unit else "numbers", "date": "dates"}
        if self.invalid:
            return (
                f"{name}: {self.filled - self.invalid:,} of {self.filled:,} cells are {kinds[self.kind]}, "
                f"{self.invalid:,} {'is' if self.invalid == 1 else 'are'} not ({', '.join(self.examples)})"
            )
        if self.kind == "text" and self.unclear:
            return f"{name}: text, for {self.unclear}"
        if self.kind == "text" and self.identifier and self.numbers == self.filled:
            return f"{name}: text, not numbers, for one of its cells is {self.identifier}"
        if self.kind == "text" and self.numbers >= self.filled / 2:
            return (
                f"{name}: text, for {self.filled - self.numbers:,} of {self.filled:,} cells are no numbers "
                f"({', '.join(self.examples)})"
            )
        return ""


def is_missing(cell: Cell, column: str = "", codes: Codes | None = None) -> bool:
    """Whether a cell is missing: empty, or one of the column's codes, by default of `MISSING_WORDS`."""
    if cell is None or cell != cell:
        return True
    text = cell.strip() if isinstance(cell, str) else cell
    if text == "":
        return True
    if codes is None or column not in codes:
        return isinstance(text, str) and text in MISSING_WORDS
    return any(text == code or _same_number(text, code) for code in codes[column])


def _same_number(cell: Cell, code: str | float) -> bool:
    if isinstance(code, str) or isinstance(cell, bool):
        return False
    number: float | None
    if isinstance(cell, str):
        quantity = to_quantity(cell)
        number = quantity[0] if quantity else to_number(cell)
    else:
        number = cell
    return number is not None and number == code


def to_number(text: str, notation: Notation = PLAIN) -> int | float | None:
    """Parse a finite number in a notation; None if the text is not one."""
    text = text.strip().translate(_SPACES)
    if len(text) > _LONGEST or not _PATTERNS[notation].fullmatch(text):
        return None
    if notation.thousands:
        text = text.replace(notation.thousands, "")
    text = text.replace(notation.decimal, ".")
    if text.lstrip("+-").isdecimal():
        return int(text)
    number = float(text)
    return number if abs(number) < float("inf") else None


def to_bound(text: str) -> float | None:
    """Parse the limit or estimate in a cell such as `<0.01`, `ca. 5` or `5?`; None for other cells."""
    match = _BOUND.fullmatch(_with_point(text))
    return float(match[1] or match[2]) if match else None


def to_quantity(text: str) -> tuple[float, str] | None:
    """Parse the number and unit of a cell such as `12 mm`; None for other cells."""
    match = _QUANTITY.fullmatch(_with_point(text))
    return (float(match[1]), match[2]) if match else None


def _with_point(text: str) -> str:
    """Replace a decimal comma by a point, but not a comma before three digits; empty for texts that are too long."""
    text = text.strip().translate(_SPACES)
    if len(text) > _LONGEST:
        return ""
    return text if "." in text else re.sub(r"(?<=\d),(?=\d{1,2}(?!\d)|\d{4})", ".", text, count=1)


def to_days(text: str) -> float | None:
    """Parse an ISO date or time (`2015-11-05`, UTC without an offset) as days since 1970; None for other texts."""
    if not _DATE.fullmatch(text.strip()):
        return None
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() / 86_400


def is_identifier(text: str) -> bool:
    """Whether a text of digits is not a number: it begins with 0 (`007`), or floats cannot represent it exactly."""
    return bool(_LEADING_ZERO.fullmatch(text)) or (text.lstrip("+-").isdecimal() and abs(int(text[:_LONGEST])) > _EXACT)


def number_or_text(text: str) -> int | float | str:
    """Parse a cell without a column, such as a comment of a record, as a number if nothing is lost, else as text.

    `007`, `1e5` and integers beyond 2^53 may be identifiers and stay text.
    """
    stripped = text.strip()
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]\d+)?", stripped) or is_identifier(stripped):
        return stripped
    number = to_number(stripped)
    return stripped if number is None else number


def column_of(
    texts: Mapping[str, int],
    numbers: int = 0,
    booleans: int = 0,
    *,
    typed: bool = False,
    kind: Kind | None = None,
    decimal: str | None = None,
) -> Column:
    """Infer the kind and format of a column.

    The kind is that of at least a share `NEARLY` of the filled cells; a single identifier (`is_identifier`, or `1e5`
    among integers) makes the column text.

    Args:
        texts: Number of cells by text, stripped and not missing.
        numbers: Number of cells that are numbers by type.
        booleans: Number of cells that are booleans by type.
        typed: Whether the file has typed columns: texts are then numbers only if other cells are, and most cells.
        kind: Kind of a column that was fitted before; only the notation is inferred.
        decimal: Decimal mark of other columns of the file.
    """
    counts = {text.translate(_SPACES): count for text, count in texts.items()}
    filled = numbers + booleans + sum(counts.values())
    if not filled:
        return Column(kind=kind or "text")
    truths = not (typed or numbers) and {text.lower() for text in counts} <= {"true", "false"}
    if kind in (None, "boolean") and (booleans == filled or truths):
        return Column(kind="boolean", filled=filled)
    notation, plain = _notation(counts, decimal)
    identifier = _identifier(counts)
    numeric = bool(numbers) or not typed
    column = Column(
        kind=kind or "text",
        notation=notation,
        filled=filled,
        numbers=numbers + sum(counts[text] for text in plain) if numeric else 0,
        identifier=identifier,
        unclear=_unclear(counts),
    )
    may_be_numbers = kind is None and numeric and not identifier and not booleans
    nearly = column.numbers > filled / 2 if typed else _nearly(column.numbers, filled, counts, plain)
    if kind == "number" or (may_be_numbers and nearly):
        is_whole = all(isinstance(to_number(text, notation), int) for text in plain)
        return _with_invalid(replace(column, kind="number", is_whole=is_whole), counts, plain)
    for other, unit, fitting in _readings(counts):
        matches = sum(counts[text] for text in fitting)
        if kind == other or (kind is None and matches >= NEARLY * filled):
            return _with_invalid(replace(column, kind=other, unit=unit), counts, fitting)
    return replace(_with_invalid(column, counts, plain), invalid=0)


def _identifier(texts: Iterable[str]) -> str:
    """The first text that makes a column one of identifiers; empty if there is none."""
    listed = list(texts)
    first = next((text for text in listed if is_identifier(text)), "")
    whole_numbers = [text for text in listed if _DIGITS.fullmatch(text)]
    powers = [text for text in listed if _EXPONENT.fullmatch(text)]
    return first or (powers[0] if powers and whole_numbers and len(powers) + len(whole_numbers) == len(listed) else "")


def _unclear(counts: Mapping[str, int]) -> str:
    """Why a column is text although its cells look like numbers or dates; empty if they do not."""
    texts = list(counts)
    if not texts:
        return ""
    first = texts[0]
    if all("," in text and _PATTERNS[notation].fullmatch(text) for text in texts for notation in (COMMA, THOUSANDS)):
        return f"{first} may be {first.replace(',', '')} or {first.replace(',', '.')}: write a point"
    if sum(count for text, count in counts.items() if _OTHER_DATE.fullmatch(text)) >= NEARLY * sum(counts.values()):
        return f"{first} is no date of ISO 8601: write the year first, as 2019-11-05"
    return ""


def _nearly(matches: int, filled: int, counts: Mapping[str, int], plain: set[str]) -> bool:
    """Whether `matches` numbers among `filled` cells make a numeric column; limits count in measurements."""
    if matches >= NEARLY * filled:
        return True
    if len(plain) <= CONTINUOUS or matches < filled / 2:
        return False
    return matches + sum(count for text, count in counts.items() if to_bound(text) is not None) >= NEARLY * filled


def _with_invalid(column: Column, counts: Mapping[str, int], fitting: set[str]) -> Column:
    """Count the texts that are not of the column's kind, and keep examples."""
    invalid = sorted((text for text in counts if text not in fitting), key=lambda text: -counts[text])
    return replace(column, invalid=sum(counts[text] for text in invalid), examples=tuple(invalid[:_EXAMPLES]))


def _notation(counts: Mapping[str, int], decimal: str | None) -> tuple[Notation, set[str]]:
    """The notation that matches most cells, and these texts; the plain one if the meaning of commas is ambiguous."""
    short = [text for text in counts if len(text) <= _LONGEST]
    choice = [notation for notation in NOTATIONS if decimal in (None, notation.decimal)]
    plain = {text for text in short if _PATTERNS[choice[0]].fullmatch(text)}
    if len(plain) == len(counts) and (decimal is None or not any("." in text or "," in text for text in plain)):
        return choice[0], plain
    fitting = {notation: {text for text in short if _PATTERNS[notation].fullmatch(text)} for notation in choice}
    matches = {notation: sum(counts[text] for text in texts) for notation, texts in fitting.items()}
    best = max(choice, key=lambda notation: matches[notation])
    if decimal is None and best in (COMMA, THOUSANDS) and matches[COMMA] == matches[THOUSANDS]:
        best = _comma(fitting[COMMA])
    return best, fitting[best]


def decimal_of(texts: Iterable[str]) -> str:
    """The decimal mark of a column of numbers, if it cannot be a separator of thousands; empty if ambiguous."""
    marks = set()
    for text in texts:
        if len(text) <= _LONGEST:
            point, comma = _PATTERNS[PLAIN].fullmatch(text), _PATTERNS[COMMA].fullmatch(text)
            if "." in text and point and not _PATTERNS[Notation(",", ".")].fullmatch(text):
                marks.add(".")
            if "," in text and comma and not _PATTERNS[THOUSANDS].fullmatch(text):
                marks.add(",")
    return marks.pop() if len(marks) == 1 else ""


def _comma(texts: Iterable[str]) -> Notation:
    """Meaning of a comma that always precedes three digits, by the length of integers without one, if there are any."""
    whole_numbers = [text.lstrip("+-") for text in texts if "," not in text]
    if not whole_numbers:
        return PLAIN
    return COMMA if any(len(text) > 3 for text in whole_numbers) else THOUSANDS


def _readings(counts: Mapping[str, int]) -> Iterator[tuple[Kind, str, set[str]]]:
    """Other kinds that a column may have, dates and then numbers in the most frequent unit: kind, unit and texts."""
    yield "date", "", {text for text in counts if to_days(text) is not None}
    units: dict[str, int] = {}
    quantities = {text: quantity[1] for text in counts if (quantity := to_quantity(text))}
    for text, unit in quantities.items():
        units[unit] = units.get(unit, 0) + counts[text]
    if units:
        frequent = max(units, key=lambda unit: units[unit])
        yield "number", frequent, {text for text, unit in quantities.items() if unit == frequent}
