"""EEG, ECG and other recordings at an even rate: one token per channel and interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import nn

from modalities.base import register
from modalities.files.reading import ContentError
from modalities.files.recording import (
    RHYTHMS_HZ,
    Recording,
    filter_band,
    log_band_powers,
    normalize,
    rate_ratio,
    resample,
)
from modalities.layers.patches import Stem
from modalities.multichannel import MultichannelModality

_EVEN = 0.01
"""Share of a step by which times may deviate from an even rate."""


@register
@dataclass(frozen=True, kw_only=True)
class Signal(MultichannelModality):
    """Patches of single channels at an even sample rate.

    A remainder shorter than a patch is ignored.

    Attributes:
        sample_rate_hz: Sample rate to which recordings are resampled.
        low_hz: Cut-off of the high-pass filter; none by default.
        high_hz: Cut-off of the low-pass filter; none by default.
        notch_hz: Frequencies that notch filters remove.
        patch_s: Length of a patch.
        window_s: Length of the part of a recording that is used, random in training and the middle otherwise; by
            default all of it.
        stem: How a patch is embedded: by a linear map, with a hidden layer (`mlp`), or with a hidden layer and by its
            spectrum (`spectral`; CBraMod, Wang et al. 2025).
    """

    type: ClassVar[str] = "signal"
    window_key: ClassVar[str] = "window_s"

    sample_rate_hz: float = 200.0
    low_hz: float | None = None
    high_hz: float | None = None
    notch_hz: tuple[float, ...] = ()
    patch_s: float = 1.0
    window_s: float | None = None
    stem: Stem | Literal["spectral"] = "linear"

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "patch_s", "window_s", "low_hz", "high_hz"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"signal {name} is {value}, but must be above 0")
        edges = [hz for hz in (self.low_hz, self.high_hz, *self.notch_hz) if hz is not None]
        if edges and not 0 < min(edges) <= max(edges) < self.sample_rate_hz / 2:
            raise ValueError("signal low_hz, high_hz and notch_hz must lie between 0 and half of sample_rate_hz")
        if self.low_hz and self.high_hz and self.low_hz >= self.high_hz:
            raise ValueError(f"signal low_hz {self.low_hz} must be below high_hz {self.high_hz}")
        super().__post_init__()

    @property
    def patch(self) -> int:
        return round(self.patch_s * self.sample_rate_hz)

    @property
    def window(self) -> int | None:
        return None if self.window_s is None else round(self.window_s * self.sample_rate_hz)

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.patch, 2, 4

    def plain(self, raw: Recording) -> np.ndarray:
        """Logarithms of the power in five frequency bands (Welch's method) and of the variance of each channel."""
        if self.sample_rate_hz < 2 * RHYTHMS_HZ[0][1]:  # too slow for any of the bands
            return super().plain(raw)
        tokens = self.tokenize(raw)
        powers = np.zeros((len(self.vocabulary), len(RHYTHMS_HZ) + 1), np.float32)
        for channel in np.unique(tokens.ids[:, 1]):
            powers[channel] = log_band_powers(tokens.values[tokens.ids[:, 1] == channel].ravel(), self.sample_rate_hz)
        return powers.ravel()

    def set_clock(self, raw: Recording) -> Recording:
        """Replace even times by their sample rate."""
        if raw.times is None:
            return raw
        steps = np.diff(raw.times)
        usual = float(np.median(steps)) if len(steps) else 0.0
        if usual <= 0 or np.abs(steps - usual).max() > _EVEN * usual:
            raise ContentError("signal with uneven times", "`type: lightcurve` takes them as they are")
        return raw._replace(times=None, rate_hz=len(steps) / float(raw.times[-1] - raw.times[0]))

    def count_samples(self, raw: Recording) -> int:
        return math.ceil(raw.samples.shape[1] * rate_ratio(raw.rate_hz, self.sample_rate_hz))

    def check(self, raw: Recording) -> None:
        super().check(raw)
        if rate_ratio(raw.rate_hz, self.sample_rate_hz) == 1 and not (self.low_hz or self.high_hz or self.notch_hz):
            self.check_spread(raw)

    def process(self, raw: Recording) -> tuple[np.ndarray, np.ndarray | None]:
        samples = resample(raw.samples, raw.rate_hz, self.sample_rate_hz)
        samples = filter_band(samples, self.sample_rate_hz, self.low_hz, self.high_hz, self.notch_hz)
        return normalize(samples, self.normalize, self.scale), None

    def patch_times(self, raw: Recording, start: int, count: int) -> np.ndarray:
        return (raw.start_s + (start + np.arange(count) * self.patch) / self.sample_rate_hz)[:, None]

    def embedding(self, dim: int) -> nn.Module:
        return self._embed(dim, self.stem, self.patch / self.sample_rate_hz)
