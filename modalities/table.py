"""Rows of named columns: numbers, categories and missing cells."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from string import ascii_lowercase, digits
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import Modality, fitted, register
from modalities.files.reading import ContentError, count_change
from modalities.strings.cells import (
    Cell,
    Column,
    Kind,
    column_of,
    is_missing,
    to_bound,
    to_days,
    to_number,
    to_quantity,
)
from modalities.strings.vocabulary import Vocabulary, common, words
from modalities.tokens import MISSING, UNKNOWN, Tokens

NUMBER = 2
"""Content id of every number; categories follow."""
MAX_BYTES = 10_000_000
"""Longer rows are refused before they are parsed."""
_LARGEST = float(np.finfo(np.float32).max)
_FAR = 10.0
"""Deviations from the mean beyond which a number is wild: it does not set its column's scale, and enters compressed."""
_FREQUENCIES = 8
_REPEATED, _DISTINCT = 3, 10
"""A code for missing values repeats at least so often, in a column of at least so many other numbers."""

Row = dict[str, Cell]
InvalidCells = Literal["missing", "bound", "error"]


@register
@dataclass(frozen=True, kw_only=True)
class Table(Modality):
    """One token a column, after TransTab (Wang & Sun 2022): a column is known by the subwords of its name.

    Numbers are standardised with the training split's mean and std, without cells 10 deviations off, so that a stray
    9999 does not flatten the rest, nor codes for missing values (`scale`, `codes_in`); those enter by their
    logarithm. Categories are entries `column=value` seen at least `min_count` times; a missing cell is a token of
    its own and is never a target. `ids` `(N, 1 + M)` hold the content (0 missing, 1 unknown category, 2 number, then
    categories) and the name's M subwords. A number in a column never seen while fitting enters as sign(x) log(1 +
    |x|), for there is nothing to standardise it with.

    A column is what nearly all its cells are (`cells.column_of`), which is learned while fitting and holds for all
    later data. Numbers written with one and the same unit (`12 mm`) are numbers, their unit a part of the name; one
    in another unit or without one is never converted. ISO dates and times (`2015-11-05`, UTC where no offset stands)
    are numbers of days since 1970, with sine and cosine of the day of the year as two more values of the token. A
    column of more than `max_categories` entries has as many buckets instead, to which its values are assigned by
    hash (Weinberger et al. 2009), rare and new ones too.

    Attributes:
        min_count: Number of training occurrences from which a category has an entry of its own; rarer ones are
            unknown.
        max_categories: Number of entries above which a column has that many buckets instead, assigned by hash
            (Weinberger et al. 2009).
        exclude: Columns to ignore.
        invalid_cells: How to read cells of a number or date column that are neither (`<0.01`, `ND`, `2019-05`), for
            all columns or by column: `missing`, `bound` (the number in `<0.01`, `>100`, `ca. 5` or `5?`; other cells
            are missing) or `error`.
        missing: By column, the cells that mean a missing value, in place of `cells.MISSING_WORDS`: `{iron: [-999],
            country: []}`. The values of the recipe's source are added.
    """

    type: ClassVar[str] = "table"
    extensions: ClassVar[tuple[str, ...]] = ("json",)

    min_count: int = 2
    max_categories: int = 1000
    exclude: tuple[str, ...] = ()
    invalid_cells: InvalidCells | dict[str, InvalidCells] = field(default="missing", hash=False)
    missing: dict[str, tuple[str | int | float, ...]] = field(default_factory=dict, hash=False)
    numbers: tuple[tuple[str, float, float], ...] = fitted(())
    units: tuple[tuple[str, str], ...] = fitted(())
    dates: tuple[str, ...] = fitted(())
    categories: tuple[tuple[str, tuple[str, ...]], ...] = fitted(())
    hashed: tuple[str, ...] = fitted(())
    subwords: tuple[str, ...] = fitted(())
    name_length: int = fitted(8)

    def __post_init__(self) -> None:
        if self.max_categories < 1:
            raise ValueError(f"table max_categories is {self.max_categories}, but a column has at least 1")

    @cached_property
    def scales(self) -> dict[str, tuple[float, float]]:
        """Mean and std by numeric column."""
        return {name: (mean, std) for name, mean, std in self.numbers}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Categories as `column=value`, after the entry that stands for every number."""
        listed = (f"{column}={value}" for column, values in self.categories for value in values)
        buckets = (f"{column}#{bucket}" for column in self.hashed for bucket in range(self.max_categories))
        return Vocabulary(("<number>", *listed, *buckets))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns seen while fitting."""
        return (*self.scales, *(column for column, _ in self.categories), *self.hashed)

    def knows(self, column: str) -> bool:
        """Whether a column was seen while fitting."""
        return column in self.columns

    def kinds(self) -> dict[str, Kind]:
        """What each column was found to be while fitting; one with a unit, whose cells are read as text, is text."""
        numbers: dict[str, Kind] = {name: "date" if name in self.dates else "number" for name in self.scales}
        words: dict[str, Kind] = dict.fromkeys((*self._units, *self.hashed), "text")
        categories: dict[str, Kind] = {
            name: "boolean" if name in self._booleans else "text" for name, _ in self.categories
        }
        return {**numbers, **words, **categories}

    @cached_property
    def _booleans(self) -> frozenset[str]:
        """Columns of nothing but true and false, however these are written."""
        return frozenset(name for name, values in self.categories if values and {*values} <= {"true", "false"})

    @cached_property
    def _names(self) -> Vocabulary:
        return Vocabulary(self.subwords)

    @cached_property
    def _spelled(self) -> dict[str, np.ndarray]:
        return {}

    @property
    def example(self) -> str:
        plain = [column for column in self.scales if column not in self.dates and column not in self._units]
        return repr(dict.fromkeys(plain[:1], 1.0) or dict.fromkeys(self.columns[:1]))

    @property
    def widths(self) -> tuple[int, int, int]:
        return 3 if self.dates else 1, 1 + self.name_length, 0

    @property
    def num_ids(self) -> int:
        return len(self.vocabulary)

    def fit(self, raws: Iterable[Row]) -> Table:
        cells = self._cells(raws)
        if not cells:
            raise ValueError("no table with a filled cell to fit on")
        numbers, units, dates, categories, hashed = [], [], [], [], []
        for name, values in sorted(cells.items()):
            column = _column(values)
            self._refuse_invalid(name, column)
            if column.kind in ("number", "date"):
                array = self._array(name, column, values)
                codes = codes_in(array) if self._may_have_codes(name) else ()
                numbers.append((name, *scale(array[~np.isin(array, codes)])))
                units += [(name, column.unit)] if column.unit else []
                dates += [name] if column.kind == "date" else []
            elif len(known := common(map(_text, values), self.min_count)) > self.max_categories:
                hashed.append(name)
            else:
                categories.append((name, known))
        named = [*cells, *(unit for _, unit in units)]
        letters = sorted({letter for name in named for letter in name.lower()} | set(ascii_lowercase + digits))
        whole = common((word for name in named for word in words(name) if len(word) > 1), 1)
        fitted_table = dataclasses.replace(
            self,
            numbers=tuple(numbers),
            units=tuple(units),
            dates=tuple(dates),
            categories=tuple(categories),
            hashed=tuple(hashed),
            subwords=(*(letter for letter in letters if not letter.isspace()), *whole),
        )
        longest = max(len(fitted_table._pieces(column)) for column in cells)
        fitted_table = dataclasses.replace(fitted_table, name_length=max(longest, 8))
        fitted_table._refuse_homonyms(cells)
        return fitted_table

    def survey(self, raws: Iterable[Row]) -> list[str]:
        """What a scientist has to know of the columns of a table, a line each.

        Raises:
            ValueError: a cell that is none of its column's numbers, where `invalid_cells` is `error`.
        """
        lines = []
        for name, values in sorted(self._cells(raws).items()):
            column = _column(values)
            self._refuse_invalid(name, column)
            taken = "missing" if self._policy(name) == "missing" else "read as their bounds where they have one"
            lines += [
                f"{line}; these are {taken}" if column.invalid else line for line in [column.summary(name)] if line
            ]
            lines += self._code_lines(name, column, values)
            if column.kind == "text":
                counts = Counter(map(_text, values))
                rare = sum(count for count in counts.values() if count < self.min_count)
                if rare > len(values) / 2 and len(counts) <= self.max_categories:
                    lines.append(f"{name}: {rare:,} of {len(values):,} cells are too rare to be learned")
        return lines

    def survey_labels(self, rows: Iterable[Row]) -> list[str]:
        """What a scientist has to know of labels: cells that are no numbers where nearly all are, likely codes."""
        lines = []
        for name, values in sorted(self._cells(rows).items()):
            column = _column(values)
            lines += [line for line in [column.summary(name)] if line]
            lines += self._code_lines(name, column, values)
        return lines

    def _code_lines(self, name: str, column: Column, values: Iterable[Cell]) -> list[str]:
        """A line for each likely code for missing values, unless the recipe says that there is none."""
        if column.kind not in ("number", "date") or not self._may_have_codes(name):
            return []
        numbers = [(self._value(name, cell, column.kind == "date", column.unit), cell) for cell in values]
        lines = []
        for code in codes_in(np.array([number for number, _ in numbers if number is not None], np.float64)):
            alike = [cell for number, cell in numbers if number == code]
            cell = next((f'"{cell.strip()}"' for cell in alike if isinstance(cell, str)), _plain(code))
            lines.append(
                f"{name}: {len(alike):,} of {len(numbers):,} cells are {cell}, far from all others: if that means "
                f"missing, say `missing: {{{name}: [{cell}]}}` in data.source"
            )
        return lines

    def _may_have_codes(self, name: str) -> bool:
        """Whether a column may have codes for missing values that the recipe does not say: not with `[]`."""
        return bool(self.missing.get(name, ("",)))

    def _cells(self, raws: Iterable[Row]) -> dict[str, list[Cell]]:
        """The filled cells of each column; where plus stands, minus is no word for missing.

        Raises:
            ValueError: `invalid_cells` names a column that is not there.
        """
        cells: dict[str, list[Cell]] = {}
        minus, names = Counter[str](), set[str]()
        for row in raws:
            names |= row.keys()
            for column, cell in row.items():
                if column not in self.exclude and not self._empty(column, cell):
                    cells.setdefault(column, []).append(cell)
                elif cell == "-" and column not in self.missing:
                    minus[column] += 1
        if names and (
            unknown := [
                name
                for name in ([] if isinstance(self.invalid_cells, str) else self.invalid_cells)
                if name not in names
            ]
        ):
            raise ValueError(f"table `invalid_cells` names {unknown[0]!r}, which is no column of it")
        for column, times in minus.items():
            if "+" in cells.get(column, ()):
                cells[column] += ["-"] * times
        return cells

    @cached_property
    def _signed(self) -> frozenset[str]:
        """Columns in which plus is a value, so that minus is one too."""
        return frozenset(name for name, values in self.categories if "+" in values)

    def _empty(self, column: str, cell: Cell) -> bool:
        if cell == "-" and column in self._signed and column not in self.missing:
            return False
        return is_missing(cell, column, self.missing) or not (isinstance(cell, str) or abs(cell or 0) <= _LARGEST)

    def _policy(self, column: str) -> InvalidCells:
        return self.invalid_cells if isinstance(self.invalid_cells, str) else self.invalid_cells.get(column, "missing")

    def _refuse_invalid(self, name: str, column: Column) -> None:
        if column.invalid and self._policy(name) == "error":
            raise ValueError(
                f"{column.summary(name)}: correct them, or set `invalid_cells` of the table to missing or bound"
            )

    def _array(self, name: str, column: Column, values: Iterable[Cell]) -> np.ndarray:
        """The numbers of a column, for dates in days."""
        read = (self._value(name, cell, column.kind == "date", column.unit) for cell in values)
        return np.array([number for number in read if number is not None], np.float64)

    def _value(self, column: str, cell: Cell, date: bool, unit: str) -> float | None:
        """A cell of a column of numbers or dates as its number; None where it is none."""
        number: float | None
        if not isinstance(cell, str):
            number = None if date or unit or cell is None else float(cell)
        elif date:
            number = to_days(cell)
        elif unit:
            quantity = to_quantity(cell)
            number = quantity[0] if quantity and quantity[1] == unit else None
        else:
            number = to_number(cell)
        if number is None and isinstance(cell, str) and not date and self._policy(column) == "bound":
            number = to_bound(cell.strip().removesuffix(unit).strip()) if cell.strip().endswith(unit) else None
        return number if number is not None and abs(number) <= _LARGEST else None

    def _refuse_homonyms(self, columns: Iterable[str]) -> None:
        seen: dict[bytes, str] = {}
        for column in columns:
            other = seen.setdefault(self._name(column).tobytes(), column)
            if other != column:
                raise ValueError(f"table columns {other!r} and {column!r} read alike: rename or exclude one")

    def _pieces(self, column: str) -> list[int]:
        """Subword ids of a column's name and unit."""
        spelled = (*words(column), *words(self._units.get(column, "")))
        return [piece for word in spelled for piece in self._names.pieces(word)]

    def _name(self, column: str) -> np.ndarray:
        """Subword ids `(M,)` of a column's name, 0 after its end."""
        if column not in self._spelled:
            ids = self._pieces(column)[: self.name_length]
            self._spelled[column] = np.array(ids + [0] * (self.name_length - len(ids)), np.int64)
        return self._spelled[column]

    def decode(self, members: dict[str, bytes]) -> Row:
        if len(members.get("json", b"")) > MAX_BYTES:
            raise ContentError(f"table row of more than {MAX_BYTES:,} bytes")
        try:
            row = json.loads(members["json"])
        except (KeyError, ValueError, RecursionError) as error:
            raise ContentError("table row is not JSON") from error
        return self.parse(row)

    def parse(self, value: Any) -> Row:
        if not isinstance(value, dict) or not all(
            isinstance(name, str) and isinstance(cell, (float, int, str, bool, type(None)))
            for name, cell in value.items()
        ):
            raise ContentError("table row is not an object of numbers, strings and nulls")
        if value.keys() <= set(self.exclude):
            raise ContentError("table row without columns")
        return value

    def tokenize(self, raw: Row, rng: np.random.Generator | None = None) -> Tokens:
        columns = [column for column in raw if column not in self.exclude]
        values = np.zeros((len(columns), self.widths[0]), np.float32)
        ids = np.zeros((len(columns), 1 + self.name_length), np.int64)
        for i, column in enumerate(columns):
            ids[i, 0], numbers = self._content(column, raw[column])
            values[i, : len(numbers)] = numbers
            ids[i, 1:] = self._name(column)
        return Tokens(values, ids, np.zeros((len(columns), 0), np.float32))

    def _content(self, column: str, cell: Cell) -> tuple[int, tuple[float, ...]]:
        """Content id and values of a cell."""
        if self._empty(column, cell):
            return MISSING, ()
        if column in self.scales:
            number = self._value(column, cell, column in self.dates, self._units.get(column, ""))
            if number is None:
                if self._policy(column) == "error":
                    raise ContentError(f"table cell of {column!r} that is no number", repr(cell))
                kind = "dates" if column in self.dates else "numbers"
                count_change(f"{column}: cells that are no {kind} are missing")
                return MISSING, ()
            return NUMBER, (self._standard(column, number), *(_season(number) if column in self.dates else ()))
        if not self.knows(column) and not isinstance(cell, (str, bool)):
            return NUMBER, (self._standard(column, float(cell or 0)),)
        if column in self.hashed:
            return self.vocabulary.id(f"{column}#{_bucket(_text(cell), self.max_categories)}"), ()
        text = _text(cell)
        content = self.vocabulary.id(f"{column}={text.lower() if column in self._booleans else text}")
        if content == UNKNOWN:
            count_change(f"{column}: cells that training did not have are unknown")
        return content, ()

    def _standard(self, column: str, number: float) -> float:
        if column not in self.scales:
            return math.copysign(math.log1p(abs(number)), number)
        mean, std = self.scales[column]
        return compress((number - mean) / std)

    def _number(self, column: str, value: float) -> float:
        """What `_standard` made this of; 0 where float32 has rounded it off."""
        if column not in self.scales:
            return math.copysign(math.expm1(min(abs(value), 700.0)), value)
        mean, std = self.scales[column]
        number = expand(value) * std + mean
        return 0.0 if abs(number) < 1e-7 * abs(mean) else number

    def _shown(self, column: str, number: float) -> str:
        """A number to a thousandth of its column's std, without an exponent: 20150713, not 2.015e+07."""
        if abs(number) >= 1e15:  # a prediction may be anything
            return f"{number:.4g}"
        std = self.scales[column][1] if column in self.scales else max(abs(number), 1e-9)
        digits = 3 - math.floor(math.log10(std))
        return str(np.format_float_positional(round(number, max(digits, 0)), trim="-"))

    @cached_property
    def _units(self) -> dict[str, str]:
        return dict(self.units)

    def embedding(self, dim: int) -> nn.Module:
        return CellEmbedding(self.widths[0], len(self.vocabulary), len(self._names), self.name_length, dim)

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, self.widths[0] + len(self.vocabulary))

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Huber loss of a standardised number, of a date the mean over its values; cross-entropy of a category."""
        prediction, values, width = prediction.float(), values.float(), self.widths[0]
        errors = F.smooth_l1_loss(prediction[:, :width], values, reduction="none")
        dated = (values[:, 1:] != 0).any(1)  # sine and cosine are never both 0
        number = torch.where(dated, errors.mean(1), errors[:, 0])
        category = F.cross_entropy(prediction[:, width:], ids[:, 0], reduction="none")
        return torch.where(ids[:, 0] == NUMBER, number, category)

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        width = self.widths[0]
        number = tokens.ids[:, 0] == NUMBER
        ids = tokens.ids.copy()
        ids[~number, 0] = prediction[~number, width:].argmax(1)
        return tokens._replace(ids=ids, values=np.where(number[:, None], prediction[:, :width], 0).astype(np.float32))

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        by_name = {self._name(name).tobytes(): name for name in self.columns}
        columns = [by_name.get(ids[1:].tobytes(), "?") for ids in tokens.ids]

        def cell(which: Tokens, i: int) -> str:
            content = int(which.ids[i, 0])
            if content != NUMBER:
                return html.escape(self.vocabulary.entries[content].removeprefix(f"{columns[i]}="))
            number = self._number(columns[i], float(which.values[i, 0]))
            if columns[i] in self.dates:
                return _date(number)
            return html.escape(f"{self._shown(columns[i], number)} {self._units.get(columns[i], '')}".rstrip())

        def table(which: Tokens, hide: bool, style: str) -> str:
            rows = (
                f"<tr><th>{html.escape(columns[i])}</th>"
                f'<td class="{style if target[i] else ""}">{"?" if hide and target[i] else cell(which, i)}</td></tr>'
                for i in np.argsort(~target, kind="stable")
            )
            return f'<table class="cells">{"".join(rows)}</table>'

        chosen = target[:, None]
        filled = tokens._replace(
            values=np.where(chosen, reconstructed.values, tokens.values),
            ids=np.where(chosen, reconstructed.ids, tokens.ids),
        )
        return {
            "original": table(tokens, False, "target"),
            "masked": table(tokens, True, "hidden"),
            "reconstructed": table(filled, False, "filled"),
        }


class CellEmbedding(nn.Module):
    """Place from the column's name; content from the number or category, seen through the name.

    Numbers enter with periodic features (Gorishniy et al. 2022), scaled by the name as in TransTab; `width` is the
    number of values a token has, of which the first is the number and others are taken as they are.
    """

    def __init__(self, width: int, categories: int, subwords: int, name_length: int, dim: int):
        super().__init__()
        self.category = nn.Embedding(categories, dim)
        self.number = nn.Linear(width + 2 * _FREQUENCIES, dim)
        self.subword = nn.Embedding(subwords, dim)
        self.position = nn.Embedding(name_length, dim)
        self.spelling = nn.LayerNorm(dim)
        self.name = nn.Linear(dim, dim)
        self.scale = nn.Linear(dim, dim)
        self.frequencies = tuple(2.0 ** (i - 2) for i in range(_FREQUENCIES))

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        content, spelled = ids[:, 0], ids[:, 1:]
        letters = F.gelu(self.subword(spelled) + self.position.weight) * (spelled != 0).unsqueeze(-1)
        name = self.name(self.spelling(letters.sum(1)))
        angles = values[:, :1].float() * torch.tensor(self.frequencies, device=values.device)
        number = self.number(torch.cat([values.float(), angles.sin(), angles.cos()], 1))
        kind = self.category(content)
        is_number = (content == NUMBER).unsqueeze(-1)
        return kind + is_number * number * (1 + self.scale(name)), name


def scale(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and std of a column's numbers `(N,)`; the std is positive.

    Wild ones are left out, again and again until none is found (sigma clipping, as astronomers do), but for a column
    that is nearly always the same, and never more than a hundredth of it: there the others are what it tells.
    """
    few = len(numbers) / 100
    low, high = np.quantile(numbers, [0.01, 0.99])
    same = high - low <= 1e-9 * max(abs(low), abs(high))
    near = numbers
    while True:
        mean, std = float(near.mean()), float(near.std())
        if near.min() == near.max() or not std:  # rounding may give constants one
            return float(near[0]), 1.0
        kept = near[np.abs(near - mean) <= _FAR * std]
        if same or len(kept) == len(near) or len(numbers) - len(kept) > few:
            return mean, std
        near = kept


