"""Recordings of several channels: read from members, checked, and converted to a unit, a rate and a scale."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from modalities.files.reading import ContentError, count_change, lazy_import, parse_json

MAX_SAMPLES = 100_000_000
"""Largest number of samples of a recording, over all channels; a source can cut longer ones to windows."""
UNCALIBRATED = "adu"
"""Unit of a channel in units of the converter, because its file has no gain."""
_VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "nv": 1e-9, "volt": 1.0, "millivolt": 1e-3, "microvolt": 1e-6}
_TESLA = {"t": 1.0, "nt": 1e-9, "pt": 1e-12, "ft": 1e-15}
_NOTCH_QUALITY = 30.0
_CROSSINGS = 32
"""Zero crossings on each side of the sinc filter for resampling."""

Normalize = Literal["channel", "recording", "fixed", "percentile", "mad"]


class Recording(NamedTuple):
    """Raw signal.

    samples: `(channels, T)` float32, each channel in its `units`, NaN for missing samples. rate_hz: sample rate, 0 if
    `times` has the time of each sample. start_s: start of the recording, in s after the beginning of its sample.
    times: `(T,)` float64 in s, None if the rate is even.
    """

    samples: np.ndarray
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float
    start_s: float = 0.0
    times: np.ndarray | None = None

    def only(self, rows: list[int]) -> Recording:
        """The recording of some channels, in the order of `rows`."""
        return self._replace(
            samples=self.samples[rows],
            channels=tuple(self.channels[row] for row in rows),
            units=tuple(self.units[row] for row in rows),
        )


def from_members(members: Mapping[str, bytes]) -> Recording:
    """Read a recording from `npy` (channels, T) and `json` {sample_rate_hz or times, unit, channels, start_s}.

    Raises:
        ContentError: a member is missing or unreadable, or they do not describe a recording.
    """
    for extension in ("npy", "json"):
        if extension not in members:
            raise ContentError(f"signal without its {extension} member")
    try:
        samples = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
    except Exception as error:  # hostile headers raise anything from SyntaxError to MemoryError
        raise ContentError("unreadable npy signal", f"{type(error).__name__}: {error}") from error
    return build_recording(samples, parse_json(members["json"], "description of a signal"))


def to_members(recording: Recording) -> dict[str, bytes]:
    """Write the members that `from_members` reads, by extension."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(recording.samples, np.float32))
    return {"npy": buffer.getvalue(), "json": json.dumps(describe_recording(recording)).encode()}


def describe_recording(recording: Recording) -> dict[str, Any]:
    """Description of a recording for its JSON member, see `build_recording`."""
    has_one_unit = len(set(recording.units)) == 1
    description: dict[str, Any] = {
        "sample_rate_hz": recording.rate_hz,
        "unit": recording.units[0] if has_one_unit else list(recording.units),
        "channels": list(recording.channels),
        "start_s": recording.start_s,
    }
    if recording.times is not None:
        description = {**description, "sample_rate_hz": None, "times": recording.times.tolist()}
    return description


def build_recording(samples: Any, description: Any) -> Recording:
    """Build a recording from an array `(channels, T)` and its description.

    Raises:
        ContentError: the two do not match, or a number is infinite.
    """
    samples = _samples(samples)
    if not isinstance(description, dict):
        raise ContentError("signal whose description is not a JSON object")
    channels, unit = description.get("channels"), description.get("unit")
    if not isinstance(channels, (list, tuple)) or not all(isinstance(name, str) for name in channels):
        raise ContentError("signal without a list of channel names")
    units = list(unit) if isinstance(unit, (list, tuple)) else [unit or ""] * len(channels)
    if not len(channels) == len(samples) == len(units) or not all(isinstance(text, str) for text in units):
        raise ContentError("signal whose names or units do not match its channels", f"{len(samples)} channels")
    start_s, times = _number(description.get("start_s") or 0.0, "start"), description.get("times")
    if times is not None:
        return Recording(samples, tuple(channels), tuple(units), 0.0, start_s, _times(times, samples.shape[1]))
    rate_hz = _number(description.get("sample_rate_hz"), "sample rate")
    if rate_hz <= 0:
        raise ContentError("signal with a sample rate of 0 or less")
    return Recording(samples, tuple(channels), tuple(units), rate_hz, start_s)


