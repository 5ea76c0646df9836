"""Sound of any sample rate, length and number of channels, as patches of its log-mel spectrogram."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from modalities.base import fitted, register
from modalities.drawing import draw_png
from modalities.files.lengths import add_length
from modalities.files.magic import detect_type, extensions_of
from modalities.files.reading import ContentError, lazy_import
from modalities.files.sound import (
    MAX_SAMPLES,
    Audio,
    clipped_share,
    parse_rate,
    read_array,
    read_sound,
    resample,
    scale_samples,
)
from modalities.layers.patches import PatchEmbedding, build_stem
from modalities.patch_modality import PatchModality
from modalities.tokens import Tokens

FLOOR = float(np.log(np.finfo(np.float32).eps))
"""Log-mel energy of digital silence: kaldi's floor."""
_KALDI = {"window_type": "hanning", "htk_compat": True, "use_energy": False, "dither": 0.0}
_SCALE = np.array([[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]])
"""Colors from silent to loud, evenly spaced."""


@register
@dataclass(frozen=True, kw_only=True)
class Spectrogram(PatchModality):
    """Patches of a kaldi-compatible log-mel spectrogram, with the settings of SSAST (Gong et al. 2022).

    Sound is resampled, its mean is subtracted, and Hann windows and triangular mel filters give the energies. Values
    are `(x - mean) / (2 * std)` of the training data. `ids` are 2 (content) and the channel, from 2 on; `coords` are
    the patch's first frame in s and its lowest mel band. A tail shorter than a patch is padded with silence,
    so that no sound is lost.

    Attributes:
        sample_rate_hz: Sample rate to which sound is resampled.
        mel_bands: Number of mel filters.
        window_ms (ms): Length of a window.
        shift_ms (ms): Distance between windows.
        low_hz: Lower edge of the mel filters.
        high_hz: Upper edge of the mel filters; by default half of the sample rate.
        patch: Mel bands and frames of a patch: `[16, 16]`, or `[128, 2]` for whole frames.
        channels: Mix channels to `mono`, or `keep` them, one token per patch and channel.
        length_s: Largest length; of a longer sound, a random part is used in training and the part `crop` otherwise.
            `null` uses all of it.
        crop: Part of a longer sound outside training.
        time_mask_s: Longest stretch that training replaces by the mean (SpecAugment, Park et al. 2019).
        frequency_mask (mel bands): Largest number of neighboring mel bands that training replaces by the mean.
        target: What masked modeling predicts: the values, or each patch normalized by its own mean and std (MAE, He et
            al. 2022).
        max_clipped: Share of samples in flat runs at the extremes above which a recording is skipped.
    """

    type: ClassVar[str] = "spectrogram"
    extensions: ClassVar[tuple[str, ...]] = (*extensions_of("sound"), "npy", "json")
    requires: ClassVar[tuple[str, ...]] = ("soundfile", "torchaudio")
    axes: ClassVar[Mapping[str, tuple[Literal["ids", "coords"], int]]] = {
        "time": ("coords", 0),
        "frequency": ("coords", 1),
        "channel": ("ids", 1),
    }
    row_axis: ClassVar[str | None] = "channel"

    sample_rate_hz: int = 16_000
    mel_bands: int = 128
    window_ms: float = 25.0
    shift_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float | None = None
    patch: tuple[int, int] = (16, 16)
    channels: Literal["mono", "keep"] = "mono"
    length_s: float | None = 10.24
    crop: Literal["center", "first"] = "center"
    time_mask_s: float = 0.0
    frequency_mask: int = 0
    target: Literal["values", "normalized"] = "normalized"
    max_clipped: float = 0.1
    channel_count: int = fitted(1)
    mean: float = fitted(0.0)
    std: float = fitted(1.0)

    def __post_init__(self) -> None:
        if self.sample_rate_hz < 1 or min(self._window, self._shift) < 2:
            raise ValueError(
                f"spectrogram windows and shifts need 2 samples or more at sample_rate_hz {self.sample_rate_hz}"
            )
        if self.mel_bands < 4 or min(self.patch) < 1 or self.mel_bands % self.patch[0]:
            raise ValueError(f"spectrogram patch {list(self.patch)} must divide {self.mel_bands} mel_bands (4 or more)")
        if not 0 <= self.low_hz < (self.high_hz or self.sample_rate_hz / 2) <= self.sample_rate_hz / 2:
            raise ValueError("spectrogram low_hz and high_hz must lie in order between 0 and half of sample_rate_hz")
        if self.length_s is not None and self.length_s * self.sample_rate_hz < self._window:
            raise ValueError(f"spectrogram length_s {self.length_s} is shorter than a window of {self.window_ms} ms")
        if self.time_mask_s < 0 or not 0 <= self.frequency_mask <= self.mel_bands or not 0 <= self.max_clipped <= 1:
            raise ValueError("spectrogram time_mask_s, frequency_mask or max_clipped is out of its range")

    @property
    def _window(self) -> int:
        return int(self.sample_rate_hz * self.window_ms * 0.001)

    @property
    def _shift(self) -> int:
        return int(self.sample_rate_hz * self.shift_ms * 0.001)

    @property
    def example(self) -> str:
        return '"clip.wav"'

    def plain(self, raw: Audio) -> np.ndarray:
        """Mean and std over time of each mel band, and the length of the sound."""
        tokens, (height, width) = self.tokenize(raw), self.patch
        rows = [
            tokens.values[tokens.coords[:, 1] == low].reshape(-1, height, width)
            for low in np.unique(tokens.coords[:, 1])
        ]
        means, stds = ([getattr(row, name)((0, 2)) for row in rows] for name in ("mean", "std"))
        return np.concatenate([*means, *stds, [tokens.coords[:, 0].max()]])

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.patch[0] * self.patch[1], 2, 2

    def fit(self, raws: Iterable[Audio]) -> Spectrogram:
        """Fit mean and std over all frames and mel bands, and the largest number of channels."""
        count, total, square, channels = 0, 0.0, 0.0, 0
        for raw in raws:
            energies = self.log_mel(self._part(raw, None))
            channels = max(channels, len(energies))
            count += energies.size
            total += float(energies.sum(dtype=np.float64))
            square += float(np.square(energies, dtype=np.float64).sum())
        if not count:
            raise ValueError("no audio to fit on")
        std = max(square / count - (total / count) ** 2, 1e-8) ** 0.5
        return dataclasses.replace(self, channel_count=channels, mean=total / count, std=std)

    def decode(self, members: dict[str, bytes]) -> Audio:
        sounds = [extension for extension in members if extension != "json"]
        if len(sounds) != 1:
            raise ContentError("audio without a recording" if not sounds else "audio of several recordings")
        extension = sounds[0]
        data = members[extension]
        return self._check(
            *(read_array(data, members.get("json")) if extension == "npy" else read_sound(data, extension))
        )

    def read_members(self, path: Path) -> dict[str, bytes]:
        """Read members as in the base class, with the length in the header of a sound (`files.lengths`)."""
        return {extension: self.stored_bytes(extension, data) for extension, data in super().read_members(path).items()}

    def stored_bytes(self, extension: str, data: bytes) -> bytes:
        """Bytes of a file for shards; unusable ones are not changed, so that `decode` refuses them."""
        if extension in ("npy", "json"):
            return data
        with suppress(ContentError):
            return add_length(data, extension)
        return data

    def parse(self, value: Any) -> Audio:
        """A path, a file's bytes, `(samples, sample_rate_hz)`, or a dict of these from `datasets`.

        Samples are `(T,)` or `(C, T)`. An `.npy` file needs a `.json` beside it with the `sample_rate_hz`.
        """
        if isinstance(value, Mapping):
            value = value.get("bytes") or (value.get("array"), value.get("sampling_rate", value.get("sample_rate_hz")))
        if isinstance(value, tuple) and len(value) == 2:
            return self._check(scale_samples(np.asarray(value[0])), parse_rate(value[1]))
        if isinstance(value, bytes):
            return self.decode({detect_type(value, self.extensions) or "wav": value})
        if not isinstance(value, (str, Path)):
            raise ContentError(f"audio cannot be read from {type(value).__name__}: expected (samples, sample_rate_hz)")
        return self.decode(self.read_members(Path(value)))

    def _check(self, samples: np.ndarray, rate_hz: float) -> Audio:
        """Check sound, and mix its channels if the recipe says so.

        Raises:
            ContentError: no samples, NaN, too short, too long, silent or clipped.
        """
        if not samples.size:
            raise ContentError("audio without samples")
        if not np.isfinite(samples).all():
            raise ContentError("audio with samples that are not numbers")
        if samples.shape[1] * self.sample_rate_hz < self._window * rate_hz:
            raise ContentError(f"audio shorter than a window of {self.window_ms:g} ms", f"{samples.shape[1]} samples")
        if self.length_s is None and samples.size * self.sample_rate_hz > MAX_SAMPLES * rate_hz:
            raise ContentError(f"audio of more than {MAX_SAMPLES:,} samples at the recipe's rate")
        if self.channels == "mono":
            samples = samples.mean(0, keepdims=True)
        if (np.ptp(samples, 1) <= 1e-6 * np.abs(samples).max(1)).all():
            raise ContentError("silent or constant audio")
        if (share := clipped_share(samples)) > self.max_clipped:
            raise ContentError("clipped audio", f"{share:.0%} of the samples")
        return Audio(samples, rate_hz)

    def _part(self, raw: Audio, rng: np.random.Generator | None) -> Audio:
        """Cut a sound to `length_s`."""
        length = raw.samples.shape[1]
        count = length if self.length_s is None else min(math.ceil(self.length_s * raw.rate_hz), length)
        if rng is not None:
            start = int(rng.integers(length - count + 1))
        else:
            start = (length - count) // 2 if self.crop == "center" else 0
        return Audio(raw.samples[:, start : start + count], raw.rate_hz)

    def log_mel(self, raw: Audio) -> np.ndarray:
        """Log-mel energies `(C, mel_bands, frames)` float32 of a sound, equal to kaldi's compute-fbank-feats."""
        kaldi = lazy_import("torchaudio.compliance.kaldi", "torchaudio")
        samples = resample(torch.from_numpy(np.ascontiguousarray(raw.samples)), raw.rate_hz, self.sample_rate_hz)
        samples = nn.functional.pad(samples, (0, max(self._window - samples.shape[1], 0)))  # rates are rounded
        energies = [
            kaldi.fbank(
                (channel - channel.mean()).unsqueeze(0),
                sample_frequency=float(self.sample_rate_hz),
                frame_length=self.window_ms,
                frame_shift=self.shift_ms,
                num_mel_bins=self.mel_bands,
                low_freq=self.low_hz,
                high_freq=self.high_hz or 0.0,
                **_KALDI,
            )
            for channel in samples.double()  # in float32, loud bands hide faint ones
        ]
        return torch.stack(energies).float().transpose(1, 2).numpy()

    def tokenize(self, raw: Audio, rng: np.random.Generator | None = None) -> Tokens:
        count = len(raw.samples)
        if count > self.channel_count:
            raise ContentError(f"audio of more than {self.channel_count} channels, the most in the training data")
        energies = self.log_mel(self._part(raw, rng))
        energies = (energies - np.float32(self.mean)) / np.float32(2 * self.std)
        if rng is not None:
            energies = self._augment(energies, rng)
        height, width = self.patch
        silence = (FLOOR - self.mean) / (2 * self.std)
        energies = np.pad(energies, ((0, 0), (0, 0), (0, -energies.shape[2] % width)), constant_values=silence)
        rows, columns = self.mel_bands // height, energies.shape[2] // width
        patches = energies.reshape(count, rows, height, columns, width).transpose(0, 3, 1, 2, 4)
        size = count * columns * rows
        ids = np.full((size, 2), 2, np.int64)
        ids[:, 1] += np.repeat(np.arange(count), columns * rows)
        times, bands = np.arange(columns) * width * self._shift / self.sample_rate_hz, np.arange(rows) * height
        coords = np.stack(np.meshgrid(times, bands, indexing="ij"), -1).reshape(-1, 2)
        values = np.ascontiguousarray(patches.reshape(size, height * width), np.float32)
        return Tokens(values, ids, np.tile(coords, (count, 1)).astype(np.float32))

    def _augment(self, energies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """SpecAugment: replace a random stretch of time and one of mel bands by the mean."""
        longest = min(round(self.time_mask_s * self.sample_rate_hz / self._shift), energies.shape[2])
        energies = energies.copy()
        for axis, max_width in ((2, longest), (1, self.frequency_mask)):
            if max_width:
                width = int(rng.integers(max_width + 1))
                start = int(rng.integers(energies.shape[axis] - width + 1))
                energies[(slice(None),) * axis + (slice(start, start + width),)] = 0.0
        return energies

    def embedding(self, dim: int) -> nn.Module:
        scales = (self.patch[1] * self._shift / self.sample_rate_hz, float(self.patch[0]))
        stem = build_stem(self.widths[0], dim, "linear")
        return PatchEmbedding(stem, dim, scales=scales, channels=self.channel_count + 2)

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        hidden = target[:, None]
        views = {
            "original": tokens.values,
            "masked": np.where(hidden, np.nan, tokens.values),
            "reconstructed": np.where(hidden, reconstructed.values, tokens.values),
        }
        limits = float(tokens.values.min()), float(tokens.values.max())
        return {name: self._html(tokens, values, limits) for name, values in views.items()}

    def _html(self, tokens: Tokens, values: np.ndarray, limits: tuple[float, float]) -> str:
        """Draw the first channel as a PNG, low bands at the bottom, hidden patches (NaN) in blue-gray."""
        height, width = self.patch
        patches = values[tokens.ids[:, 1] == tokens.ids[0, 1]].reshape(-1, self.mel_bands // height, height, width)
        energies = patches.transpose(1, 2, 0, 3).reshape(self.mel_bands, -1)[::-1]
        share = ((energies - limits[0]) / max(limits[1] - limits[0], 1e-6)).clip(0, 1) * (len(_SCALE) - 1)
        hidden = np.isnan(share)
        colors = [np.interp(np.where(hidden, 0, share), np.arange(len(_SCALE)), _SCALE[:, i]) for i in range(3)]
        pixels = np.where(hidden[..., None], np.array([191, 204, 224]), np.stack(colors, -1)).astype(np.uint8)
        return draw_png(pixels, "width:auto;max-width:100%;height:96px")