def compress(number: float) -> float:
    """A standardised number, beyond `_FAR` its logarithm, which goes on from there at the same slope."""
    far = min(abs(number), _LARGEST) / _FAR
    return number if far <= 1 else math.copysign(_FAR * (1 + math.log(far)), number)


def expand(number: float) -> float:
    """The standardised number that `compress` made this of."""
    far = min(abs(number) / _FAR - 1, 700.0)  # a prediction may be anything
    return number if far <= 0 else math.copysign(_FAR * math.exp(far), number)


def _text(cell: Cell) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell).strip()


def _column(cells: Iterable[Cell]) -> Column:
    """What a column of cells from JSON is; texts there are texts, unless numbers stand beside them."""
    texts, numbers, booleans = Counter[str](), 0, 0
    for cell in cells:
        if isinstance(cell, str):
            texts[cell.strip()] += 1
        elif isinstance(cell, bool):
            booleans += 1
        else:
            numbers += 1
    return column_of(texts, numbers, booleans, typed=True)


def _plain(number: float) -> str:
    """A number as a recipe's YAML reads it."""
    return f"{int(number)}" if number.is_integer() else repr(number)


def codes_in(numbers: np.ndarray) -> tuple[float, ...]:
    """Numbers of a column `(N,)` that are likely codes for missing values, such as -999.

    Such a number repeats, and lies alone: more than 10 deviations from the column's median, and more than 5 from every
    other number. Deviations are by quartiles, which codes do not move.
    """
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) <= _DISTINCT:
        return ()
    low, median, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    std = (high - low) / 1.349  # of a normal distribution
    far = np.abs(values - median) > _FAR * std
    gaps = np.diff(values)
    alone = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf)) > _FAR / 2 * std
    return tuple(values[far & alone & (counts >= _REPEATED)].tolist()) if std else ()


def _season(day: float) -> tuple[float, float]:
    """Sine and cosine of the day of the year, of a mean year, so that every day has one place on the circle."""
    angle = 2 * math.pi * (day / 365.2425 % 1)
    return math.sin(angle), math.cos(angle)


def _date(day: float) -> str:
    """Days since 1970, to the nearest hour, as a date; what a calendar cannot hold is shown as its number."""
    try:
        return datetime.fromtimestamp(round(day * 24) * 3_600, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{day:.4g} days since 1970"


def _bucket(value: str, count: int) -> int:
    """Which of `count` buckets a value belongs to, the same on every machine."""
    return int.from_bytes(hashlib.sha256(value.encode(errors="surrogatepass")).digest()[:8]) % count
