"""EDF and BDF files: channels, each at its own rate, and annotations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.files.reading import ContentError, cache_by_mtime, lazy_import
from modalities.files.recording import Recording
from modalities.files.waveforms import AssignRows, check_numbers

_FIELDS = {"label": 16, "transducer": 80, "unit": 8, "low": 8, "high": 8, "digital_low": 8, "digital_high": 8}
_FIELDS |= {"filter": 80, "samples": 8, "reserved": 32}
"""Characters of each field of a channel; a header has the labels of all channels first, then all transducers."""
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
"""Labels of the channels of annotations."""
_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")
"""Beginning of the annotations of each data record: the record's onset."""


class EdfChannel(NamedTuple):
    """A channel of an EDF or BDF file.

    low, high: values in `unit` of the digital values digital_low and digital_high. samples: number per data record.
    first: index of the first of them in the record.
    """

    label: str
    unit: str
    low: float
    high: float
    digital_low: float
    digital_high: float
    samples: int
    first: int


class EdfHeader(NamedTuple):
    """Header of an EDF or BDF file.

    size: bytes of the header, before the data records. record_s: length of a data record. width: bytes per sample.
    channels: including channels of annotations. discontinuous: whether there may be gaps between records. start: when
    the recording began, None without a valid date.
    """

    size: int
    records: int
    record_s: float
    width: int
    channels: tuple[EdfChannel, ...]
    discontinuous: bool
    start: datetime | None

    @property
    def signals(self) -> tuple[EdfChannel, ...]:
        """The channels that are not annotations."""
        return tuple(channel for channel in self.channels if channel.label not in _ANNOTATIONS)

    @property
    def length_s(self) -> Fraction:
        """Exact length of the recording, by the decimal digits of the header."""
        return self.records * Fraction(str(self.record_s))

    def rate_hz(self, channel: EdfChannel) -> float:
        """Sample rate of a channel; 0 if the records have no length."""
        return channel.samples / self.record_s if self.record_s > 0 else 0.0


@cache_by_mtime(16)
def read_edf_header(path: Path) -> EdfHeader:
    """Read the header of an EDF or BDF file. Texts may be Latin-1 or UTF-8; any date is accepted.

    Raises:
        ContentError: the file is of another type, or its size contradicts its header.
    """
    try:
        with path.open("rb") as file:
            fixed = file.read(256)
            count = _integer(fixed[252:256])
            cells = file.read(256 * count) if 0 < count < 10_000 else b""
        is_edf = fixed[:8] == b"\xffBIOSEMI" or fixed[:8].strip(b" \0") == b"0"
        if not is_edf or not cells or _integer(fixed[184:192]) != 256 * (count + 1):
            raise ValueError("no EDF or BDF header")
        records, record_s, reserved = _integer(fixed[236:244]), _number(fixed[244:252]), _text(fixed[192:236])
        channels = _channels(cells, count)
    except (OSError, ValueError) as error:
        raise edf_error(error) from error
    size, width = 256 * (count + 1), 3 if fixed[:1] == b"\xff" else 2
    if records == -1:  # the recorder was stopped before it wrote their number
        records = (path.stat().st_size - size) // max(width * _record_size(channels), 1)
    discontinuous = reserved[:5] in ("EDF+D", "BDF+D")
    header = EdfHeader(size, records, record_s, width, channels, discontinuous, _start(fixed[168:184]))
    stated = header.size + records * width * _record_size(channels)
    if records < 0 or stated != path.stat().st_size:
        raise ContentError("EDF file whose size is not what its header says", f"{stated:,} bytes")
    return header


def _channels(cells: bytes, count: int) -> tuple[EdfChannel, ...]:
    """Parse the channels of a header, field by field.

    Raises:
        ValueError: a field is not a number.
    """
    columns, at = {}, 0
    for name, width in _FIELDS.items():
        columns[name] = [cells[at + n * width : at + (n + 1) * width] for n in range(count)]
        at += count * width
    samples = [int(_number(cell)) for cell in columns["samples"]]
    if min(samples) < 0 or at != len(cells):
        raise ValueError("no EDF or BDF header")
    firsts = np.cumsum([0, *samples])
    scales = ("low", "high", "digital_low", "digital_high")
    return tuple(
        EdfChannel(
            _text(columns["label"][n]),
            _text(columns["unit"][n]),
            *_limits([columns[name][n] for name in scales]),
            samples[n],
            int(firsts[n]),
        )
        for n in range(count)
    )


def _limits(cells: list[bytes]) -> tuple[float, float, float, float]:
    low, high, digital_low, digital_high = map(_number, cells)
    return low, high, digital_low, digital_high


