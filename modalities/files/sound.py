"""Read sound files and arrays, and resample them."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from modalities.files.lengths import add_length, sound_error
from modalities.files.magic import has_magic
from modalities.files.reading import ContentError, lazy_import, parse_json

MAX_SAMPLES = 100_000_000
"""Largest number of samples over all channels; longer recordings are refused before they are decoded."""
MAX_CHANNELS = 64
_KERNEL = 4_000_000
"""Largest number of weights of a resampling filter; ratios of rates that need more are rounded by less than 0.1%."""
_FILTER = {
    "resampling_method": "sinc_interp_kaiser",
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "beta": 14.769656459379492,
}
"""torchaudio's settings for resampy's best filter; its default passes 8.5 kHz into sound of 16 kHz at -11 dB."""
_BLOCK = 32
"""Number of samples that resampling computes at a time."""


class Audio(NamedTuple):
    """Raw sound at the rate of its file: samples `(C, T)` float32, -1 to 1 if the file has integers."""

    samples: np.ndarray
    rate_hz: float


def resample(samples: torch.Tensor, rate_hz: float, target_hz: int) -> torch.Tensor:
    """Resample `(C, T)` by band-limited interpolation with aliases below -100 dB."""
    exact = Fraction(rate_hz) / target_hz
    ratio = exact.limit_denominator(int((_KERNEL / exact) ** 0.5))
    if ratio == 1:
        return samples
    old, new = ratio.as_integer_ratio()
    kernel, step, width = _kernel(old, new)
    padded = nn.functional.pad(samples, (width, width + step)).unsqueeze(1)
    blocks = nn.functional.conv1d(padded, kernel, stride=step)  # (C, block, blocks)
    return blocks.transpose(1, 2).flatten(1)[:, : -(-samples.shape[1] * new // old)]


@lru_cache(maxsize=8)
def _kernel(old: int, new: int) -> tuple[torch.Tensor, int, int]:
    """Filters `(block, 1, taps)` of a block of samples, the step from one block to the next, and the padding.

    torchaudio's `Resample` computes `new` samples at a time, one or two for most pairs of rates; a convolution with so
    few output channels is several times slower for the same sums.
    """
    resampler = lazy_import("torchaudio.transforms", "torchaudio").Resample(old, new, **_FILTER)
    taps = resampler.kernel.shape[2]
    count = max(min(_BLOCK // new, _KERNEL // (new * taps)), 1)
    kernel = resampler.kernel.new_zeros(count * new, 1, taps + (count - 1) * old)
    for i in range(count):
        kernel[i * new : (i + 1) * new, :, i * old : i * old + taps] = resampler.kernel
    return kernel, count * old, resampler.width


def clipped_share(samples: np.ndarray) -> float:
    """Share of samples `(C, T)` in runs of three or more at the highest or lowest value of their channel."""
    flat = np.zeros(samples.shape, bool)
    for ends in (samples == samples.max(1, keepdims=True), samples == samples.min(1, keepdims=True)):
        runs = ends[:, 2:] & ends[:, 1:-1] & ends[:, :-2]
        for shift in range(3):
            flat[:, shift : shift + runs.shape[1]] |= runs
    return float(flat.mean())


def parse_rate(value: Any) -> float:
    """Parse a sample rate in Hz.

    Raises:
        ContentError: it is missing or impossible.
    """
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ContentError("audio samples without sample_rate_hz") from error
    if not 1 <= rate <= 1e7:
        raise ContentError("audio with a sample rate of 0" if rate == 0 else "audio with an impossible sample rate")
    return rate


def scale_samples(samples: np.ndarray) -> np.ndarray:
    """Samples `(C, T)` float32 of an array `(T,)` or `(C, T)`; integers are scaled to -1 to 1.

    Raises:
        ContentError: another shape or type, or too many samples.
    """
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.shape[0] > MAX_CHANNELS:
        raise ContentError(f"audio array that is not (channels, time), {MAX_CHANNELS} channels at most")
    if samples.size > MAX_SAMPLES:
        raise ContentError(f"audio of more than {MAX_SAMPLES:,} samples")
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if samples.dtype.kind != "f":
        raise ContentError(f"audio array of {samples.dtype}")
    return samples.astype(np.float32)


def read_array(data: bytes, description: bytes | None) -> tuple[np.ndarray, float]:
    """Read samples `(C, T)` and rate of an `.npy` file and its JSON.

    Raises:
        ContentError: one of them is unreadable.
    """
    if not has_magic(data, "npy"):
        raise ContentError("audio file is not npy")
    state = parse_json(description or b"{}", "description of a sound")
    try:
        samples = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy raises anything from EOFError to SyntaxError on corrupt bytes
        raise ContentError("unreadable npy audio", f"{type(error).__name__}: {error}") from error
    return scale_samples(samples), parse_rate(state.get("sample_rate_hz") if isinstance(state, dict) else None)


def read_sound(data: bytes, extension: str) -> tuple[np.ndarray, float]:
    """Read samples `(C, T)` and rate of a WAV, FLAC, Ogg or MP3 file.

    Raises:
        ContentError: the file is unreadable, truncated or too large.
    """
    data = add_length(data, extension, built=True)
    try:
        with lazy_import("soundfile", "soundfile").SoundFile(io.BytesIO(data)) as file:
            frames, rate = file.frames, parse_rate(file.samplerate)
            if not frames * file.channels <= MAX_SAMPLES or file.channels > MAX_CHANNELS:
                raise ContentError(f"audio of more than {MAX_SAMPLES:,} samples or {MAX_CHANNELS} channels")
            samples = np.ascontiguousarray(file.read(frames, dtype="float32", always_2d=True).T)
    except (RuntimeError, OSError) as error:  # libsndfile's own errors are the former
        raise ContentError(sound_error(extension, error), str(error)) from error
    if samples.shape[1] < frames:
        raise ContentError(f"truncated {extension} audio")
    return samples, rate
