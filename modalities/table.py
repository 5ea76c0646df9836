"""Rows of named columns: numbers, categories and missing cells."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase, digits
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import MISSING, ContentError, Modality, Tokens, fitted, register
from modalities.vocabulary import Vocabulary, common, words

NUMBER = 2
"""Content id of every number; categories follow."""
EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells that say nothing is there, in lower case."""
_LARGEST = float(np.finfo(np.float32).max)
_FARTHEST = 1e6
"""Deviations from the mean beyond which a number is cut, so that one wild cell keeps all sums finite."""
_FREQUENCIES = 8

Cell = float | int | str | bool | None
Row = dict[str, Cell]


@register
@dataclass(frozen=True, kw_only=True)
class Table(Modality):
    """One token a column, after TransTab (Wang & Sun 2022): a column is known by the subwords of its name.

    Numbers are standardised with the training split's mean and deviation; categories are entries `column=value` seen
    at least `min_count` times; a missing cell is a token of its own and is never a target. `ids` `(N, 1 + M)` hold
    the content (0 missing, 1 unknown category, 2 number, then categories) and the name's M subwords. A number in a
    column never seen while fitting enters as sign(x) log(1 + |x|), for there is nothing to standardise it with.
    """

    type: ClassVar[str] = "table"
    extensions: ClassVar[tuple[str, ...]] = ("json",)

    min_count: int = 2
    exclude: tuple[str, ...] = ()
    numbers: tuple[tuple[str, float, float], ...] = fitted(())
    categories: tuple[tuple[str, tuple[str, ...]], ...] = fitted(())
    subwords: tuple[str, ...] = fitted(())
    name_length: int = fitted(8)

    @cached_property
    def scales(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation by numeric column."""
        return {name: (mean, deviation) for name, mean, deviation in self.numbers}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Categories as `column=value`, after the entry that stands for every number."""
        return Vocabulary(
            ("<number>", *(f"{column}={value}" for column, values in self.categories for value in values))
        )

    def knows(self, column: str) -> bool:
        """Whether a column was seen while fitting."""
        return column in self.scales or column in self._categorical

    @cached_property
    def _names(self) -> Vocabulary:
        return Vocabulary(self.subwords)

    @cached_property
    def _spelled(self) -> dict[str, np.ndarray]:
        return {}

    @property
    def widths(self) -> tuple[int, int, int]:
        return 1, 1 + self.name_length, 0

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
        numbers, categories = [], []
        for column, values in sorted(cells.items()):
            if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
                array = np.array(values, np.float64)
                spread = float(array.std()) if array.min() < array.max() else 0.0  # rounding gives constants a spread
                numbers.append((column, float(array.mean()), spread or 1.0))
            else:
                categories.append((column, common(map(_text, values), self.min_count)))
        letters = sorted({letter for column in cells for letter in column.lower()} | set(ascii_lowercase + digits))
        whole = common((word for column in cells for word in words(column) if len(word) > 1), 1)
        subwords = (*(letter for letter in letters if not letter.isspace()), *whole)
        spelled = Vocabulary(subwords)
        longest = max(sum(len(spelled.pieces(word)) for word in words(column)) for column in cells)
        fitted_table = dataclasses.replace(
            self,
            numbers=tuple(numbers),
            categories=tuple(categories),
            subwords=subwords,
            name_length=max(longest, 8),
        )
        fitted_table._refuse_homonyms(cells)
        return fitted_table

    def _refuse_homonyms(self, columns: Iterable[str]) -> None:
        seen: dict[bytes, str] = {}
        for column in columns:
            other = seen.setdefault(self._name(column).tobytes(), column)
            if other != column:
                raise ValueError(f"table columns {other!r} and {column!r} read alike: rename or exclude one")

    def _name(self, column: str) -> np.ndarray:
        """Subword ids `(M,)` of a column's name, 0 after its end."""
        if column not in self._spelled:
            ids = [piece for word in words(column) for piece in self._names.pieces(word)][: self.name_length]
            self._spelled[column] = np.array(ids + [0] * (self.name_length - len(ids)), np.int64)
        return self._spelled[column]

    def decode(self, members: dict[str, bytes]) -> Row:
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
        return value

    def tokenize(self, raw: Row, rng: np.random.Generator | None = None) -> Tokens:
        columns = [column for column in raw if column not in self.exclude]
        if not columns:
            raise ContentError("table row without columns")
        values = np.zeros((len(columns), 1), np.float32)
        ids = np.zeros((len(columns), 1 + self.name_length), np.int64)
        for i, column in enumerate(columns):
            ids[i, 0], values[i, 0] = self._content(column, raw[column])
            ids[i, 1:] = self._name(column)
        return Tokens(values, ids, np.zeros((len(columns), 0), np.float32))

    def _content(self, column: str, cell: Cell) -> tuple[int, float]:
        if _empty(cell):
            return MISSING, 0.0
        if column in self.scales or (column not in self._categorical and not isinstance(cell, (str, bool))):
            try:
                number = float(cell)  # type: ignore[arg-type]
            except ValueError:
                return self.vocabulary.id(f"{column}={cell}"), 0.0  # a word where numbers stood: unknown
            if _empty(number):
                return MISSING, 0.0
            if column not in self.scales:
                return NUMBER, math.copysign(math.log1p(abs(number)), number)
            mean, deviation = self.scales[column]
            return NUMBER, min(max((number - mean) / deviation, -_FARTHEST), _FARTHEST)
        return self.vocabulary.id(f"{column}={_text(cell)}"), 0.0

    @cached_property
    def _categorical(self) -> frozenset[str]:
        return frozenset(column for column, _ in self.categories)

    def embedding(self, dim: int) -> nn.Module:
        return CellEmbedding(len(self.vocabulary), len(self._names), self.name_length, dim)

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, 1 + len(self.vocabulary))

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Huber loss of a standardised number, cross-entropy of a category."""
        prediction = prediction.float()
        number = F.smooth_l1_loss(prediction[:, 0], values[:, 0].float(), reduction="none")
        category = F.cross_entropy(prediction[:, 1:], ids[:, 0], reduction="none")
        return torch.where(ids[:, 0] == NUMBER, number, category)

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        number = tokens.ids[:, 0] == NUMBER
        ids = tokens.ids.copy()
        ids[~number, 0] = prediction[~number, 1:].argmax(1)
        return tokens._replace(ids=ids, values=np.where(number[:, None], prediction[:, :1], 0).astype(np.float32))

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        by_name = {self._name(name).tobytes(): name for name in (*self.scales, *self._categorical)}
        columns = [by_name.get(ids[1:].tobytes(), "?") for ids in tokens.ids]

        def cell(which: Tokens, i: int) -> str:
            content = int(which.ids[i, 0])
            if content != NUMBER:
                return html.escape(self.vocabulary.entries[content].removeprefix(f"{columns[i]}="))
            mean, deviation = self.scales.get(columns[i], (0.0, 1.0))
            return f"{which.values[i, 0] * deviation + mean:.4g}"

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

    Numbers enter with periodic features (Gorishniy et al. 2022), scaled by the name as in TransTab.
    """

    def __init__(self, categories: int, subwords: int, name_length: int, dim: int):
        super().__init__()
        self.category = nn.Embedding(categories, dim)
        self.number = nn.Linear(1 + 2 * _FREQUENCIES, dim)
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
        angles = values.float() * torch.tensor(self.frequencies, device=values.device)
        number = self.number(torch.cat([values.float(), angles.sin(), angles.cos()], 1))
        kind = self.category(content)
        is_number = (content == NUMBER).unsqueeze(-1)
        return kind + is_number * number * (1 + self.scale(name)), name


def _empty(cell: Cell) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in EMPTY
    return cell is None or not abs(cell) <= _LARGEST  # nan, infinities and integers beyond float32


def _text(cell: Cell) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell).strip()
