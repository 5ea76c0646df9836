"""EEG, ECG and other recordings of several channels: one token a channel and stretch of time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from modalities.base import Modality, SineCosine, fitted, register
from modalities.files.channels import Montage, Position, position, positions, ranked, resolve, suggest
from modalities.files.edf import read_edf
from modalities.files.reading import ContentError, count_change
from modalities.files.recording import (
    MAX_SAMPLES,
    UNCALIBRATED,
    Normalize,
    Recording,
    band,
    described,
    factor,
    fault,
    from_members,
    normalize,
    ratio,
    resample,
    to_members,
    without_gaps,
)
from modalities.files.waveforms import read_csv, read_wfdb, wfdb_extent
from modalities.layers.patches import (
    SpectralStem,
    Stem,
    log_amplitudes,
    patch_embedding,
    restored,
    restored_spectra,
    squared_error,
)
from modalities.masks.masking import Masking
from modalities.strings.vocabulary import Vocabulary
from modalities.tokens import Axes, Tokens
from modalities.traces import draw

MAX_TOKENS = 16_384
"""Tokens a recording may have; a longer one wants a `window_s`."""
ERROR = "_error"
"""What the name of a channel's errors ends in."""
_EVEN = 0.01
"""Share of a step by which times may be off an even rate."""


