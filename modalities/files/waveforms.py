"""Recordings in WFDB records, and in CSV files with one column per channel."""

from __future__ import annotations

import csv
import io
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.files.reading import (
    MAX_JSON_BYTES,
    ContentError,
    cache_by_mtime,
    count_change,
    lazy_import,
    parse_json,
    read_file,
)
from modalities.files.recording import MAX_SAMPLES, UNCALIBRATED, Recording, build_recording

AssignRows = Callable[[Sequence[str]], Mapping[str, Sequence[int]]]
"""Function from the names of a file's channels to the indices of the channels of each recording."""

MAX_FRAMES = 1_000_000_000
"""Largest number of frames of a WFDB record, eleven days at 1 kHz; a header with more is taken to be corrupt."""
MAX_HEADER_CHARACTERS = 100_000
"""Largest length of a CSV file's first line."""
TIME_COLUMN = "time_s"
"""Column of a CSV file with the time of each sample."""
_UNIT = re.compile(r"(.*\S)\s*[\[(]([^\[\]()]+)[\])]")
_DEFAULT_RATE_HZ, _DEFAULT_GAIN, _DEFAULT_UNIT = 250.0, 200.0, "mV"
"""Defaults of the WFDB format; wfdb divides by this gain."""
_BITS = {name: Fraction(bits) for name, bits in {"8": 8, "80": 8, "212": 12, "16": 16, "61": 16, "160": 16}.items()}
_BITS |= {"24": Fraction(24), "32": Fraction(32), "310": Fraction(32, 3), "311": Fraction(32, 3)}
"""Bits per sample by signal format, without the compressed formats."""
_BLOCK = 1 << 16
"""Number of frames that are summed at once in files of differences."""


class WfdbChannel(NamedTuple):
    """Signal line of a WFDB header.

    samples: number per frame. gain: converter units per `unit`, None if the header has none. skew: frames of delay.
    """

    name: str
    unit: str
    samples: int
    gain: float | None
    file: str
    format: str
    offset: int
    skew: int


class WfdbHeader(NamedTuple):
    """WFDB header.

    rate_hz: frames per second; a frame has one sample of each channel, or several of faster channels. frames: number
    of frames that all channels have, without those that a skew moves beyond the end. is_stated: whether the header
    gives the number of frames. comments: without their `#`. segments: name and frames of each part, empty for a record
    of one; `~` is a gap.
    """

    rate_hz: float
    frames: int
    is_stated: bool
    channels: tuple[WfdbChannel, ...]
    comments: tuple[str, ...]
    segments: tuple[tuple[str, int], ...] = ()

    @property
    def skew(self) -> int:
        """Delay of the latest channel in its file, in frames."""
        return max((channel.skew for channel in self.channels), default=0)

    @property
    def ticks(self) -> int:
        """Samples of the fastest channel in a frame: the finest unit of time."""
        return max((channel.samples for channel in self.channels), default=1)

    def extent(self) -> tuple[float, int]:
        """Frames per second and number of frames.

        Raises:
            ContentError: the record has several segments, no frames or too many.
        """
        if self.segments:
            raise ContentError("WFDB record of several segments", "each of them is a record of its own")
        if self.frames < 1:
            raise ContentError("empty signal")
        if self.frames > MAX_FRAMES:
            raise ContentError(f"signal of more than {MAX_FRAMES:,} samples")
        return self.rate_hz, self.frames


@cache_by_mtime(16)
def read_wfdb_header(path: Path) -> WfdbHeader:
    """Read the header of a WFDB record, also of one with several segments.

    The lines are parsed with wfdb's own expressions, which takes a hundredth of the time of `wfdb.rdheader`.

    Raises:
        ContentError: the header is unreadable or unusable.
    """
    syntax = lazy_import("wfdb.io.header", "wfdb")
    try:
        with path.open("rb") as file:
            text = _text(file.read(MAX_JSON_BYTES))
        lines, comments = syntax.parse_header_content(text)
        record = syntax.rx_record.match(lines[0])
        rate_hz = float(record["fs"] or _DEFAULT_RATE_HZ)
        frames = int(record["sig_len"] or 0)
        texts = tuple(line.strip(" \t#") for line in comments)
        if record["n_seg"]:
            parts = [syntax.rx_segment.match(line) for line in lines[1:]]
            segments = tuple((part["seg_name"], int(part["seg_len"])) for part in parts)
            return WfdbHeader(rate_hz, frames, True, (), texts, segments)
        channels = tuple(_channel(n, line, syntax.rx_signal) for n, line in enumerate(lines[1:]))
    except Exception as error:
        raise wfdb_error(error, "header") from error
    if not rate_hz > 0 or any(channel.samples < 1 for channel in channels):
        raise ContentError("signal with a sample rate of 0 or less")
    header = WfdbHeader(rate_hz, frames, frames > 0, channels, texts)
    if not header.is_stated:
        header = header._replace(frames=_frames_of_file(path, channels))
    return header._replace(frames=header.frames - header.skew)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _channel(number: int, line: str, form: re.Pattern[str]) -> WfdbChannel:
    """Parse a signal line `a.dat 16x4:1+24 200(0)/mV 12 0 -5 0 0 II`; fields after the first two are optional."""
    match = form.match(line.encode("ascii", "ignore").decode())
    assert match is not None
    name, unit, cells = match["sig_name"], match["units"], line.split(None, 8)
    if not line.isascii():  # wfdb drops such letters: `uV` with a Greek mu would become V
        name, unit = cells[8] if len(cells) > 8 else name, cells[2].partition("/")[2]
    gain = float(match["adc_gain"] or 0)
    samples = int(match["samps_per_frame"] or 1)
    return WfdbChannel(
        name.strip() or f"signal {number}",
        unit or _DEFAULT_UNIT,
        samples,
        gain or None,
        match["file_name"],
        match["fmt"],
        int(match["byte_offset"] or 0),
        int(match["skew"] or 0),
    )