def _samples(samples: Any) -> np.ndarray:
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise ContentError("signal that is not an array") from error
    if samples.dtype.kind not in "fiu" or samples.ndim != 2:
        raise ContentError("signal that is not numbers of (channels, time)", f"{samples.dtype} {samples.shape}")
    if not samples.size:
        raise ContentError("empty signal")
    if samples.size > MAX_SAMPLES:
        raise ContentError(f"signal of more than {MAX_SAMPLES:,} numbers", f"{samples.shape}")
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32)
    if np.isinf(samples).any():
        raise ContentError("signal with samples that are not numbers")
    return samples


def _number(value: Any, noun: str) -> float:
    largest = float(np.finfo(np.float64).max)  # JSON has integers beyond it
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= largest:
        raise ContentError(f"signal whose {noun} is not a number")
    return float(value)


def _times(times: Any, count: int) -> np.ndarray:
    try:
        array = np.asarray(times, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ContentError("signal whose times are not numbers") from error
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ContentError("signal whose times do not match its samples")
    if (np.diff(array) < 0).any():
        raise ContentError("signal whose times run backwards")
    return array


def remove_gaps(raw: Recording, measured: Sequence[str], may_exclude: bool) -> Recording:
    """Cut a recording to the largest part without missing samples (NaN), in channels times length.

    Channels with missing samples are left out, or the recording is cut to a stretch in which the remaining channels
    have all samples, whichever keeps more numbers; both are counted.
    measured: the channel that each row measures; errors share it with the values.

    Raises:
        ContentError: a sample is missing and nothing may be left out, or nothing remains.
    """
    missing = np.isnan(raw.samples)
    if not missing.any():
        return raw
    names = list(dict.fromkeys(measured))
    rows_by_name = [[channel == name for channel in measured] for name in names]
    numbers, stretch = _largest_part(np.array([missing[rows].any(0) for rows in rows_by_name]))
    if not may_exclude or stretch.start == stretch.stop:
        raise ContentError("signal with samples that are not numbers")
    if stretch != slice(0, missing.shape[1]):
        count_change("recording cut to its longest stretch without missing samples")
    for number in sorted(set(range(len(names))) - set(numbers), key=names.__getitem__):
        count_change(f"channel {names[number]} left out: missing samples")
    begin_s = 0.0 if raw.times is not None else stretch.start / raw.rate_hz
    times = None if raw.times is None else raw.times[stretch]
    cut = raw._replace(samples=raw.samples[:, stretch], start_s=raw.start_s + begin_s, times=times)
    complete = {names[number] for number in numbers}
    return cut.only([row for row, name in enumerate(measured) if name in complete])


def _largest_part(missing: np.ndarray) -> tuple[list[int], slice]:
    """Rows of `(channels, T)` and a stretch of time in which none of them is missing, whose product is largest.

    The search is greedy: it removes rows one by one, each time the row without which the stretch is longest, and among
    equal ones the row with most missing samples; the best step on the way is returned.
    """
    edges = np.flatnonzero((missing[:, 1:] != missing[:, :-1]).any(0)) + 1
    edges = np.concatenate([[0], edges, [missing.shape[1]]])
    gaps, lengths = missing[:, edges[:-1]], np.diff(edges)  # no row changes within a part
    n_missing = gaps @ lengths
    rows = list(range(len(missing)))
    best, best_stretch, best_size = rows, slice(0, 0), 0
    while rows:
        stretch = _longest(np.any(gaps[rows], axis=0), edges)
        if (size := len(rows) * (stretch.stop - stretch.start)) >= best_size:
            best, best_stretch, best_size = list(rows), stretch, size
        n_gaps = gaps[rows].sum(0)

        def gain(row: int, n_gaps: np.ndarray = n_gaps) -> tuple[int, int]:
            remaining = _longest(n_gaps > gaps[row], edges)
            return remaining.stop - remaining.start, int(n_missing[row])

        rows.remove(max(rows, key=gain))
    return best, best_stretch


def _longest(gaps: np.ndarray, edges: np.ndarray) -> slice:
    """The longest run of parts without a gap, as a slice of samples; the first of equal ones. edges: of the parts."""
    changes = np.flatnonzero(np.diff(~gaps, prepend=False, append=False))
    starts, stops = edges[changes[::2]], edges[changes[1::2]]
    if not len(starts):
        return slice(0, 0)
    longest = int(np.argmax(stops - starts))
    return slice(int(starts[longest]), int(stops[longest]))


def unit_factor(unit: str, target: str) -> float:
    """The factor that converts numbers in `unit` to `target`.

    Raises:
        ContentError: the units are of different kinds, or there is none.
    """
    if unit == UNCALIBRATED != target.strip():
        raise ContentError(
            "uncalibrated signal: its file has no gain", f"recipe: {target}; `unit: null` takes numbers as they are"
        )
    if not unit.strip():
        raise ContentError("signal without a unit", f"recipe: {target}; `unit: null` takes numbers as they are")
    if unit.strip() == target.strip():
        return 1.0
    old, new = (text.strip().replace("µ", "u").replace("μ", "u").lower().rstrip("s") for text in (unit, target))
    for factors in (_VOLTS, _TESLA):
        if old in factors and new in factors:
            return factors[old] / factors[new]
    raise ContentError("signal in a unit that cannot become the recipe's", f"{unit} to {target}")


def find_fault(channel: np.ndarray, max_clipped: float) -> str | None:
    """What is wrong with a channel `(T,)`: `constant`, or `clipped`; None if nothing.

    max_clipped: largest share of the samples that may stay at an extreme.
    """
    low, high = channel.min(), channel.max()
    if low == high:
        return "constant"
    is_flat = (channel[1:] == channel[:-1]) & ((channel[1:] == low) | (channel[1:] == high))
    return "clipped" if is_flat.mean() > max_clipped else None


def rate_ratio(rate_hz: float, target_hz: float) -> Fraction:
    """Ratio of a target rate to a sample rate; `resample` turns T samples into ceil(T * ratio).

    Raises:
        ContentError: the ratio is below a thousandth, or beyond a float.
    """
    quotient = target_hz / rate_hz
    if not np.isfinite(quotient):
        raise ContentError("signal of a sample rate of nearly 0")
    ratio = Fraction(quotient).limit_denominator(1000)
    if not ratio:
        raise ContentError("signal of a sample rate beyond a thousand times the recipe's")
    return ratio


def resample(samples: np.ndarray, rate_hz: float, target_hz: float) -> np.ndarray:
    """Resample `(channels, T)` without aliases, through the spectrum.

    Beyond both ends the signal continues along the line through its first and last sample.
    """
    up, down = rate_ratio(rate_hz, target_hz).as_integer_ratio()
    if up == down:
        return samples
    fft, count = lazy_import("scipy.fft", "scipy"), samples.shape[1]
    reach = math.ceil(_CROSSINGS * max(down / up, 1))  # of the filter; the two ends are further apart than that
    parts = fft.next_fast_len(-(-(count + reach) // down), real=True)
    old, new, length = parts * down, parts * up, -(-count * up // down)
    first = samples[:, :1]
    slope = (samples[:, -1:] - first) / np.float32(max(count - 1, 1))
    spectra = fft.rfft(samples - (first + slope * np.arange(count, dtype=np.float32)), old)
    low = min(old, new) // 2 + 1
    spectra = spectra[:, :low] * _lowpass(low - 1)
    resampled = fft.irfft(spectra, new)[:, :length] * np.float32(up / down)
    return resampled + first + slope * (np.arange(length, dtype=np.float32) * np.float32(down / up))


def _lowpass(top: int) -> np.ndarray:
    """Gain `(top + 1,)` float32 of the low-pass filter from frequency 0 to the highest that both rates represent."""
    response = _response()
    positions = np.linspace(0, len(response) - 1, top + 1)
    return np.interp(positions, np.arange(len(response)), response).astype(np.float32)


@lru_cache(maxsize=1)
def _response() -> np.ndarray:
    """Gain of the low-pass filter at 8,193 frequencies: a sinc of `_CROSSINGS` zeros a side under a Kaiser window.

    It is flat to within 1e-4 up to 0.82 of the highest frequency, where it is down by 86 dB.
    """
    signal, fine = lazy_import("scipy.signal", "scipy"), 16
    taps = signal.firwin(2 * _CROSSINGS * fine + 1, 0.911 / fine, window=("kaiser", 9.0))
    return np.abs(signal.freqz(taps, worN=np.linspace(0, np.pi / fine, 8193))[1])


@lru_cache(maxsize=64)
def _filters(rate_hz: float, low_hz: float | None, high_hz: float | None, notch_hz: tuple[float, ...]) -> np.ndarray:
    """Second-order sections: Butterworth filters of order 4 for the edges, notches of quality 30."""
    signal = lazy_import("scipy.signal", "scipy")
    parts = []
    if low_hz is not None:
        parts.append(signal.butter(4, low_hz, "highpass", fs=rate_hz, output="sos"))
    if high_hz is not None:
        parts.append(signal.butter(4, high_hz, "lowpass", fs=rate_hz, output="sos"))
    parts += [signal.tf2sos(*signal.iirnotch(notch, _NOTCH_QUALITY, fs=rate_hz)) for notch in notch_hz]
    return np.concatenate(parts)


def filter_band(
    samples: np.ndarray, rate_hz: float, low_hz: float | None, high_hz: float | None, notch_hz: tuple[float, ...]
) -> np.ndarray:
    """Filter `(channels, T)` forwards and backwards, so that no phase moves.

    Beyond both ends the signal is mirrored, for one period of `low_hz` or the length of the recording.
    """
    if low_hz is None and high_hz is None and not notch_hz:
        return samples
    sections = _filters(rate_hz, low_hz, high_hz, notch_hz)
    reach = max(6 * len(sections) + 3, round(rate_hz / low_hz) if low_hz else 0)
    padding = min(reach, samples.shape[1] - 1)
    filtered = lazy_import("scipy.signal", "scipy").sosfiltfilt(sections, samples, axis=1, padlen=padding)
    return filtered.astype(np.float32)


def normalize(samples: np.ndarray, method: Normalize, scale: float) -> np.ndarray:
    """Scale `(channels, T)`.

    method: `channel`: less the channel's mean, over its std; `recording`: less the channel's mean, over the std of the
    recording, so that amplitudes still compare; `fixed`: over `scale`; `percentile`: over the 95th percentile of the
    channel's magnitude (BIOT, Yang et al. 2023); `mad`: less the channel's median, over 1.4826 median absolute
    deviations.

    Raises:
        ContentError: a channel without spread.
    """
    if method == "fixed":
        return samples / np.float32(scale)
    if method == "percentile":
        centered, spread = samples, np.percentile(np.abs(samples), 95, axis=1, keepdims=True)
    elif method == "mad":
        centered = samples - np.median(samples, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(centered), axis=1, keepdims=True)
    else:
        centered = samples - samples.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        axis = 1 if method == "channel" else None
        spread = np.sqrt(np.square(centered, dtype=np.float64).mean(axis, keepdims=True))
    if not (spread > 0).all():
        raise ContentError("signal with a channel that has no spread")
    return (centered / spread).astype(np.float32)


RHYTHMS_HZ = ((0.5, 4), (4, 8), (8, 13), (13, 30), (30, 45))
"""Frequency bands: delta, theta, alpha, beta and gamma of the EEG; baseline wander, T, P and QRS waves of the ECG."""


def log_band_powers(series: np.ndarray, rate_hz: float) -> np.ndarray:
    """Logarithms `(6,)` of the power of a series `(T,)` in each of `RHYTHMS_HZ` (Welch's method), and its variance."""
    welch = lazy_import("scipy.signal", "scipy").welch
    hz, power = welch(series, rate_hz, nperseg=min(len(series), round(2 * rate_hz)))
    bands = [power[(low <= hz) & (hz < high)] for low, high in RHYTHMS_HZ]
    return np.log(np.array([*(band.sum() for band in bands), series.var()]) + 1e-9)
