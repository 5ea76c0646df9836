"""Files that hold recordings: WFDB records, CSV with one column a channel."""

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
from modalities.files.recording import MAX_SAMPLES, UNCALIBRATED, Recording, described

Pick = Callable[[Sequence[str]], Mapping[str, Sequence[int]]]
"""Given the names of a file's channels, the numbers of those that each recording is made of."""

LONGEST = 1_000_000_000
"""Frames a WFDB record may have, eleven days at 1 kHz; a header that says more is not believed."""
LONGEST_HEADER = 100_000
"""Characters of a CSV file's first line."""
TIMES = "time_s"
"""The column of a CSV file that says when its samples were taken."""
_UNIT = re.compile(r"(.*\S)\s*[\[(]([^\[\]()]+)[\])]")
_DEFAULT_RATE_HZ, _DEFAULT_GAIN, _DEFAULT_UNIT = 250.0, 200.0, "mV"
"""What the WFDB format assumes of a header that says nothing; wfdb divides by that gain."""
_BITS = {name: Fraction(bits) for name, bits in {"8": 8, "80": 8, "212": 12, "16": 16, "61": 16, "160": 16}.items()}
_BITS |= {"24": Fraction(24), "32": Fraction(32), "310": Fraction(32, 3), "311": Fraction(32, 3)}
"""Bits of a sample in a file of signals, by its format; compressed formats are absent."""
_BLOCK = 1 << 16
"""Frames summed at once in files of differences."""


class WfdbChannel(NamedTuple):
    """A line of a WFDB header. samples: in each frame. gain: units of the converter in a `unit`, None for none."""

    name: str
    unit: str
    samples: int
    gain: float | None
    file: str
    format: str
    offset: int
    skew: int


class WfdbHeader(NamedTuple):
    """What a WFDB header says.

    rate_hz, frames: a frame holds one sample of each channel, or several of the faster ones. frames: those that all
    channels have, less those that a skew moves beyond the end. stated: whether the header says how many there are.
    comments: without their `#`. segments: name and frames of each part, empty for a record of one; `~` is a gap.
    """

    rate_hz: float
    frames: int
    stated: bool
    channels: tuple[WfdbChannel, ...]
    comments: tuple[str, ...]
    segments: tuple[tuple[str, int], ...] = ()

    @property
    def skew(self) -> int:
        """By how many frames the latest channel is late in its file."""
        return max((channel.skew for channel in self.channels), default=0)

    @property
    def ticks(self) -> int:
        """Samples of the fastest channel in a frame, the finest parts of one that there are."""
        return max((channel.samples for channel in self.channels), default=1)

    def extent(self) -> tuple[float, int]:
        """Frames a second and number of frames.

        Raises:
            ContentError: the record has several segments, no frames or too many.
        """
        if self.segments:
            raise ContentError("WFDB record of several segments", "each of them is a record of its own")
        if self.frames < 1:
            raise ContentError("empty signal")
        if self.frames > LONGEST:
            raise ContentError(f"signal of more than {LONGEST:,} samples")
        return self.rate_hz, self.frames