def _number(cell: bytes) -> float:
    number = float(cell.strip(b" \0").replace(b",", b"."))
    if not np.isfinite(number):
        raise ValueError(f"{cell!r} is not a number")
    return number


def _integer(cell: bytes) -> int:
    number = _number(cell)
    if not number.is_integer():
        raise ValueError(f"{cell!r} is not a whole number")
    return int(number)


def _text(cell: bytes) -> str:
    try:
        return cell.decode().strip(" \0")
    except UnicodeDecodeError:
        return cell.decode("latin-1").strip(" \0")


def _start(cell: bytes) -> datetime | None:
    """Parse the start of a recording, `dd.mm.yyhh.mm.ss` with years from 1985 to 2084; None if invalid."""
    numbers = re.fullmatch(r"(\d\d)\D(\d\d)\D(\d\d)(\d\d)\D(\d\d)\D(\d\d)", cell.decode("latin-1"))
    if numbers is None:
        return None
    day, month, year, hour, minute, second = map(int, numbers.groups())
    try:
        return datetime(year + (1900 if year > 84 else 2000), month, day, hour, minute, second)
    except ValueError:
        return None


def _record_size(channels: tuple[EdfChannel, ...]) -> int:
    return sum(channel.samples for channel in channels)


def read_edf_length_s(path: Path) -> Fraction:
    """Read the exact length of an EDF or BDF file.

    Raises:
        ContentError: the file is unreadable or empty.
    """
    header = read_edf_header(path)
    if not header.length_s > 0:
        raise ContentError("empty signal")
    return header.length_s


def read_edf(
    path: Path, assign_rows: AssignRows, start_s: Fraction | int = 0, stop_s: Fraction | None = None
) -> dict[str, Recording]:
    """Read recordings from `start_s` to `stop_s`, by default to the end of the file.

    Both times are rounded to the nearest sample of each channel.

    Raises:
        ContentError: the file is unreadable, has gaps between its records or is too large, or the channels of one
            recording differ in rate.
    """
    header = read_edf_header(path)
    stop_s = read_edf_length_s(path) if stop_s is None else stop_s
    if header.discontinuous and (gap_s := _gap_s(path)) is not None:
        raise ContentError("discontinuous EDF+ file", f"a gap at {gap_s:g} s")
    signals = header.signals
    recordings = {}
    with _open(path, header) as read:
        for name, rows in assign_rows([channel.label for channel in signals]).items():
            rates = {header.rate_hz(signals[row]) for row in rows}
            if len(rates) > 1:
                raise ContentError("signal whose channels differ in sample rate")
            rate_hz = rates.pop()
            if not rate_hz > 0:
                raise ContentError("signal with a sample rate of 0 or less")
            first, count = _samples_between(header, signals[rows[0]], start_s, stop_s)
            check_numbers(len(rows) * count)
            try:
                samples = np.stack([read(row, first, count) for row in rows])
            except (OSError, ValueError) as error:
                raise edf_error(error) from error
            labels, units = zip(*((signals[row].label, signals[row].unit) for row in rows), strict=True)
            recordings[name] = Recording(samples.astype(np.float32), labels, units, rate_hz)
    return recordings


def _samples_between(
    header: EdfHeader, channel: EdfChannel, start_s: Fraction | int, stop_s: Fraction
) -> tuple[int, int]:
    """First sample of a channel between two times, and the number of samples."""
    rate_hz = channel.samples / Fraction(str(header.record_s))
    count = round((stop_s - start_s) * rate_hz)
    return min(round(start_s * rate_hz), header.records * channel.samples - count), count


Read = Callable[[int, int, int], np.ndarray]
"""Function (channel index, first sample, number of samples) -> values in the channel's unit."""


@contextmanager
def _open(path: Path, header: EdfHeader) -> Iterator[Read]:
    """Open a file for reading by EDFlib, or by `_decode` if EDFlib refuses letters or dates of the header."""
    edf = lazy_import("pyedflib", "pyedflib")
    try:
        file = edf.EdfReader(str(path), annotations_mode=edf.DO_NOT_READ_ANNOTATIONS)
    except Exception:  # OSError by design, UnicodeDecodeError and others for corrupt headers
        yield partial(_decode, path, header)
        return
    try:
        has_same_signals = file.signals_in_file == len(header.signals)  # annotations count too if a file is not EDF+
        yield file.readSignal if has_same_signals else partial(_decode, path, header)
    finally:
        file.close()