@register
@dataclass(frozen=True, kw_only=True)
class Signal(Modality):
    """Patches of single channels, so that any montage of any length fits (LaBraM, Jiang et al. 2024).

    Names are read by `montage` (see `channels.resolve`); one it does not know is refused. `channels` picks and orders,
    and what it does not name is left out; a derivation such as `F3-C3` that a file lacks is made of its electrodes;
    `any` admits every name, without a position. A channel that a recording lacks has no tokens.

    A recording is brought to `unit` (null: numbers as they are) and `sample_rate_hz`, filtered between `low_hz` and
    `high_hz` and at `notch_hz`, and scaled over its whole length by `normalize` (`recording.normalize`; `scale` is in
    `unit`). A window of `window_s` is cut out at random in training and in the middle elsewhere; a rest shorter than
    a patch is left out. `max_clipped`: largest share of a channel's samples that may be at an extreme.
    `faulty_channels`: whether a constant or clipped channel, or one with missing samples (NaN), makes the recording
    unusable (`refuse`) or is left out of it (`exclude`); if that keeps more numbers, a recording with missing samples
    is cut to its longest stretch without any instead.

    `uneven` is for light curves and the like, whose times are part of the data: nothing is interpolated, a token is
    `patch_points` observations of one channel, `window_points` of a recording are used; with `errors` a channel
    `flux` is joined by the values of `flux_error`, which is no channel of its own and never predicted.

    `values`: a patch, then its errors. `ids`: 2 (there is content) and the channel, by what training held.
    `coords`: x, y, z of the electrode in cm, zeros where there is none; time of the patch in s after the sample's
    beginning; with uneven times, those of each observation in s after that. `target`: what masked modelling
    predicts, values, each patch normalized by its own mean and std, or the amplitudes of its spectrum, which
    noise and phase leave alone (BrainBERT, Wang et al. 2023). `stem`: a patch is embedded by a linear map, with a
    hidden layer, or so and by its spectrum.
    """

    type: ClassVar[str] = "signal"
    extensions: ClassVar[tuple[str, ...]] = ("npy", "json")
    requires: ClassVar[tuple[str, ...]] = ("scipy", "wfdb", "pyedflib")
    axes: ClassVar[Axes] = {"channel": ("ids", 1), "time": ("coords", 3)}
    row_axis: ClassVar[str | None] = "channel"

    montage: Montage = "any"
    channels: Literal["any"] | tuple[str, ...] = ()
    unit: str | None = None
    sample_rate_hz: float = 200.0
    low_hz: float | None = None
    high_hz: float | None = None
    notch_hz: tuple[float, ...] = ()
    normalize: Normalize = "channel"
    scale: float = 1.0
    patch_s: float = 1.0
    window_s: float | None = None
    max_clipped: float = 0.05
    faulty_channels: Literal["refuse", "exclude"] = "refuse"
    uneven: bool = False
    errors: bool = False
    patch_points: int = 8
    window_points: int | None = None
    target: Literal["values", "normalized", "spectrum"] = "values"
    stem: Stem | Literal["spectral"] = "linear"
    names: tuple[str, ...] = fitted(())
    electrodes: tuple[tuple[str, float, float, float], ...] = fitted(())
    step_s: float = fitted(1.0)

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "patch_s", "window_s", "low_hz", "high_hz", "scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"signal {name} is {value}, but must be above 0")
        if self.patch < 1 or (self.window is not None and self.window < self.patch):
            raise ValueError("a signal's window holds at least one patch, and a patch at least one sample")
        edges = [hz for hz in (self.low_hz, self.high_hz, *self.notch_hz) if hz is not None]
        if edges and (self.uneven or not 0 < min(edges) <= max(edges) < self.sample_rate_hz / 2):
            raise ValueError("signal filters need an even rate and lie between 0 and half of sample_rate_hz")
        if self.low_hz and self.high_hz and self.low_hz >= self.high_hz:
            raise ValueError(f"signal low_hz {self.low_hz} must be below high_hz {self.high_hz}")
        if self.normalize == "fixed" and self.unit is None:
            raise ValueError("signal normalize 'fixed' needs a unit that scale is in")
        if self.uneven and "spectr" in self.target + self.stem:
            raise ValueError("signals of uneven times have no spectrum: choose another target and stem")
        if self.errors and not self.uneven:
            raise ValueError("signal errors belong to uneven times: set uneven")
        if any(each.kind == "block" for each in ([self.mask] if isinstance(self.mask, Masking) else self.mask)):
            raise ValueError("signals are no grid for mask kind 'block': use 'span', 'channel' or 'time'")
        for name in self.channels if self.channels != "any" else ():
            if resolve(name, self.montage) is None:
                raise ValueError(f"signal channel {suggest(name, self.montage)}")
        if len(set(self.chosen)) < len(self.chosen):
            raise ValueError("signal channels name a channel twice")

    @property
    def patch(self) -> int:
        """Samples of one channel in a token."""
        return self.patch_points if self.uneven else round(self.patch_s * self.sample_rate_hz)

    @property
    def window(self) -> int | None:
        """Samples of a recording that are used at most."""
        if self.uneven:
            return self.window_points
        return None if self.window_s is None else round(self.window_s * self.sample_rate_hz)

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        """The channels that the recipe names, in the montage's spelling; empty where it takes all."""
        names = () if self.channels == "any" else self.channels
        return tuple(found for name in names if (found := resolve(name, self.montage)))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Channels seen in training."""
        return Vocabulary(self.names)

    @cached_property
    def positions(self) -> dict[str, Position]:
        """Where electrodes lie, in cm."""
        return {name: (x, y, z) for name, x, y, z in self.electrodes}

    @property
    def example(self) -> str:
        return '"record.npy"'

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.patch * (1 + self.errors), 2, 4 + self.patch * self.uneven

    def takes(self, label: str) -> bool:
        """Whether a channel of a file, by the name it has there, is one for this modality."""
        found = resolve(label, self.montage)
        if self.chosen:
            return found in self._needed
        return found is not None or self.channels == "any"

    @cached_property
    def _needed(self) -> frozenset[str]:
        """The channels chosen, with the electrodes and errors that go with them."""
        parts = (part for name in self.chosen for part in (name.split("-") if self.montage == "eeg" else ()))
        return frozenset((*self.chosen, *parts, *(name + ERROR for name in self.chosen if self.errors)))

    def fit(self, raws: Iterable[Recording]) -> Signal:
        """The channels there are, where electrodes lie, and the usual step between uneven times."""
        seen: set[str] = set()
        steps: list[float] = []
        for raw in raws:
            seen |= set(raw.channels)
            if raw.times is not None and len(raw.times) > 1:
                steps.append(float(np.median(np.diff(raw.times))))
        if not seen:
            raise ValueError("no signals to fit on")
        names = ranked((name for name in seen if not self._error(name)), self.montage)
        return dataclasses.replace(
            self,
            names=names,
            electrodes=tuple((name, *place) for name, place in positions().items()) if self.montage == "eeg" else (),
            step_s=(float(np.median(steps)) or 1.0) if steps else 1.0,
        )

    def _error(self, name: str) -> bool:
        return self.errors and name.endswith(ERROR)

    def _subject(self, name: str) -> str:
        """The channel that a row is about, which errors share with values."""
        return name.removesuffix(ERROR) if self._error(name) else name

    def members(self, path: Path) -> dict[str, bytes]:
        """Members of an npy, CSV (`waveforms.read_csv`), EDF or BDF file, or of a WFDB record by any of its names.

        Of EDF, BDF and WFDB, which hold many kinds of channels, those are taken that this modality knows.
        """
        kind = path.suffix.lower()
        if kind == ".npy":
            return super().members(path)
        if kind == ".csv":
            return to_members(read_csv(path))
        if kind in (".edf", ".bdf") and path.is_file():
            return to_members(read_edf(path, self._known)[self.type])
        header = next((each for each in (Path(f"{path}.hea"), path.with_suffix(".hea")) if each.is_file()), None)
        if header is None:
            raise ContentError(
                f"signal file of the unknown kind {kind}" if path.is_file() else "signal file is missing"
            )
        return to_members(read_wfdb(header, self._known, 0, wfdb_extent(header)[1])[0][self.type])

    def _known(self, labels: Sequence[str]) -> dict[str, list[int]]:
        rows = [number for number, label in enumerate(labels) if self.takes(label)]
        if not rows:
            raise ContentError("signal without any of the recipe's channels")
        return {self.type: rows}

    def decode(self, members: dict[str, bytes]) -> Recording:
        return self.prepare(from_members(members))

    def parse(self, value: Any) -> Recording:
        """A `Recording`, a dict {samples, sample_rate_hz or times, unit, channels}, or a file that `members` reads."""
        if isinstance(value, Recording):
            return self.prepare(described(value.samples, _said(value)))
        if isinstance(value, dict):
            return self.prepare(described(value.get("samples"), value))
        if not isinstance(value, (str, Path)):
            raise ContentError(f"a signal cannot be read from {type(value).__name__}")
        return self.decode(self.members(Path(value)))

    def prepare(self, raw: Recording) -> Recording:
        """The recording with its channels picked, named as the montage does and checked, in the recipe's unit.

        Raises:
            ContentError: an unknown channel, one that is there twice or faulty, another unit, uneven times; no token,
                or more than `MAX_TOKENS`; a channel without spread or errors.
        """
        raw = self._pick(raw)
        if self.unit is not None:
            factors = np.array([factor(unit, self.unit) for unit in raw.units], np.float32)
            raw = raw._replace(samples=raw.samples * factors[:, None], units=(self.unit,) * len(factors))
            if np.isinf(raw.samples).any():
                raise ContentError("signal with samples that are not numbers", f"in {self.unit}")
        elif UNCALIBRATED in raw.units:
            for name, unit in zip(raw.channels, raw.units, strict=True):
                if unit == UNCALIBRATED:
                    count_change(f"channel {name} is uncalibrated: its numbers are those of the converter")
        lenient = self.faulty_channels == "exclude"
        if lenient and np.isnan(raw.samples).any():
            raw = self._sound(raw)  # for gaps of a channel that is left out cost the others nothing
        raw = self._sound(without_gaps(raw, [self._subject(name) for name in raw.channels], lenient))
        raw = self._timed(raw)
        self._check(raw)
        return raw

    def _sound(self, raw: Recording) -> Recording:
        """The recording without channels that are constant or clipped as far as there are samples of them.

        Raises:
            ContentError: there are some and they may not be left out, or nothing else is there.
        """
        faults: dict[str, str] = {}
        for name, channel in zip(raw.channels, raw.samples, strict=True):
            there = channel[~np.isnan(channel)]
            if not self._error(name) and len(there) and (wrong := fault(there, self.max_clipped)):
                faults[name] = wrong
        rows = [row for row, name in enumerate(raw.channels) if self._subject(name) not in faults]
        if faults and (self.faulty_channels == "refuse" or not rows):
            first = min(faults.values())
            raise ContentError(f"signal with a {first} channel", next(n for n, f in faults.items() if f == first))
        for name, wrong in faults.items():
            count_change(f"channel {name} left out: {wrong}")
        return raw.only(rows)

    def _pick(self, raw: Recording) -> Recording:
        names = [self._name(label) for label in raw.channels]
        rows = {name: row for row, name in enumerate(names) if name is not None}
        held = [name for name in names if name is not None]
        if twice := sorted(name for name in self._needed or set(held) if held.count(name) > 1):
            raise ContentError("signal with a channel twice", twice[0])
        raw = raw._replace(channels=tuple(name or "" for name in names))
        if not self.chosen:
            return raw.only([rows[name] for name in ranked(held, self.montage)])
        for name in self.chosen:
            first, _, second = name.partition("-")
            if name not in rows and self.montage == "eeg" and first in rows and second in rows:
                rows[name] = len(raw.channels)
                made = raw.samples[rows[first]] - raw.samples[rows[second]]
                units = (*raw.units, raw.units[rows[first]])
                raw = raw._replace(
                    samples=np.concatenate([raw.samples, made[None]]), channels=(*raw.channels, name), units=units
                )
        wanted = [name for name in (*self.chosen, *(n + ERROR for n in self.chosen if self.errors)) if name in rows]
        if not wanted:
            raise ContentError("signal without any of the recipe's channels")
        return raw.only([rows[name] for name in wanted])

    def _name(self, label: str) -> str | None:
        found = resolve(label, self.montage)
        if found is None and self.channels == "any":
            found = resolve(label, "any")
        if found is None and not self.chosen:
            raise ContentError("signal with an unknown channel", suggest(label, self.montage))
        return found

    def _timed(self, raw: Recording) -> Recording:
        """The recording with times where they are uneven and a rate where not, long enough for a token."""
        count = raw.samples.shape[1]
        if self.uneven and raw.times is None:
            raw = raw._replace(times=np.arange(count) / raw.rate_hz, rate_hz=0.0)
        elif not self.uneven and raw.times is not None:
            steps = np.diff(raw.times)
            usual = float(np.median(steps)) if len(steps) else 0.0
            if usual <= 0 or np.abs(steps - usual).max() > _EVEN * usual:
                raise ContentError("signal with uneven times", "`uneven: true` takes them as they are")
            raw = raw._replace(times=None, rate_hz=len(steps) / float(raw.times[-1] - raw.times[0]))
        return raw

    def _check(self, raw: Recording) -> None:
        """Refuse what cannot become tokens, as far as that is known before it is resampled and filtered."""
        count = raw.samples.shape[1]
        step = Fraction(1) if self.uneven else ratio(raw.rate_hz, self.sample_rate_hz)
        made = math.ceil(count * step)
        if made * len(raw.channels) > MAX_SAMPLES:
            raise ContentError(f"signal of more than {MAX_SAMPLES:,} numbers at the recipe's rate")
        patches = min(made, self.window or made) // self.patch
        if not patches:
            raise ContentError("signal shorter than a patch", f"{count} samples")
        names = [name for name in raw.channels if not self._error(name)]
        if patches * len(names) > MAX_TOKENS:
            raise ContentError(f"signal of more than {MAX_TOKENS:,} tokens", "cut it with window_s")
        if self.errors and (lacking := [name for name in names if name + ERROR not in raw.channels]):
            raise ContentError("signal without the errors of a channel", lacking[0] + ERROR)
        filtered = self.low_hz or self.high_hz or self.notch_hz
        if self.normalize in ("percentile", "mad") and step == 1 and not filtered:  # others scale all but constants
            rows = [row for row, name in enumerate(raw.channels) if not self._error(name)]
            normalize(raw.samples[rows], self.normalize, self.scale)

    def tokenize(self, raw: Recording, rng: np.random.Generator | None = None) -> Tokens:
        if self.uneven:
            samples, errors = self._scaled_with_errors(raw)
        else:
            samples = resample(raw.samples, raw.rate_hz, self.sample_rate_hz)
            samples = band(samples, self.sample_rate_hz, self.low_hz, self.high_hz, self.notch_hz)
            samples, errors = normalize(samples, self.normalize, self.scale), None
        names = [name for name in raw.channels if not self._error(name)]
        count = min(samples.shape[1], self.window or samples.shape[1]) // self.patch * self.patch
        spare = samples.shape[1] - count
        start = spare // 2 if rng is None else int(rng.integers(spare + 1))
        patches = count // self.patch
        cut = slice(start, start + count)
        parts = [part[:, cut].reshape(-1, self.patch) for part in (samples, errors) if part is not None]
        ids = np.full((len(parts[0]), 2), 2, np.int64)
        ids[:, 1] = np.repeat([self._id(name) for name in names], patches)
        places = [position(name, self.positions) or (0.0, 0.0, 0.0) for name in names]
        times = self._times(raw, start, patches)
        coords = np.concatenate([np.repeat(places, patches, 0), np.tile(times, (len(names), 1))], 1)
        return Tokens(np.concatenate(parts, 1).astype(np.float32, copy=False), ids, coords.astype(np.float32))

    def _id(self, name: str) -> int:
        if name not in self.vocabulary and position(name, self.positions) is None:
            raise ContentError("signal with a channel that training did not hold", name)
        return self.vocabulary.id(name)  # an electrode that is new has its position

    def _times(self, raw: Recording, start: int, patches: int) -> np.ndarray:
        """When each patch begins, and the times of its observations after that where they are uneven."""
        if raw.times is None:
            return (raw.start_s + (start + np.arange(patches) * self.patch) / self.sample_rate_hz)[:, None]
        times = (raw.times - raw.times[0] + raw.start_s)[start : start + patches * self.patch].reshape(patches, -1)
        return np.concatenate([times[:, :1], times - times[:, :1]], 1)

    def _scaled_with_errors(self, raw: Recording) -> tuple[np.ndarray, np.ndarray | None]:
        """Samples and their errors, scaled alike."""
        rows = {name: row for row, name in enumerate(raw.channels)}
        names = [name for name in raw.channels if not self._error(name)]
        samples = raw.samples[[rows[name] for name in names]]
        scaled = normalize(samples, self.normalize, self.scale)
        if not self.errors:
            return scaled, None
        spread = np.ptp(samples, axis=1, keepdims=True) / np.ptp(scaled, axis=1, keepdims=True)
        return scaled, (raw.samples[[rows[name + ERROR] for name in names]] / spread).astype(np.float32)

    def embedding(self, dim: int) -> nn.Module:
        patch_s = self.step_s * self.patch if self.uneven else self.patch / self.sample_rate_hz
        return SignalEmbedding(self.widths, len(self.vocabulary), dim, self.stem, patch_s)

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, self.patch // 2 + 1 if self.target == "spectrum" else self.patch)

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Mean squared error over a patch or its spectrum; errors are no part of it."""
        true = values[:, : self.patch]
        return squared_error(
            prediction, log_amplitudes(true) if self.target == "spectrum" else true, self.target == "normalized"
        )

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        """Patches on the scale of the values; what is not predicted (mean and std, phases) is the true one's."""
        values = tokens.values.copy()
        true = values[:, : self.patch]
        if self.target == "spectrum":
            values[:, : self.patch] = restored_spectra(prediction, true)
        else:
            values[:, : self.patch] = restored(prediction, true, self.target == "normalized")
        return tokens._replace(values=values)

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        true, made = tokens.values[:, : self.patch], reconstructed.values[:, : self.patch]
        high = max(float(np.percentile(np.abs(true), 99.5)), 1e-6)
        hidden = np.where(target[:, None], np.nan, true)
        which = np.unique(np.column_stack([tokens.ids[:, 1], tokens.coords[:, :3]]), axis=0, return_inverse=True)[1]
        rows = [np.flatnonzero(which == number) for number in range(which.max() + 1)]
        names = [self.vocabulary.entries[tokens.ids[row[0], 1]] for row in rows]
        return {
            "original": draw(names, rows, target, high, true),
            "masked": draw(names, rows, target, high, hidden),
            "reconstructed": draw(names, rows, target, high, hidden, np.where(target[:, None], made, np.nan)),
        }


class SignalEmbedding(nn.Module):
    """Content from the patch, place from the channel, the electrode's position and the time in patches."""

    def __init__(
        self, widths: tuple[int, int, int], channels: int, dim: int, stem: Stem | Literal["spectral"], patch_s: float
    ):
        super().__init__()
        width, _, coordinates = widths
        self.content = SpectralStem(width, dim) if stem == "spectral" else patch_embedding(width, dim, stem)
        self.place = SineCosine(4, dim)
        self.channel = nn.Embedding(channels, dim)
        self.offsets = nn.Linear(coordinates - 4, dim, bias=False) if coordinates > 4 else None
        self.patch_s = patch_s

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        where = torch.cat([coords[:, :3], coords[:, 3:] / self.patch_s], 1)
        place = self.place(where[:, :4]) + self.channel(ids[:, 1])
        if self.offsets is not None:
            place = place + self.offsets(where[:, 4:])
        return self.content(values), place


def _said(raw: Recording) -> dict[str, Any]:
    """A recording's description as its JSON member has it."""
    said = {"channels": raw.channels, "unit": raw.units, "start_s": raw.start_s, "times": raw.times}
    return {**said, "sample_rate_hz": raw.rate_hz}
