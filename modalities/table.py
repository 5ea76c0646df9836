"""Rows of named columns: numbers, categories and missing cells."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from string import ascii_lowercase, digits
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import MISSING, UNKNOWN, ContentError, Modality, Tokens, fitted, register
from modalities.vocabulary import Vocabulary, common, words

NUMBER = 2
"""Content id of every number; categories follow."""
EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells that say nothing is there, in lower case."""
MAX_BYTES = 10_000_000
"""Longer rows are refused before they are parsed."""
_LARGEST = float(np.finfo(np.float32).max)
_FAR = 10.0
"""Deviations from the mean beyond which a number is wild: it does not set its column's scale, and enters compressed."""
_FREQUENCIES = 8
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].+)?")
_QUANTITY = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?![eE][-+]?\d)([^\W\d_]\S{0,15}|[%°‰]\S{0,15})")

Cell = float | int | str | bool | None
Row = dict[str, Cell]


@register
@dataclass(frozen=True, kw_only=True)
class Table(Modality):
    """One token a column, after TransTab (Wang & Sun 2022): a column is known by the subwords of its name.

    Numbers are standardised with the training split's mean and deviation, without cells 10 deviations off, so that a
    stray 9999 does not flatten the rest (see `scale`); those enter by their logarithm. Categories are entries
    `column=value` seen at least `min_count` times; a missing cell is a token of its own and is never a target. `ids`
    `(N, 1 + M)` hold the content (0 missing, 1 unknown category, 2 number, then categories) and the name's M subwords.
    A number in a column never seen while fitting enters as sign(x) log(1 + |x|), for there is nothing to standardise
    it with.

    What all of a column's cells are is found while fitting. Numbers written with one and the same unit (`12 mm`) are
    numbers, their unit a part of the name; a cell in another unit or without one is unknown, never converted. ISO
    dates and times (`2015-11-05`, UTC where no offset stands) are numbers of days since 1970, with sine and cosine of
    the day of the year as two more values of the token. A column of more than `max_categories` entries has as many
    buckets instead, to which its values are assigned by hash (Weinberger et al. 2009), rare and new ones too.
    """

    type: ClassVar[str] = "table"
    extensions: ClassVar[tuple[str, ...]] = ("json",)

    min_count: int = 2
    max_categories: int = 1000
    exclude: tuple[str, ...] = ()
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
        """Mean and deviation by numeric column."""
        return {name: (mean, deviation) for name, mean, deviation in self.numbers}

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
    def entries(self) -> int:
        return len(self.vocabulary)

    def fit(self, raws: Iterable[Row]) -> Table:
        cells: dict[str, list[Cell]] = {}
        for row in raws:
            for column, cell in row.items():
                if column not in self.exclude and not _empty(cell):
                    cells.setdefault(column, []).append(cell)
        if not cells:
            raise ValueError("no table with a filled cell to fit on")
        numbers, units, dates, categories, hashed = [], [], [], [], []
        for column, values in sorted(cells.items()):
            array, unit = _numbers(values)
            if array is not None:
                numbers.append((column, *scale(array)))
                units += [(column, unit)] if unit else []
                dates += [column] if unit is None else []
            elif len(known := common(map(_text, values), self.min_count)) > self.max_categories:
                hashed.append(column)
            else:
                categories.append((column, known))
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
        if _empty(cell):
            return MISSING, ()
        if column in self.dates:
            day = _days(cell)
            return (UNKNOWN, ()) if day is None else (NUMBER, (self._standard(column, day), *_season(day)))
        if column in self._units:
            number, unit = _quantity(cell)
            return (NUMBER, (self._standard(column, number),)) if unit == self._units[column] else (UNKNOWN, ())
        if column in self.scales or (not self.knows(column) and not isinstance(cell, (str, bool))):
            try:
                number = float(cell)  # type: ignore[arg-type]
            except ValueError:
                return UNKNOWN, ()  # a word where numbers stood
            if _empty(number):
                return MISSING, ()
            return NUMBER, (self._standard(column, number),)
        if column in self.hashed:
            return self.vocabulary.id(f"{column}#{_bucket(_text(cell), self.max_categories)}"), ()
        return self.vocabulary.id(f"{column}={_text(cell)}"), ()

    def _standard(self, column: str, number: float) -> float:
        if column not in self.scales:
            return math.copysign(math.log1p(abs(number)), number)
        mean, deviation = self.scales[column]
        return compress((number - mean) / deviation)

    def _number(self, column: str, value: float) -> float:
        """What `_standard` made this of; 0 where float32 has rounded it off."""
        if column not in self.scales:
            return math.copysign(math.expm1(min(abs(value), 700.0)), value)
        mean, deviation = self.scales[column]
        number = expand(value) * deviation + mean
        return 0.0 if abs(number) < 1e-7 * abs(mean) else number

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
            return html.escape(f"{number:.4g} {self._units.get(columns[i], '')}".rstrip())

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
    """Mean and deviation of a column's numbers `(N,)`; the deviation is positive.

    Wild ones are left out, again and again until none is found (sigma clipping, as astronomers do), but for a column
    that is nearly always the same, and never more than a hundredth of it: there the others are what it tells.
    """
    few = len(numbers) / 100
    low, high = np.quantile(numbers, [0.01, 0.99])
    same = high - low <= 1e-9 * max(abs(low), abs(high))
    near = numbers
    while True:
        mean, deviation = float(near.mean()), float(near.std())
        if near.min() == near.max() or not deviation:  # rounding may give constants one
            return float(near[0]), 1.0
        kept = near[np.abs(near - mean) <= _FAR * deviation]
        if same or len(kept) == len(near) or len(numbers) - len(kept) > few:
            return mean, deviation
        near = kept


def compress(number: float) -> float:
    """A standardised number, beyond `_FAR` its logarithm, which goes on from there at the same slope."""
    far = min(abs(number), _LARGEST) / _FAR
    return number if far <= 1 else math.copysign(_FAR * (1 + math.log(far)), number)


def expand(number: float) -> float:
    """The standardised number that `compress` made this of."""
    far = min(abs(number) / _FAR - 1, 700.0)  # a prediction may be anything
    return number if far <= 0 else math.copysign(_FAR * math.exp(far), number)


def _empty(cell: Cell) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in EMPTY
    return cell is None or not abs(cell) <= _LARGEST  # nan, infinities and integers beyond float32


def _text(cell: Cell) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell).strip()


def _numbers(cells: list[Cell]) -> tuple[np.ndarray | None, str | None]:
    """A column's cells as numbers with their unit, empty where they have none; (days, None) where they are dates.

    Without numbers (None, "") is returned.
    """
    if all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in cells):
        return np.array(cells, np.float64), ""
    if None not in (days := [_days(cell) for cell in cells]):
        return np.array(days, np.float64), None
    numbers, units = zip(*map(_quantity, cells), strict=True)
    return (np.array(numbers, np.float64), units[0]) if units[0] and len(set(units)) == 1 else (None, "")


def _quantity(cell: Cell) -> tuple[float, str]:
    """The number and unit of a cell such as `12 mm`; the unit is empty where it is made otherwise."""
    match = _QUANTITY.fullmatch(cell.strip()) if isinstance(cell, str) else None
    number = float(match[1]) if match else 0.0
    return (number, match[2]) if match and not _empty(number) else (0.0, "")


def _days(cell: Cell) -> float | None:
    """Days since 1970 of an ISO date or time; None where the cell is none."""
    if not isinstance(cell, str) or not _DATE.fullmatch(cell.strip()):
        return None
    try:
        when = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() / 86_400


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
