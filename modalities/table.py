"""Rows of tables: numbers, dates, categories and missing cells."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from string import ascii_lowercase, digits
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import CellContent, Modality, fitted, register
from modalities.files.reading import ContentError, count_change
from modalities.layers.cells import NUMBER, CellEmbedding
from modalities.strings.cells import Cell, Kind
from modalities.strings.columns import CellReader, InvalidCells, Row, cell_text, describe_column
from modalities.strings.scaling import compress, expand, format_date, scale, season
from modalities.strings.vocabulary import Vocabulary, common, words
from modalities.tokens import MISSING, UNKNOWN, Tokens

MAX_BYTES = 10_000_000
"""Largest size of a row as JSON."""


@register
@dataclass(frozen=True, kw_only=True)
class Table(Modality):
    """Rows of a table, one token per column; a column is known by the subwords of its name (TransTab, Wang & Sun 2022).

    Numbers are standardized by the mean and std of the training split, computed without outliers and codes for missing
    values (`strings.scaling`), so that a stray 9999 does not flatten the rest; outliers enter by their logarithm. A
    number in a column that training lacked enters as sign(x) log(1 + |x|). Categories are entries `column=value`. A
    missing cell is a token that is never a target.

    Tokens: `ids` `(N, 1 + M)` are the content (0 missing, 1 unknown category, 2 number, then categories) and the M
    subwords of the column's name. `values` are the number and, in tables with dates, sine and cosine of the day of the
    year.

    The kind of a column is that of nearly all its cells; `fit` decides it for all later
    data. Numbers with one common unit (`12 mm`) are numbers, and the unit becomes part of the name; numbers in another
    unit or without one are invalid and never converted. ISO dates and times (`2015-11-05`, UTC without an offset) are
    days since 1970.

    Attributes:
        min_count: Number of training occurrences from which a category has an entry of its own; rarer ones are
            unknown.
        max_categories: Number of entries above which a column has that many buckets instead, assigned by hash
            (Weinberger et al. 2009).
        exclude: Columns to ignore.
        invalid_cells: How to read cells of a number or date column that are neither (`<0.01`, `ND`, `2019-05`), for
            all columns or by column: `missing`, `bound` (the number in `<0.01`, `>100`, `ca. 5` or `5?`; other cells
            are missing) or `error`.
        missing: By column, the cells that mean a missing value, in place of the usual words (`NA`, `NaN`, `null`, `?`,
            ...): `{iron: [-999], country: []}`. The values of the recipe's source are added.
    """

    type: ClassVar[str] = "table"
    extensions: ClassVar[tuple[str, ...]] = ("json",)

    identifies: ClassVar[bool] = False
    cells: ClassVar[Literal["none", "text", "typed"]] = "typed"

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
        """Categories as `column=value`, and before them one entry for all numbers."""
        values = (f"{column}={value}" for column, categories in self.categories for value in categories)
        buckets = (f"{column}#{bucket}" for column in self.hashed for bucket in range(self.max_categories))
        return Vocabulary(("<number>", *values, *buckets))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the training split."""
        return (*self.scales, *(column for column, _ in self.categories), *self.hashed)

    def knows(self, column: str) -> bool:
        return column in self.columns

    def column_kinds(self) -> dict[str, Kind]:
        """Kinds of the columns; those of numbers with a unit are text, because their cells are read as text."""
        numbers: dict[str, Kind] = {name: "date" if name in self.dates else "number" for name in self.scales}
        words: dict[str, Kind] = dict.fromkeys((*self._units, *self.hashed), "text")
        categories: dict[str, Kind] = {
            name: "boolean" if name in self._booleans else "text" for name, _ in self.categories
        }
        return {**numbers, **words, **categories}

    @property
    def missing_codes(self) -> Mapping[str, tuple[str | int | float, ...]]:
        return self.missing

    def with_missing_codes(self, codes: Mapping[str, tuple[str | int | float, ...]]) -> Table:
        return dataclasses.replace(self, missing={**codes, **self.missing})

    @cached_property
    def _booleans(self) -> frozenset[str]:
        """Columns with only true and false, in any spelling."""
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
        cells = self._reader.collect(raws)
        if not cells:
            raise ValueError("no table with a filled cell to fit on")
        numbers, units, dates, categories, hashed = [], [], [], [], []
        for name, values in sorted(cells.items()):
            column = describe_column(values)
            self._reader.refuse_invalid(name, column)
            if column.kind in ("number", "date"):
                array = self._reader.numbers(name, column, values)
                numbers.append((name, *scale(array[~np.isin(array, self._reader.codes(name, array))])))
                units += [(name, column.unit)] if column.unit else []
                dates += [name] if column.kind == "date" else []
            elif len(entries := common(map(cell_text, values), self.min_count)) > self.max_categories:
                hashed.append(name)
            else:
                categories.append((name, entries))
        named = [*cells, *(unit for _, unit in units)]
        letters = sorted({letter for name in named for letter in name.lower()} | set(ascii_lowercase + digits))
        subwords = common((word for name in named for word in words(name) if len(word) > 1), 1)
        fitted_table = dataclasses.replace(
            self,
            numbers=tuple(numbers),
            units=tuple(units),
            dates=tuple(dates),
            categories=tuple(categories),
            hashed=tuple(hashed),
            subwords=(*(letter for letter in letters if not letter.isspace()), *subwords),
        )
        longest = max(len(fitted_table._pieces(column)) for column in cells)
        fitted_table = dataclasses.replace(fitted_table, name_length=max(longest, 8))
        fitted_table._refuse_homonyms(cells)
        return fitted_table

    def survey(self, raws: Iterable[Row]) -> list[str]:
        """Report columns in a line each: their kinds, invalid cells, probable codes and rare categories.

        Raises:
            ValueError: `invalid_cells` is `error` for a column with invalid cells.
        """
        lines = []
        for name, values in sorted(self._reader.collect(raws).items()):
            column = describe_column(values)
            self._reader.refuse_invalid(name, column)
            treatment = (
                "missing" if self._reader.policy(name) == "missing" else "read as their bounds where they have one"
            )
            lines += [
                f"{line}; these are {treatment}" if column.invalid else line for line in [column.summary(name)] if line
            ]
            lines += self._reader.report_codes(name, column, values)
            if column.kind == "text":
                counts = Counter(map(cell_text, values))
                rare = sum(count for count in counts.values() if count < self.min_count)
                if rare > len(values) / 2 and len(counts) <= self.max_categories:
                    lines.append(f"{name}: {rare:,} of {len(values):,} cells are too rare to be learned")
        return lines

    @cached_property
    def _reader(self) -> CellReader:
        signed = frozenset(name for name, values in self.categories if "+" in values)
        return CellReader(missing=self.missing, invalid_cells=self.invalid_cells, exclude=self.exclude, signed=signed)

    def _refuse_homonyms(self, columns: Iterable[str]) -> None:
        columns_by_name: dict[bytes, str] = {}
        for column in columns:
            other = columns_by_name.setdefault(self._name(column).tobytes(), column)
            if other != column:
                raise ValueError(f"table columns {other!r} and {column!r} read alike: rename or exclude one")

    def _pieces(self, column: str) -> list[int]:
        """Subword ids of the name and unit of a column."""
        spelled = (*words(column), *words(self._units.get(column, "")))
        return [piece for word in spelled for piece in self._names.pieces(word)]

    def _name(self, column: str) -> np.ndarray:
        """Subword ids `(M,)` of the name of a column, padded with 0."""
        if column not in self._spelled:
            ids = self._pieces(column)[: self.name_length]
            self._spelled[column] = np.array(ids + [0] * (self.name_length - len(ids)), np.int64)
        return self._spelled[column]

    def from_cell(self, cell: Any) -> CellContent:
        """A mapping of columns to cells."""
        if not isinstance(cell, dict):
            return super().from_cell(cell)
        return CellContent({"json": json.dumps(cell, default=str).encode()})

    def from_columns(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """A JSON object of the cells; dates and other types that JSON lacks become text."""
        if all(cell is None for cell in row.values()):
            return {}
        return {"json": json.dumps(dict(row), default=str).encode()}

    def has_content(self, raw: Row) -> bool:
        """As in the base class, but numbers of columns that `fit` did not meet are not content."""
        return any(map(self.knows, raw)) and super().has_content(raw)

    def plain(self, raw: Row) -> np.ndarray:
        """The standardized number of each column, 0 if missing; whether it is missing; and the categories, one-hot."""
        cells = [self.tokenize({column: raw.get(column)}) for column in self.columns]
        numbers = np.concatenate([cell.values[0] for cell in cells])
        contents = np.concatenate([cell.ids[:, 0] for cell in cells])
        return np.concatenate([numbers, contents == MISSING, np.bincount(contents, minlength=self.num_ids) > 0])

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
        if self._reader.is_empty(column, cell):
            return MISSING, ()
        if column in self.scales:
            number = self._reader.number(column, cell, column in self.dates, self._units.get(column, ""))
            if number is None:
                if self._reader.policy(column) == "error":
                    raise ContentError(f"table cell of {column!r} that is no number", repr(cell))
                kind = "dates" if column in self.dates else "numbers"
                count_change(f"{column}: cells that are no {kind} are missing")
                return MISSING, ()
            return NUMBER, (self._standard(column, number), *(season(number) if column in self.dates else ()))
        if not self.knows(column) and not isinstance(cell, (str, bool)):
            return NUMBER, (self._standard(column, float(cell or 0)),)
        if column in self.hashed:
            return self.vocabulary.id(f"{column}#{_bucket(cell_text(cell), self.max_categories)}"), ()
        text = cell_text(cell)
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
        """Invert `_standard`; 0 if it is within the rounding error of float32."""
        if column not in self.scales:
            return math.copysign(math.expm1(min(abs(value), 700.0)), value)
        mean, std = self.scales[column]
        number = expand(value) * std + mean
        return 0.0 if abs(number) < 1e-7 * abs(mean) else number

    def _format_number(self, column: str, number: float) -> str:
        """Format a number to a thousandth of the std of its column, without an exponent: 20150713, not 2.015e+07."""
        if abs(number) >= 1e15:  # predictions are unbounded
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
        """Huber loss of a number, averaged over the values of a date; cross-entropy of a category."""
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
                return format_date(number)
            return html.escape(f"{self._format_number(columns[i], number)} {self._units.get(columns[i], '')}".rstrip())

        def table(which: Tokens, hide: bool, style: str) -> str:
            rows = (
                f"<tr><th>{html.escape(columns[i])}</th>"
                f'<td class="{style if target[i] else ""}">{"?" if hide and target[i] else cell(which, i)}</td></tr>'
                for i in np.argsort(~target, kind="stable")
            )
            return f'<table class="cells">{"".join(rows)}</table>'

        is_target = target[:, None]
        filled = tokens._replace(
            values=np.where(is_target, reconstructed.values, tokens.values),
            ids=np.where(is_target, reconstructed.ids, tokens.ids),
        )
        return {
            "original": table(tokens, False, "target"),
            "masked": table(tokens, True, "hidden"),
            "reconstructed": table(filled, False, "filled"),
        }


def _bucket(value: str, count: int) -> int:
    """Assign a value to one of `count` buckets, the same on every machine."""
    return int.from_bytes(hashlib.sha256(value.encode(errors="surrogatepass")).digest()[:8]) % count
