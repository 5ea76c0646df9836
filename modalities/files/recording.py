"""Recordings of several channels: read from members, checked, brought to a unit, a rate and a scale."""

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
"""Numbers a recording may hold over all channels; larger ones are refused, to be cut to windows by a source."""
UNCALIBRATED = "adu"
"""The unit of a channel whose file does not say what its converter's numbers stand for."""
_VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "nv": 1e-9, "volt": 1.0, "millivolt": 1e-3, "microvolt": 1e-6}
_TESLA = {"t": 1.0, "nt": 1e-9, "pt": 1e-12, "ft": 1e-15}
_NOTCH_QUALITY = 30.0
_CROSSINGS = 32
"""Zeros on each side of the sinc that signals are resampled with."""

Normalize = Literal["channel", "recording", "fixed", "percentile", "mad"]


class Recording(NamedTuple):
    """Raw signal.

    samples: `(channels, T)` float32, each channel in its `units`, nan where a sample is missing. rate_hz: 0 where
    `times` say when each sample was taken. start_s: when the recording starts, in s after the beginning of the sample
    it belongs to. times: `(T,)` float64 in s, None where the rate is even.
    """

    samples: np.ndarray
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float
    start_s: float = 0.0
    times: np.ndarray | None = None

    def only(self, rows: list[int]) -> Recording:
        """The recording of some channels, in the order given."""
        return self._replace(
            samples=self.samples[rows],
            channels=tuple(self.channels[row] for row in rows),
            units=tuple(self.units[row] for row in rows),
        )


def from_members(members: Mapping[str, bytes]) -> Recording:
    """The recording in `npy` (channels, T) and `json` {sample_rate_hz or times, unit, channels, start_s}.

    Raises:
        ContentError: a member is absent or unreadable, or they do not describe a recording.
    """
    for extension in ("npy", "json"):
        if extension not in members:
            raise ContentError(f"signal without its {extension} member")
    try:
        samples = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
    except Exception as error:  # hostile headers raise anything from SyntaxError to MemoryError
        raise ContentError("unreadable npy signal", f"{type(error).__name__}: {error}") from error
    return described(samples, parse_json(members["json"], "description of a signal"))


