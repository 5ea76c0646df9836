"""Signals in the columns of a data set: samples, rate, units and channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from modalities.files.reading import ContentError, count_change
from modalities.files.recording import Recording, to_members


@dataclass(frozen=True, kw_only=True)
class Column:
    """A property that differs between rows: the name of its column."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    column: str


@dataclass(frozen=True, kw_only=True)
class SignalColumns:
    """The signal of one modality in a data set's columns, each property as a value for all rows or as `{column: NAME}`.

    Attributes:
        sample_rate_hz: Sample rate of all channels.
        times (s): Column of the time of each sample, for uneven times, instead of a sample rate.
        unit: Unit of all channels, or a list with one per channel; by default numbers have no unit.
        channels: Names of the channels in the order of the samples; by default the names of the columns if each
            channel has its own.
        time_first: Whether samples are (time, channels) instead of (channels, time).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    sample_rate_hz: float | Column | None = None
    times: Column | None = None
    unit: str | tuple[str, ...] | Column | None = None
    channels: tuple[str, ...] | Column | None = None
    time_first: bool = False

    def __post_init__(self) -> None:
        if (self.sample_rate_hz is None) == (self.times is None):
            raise ValueError("each entry of data.source.signals needs either sample_rate_hz or times")

    @property
    def columns(self) -> list[str]:
        """The columns that the settings refer to."""
        parts = (self.sample_rate_hz, self.times, self.unit, self.channels)
        return [part.column for part in parts if isinstance(part, Column)]

    def members(self, name: str, columns: str | Sequence[str], row: Mapping[str, Any]) -> dict[str, bytes]:
        """Make the members of a signal, by extension, from the cells of a row; empty if it has no samples.

        Args:
            name: The modality.
            columns: One column, whose cells are lists of numbers (one channel) or lists of lists; or one column per
                channel. Channels without samples are dropped and counted.
            row: The cells by column.

        Raises:
            ContentError: cells are not numbers, or do not fit together.
            ValueError: a column has several channels, but the recipe gives no names for them.
        """
        rows = _numbers(name, row, [columns] if isinstance(columns, str) else columns)
        if not rows:
            return {}
        if isinstance(columns, str):
            samples = np.atleast_2d(rows[columns])
            samples = samples.T if self.time_first and rows[columns].ndim == 2 else samples
            channels = self._channels(name, row, (columns,), len(samples))
            units = self._units(row, len(channels))
        else:
            if len({array.shape for array in rows.values()}) > 1 or any(array.ndim != 1 for array in rows.values()):
                raise ContentError(f"{name} with channels that are not lists of one length")
            labels = self._channels(name, row, columns, len(columns))
            present = [i for i, column in enumerate(columns) if column in rows]
            for i in sorted({*range(len(columns))} - {*present}):
                count_change(f"{name}: channel {labels[i]} left out: no samples")
            samples = np.stack([rows[columns[i]] for i in present])
            channels = tuple(labels[i] for i in present)
            units = self._units(row, len(columns))
            units = tuple(units[i] for i in present) if len(units) == len(columns) else units
        return to_members(Recording(samples, channels, units, *self._clock(name, row)))

    def _channels(self, name: str, row: Mapping[str, Any], columns: Sequence[str], count: int) -> tuple[str, ...]:
        if isinstance(self.channels, Column):
            cell = row[self.channels.column]
            if not cell:
                raise ContentError(f"{name} without names of channels")
            channels = (cell,) if isinstance(cell, str) else tuple(map(str, cell))
        elif self.channels is None and len(columns) < count:
            raise ValueError(
                f"data.source.signals.{name} needs channels: the column {columns[0]!r} has {count} without names"
            )
        else:
            channels = tuple(columns) if self.channels is None else self.channels
        if len(channels) != count:
            raise ContentError(f"{name} of {count} channels with {len(channels)} names", "see time_first")
        return channels

    def _units(self, row: Mapping[str, Any], count: int) -> tuple[str, ...]:
        """One unit per channel; if the number of units differs, the modality refuses the row."""
        unit = row[self.unit.column] if isinstance(self.unit, Column) else self.unit
        return (unit or "",) * count if unit is None or isinstance(unit, str) else tuple(map(str, unit))

    def _clock(self, name: str, row: Mapping[str, Any]) -> tuple[float, float, np.ndarray | None]:
        """Rate in Hz, start in s and times in s of the samples."""
        if self.times is not None:
            times = _numbers(name, row, [self.times.column], np.float64)
            if not times:
                raise ContentError(f"{name} without times")
            return 0.0, 0.0, times[self.times.column]
        rate_hz = row[self.sample_rate_hz.column] if isinstance(self.sample_rate_hz, Column) else self.sample_rate_hz
        try:
            return float(rate_hz), 0.0, None  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ContentError(f"{name} without a sample rate") from error


def _numbers(
    name: str, row: Mapping[str, Any], columns: Sequence[str], dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """Arrays of the filled cells by column, with one or two axes; a missing number in a list is NaN."""
    try:
        arrays: dict[str, np.ndarray] = {
            column: np.asarray(row[column], dtype) for column in columns if row[column] is not None
        }
    except (TypeError, ValueError) as error:
        raise ContentError(f"{name} of cells that are not lists of numbers of one length") from error
    if any(array.ndim not in (1, 2) for array in arrays.values()):
        raise ContentError(f"{name} of cells that are not (channels, time)")
    return {column: array for column, array in arrays.items() if array.size}