def _frames_of_file(path: Path, channels: Sequence[WfdbChannel]) -> int:
    """Count the frames of the first signal file, for a header without their number.

    Raises:
        ContentError: there is no such file, or it is compressed.
    """
    if not channels or channels[0].file == "~":  # `~` in a header that only lists channels of segments
        raise ContentError("empty signal")
    first = channels[0]
    if first.format not in _BITS:
        raise ContentError("WFDB header without a number of samples", f"format {first.format}")
    file = path.parent / first.file
    if not file.is_file():
        raise ContentError("unreadable WFDB record", f"no file {first.file}")
    samples = sum(channel.samples for channel in channels if channel.file == first.file)
    return int((file.stat().st_size - first.offset) * 8 // (_BITS[first.format] * samples))


def read_wfdb_extent(path: Path) -> tuple[float, int]:
    """Frames per second and number of frames of a record, by its header.

    Raises:
        ContentError: the header is unreadable or unusable, or the record has several segments.
    """
    return read_wfdb_header(path).extent()


def read_wfdb(
    path: Path, assign_rows: AssignRows, start: Fraction | int, stop: Fraction | int
) -> tuple[dict[str, Recording], list[str]]:
    """Read frames `start` to `stop` of a record as recordings, and its lines of comment.

    path: the record's header. A channel's rate is the rate of frames times its samples per frame; fractions of frames
    are rounded to its nearest sample. A channel without a gain, or with gain 0, is in units of the converter
    (`recording.UNCALIBRATED`).

    Raises:
        ContentError: the record is unreadable or too large, or the channels of one recording differ in rate.
    """
    header = read_wfdb_header(path)
    header.extent()
    channels = header.channels
    selected = assign_rows([channel.name for channel in channels])
    for rows in selected.values():
        if len({channels[row].samples for row in rows}) > 1:
            raise ContentError("signal whose channels differ in sample rate")
    numbers = sorted({number for rows in selected.values() for number in rows})
    first, last = math.floor(start), math.ceil(stop)
    check_numbers(sum(channels[number].samples for number in numbers) * (last - first))
    frames = zip(numbers, _wfdb_samples(path, header, numbers, first, last), strict=True)
    samples = {number: _cut(row, channels[number].samples, first, start, stop) for number, row in frames}
    if header.skew and last == header.frames:
        count_change("last samples of a skewed WFDB record left out: not all channels have them")
    recordings = {
        name: Recording(
            np.stack([samples[row] for row in rows]),
            tuple(channels[row].name for row in rows),
            tuple(channels[row].unit if channels[row].gain else UNCALIBRATED for row in rows),
            header.rate_hz * channels[rows[0]].samples,
        )
        for name, rows in selected.items()
    }
    return recordings, list(header.comments)


def _cut(row: np.ndarray, samples: int, first: int, start: Fraction | int, stop: Fraction | int) -> np.ndarray:
    """Cut a channel to frames `start` to `stop`; `row` begins with frame `first`; samples: per frame."""
    count = round((stop - start) * samples)
    begin = min(round(start * samples) - first * samples, len(row) - count)
    return row[begin : begin + count]


def _wfdb_samples(path: Path, header: WfdbHeader, numbers: list[int], start: int, stop: int) -> Iterator[np.ndarray]:
    """Read samples `(T,)` float32 of each channel, where T is its samples per frame times the frames."""
    sums = {n: _sum_before(path, header, n, start) for n in numbers if header.channels[n].format == "8" and start}
    try:
        with _complete_header(path, header) as record:
            rows = (
                lazy_import("wfdb", "wfdb")
                .rdrecord(record, sampfrom=start, sampto=stop, channels=numbers, smooth_frames=False)
                .e_p_signal
            )
    except Exception as error:
        raise wfdb_error(error, "record") from error
    for number, row in zip(numbers, rows, strict=True):
        gain = header.channels[number].gain
        if number in sums:
            row = row + sums[number] / (gain or _DEFAULT_GAIN)
        yield (row if gain else row * _DEFAULT_GAIN).astype(np.float32)


@contextmanager
def _complete_header(path: Path, header: WfdbHeader) -> Iterator[str]:
    """Name of the record for wfdb; if its header lacks the number of frames, of a temporary copy that has it."""
    if header.is_stated:
        yield str(path.with_suffix(""))
        return
    lines = [line for line in path.read_bytes().splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    frames = header.frames + header.skew
    lines[0] = f"{path.stem} {len(header.channels)} {header.rate_hz} {frames}".encode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).write_bytes(b"\n".join(lines) + b"\n")
        for file in {channel.file for channel in header.channels}:  # plain names, by wfdb's expression for them
            (Path(folder) / file).symlink_to((path.parent / file).absolute())
        yield str(Path(folder) / path.stem)


def _sum_before(path: Path, header: WfdbHeader, number: int, start: int) -> int:
    """Sum of a channel's differences before frame `start`, because wfdb starts from the initial value at any frame."""
    channel = header.channels[number]
    numbers = [n for n, other in enumerate(header.channels) if other.file == channel.file]
    widths = [header.channels[n].samples for n in numbers]
    file = path.parent / channel.file
    try:
        state = file.stat()
        differences = _differences(file, channel.offset, sum(widths))
    except (OSError, ValueError) as error:
        raise wfdb_error(error, "record") from error
    first = sum(widths[: numbers.index(number)])
    columns = slice(first, first + channel.samples)
    blocks = _block_sums(file, channel.offset, sum(widths), state.st_size, state.st_mtime_ns)
    rest = differences[start // _BLOCK * _BLOCK : start, columns].sum(dtype=np.int64)
    return int(blocks[start // _BLOCK, columns].sum() + rest)


def _differences(file: Path, offset: int, width: int) -> np.ndarray:
    """Map a file of format 8 as `(frames, width)`, without reading it."""
    flat = np.memmap(file, np.int8, "r", offset)
    return flat[: len(flat) // width * width].reshape(-1, width)


@lru_cache(maxsize=16)
def _block_sums(file: Path, offset: int, width: int, size: int, time_ns: int) -> np.ndarray:
    """Sums `(blocks + 1, width)` of all differences before each block, in one pass over the file."""
    differences = _differences(file, offset, width)
    starts = range(0, len(differences), _BLOCK)
    sums = [differences[start : start + _BLOCK].sum(0, dtype=np.int64) for start in starts]
    return np.concatenate([np.zeros((1, width), np.int64), np.cumsum(sums, axis=0)])


def wfdb_error(error: Exception, part: str) -> ContentError:
    """Wrap an error of the parser, which raises anything on corrupt bytes, as the reason to skip a record."""
    return ContentError(f"unreadable WFDB {part}", f"{type(error).__name__}: {error}")


def check_numbers(count: int) -> None:
    """Check the size of a recording before it is read.

    Raises:
        ContentError: `count` is more than `MAX_SAMPLES`.
    """
    if count > MAX_SAMPLES:
        raise ContentError(f"signal of more than {MAX_SAMPLES:,} numbers")


def read_csv(path: Path) -> Recording:
    """Read a CSV file with a header line and one column per channel, `II` or `II [mV]`.

    Times are in a column `time_s`, or a JSON file of the same name has the `sample_rate_hz`; that file may also have
    the `unit`.

    Raises:
        ContentError: the file has another form, or a cell is not a number.
    """
    text = read_file(path, "signal file").decode(errors="replace")
    header, _, rest = text.removeprefix("\ufeff").partition("\n")
    if not rest.strip():
        raise ContentError("empty signal")
    if len(header) > MAX_HEADER_CHARACTERS:
        raise ContentError("unreadable CSV signal", f"a header of {len(header):,} characters")
    try:
        columns = [name.strip() for name in next(csv.reader([header]), [])]
        table = np.loadtxt(io.StringIO(rest), delimiter=",", ndmin=2, dtype=np.float64)
    except (ValueError, csv.Error) as error:
        raise ContentError("unreadable CSV signal", str(error)) from error
    if table.shape[1] != len(columns):
        raise ContentError("CSV signal whose columns do not match its header", f"{table.shape[1]} columns")
    matches = [_UNIT.fullmatch(name) for name in columns]
    rows = [number for number, name in enumerate(columns) if name != TIME_COLUMN]
    description: dict[str, Any] = {
        **_read_description(path),
        "channels": [match[1] if (match := matches[row]) else columns[row] for row in rows],
    }
    if any(matches):
        description["unit"] = [match[2] if (match := matches[row]) else "" for row in rows]
    if TIME_COLUMN in columns:
        description["times"] = table[:, columns.index(TIME_COLUMN)]
    return build_recording(table[:, rows].T, description)


def _read_description(path: Path) -> dict[str, Any]:
    """Read the JSON file beside a CSV file; empty if there is none."""
    json_path = path.with_suffix(".json")
    if not json_path.is_file():
        return {}
    description = parse_json(read_file(json_path, "signal file"), "description of a signal")
    if not isinstance(description, dict):
        raise ContentError("signal whose description is not a JSON object")
    return description
