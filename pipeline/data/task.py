"""Prediction tasks: regression or classification of a label, and its values as targets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modalities.strings.cells import is_identifier, to_number, to_quantity

MAX_NUMERIC_CLASSES = 20
"""Integer labels with at most this many distinct values are classes."""


def finite(label: Any) -> Any:
    """A label, or None if it is a number that is not finite, because nothing can be learned from it."""
    return None if isinstance(label, float) and not math.isfinite(label) else label


@dataclass(frozen=True, kw_only=True)
class Task:
    """A label to predict: a number, standardized by the training labels, or one of `classes`.

    kind: `regression` or `classification`.
    """

    label: str
    kind: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return len(self.classes) if self.kind == "classification" else 1

    def fitted(self, labels: Sequence[Any]) -> Task:
        """The same task, with mean and std of the training labels."""
        if self.kind == "classification":
            return self
        numbers = np.array(labels, np.float64)
        return replace(self, mean=float(numbers.mean()), std=float(numbers.std()) or 1.0)

    def encode(self, labels: Sequence[Any]) -> np.ndarray:
        """Labels as class indices int64 or standardized numbers float32."""
        if self.kind == "classification":
            indices = {name: index for index, name in enumerate(self.classes)}
            return np.array([indices[str(label)] for label in labels], np.int64)
        return ((np.array(labels, np.float64) - self.mean) / self.std).astype(np.float32)

    def decode(self, predicted: np.ndarray) -> np.ndarray:
        """Standardized numbers `(N,)` in the unit of the label; probabilities `(N, classes)` unchanged."""
        if self.kind == "classification":
            return predicted
        return predicted.astype(np.float64) * self.std + self.mean


def _refuse_mixed(label: str, values: Sequence[Any], numbers: int) -> None:
    """Refuse labels if most but not all are numbers, also in a column that counts as text.

    numbers: number of the values that are numbers.

    Raises:
        ValueError: more than half are numbers and others are not, or all have a unit; the message names these.
    """
    texts = Counter(value for value in values if isinstance(value, str))
    plain = {text for text in texts if to_number(text) is not None and not is_identifier(text.strip())}
    units = {text for text in texts if to_quantity(text) is not None}
    kinds = len(plain) + len(units) + len({value for value in values if not isinstance(value, str)})
    numeric = numbers + sum(texts[text] for text in plain | units)
    if numbers < len(values) < 2 * numbers or (
        kinds > MAX_NUMERIC_CLASSES and len(values) < 2 * numeric and plain != texts.keys()
    ):
        invalid = [str(value) for value in dict.fromkeys(values) if isinstance(value, bool)]
        invalid += [text for text in texts if text not in plain]
        cells = ", ".join(invalid[:5]) + (f" and {len(invalid) - 5:,} more" if len(invalid) > 5 else "")
        valid = numbers + sum(texts[text] for text in plain)
        raise ValueError(
            f"label {label!r}: {valid:,} of {len(values):,} cells are numbers, {len(values) - valid:,} are not "
            f"({cells}): give these numbers, leave them empty, or use --task classification"
        )


def _refuse_unique(label: str, values: Sequence[Any], numeric: bool) -> None:
    """Refuse a label whose values are mostly unique.

    Raises:
        ValueError: more than half of the samples, and more than 20, have a value that no other sample has.
    """
    once = sum(count == 1 for count in Counter(map(str, values)).values())
    if not numeric and once > max(len(values) / 2, MAX_NUMERIC_CLASSES):
        raise ValueError(
            f"label {label!r}: {once:,} of {len(values):,} samples have a class that no other sample has: is it a key, "
            "a text, or a number that cannot be read? If it is a class, use --task classification"
        )


def task_of(label: str, values: Sequence[Any], kind: str = "auto") -> Task:
    """The task of a label: regression if its values are numbers, except for integers with few distinct values.

    kind: `auto`, `regression` or `classification`.

    Raises:
        ValueError: the label does not vary, or is not a number although `kind` is regression.
    """
    distinct = set(values)
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    numeric = len(numbers) == len(values)
    if kind == "auto":
        _refuse_mixed(label, values, len(numbers))
        _refuse_unique(label, values, numeric)
        few = len(distinct) <= MAX_NUMERIC_CLASSES and numeric and all(float(value).is_integer() for value in distinct)
        kind = "regression" if numeric and not few else "classification"
    if kind == "regression" and not numeric:
        _refuse_mixed(label, values, len(numbers))
        raise ValueError(f"label {label!r} is not a number: use --task classification")
    if len(distinct) < 2:
        raise ValueError(f"label {label!r} has one value only: there is nothing to learn")
    if kind == "classification":
        return Task(label=label, kind=kind, classes=tuple(sorted(map(str, distinct))))
    return Task(label=label, kind=kind).fitted(values)