def to_members(recording: Recording) -> dict[str, bytes]:
    """The members `from_members` reads, by extension."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(recording.samples, np.float32))
    same = len(set(recording.units)) == 1
    said: dict[str, Any] = {
        "sample_rate_hz": recording.rate_hz,
        "unit": recording.units[0] if same else list(recording.units),
        "channels": list(recording.channels),
        "start_s": recording.start_s,
    }
    if recording.times is not None:
        said = {**said, "sample_rate_hz": None, "times": recording.times.tolist()}
    return {"npy": buffer.getvalue(), "json": json.dumps(said).encode()}


def described(samples: Any, said: Any) -> Recording:
    """The recording of an array `(channels, T)` and what is said of it.

    Raises:
        ContentError: they do not fit each other, or a number is infinite.
    """
    samples = _samples(samples)
    if not isinstance(said, dict):
        raise ContentError("signal described by what is not an object")
    channels, unit = said.get("channels"), said.get("unit")
    if not isinstance(channels, (list, tuple)) or not all(isinstance(name, str) for name in channels):
        raise ContentError("signal without a list of channel names")
    units = list(unit) if isinstance(unit, (list, tuple)) else [unit or ""] * len(channels)
    if not len(channels) == len(samples) == len(units) or not all(isinstance(each, str) for each in units):
        raise ContentError("signal whose names or units do not fit its channels", f"{len(samples)} channels")
    start_s, times = _number(said.get("start_s") or 0.0, "start"), said.get("times")
    if times is not None:
        return Recording(samples, tuple(channels), tuple(units), 0.0, start_s, _times(times, samples.shape[1]))
    rate_hz = _number(said.get("sample_rate_hz"), "sample rate")
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


def _number(value: Any, what: str) -> float:
    largest = float(np.finfo(np.float64).max)  # JSON has integers beyond it
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= largest:
        raise ContentError(f"signal whose {what} is not a number")
    return float(value)


def _times(times: Any, count: int) -> np.ndarray:
    try:
        array = np.asarray(times, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ContentError("signal whose times are not numbers") from error
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ContentError("signal whose times do not fit its samples")
    if (np.diff(array) < 0).any():
        raise ContentError("signal whose times run backwards")
    return array


def without_gaps(raw: Recording, subjects: Sequence[str], leave_out: bool) -> Recording:
    """The recording without missing samples (nan): the most that channels and time hold together.

    Channels that lack samples are left out, or what lies beside a stretch in which those that stay lack none, whatever
    keeps most; both are counted. subjects: the channel that each row is about, which errors share with values.

    Raises:
        ContentError: a sample is missing and nothing may be left out, or nothing would be left.
    """
    missing = np.isnan(raw.samples)
    if not missing.any():
        return raw
    names = list(dict.fromkeys(subjects))
    stays, stretch = _fullest(np.array([missing[[each == name for each in subjects]].any(0) for name in names]))
    if not leave_out or stretch.start == stretch.stop:
        raise ContentError("signal with samples that are not numbers")
    if stretch != slice(0, missing.shape[1]):
        count_change("recording cut to its longest stretch without missing samples")
    for number in sorted(set(range(len(names))) - set(stays), key=names.__getitem__):
        count_change(f"channel {names[number]} left out: missing samples")
    begin_s = 0.0 if raw.times is not None else stretch.start / raw.rate_hz
    times = None if raw.times is None else raw.times[stretch]
    cut = raw._replace(samples=raw.samples[:, stretch], start_s=raw.start_s + begin_s, times=times)
    whole = {names[number] for number in stays}
    return cut.only([row for row, name in enumerate(subjects) if name in whole])


def _fullest(missing: np.ndarray) -> tuple[list[int], slice]:
    """The rows of `(channels, T)` and a stretch in which none of them is missing, whose product is as large as can be.

    Rows are dropped one by one, each time the one without which the stretch is longest, of equal ones the one that
    lacks most, and the best on that way is taken.
    """
    edges = np.flatnonzero((missing[:, 1:] != missing[:, :-1]).any(0)) + 1
    edges = np.concatenate([[0], edges, [missing.shape[1]]])
    gaps, lengths = missing[:, edges[:-1]], np.diff(edges)  # each part alike throughout
    lacking = gaps @ lengths
    rows = list(range(len(missing)))
    best, best_stretch, most = rows, slice(0, 0), 0
    while rows:
        stretch = _longest(np.any(gaps[rows], axis=0), edges)
        if (size := len(rows) * (stretch.stop - stretch.start)) >= most:
            best, best_stretch, most = list(rows), stretch, size
        times = gaps[rows].sum(0)

        def without(row: int, times: np.ndarray = times) -> tuple[int, int]:
            left = _longest(times > gaps[row], edges)
            return left.stop - left.start, int(lacking[row])

        rows.remove(max(rows, key=without))
    return best, best_stretch


def _longest(gaps: np.ndarray, edges: np.ndarray) -> slice:
    """The longest run of parts without a gap, the first of equal ones, between the edges of the parts."""
    changes = np.flatnonzero(np.diff(~gaps, prepend=False, append=False))
    starts, stops = edges[changes[::2]], edges[changes[1::2]]
    if not len(starts):
        return slice(0, 0)
    longest = int(np.argmax(stops - starts))
    return slice(int(starts[longest]), int(stops[longest]))


def factor(unit: str, wanted: str) -> float:
    """What a number in `unit` is multiplied with to be in `wanted`.

    Raises:
        ContentError: the units are not of one kind, or there is none.
    """
    if unit == UNCALIBRATED != wanted.strip():
        raise ContentError(
            "uncalibrated signal: its file has no gain", f"{wanted} is wanted; `unit: null` takes numbers as they are"
        )
    if not unit.strip():
        raise ContentError("signal without a unit", f"{wanted} is wanted; `unit: null` takes numbers as they are")
    if unit.strip() == wanted.strip():
        return 1.0
    given, target = (text.strip().replace("µ", "u").replace("μ", "u").lower().rstrip("s") for text in (unit, wanted))
    for kind in (_VOLTS, _TESLA):
        if given in kind and target in kind:
            return kind[given] / kind[target]
    raise ContentError("signal in a unit that cannot become the recipe's", f"{unit} to {wanted}")


def fault(channel: np.ndarray, clipped: float) -> str | None:
    """What is wrong with a channel `(T,)`: constant, or held at an extreme for more than a share `clipped` of it."""
    low, high = channel.min(), channel.max()
    if low == high:
        return "constant"
    held = (channel[1:] == channel[:-1]) & ((channel[1:] == low) | (channel[1:] == high))
    return "clipped" if held.mean() > clipped else None


def ratio(rate_hz: float, wanted_hz: float) -> Fraction:
    """What a sample rate is multiplied with to be another; `resample` makes ceil(T * ratio) of T samples.

    Raises:
        ContentError: less than a thousandth, or beyond a float.
    """
    factor = wanted_hz / rate_hz
    if not np.isfinite(factor):
        raise ContentError("signal of a sample rate of nearly 0")
    found = Fraction(factor).limit_denominator(1000)
    if not found:
        raise ContentError("signal of a sample rate beyond a thousand times the recipe's")
    return found


def resample(samples: np.ndarray, rate_hz: float, wanted_hz: float) -> np.ndarray:
    """Samples `(channels, T)` at another rate, filtered and without aliases, by their spectra.

    The ends are continued by the line through the first and last sample.
    """
    up, down = ratio(rate_hz, wanted_hz).as_integer_ratio()
    if up == down:
        return samples
    fft, count = lazy_import("scipy.fft", "scipy"), samples.shape[1]
    reach = math.ceil(_CROSSINGS * max(down / up, 1))  # of the filter, beyond which the ends do not meet
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
    """What is kept of `top` + 1 frequencies from 0 to the highest that both rates hold, float32."""
    response = _response()
    shares = np.linspace(0, len(response) - 1, top + 1)
    return np.interp(shares, np.arange(len(response)), response).astype(np.float32)


@lru_cache(maxsize=1)
def _response() -> np.ndarray:
    """The same at 8,193 frequencies: of a sinc of `_CROSSINGS` zeros on each side under a Kaiser window.

    It is flat to within 1e-4 up to 0.82 of the highest and down by 86 dB there.
    """
    signal, fine = lazy_import("scipy.signal", "scipy"), 16
    taps = signal.firwin(2 * _CROSSINGS * fine + 1, 0.911 / fine, window=("kaiser", 9.0))
    return np.abs(signal.freqz(taps, worN=np.linspace(0, np.pi / fine, 8193))[1])


@lru_cache(maxsize=64)
def _filters(rate_hz: float, low_hz: float | None, high_hz: float | None, notch_hz: tuple[float, ...]) -> np.ndarray:
    """Second-order sections: Butterworth of order 4 on either side, a notch of quality 30 a frequency."""
    signal = lazy_import("scipy.signal", "scipy")
    parts = []
    if low_hz is not None:
        parts.append(signal.butter(4, low_hz, "highpass", fs=rate_hz, output="sos"))
    if high_hz is not None:
        parts.append(signal.butter(4, high_hz, "lowpass", fs=rate_hz, output="sos"))
    parts += [signal.tf2sos(*signal.iirnotch(notch, _NOTCH_QUALITY, fs=rate_hz)) for notch in notch_hz]
    return np.concatenate(parts)


def band(
    samples: np.ndarray, rate_hz: float, low_hz: float | None, high_hz: float | None, notch_hz: tuple[float, ...]
) -> np.ndarray:
    """Samples `(channels, T)` filtered forwards and backwards, so that no phase moves.

    The ends are continued by a period of the lowest frequency kept, as far as the recording reaches, mirrored.
    """
    if low_hz is None and high_hz is None and not notch_hz:
        return samples
    sections = _filters(rate_hz, low_hz, high_hz, notch_hz)
    reach = max(6 * len(sections) + 3, round(rate_hz / low_hz) if low_hz else 0)
    padding = min(reach, samples.shape[1] - 1)
    made = lazy_import("scipy.signal", "scipy").sosfiltfilt(sections, samples, axis=1, padlen=padding)
    return made.astype(np.float32)


def normalize(samples: np.ndarray, how: Normalize, scale: float) -> np.ndarray:
    """Samples `(channels, T)` on a scale that a model can learn from.

    channel: each channel's mean and std. recording: each channel's mean, one std, so that amplitudes
    still compare. fixed: divided by `scale`. percentile: divided by the 95th percentile of the channel's magnitude
    (BIOT). mad: each channel's median and 1.4826 median absolute deviations.

    Raises:
        ContentError: a channel has no spread to be scaled by.
    """
    if how == "fixed":
        return samples / np.float32(scale)
    if how == "percentile":
        centred, spread = samples, np.percentile(np.abs(samples), 95, axis=1, keepdims=True)
    elif how == "mad":
        centred = samples - np.median(samples, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(centred), axis=1, keepdims=True)
    else:
        centred = samples - samples.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        axis = 1 if how == "channel" else None
        spread = np.sqrt(np.square(centred, dtype=np.float64).mean(axis, keepdims=True))
    if not (spread > 0).all():
        raise ContentError("signal with a channel that has no spread")
    return (centred / spread).astype(np.float32)


RHYTHMS_HZ = ((0.5, 4), (4, 8), (8, 13), (13, 30), (30, 45))
"""Frequency bands: delta, theta, alpha, beta and gamma of the EEG; baseline wander, T, P and QRS waves of the ECG."""


def log_band_powers(series: np.ndarray, rate_hz: float) -> np.ndarray:
    """Logarithms `(6,)` of the power of a series `(T,)` in each of `RHYTHMS_HZ` (Welch's method), and its variance."""
    welch = lazy_import("scipy.signal", "scipy").welch
    hz, power = welch(series, rate_hz, nperseg=min(len(series), round(2 * rate_hz)))
    bands = [power[(low <= hz) & (hz < high)] for low, high in RHYTHMS_HZ]
    return np.log(np.array([*(band.sum() for band in bands), series.var()]) + 1e-9)