@cache_by_mtime(16)
def wfdb_header(path: Path) -> WfdbHeader:
    """The header of a WFDB record, of several segments too.

    The lines are read by wfdb's own expressions, which cost a hundredth of `wfdb.rdheader`.

    Raises:
        ContentError: the header cannot be read or says nothing usable.
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
        raise unreadable_wfdb(error, "header") from error
    if not rate_hz > 0 or any(channel.samples < 1 for channel in channels):
        raise ContentError("signal with a sample rate of 0 or less")
    header = WfdbHeader(rate_hz, frames, frames > 0, channels, texts)
    if not header.stated:
        header = header._replace(frames=_frames_of_file(path, channels))
    return header._replace(frames=header.frames - header.skew)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _channel(number: int, line: str, form: re.Pattern[str]) -> WfdbChannel:
    """A channel by its line `a.dat 16x4:1+24 200(0)/mV 12 0 -5 0 0 II`, of which the first two fields are enough."""
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
    """How many frames the first file of signals has, where the header does not say it.

    Raises:
        ContentError: there is no such file, or a compressed one.
    """
    if not channels or channels[0].file == "~":  # the latter in a header that only lists what segments may hold
        raise ContentError("empty signal")
    first = channels[0]
    if first.format not in _BITS:
        raise ContentError("WFDB header without a number of samples", f"format {first.format}")
    file = path.parent / first.file
    if not file.is_file():
        raise ContentError("unreadable WFDB record", f"no file {first.file}")
    samples = sum(channel.samples for channel in channels if channel.file == first.file)
    return int((file.stat().st_size - first.offset) * 8 // (_BITS[first.format] * samples))


def wfdb_extent(path: Path) -> tuple[float, int]:
    """Frames a second and number of frames of a record, by its header.

    Raises:
        ContentError: the header cannot be read or says nothing usable, or the record has several segments.
    """
    return wfdb_header(path).extent()


def read_wfdb(
    path: Path, pick: Pick, start: Fraction | int, stop: Fraction | int
) -> tuple[dict[str, Recording], list[str]]:
    """The recordings picked of frames `start` to `stop` of a record, given its header, and the lines of comment.

    Each channel has its own rate, that of the frames times its samples in a frame, and is cut to the nearest of its
    samples where parts of frames are asked for. A channel without a gain, or of gain 0, is in units of the converter
    (`recording.UNCALIBRATED`).

    Raises:
        ContentError: the record cannot be read, is too large for memory, or the channels of one recording differ in
            rate.
    """
    header = wfdb_header(path)
    header.extent()
    channels = header.channels
    taken = pick([channel.name for channel in channels])
    for rows in taken.values():
        if len({channels[row].samples for row in rows}) > 1:
            raise ContentError("signal whose channels differ in sample rate")
    numbers = sorted({number for rows in taken.values() for number in rows})
    first, last = math.floor(start), math.ceil(stop)
    bounded(sum(channels[number].samples for number in numbers) * (last - first))
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
        for name, rows in taken.items()
    }
    return recordings, list(header.comments)


def _cut(row: np.ndarray, samples: int, first: int, start: Fraction | int, stop: Fraction | int) -> np.ndarray:
    """Frames `start` to `stop` of a channel of so many `samples` in each, of those from the whole frame `first` on."""
    count = round((stop - start) * samples)
    begin = min(round(start * samples) - first * samples, len(row) - count)
    return row[begin : begin + count]


def _wfdb_samples(path: Path, header: WfdbHeader, numbers: list[int], start: int, stop: int) -> Iterator[np.ndarray]:
    """Samples `(T,)` float32 of each channel, T being its samples in a frame times the frames."""
    sums = {n: _sum_before(path, header, n, start) for n in numbers if header.channels[n].format == "8" and start}
    try:
        with _lengthened(path, header) as record:
            rows = (
                lazy_import("wfdb", "wfdb")
                .rdrecord(record, sampfrom=start, sampto=stop, channels=numbers, smooth_frames=False)
                .e_p_signal
            )
    except Exception as error:
        raise unreadable_wfdb(error, "record") from error
    for number, row in zip(numbers, rows, strict=True):
        gain = header.channels[number].gain
        if number in sums:
            row = row + sums[number] / (gain or _DEFAULT_GAIN)
        yield (row if gain else row * _DEFAULT_GAIN).astype(np.float32)


@contextmanager
def _lengthened(path: Path, header: WfdbHeader) -> Iterator[str]:
    """The name of a record for wfdb, of a copy of its header that says the number of frames if it does not."""
    if header.stated:
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
    """The sum of a channel's differences before frame `start`: wfdb begins at the initial value wherever it reads."""
    channel = header.channels[number]
    others = [n for n, other in enumerate(header.channels) if other.file == channel.file]
    widths = [header.channels[n].samples for n in others]
    file = path.parent / channel.file
    try:
        state = file.stat()
        differences = _differences(file, channel.offset, sum(widths))
    except (OSError, ValueError) as error:
        raise unreadable_wfdb(error, "record") from error
    first = sum(widths[: others.index(number)])
    columns = slice(first, first + channel.samples)
    blocks = _block_sums(file, channel.offset, sum(widths), state.st_size, state.st_mtime_ns)
    rest = differences[start // _BLOCK * _BLOCK : start, columns].sum(dtype=np.int64)
    return int(blocks[start // _BLOCK, columns].sum() + rest)


def _differences(file: Path, offset: int, width: int) -> np.ndarray:
    """A file of format 8 as `(frames, width)`, not read yet."""
    flat = np.memmap(file, np.int8, "r", offset)
    return flat[: len(flat) // width * width].reshape(-1, width)


@lru_cache(maxsize=16)
def _block_sums(file: Path, offset: int, width: int, size: int, time_ns: int) -> np.ndarray:
    """Sums `(blocks + 1, width)` of all differences before each block of frames, in one pass over the file."""
    differences = _differences(file, offset, width)
    starts = range(0, len(differences), _BLOCK)
    sums = [differences[start : start + _BLOCK].sum(0, dtype=np.int64) for start in starts]
    return np.concatenate([np.zeros((1, width), np.int64), np.cumsum(sums, axis=0)])


def unreadable_wfdb(error: Exception, what: str) -> ContentError:
    """Why a record is left out: its parser raises anything on hostile bytes."""
    return ContentError(f"unreadable WFDB {what}", f"{type(error).__name__}: {error}")


def bounded(count: int) -> None:
    """Refuse a recording of `count` numbers before it is read.

    Raises:
        ContentError: there are more than `MAX_SAMPLES`.
    """
    if count > MAX_SAMPLES:
        raise ContentError(f"signal of more than {MAX_SAMPLES:,} numbers")


def read_csv(path: Path) -> Recording:
    """The recording in a CSV file with a header line and one column a channel, `II` or `II [mV]`.

    When samples were taken says a column `time_s`, or a JSON file of the same name with the `sample_rate_hz`; that
    file may also say the `unit`.

    Raises:
        ContentError: the file is not of that form, or a cell is not a number.
    """
    text = read_file(path, "signal file").decode(errors="replace")
    header, _, rest = text.removeprefix("\ufeff").partition("\n")
    if not rest.strip():
        raise ContentError("empty signal")
    if len(header) > LONGEST_HEADER:
        raise ContentError("unreadable CSV signal", f"a header of {len(header):,} characters")
    try:
        columns = [name.strip() for name in next(csv.reader([header]), [])]
        table = np.loadtxt(io.StringIO(rest), delimiter=",", ndmin=2, dtype=np.float64)
    except (ValueError, csv.Error) as error:
        raise ContentError("unreadable CSV signal", str(error)) from error
    if table.shape[1] != len(columns):
        raise ContentError("CSV signal whose columns do not fit its header", f"{table.shape[1]} columns")
    matches = [_UNIT.fullmatch(name) for name in columns]
    rows = [number for number, name in enumerate(columns) if name != TIMES]
    said: dict[str, Any] = {
        **_beside(path),
        "channels": [match[1] if (match := matches[row]) else columns[row] for row in rows],
    }
    if any(matches):
        said["unit"] = [match[2] if (match := matches[row]) else "" for row in rows]
    if TIMES in columns:
        said["times"] = table[:, columns.index(TIMES)]
    return described(table[:, rows].T, said)


def _beside(path: Path) -> dict[str, Any]:
    """What the JSON file beside a CSV file says of it."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    said = parse_json(read_file(beside, "signal file"), "description of a signal")
    if not isinstance(said, dict):
        raise ContentError("signal described by what is not an object")
    return said