def _decode(path: Path, header: EdfHeader, row: int, start: int, count: int) -> np.ndarray:
    """Decode samples `(count,)` of a channel as EDF 1992 and BDF define them, scaled as in EDFlib.

    Raises:
        ContentError: its digital or physical limits are equal.
    """
    channel = header.signals[row]
    if channel.digital_low == channel.digital_high or channel.low == channel.high:
        raise ContentError("EDF channel whose limits are equal")
    first, last = start // channel.samples, -(-(start + count) // channel.samples)
    digital = _column(path, header, channel, first, last).ravel()[start - first * channel.samples :][:count]
    step = (channel.high - channel.low) / (channel.digital_high - channel.digital_low)
    return step * (channel.high / step - channel.digital_high + digital)


def _column(path: Path, header: EdfHeader, channel: EdfChannel, first: int, last: int) -> np.ndarray:
    """Digital values `(records, samples)` of a channel in records `first` to `last`."""
    shape = (header.records, _record_size(header.channels), header.width)
    data = np.memmap(path, np.uint8, "r", header.size, shape)
    values = np.ascontiguousarray(data[first:last, channel.first : channel.first + channel.samples])
    if header.width == 2:
        return values.view("<i2")[..., 0]
    parts = values.astype(np.int32)
    return parts[..., 0] | parts[..., 1] << 8 | parts[..., 2].astype(np.int8).astype(np.int32) << 16


@cache_by_mtime(16)
def _gap_s(path: Path) -> float | None:
    """Time of the first gap between records, or of a record without an onset; None if there is none."""
    header = read_edf_header(path)
    annotations = next((channel for channel in header.channels if channel.label in _ANNOTATIONS), None)
    if annotations is None or not header.records:
        return 0.0
    data = np.memmap(path, np.uint8, "r", header.size, (header.records, _record_size(header.channels), header.width))
    column = data[:, annotations.first : annotations.first + annotations.samples]
    matches = [_ONSET.match(np.ascontiguousarray(record).tobytes()) for record in column]
    onsets = np.array([float(match[1]) if match else np.nan for match in matches])
    fastest = max((channel.samples for channel in header.signals), default=1)
    late = np.abs(onsets - onsets[0] - np.arange(len(onsets)) * header.record_s)
    wrong = np.flatnonzero(~(late < 0.5 * header.record_s / max(fastest, 1)))  # by half a sample or more, or NaN
    return float(wrong[0] * header.record_s) if len(wrong) else None


def read_edf_offset_s(path: Path) -> float:
    """Read how long after the start in its header a file's first data record begins; 0 if the record does not say.

    Onsets of annotations are relative to that record.

    Raises:
        ContentError: the file is unreadable.
    """
    header = read_edf_header(path)
    annotations = next((channel for channel in header.channels if channel.label in _ANNOTATIONS), None)
    if annotations is None or not header.records:
        return 0.0
    try:
        with path.open("rb") as file:
            file.seek(header.size + header.width * annotations.first)
            match = _ONSET.match(file.read(header.width * annotations.samples))
    except OSError as error:
        raise edf_error(error) from error
    return float(match[1]) if match else 0.0


class Annotation(NamedTuple):
    """Annotation of an EDF+ or BDF+ file. Times have a resolution of 100 ns; `length_s` is 0 without a length."""

    onset_s: float
    length_s: float
    text: str


@cache_by_mtime(16)
def read_edf_annotations(path: Path) -> list[Annotation]:
    """Read the annotations of an EDF+ or BDF+ file in its order; none from a file without a channel of them.

    Raises:
        ContentError: the annotations are unreadable.
    """
    header = read_edf_header(path)
    if not any(channel.label in _ANNOTATIONS for channel in header.channels):
        return []
    edf = lazy_import("pyedflib", "pyedflib")
    try:
        with edf.EdfReader(str(path), annotations_mode=edf.READ_ALL_ANNOTATIONS) as file:
            onsets, lengths, texts = file.readAnnotations()
    except Exception:  # as for samples, and UnicodeDecodeError for Latin-1
        onsets, lengths, texts = _annotations_by_mne(path)
    return [
        Annotation(round(float(onset), 7), round(max(float(length), 0.0), 7), str(text).strip())
        for onset, length, text in zip(onsets, lengths, texts, strict=True)
    ]


def _annotations_by_mne(path: Path) -> tuple[Any, Any, Any]:
    """Read onsets in s, lengths in s and texts of a file that EDFlib refuses.

    Raises:
        ContentError: mne refuses it too.
    """
    read = lazy_import("mne", "mne").read_annotations
    for encoding in ("utf8", "latin1"):
        try:
            annotations = read(path, encoding=encoding)
        except Exception as error:
            failure = error
        else:
            return annotations.onset, annotations.duration, annotations.description
    raise edf_error(failure) from failure


def edf_error(error: Exception) -> ContentError:
    """Wrap a parser's error as the reason to skip a file."""
    return ContentError("unreadable EDF file", f"{type(error).__name__}: {error}")
