"""Light curves and other recordings at uneven times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from torch import nn

from modalities.base import fitted, register
from modalities.files.reading import ContentError
from modalities.files.recording import Recording, normalize
from modalities.layers.patches import Stem
from modalities.multichannel import MultichannelModality

ERROR = "_error"
"""Suffix of the name of a channel with the errors of another one."""


@register
@dataclass(frozen=True, kw_only=True)
class LightCurve(MultichannelModality):
    """Patches of observations at uneven times, without interpolation.

    After the time of the patch's first observation, `coords` have the times of all its observations in s after that.

    Attributes:
        errors: Whether each channel (`flux`) comes with the errors of its values (`flux_error`), which join its
            patches as further values and are never predicted.
        patch_points (observations): Length of a patch.
        window_points (observations): Length of the part of a recording that is used, random in training and the middle
            otherwise; by default all of it.
        stem: How a patch is embedded: by a linear map or with a hidden layer (`mlp`).
    """

    type: ClassVar[str] = "lightcurve"
    window_key: ClassVar[str] = "window_points"

    target: Literal["values", "normalized"] = "values"
    errors: bool = False
    patch_points: int = 8
    window_points: int | None = None
    stem: Stem = "linear"
    step_s: float = fitted(1.0)

    @property
    def patch(self) -> int:
        return self.patch_points

    @property
    def window(self) -> int | None:
        return self.window_points

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.patch * (1 + self.errors), 2, 4 + self.patch

    def is_error(self, name: str) -> bool:
        return self.errors and name.endswith(ERROR)

    def measured_channel(self, name: str) -> str:
        return name.removesuffix(ERROR) if self.is_error(name) else name

    def error_channels(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name + ERROR for name in names) if self.errors else ()

    def fit(self, raws: Iterable[Recording]) -> Self:
        """Fit the channels, and the median step between observations."""
        steps: list[float] = []

        def collect_steps() -> Iterator[Recording]:
            for raw in raws:
                if raw.times is not None and len(raw.times) > 1:
                    steps.append(float(np.median(np.diff(raw.times))))
                yield raw

        modality = super().fit(collect_steps())
        return dataclasses.replace(modality, step_s=(float(np.median(steps)) or 1.0) if steps else 1.0)

    def set_clock(self, raw: Recording) -> Recording:
        """Replace a sample rate by the time of each observation."""
        if raw.times is not None:
            return raw
        return raw._replace(times=np.arange(raw.samples.shape[1]) / raw.rate_hz, rate_hz=0.0)

    def check(self, raw: Recording) -> None:
        super().check(raw)
        missing = [name for name in self.error_channels(self.measured_channels(raw)) if name not in raw.channels]
        if missing:
            raise ContentError("signal without the errors of a channel", missing[0])
        self.check_spread(raw)

    def process(self, raw: Recording) -> tuple[np.ndarray, np.ndarray | None]:
        rows = {name: row for row, name in enumerate(raw.channels)}
        names = self.measured_channels(raw)
        samples = raw.samples[[rows[name] for name in names]]
        scaled = normalize(samples, self.normalize, self.scale)
        if not self.errors:
            return scaled, None
        spread = np.ptp(samples, axis=1, keepdims=True) / np.ptp(scaled, axis=1, keepdims=True)
        errors = raw.samples[[rows[name] for name in self.error_channels(names)]]
        return scaled, (errors / spread).astype(np.float32)

    def patch_times(self, raw: Recording, start: int, count: int) -> np.ndarray:
        assert raw.times is not None
        times = (raw.times - raw.times[0] + raw.start_s)[start : start + count * self.patch].reshape(count, -1)
        return np.concatenate([times[:, :1], times - times[:, :1]], 1)

    def embedding(self, dim: int) -> nn.Module:
        return self._embed(dim, self.stem, self.step_s * self.patch)
