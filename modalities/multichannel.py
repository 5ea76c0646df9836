"""Base of modalities of recordings with several channels: signals and light curves."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import nn

from modalities.base import fitted
from modalities.drawing import draw_channels
from modalities.files.channels import (
    Montage,
    Position,
    channel_position,
    electrode_positions,
    resolve_channel,
    sort_channels,
    suggest_channels,
)
from modalities.files.edf import read_edf
from modalities.files.reading import ContentError, count_change
from modalities.files.recording import (
    MAX_SAMPLES,
    UNCALIBRATED,
    Normalize,
    Recording,
    build_recording,
    describe_recording,
    find_fault,
    from_members,
    normalize,
    remove_gaps,
    to_members,
    unit_factor,
)
from modalities.files.waveforms import read_csv, read_wfdb, read_wfdb_extent
from modalities.layers.patches import PatchEmbedding, Stem, Target, build_stem
from modalities.masks.masking import Masking
from modalities.patch_modality import PatchModality
from modalities.strings.vocabulary import Vocabulary
from modalities.tokens import Axes, Tokens

MAX_TOKENS = 16_384
"""Largest number of tokens of a recording; a window cuts longer ones."""


@dataclass(frozen=True, kw_only=True)
class MultichannelModality(PatchModality):
    """Patches of single channels, so that any montage of any length fits (LaBraM, Jiang et al. 2024).

    Tokens: `values`: a patch. `ids`: 2 (content) and the channel. `coords`: x, y, z of the electrode in cm, zeros
    without a position; time of the patch in s after the sample's beginning. A channel that a recording lacks has no
    tokens.

    Attributes:
        montage: How names of channels are read; a name that it does not know is refused. `any` accepts every name,
            without a position.
        channels: Channels to use, in this order; by default all names that the montage knows, and `any` for all names.
            A derivation such as `F3-C3` is computed from its electrodes if a file lacks it.
        unit: Unit to which recordings are converted; `null` takes numbers as they are.
        normalize: How a recording is scaled over its whole length: each channel by its mean and std (`channel`); all
            channels by one std (`recording`); all recordings by `scale` (`fixed`); each channel by the 95th percentile
            of its magnitude (`percentile`; BIOT) or by its median and median absolute deviation (`mad`).
        scale: Divisor of `normalize: fixed`, in `unit`.
        max_clipped: Largest share of a channel's samples that may be at an extreme.
        faulty_channels: `refuse` skips a recording with a channel that is constant, clipped or has missing samples
            (NaN); `exclude` leaves such a channel out, or cuts the recording to its longest stretch without missing
            samples, whichever keeps more numbers.
    """

    extensions: ClassVar[tuple[str, ...]] = ("npy", "json")
    requires: ClassVar[tuple[str, ...]] = ("scipy", "wfdb", "pyedflib")
    is_recording: ClassVar[bool] = True
    axes: ClassVar[Axes] = {"channel": ("ids", 1), "time": ("coords", 3)}
    row_axis: ClassVar[str | None] = "channel"

    window_key: ClassVar[str]
    """The recipe key that sets `window`."""

    target: Target = "values"
    montage: Montage = "any"
    channels: Literal["any"] | tuple[str, ...] = ()
    unit: str | None = None
    normalize: Normalize = "channel"
    scale: float = 1.0
    max_clipped: float = 0.05
    faulty_channels: Literal["refuse", "exclude"] = "refuse"
    names: tuple[str, ...] = fitted(())
    electrodes: tuple[tuple[str, float, float, float], ...] = fitted(())

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"{self.type} scale is {self.scale}, but must be above 0")
        if self.patch < 1 or (self.window is not None and self.window < self.patch):
            raise ValueError(f"a {self.type}'s window holds at least one patch, and a patch at least one sample")
        if self.normalize == "fixed" and self.unit is None:
            raise ValueError(f"{self.type} normalize 'fixed' needs a unit that scale is in")
        if any(masking.kind == "block" for masking in ([self.mask] if isinstance(self.mask, Masking) else self.mask)):
            raise ValueError(f"{self.type} tokens form no grid for mask kind 'block': use 'span', 'channel' or 'time'")
        for name in self.channels if self.channels != "any" else ():
            if resolve_channel(name, self.montage) is None:
                raise ValueError(f"{self.type} channel {suggest_channels(name, self.montage)}")
        if len(set(self.selected_channels)) < len(self.selected_channels):
            raise ValueError(f"{self.type} channels name a channel twice")

    @property
    @abstractmethod
    def patch(self) -> int:
        """Samples of one channel in a token."""

    @property
    @abstractmethod
    def window(self) -> int | None:
        """Largest number of samples of a recording that are used; None for all."""

    @abstractmethod
    def set_clock(self, raw: Recording) -> Recording:
        """Give a recording an even sample rate, or a time for each sample, as this modality needs.

        Raises:
            ContentError: the times are not even.
        """

    @abstractmethod
    def process(self, raw: Recording) -> tuple[np.ndarray, np.ndarray | None]:
        """Resample, filter and scale: samples `(channels, T)`, and their errors with the same scale or None."""

    @abstractmethod
    def patch_times(self, raw: Recording, start: int, count: int) -> np.ndarray:
        """Coordinates `(count, K)` of patches from sample `start` on: start time in s, then further columns."""

    def count_samples(self, raw: Recording) -> int:
        """Number of samples of a channel after `process`."""
        return raw.samples.shape[1]

    @cached_property
    def selected_channels(self) -> tuple[str, ...]:
        """The channels that the recipe names, in the montage's spelling; empty for all channels."""
        names = () if self.channels == "any" else self.channels
        return tuple(name for label in names if (name := resolve_channel(label, self.montage)))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Channels of the training data."""
        return Vocabulary(self.names)

    @cached_property
    def positions(self) -> dict[str, Position]:
        """Positions of electrodes in cm."""
        return {name: (x, y, z) for name, x, y, z in self.electrodes}

    @property
    def example(self) -> str:
        return '"record.npy"'

    @property
    def target_width(self) -> int:
        return self.patch

    def is_error(self, name: str) -> bool:
        """Whether a channel is the errors of another one."""
        return False

    def measured_channel(self, name: str) -> str:
        """The channel that a channel measures: itself, or the channel whose errors it is."""
        return name

    def error_channels(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names of the channels that are the errors of `names`."""
        return ()

    def takes(self, label: str) -> bool:
        name = resolve_channel(label, self.montage)
        if self.selected_channels:
            return name in self._needed_channels
        return name is not None or self.channels == "any"

    def channel_hint(self, label: str) -> str | None:
        return None if self.selected_channels else suggest_channels(label, self.montage)

    @cached_property
    def _needed_channels(self) -> frozenset[str]:
        """The selected channels, with the electrodes and errors that go with them."""
        names = self.selected_channels
        parts = (part for name in names for part in (name.split("-") if self.montage == "eeg" else ()))
        return frozenset((*names, *parts, *self.error_channels(names)))

    def fit(self, raws: Iterable[Recording]) -> Self:
        """Fit the channels of the training data, and the positions of electrodes."""
        channels = {name for raw in raws for name in raw.channels}
        if not channels:
            raise ValueError(f"no {self.type}s to fit on")
        electrodes = electrode_positions() if self.montage == "eeg" else {}
        return dataclasses.replace(
            self,
            names=sort_channels((name for name in channels if not self.is_error(name)), self.montage),
            electrodes=tuple((name, *xyz) for name, xyz in electrodes.items()),
        )

    def read_members(self, path: Path) -> dict[str, bytes]:
        """Members of an npy, CSV (`waveforms.read_csv`), EDF or BDF file, or of a WFDB record by any of its names.

        EDF, BDF and WFDB files have channels of many kinds; only those that `takes` accepts are read.
        """
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return super().read_members(path)
        if suffix == ".csv":
            return to_members(read_csv(path))
        if suffix in (".edf", ".bdf") and path.is_file():
            return to_members(read_edf(path, self._assign_rows)[self.type])
        headers = [header for header in (Path(f"{path}.hea"), path.with_suffix(".hea")) if header.is_file()]
        if not headers:
            raise ContentError(
                f"signal file of the unknown kind {suffix}" if path.is_file() else "signal file is missing"
            )
        return to_members(read_wfdb(headers[0], self._assign_rows, 0, read_wfdb_extent(headers[0])[1])[0][self.type])

    def _assign_rows(self, labels: Sequence[str]) -> dict[str, list[int]]:
        rows = [row for row, label in enumerate(labels) if self.takes(label)]
        if not rows:
            raise ContentError("signal without any of the recipe's channels")
        return {self.type: rows}

    def decode(self, members: dict[str, bytes]) -> Recording:
        return self.prepare(from_members(members))

    def parse(self, value: Any) -> Recording:
        """A `Recording`, a dict {samples, sample_rate_hz or times, unit, channels}, or a file for `read_members`."""
        if isinstance(value, Recording):
            return self.prepare(build_recording(value.samples, describe_recording(value)))
        if isinstance(value, dict):
            return self.prepare(build_recording(value.get("samples"), value))
        if not isinstance(value, (str, Path)):
            raise ContentError(f"a signal cannot be read from {type(value).__name__}")
        return self.decode(self.read_members(Path(value)))

    def prepare(self, raw: Recording) -> Recording:
        """Select, name and check the channels of a recording, and convert it to the recipe's unit.

        Raises:
            ContentError: an unknown, repeated or faulty channel, another unit, uneven times, no token, more than
                `MAX_TOKENS`, a channel without spread or errors.
        """
        raw = self._convert(self._select(raw))
        is_lenient = self.faulty_channels == "exclude"
        if is_lenient and np.isnan(raw.samples).any():
            raw = self._exclude_faulty(raw)  # first, so that gaps of an excluded channel do not shorten the others
        raw = remove_gaps(raw, [self.measured_channel(name) for name in raw.channels], is_lenient)
        raw = self.set_clock(self._exclude_faulty(raw))
        self.check(raw)
        return raw

    def _convert(self, raw: Recording) -> Recording:
        """Convert a recording to the recipe's unit."""
        if self.unit is not None:
            factors = np.array([unit_factor(unit, self.unit) for unit in raw.units], np.float32)
            raw = raw._replace(samples=raw.samples * factors[:, None], units=(self.unit,) * len(factors))
            if np.isinf(raw.samples).any():
                raise ContentError("signal with samples that are not numbers", f"in {self.unit}")
        elif UNCALIBRATED in raw.units:
            for name, unit in zip(raw.channels, raw.units, strict=True):
                if unit == UNCALIBRATED:
                    count_change(f"channel {name} is uncalibrated: its numbers are those of the converter")
        return raw

    def _exclude_faulty(self, raw: Recording) -> Recording:
        """Leave out channels whose samples, apart from missing ones, are constant or clipped.

        Raises:
            ContentError: `faulty_channels` is `refuse` and there is one, or all channels are.
        """
        faults: dict[str, str] = {}
        for name, channel in zip(raw.channels, raw.samples, strict=True):
            samples = channel[~np.isnan(channel)]
            if not self.is_error(name) and len(samples) and (reason := find_fault(samples, self.max_clipped)):
                faults[name] = reason
        rows = [row for row, name in enumerate(raw.channels) if self.measured_channel(name) not in faults]
        if faults and (self.faulty_channels == "refuse" or not rows):
            first = min(faults.values())
            raise ContentError(f"signal with a {first} channel", next(n for n, f in faults.items() if f == first))
        for name, reason in faults.items():
            count_change(f"channel {name} left out: {reason}")
        return raw.only(rows)

    def _select(self, raw: Recording) -> Recording:
        """Name the channels as the montage does, and select those of the recipe in its order."""
        labels = [self._resolve(label) for label in raw.channels]
        rows = {name: row for row, name in enumerate(labels) if name is not None}
        names = [name for name in labels if name is not None]
        if repeated := sorted(name for name in self._needed_channels or set(names) if names.count(name) > 1):
            raise ContentError("signal with a channel twice", repeated[0])
        raw = raw._replace(channels=tuple(name or "" for name in labels))
        if not self.selected_channels:
            return raw.only([rows[name] for name in sort_channels(names, self.montage)])
        for name in self.selected_channels:
            first, _, second = name.partition("-")
            if name not in rows and self.montage == "eeg" and first in rows and second in rows:
                rows[name] = len(raw.channels)
                difference = raw.samples[rows[first]] - raw.samples[rows[second]]
                raw = raw._replace(
                    samples=np.concatenate([raw.samples, difference[None]]),
                    channels=(*raw.channels, name),
                    units=(*raw.units, raw.units[rows[first]]),
                )
        selected = [*self.selected_channels, *self.error_channels(self.selected_channels)]
        present = [name for name in selected if name in rows]
        if not present:
            raise ContentError("signal without any of the recipe's channels")
        return raw.only([rows[name] for name in present])

    def _resolve(self, label: str) -> str | None:
        name = resolve_channel(label, self.montage)
        if name is None and self.channels == "any":
            name = resolve_channel(label, "any")
        if name is None and (hint := self.channel_hint(label)):
            raise ContentError("signal with an unknown channel", hint)
        return name

    def check(self, raw: Recording) -> None:
        """Check before processing whether a recording can become tokens.

        Raises:
            ContentError: too many numbers or tokens, or none.
        """
        count = self.count_samples(raw)
        if len(raw.channels) * count > MAX_SAMPLES:
            raise ContentError(f"signal of more than {MAX_SAMPLES:,} numbers at the recipe's rate")
        patches = min(count, self.window or count) // self.patch
        if not patches:
            raise ContentError("signal shorter than a patch", f"{raw.samples.shape[1]} samples")
        if patches * len(self.measured_channels(raw)) > MAX_TOKENS:
            raise ContentError(f"signal of more than {MAX_TOKENS:,} tokens", f"cut it with {self.window_key}")

    def check_spread(self, raw: Recording) -> None:
        """Check that all channels can be scaled; for recordings that `process` only scales.

        Raises:
            ContentError: a channel without spread.
        """
        if self.normalize in ("percentile", "mad"):  # others scale all but constant channels, which are faulty
            rows = [row for row, name in enumerate(raw.channels) if not self.is_error(name)]
            normalize(raw.samples[rows], self.normalize, self.scale)

    def measured_channels(self, raw: Recording) -> list[str]:
        """The channels of a recording that become tokens: all except errors of others."""
        return [name for name in raw.channels if not self.is_error(name)]

    def tokenize(self, raw: Recording, rng: np.random.Generator | None = None) -> Tokens:
        """Tokenize a window, random in training and the middle otherwise, without a remainder shorter than a patch."""
        samples, errors = self.process(raw)
        names = self.measured_channels(raw)
        count = min(samples.shape[1], self.window or samples.shape[1]) // self.patch * self.patch
        spare = samples.shape[1] - count
        start = spare // 2 if rng is None else int(rng.integers(spare + 1))
        patches = count // self.patch
        window = slice(start, start + count)
        parts = [part[:, window].reshape(-1, self.patch) for part in (samples, errors) if part is not None]
        ids = np.full((len(parts[0]), 2), 2, np.int64)
        ids[:, 1] = np.repeat([self._channel_id(name) for name in names], patches)
        places = [channel_position(name, self.positions) or (0.0, 0.0, 0.0) for name in names]
        times = self.patch_times(raw, start, patches)
        coords = np.concatenate([np.repeat(places, patches, 0), np.tile(times, (len(names), 1))], 1)
        return Tokens(np.concatenate(parts, 1).astype(np.float32, copy=False), ids, coords.astype(np.float32))

    def _channel_id(self, name: str) -> int:
        if name not in self.vocabulary and channel_position(name, self.positions) is None:
            raise ContentError("signal with a channel that the training data lack", name)
        return self.vocabulary.id(name)  # UNKNOWN for a new electrode, which its position identifies

    def _embed(self, dim: int, stem: Stem | Literal["spectral"], patch_s: float) -> nn.Module:
        """Build the embedding; `patch_s`, the length of a patch, is the unit of time coordinates."""
        width, _, coordinates = self.widths
        scales = (1.0, 1.0, 1.0, *[patch_s] * (coordinates - 3))
        channels = len(self.vocabulary)
        return PatchEmbedding(build_stem(width, dim, stem), dim, scales=scales, channels=channels, positions=4)

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        values, predicted = tokens.values[:, : self.patch], reconstructed.values[:, : self.patch]
        peak = max(float(np.percentile(np.abs(values), 99.5)), 1e-6)
        visible = np.where(target[:, None], np.nan, values)
        keys = np.column_stack([tokens.ids[:, 1], tokens.coords[:, :3]])
        group = np.unique(keys, axis=0, return_inverse=True)[1]
        rows = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
        names = [self.vocabulary.entries[tokens.ids[row[0], 1]] for row in rows]
        predicted = np.where(target[:, None], predicted, np.nan)
        return {
            "original": draw_channels(names, rows, target, peak, values),
            "masked": draw_channels(names, rows, target, peak, visible),
            "reconstructed": draw_channels(names, rows, target, peak, visible, predicted),
        }
