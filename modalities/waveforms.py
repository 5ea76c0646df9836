"""Files that hold recordings: WFDB records, EDF and BDF, CSV with one column a channel."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.base import ContentError, file_bytes, json_of, once_a_file, parser
from modalities.recording import MAX_SAMPLES, Recording, described

Pick = Callable[[Sequence[str]], Mapping[str, Sequence[int]]]
"""Given the names of a file's channels, the numbers of those that each recording is made of."""

LONGEST = 1_000_000_000
"""Samples a WFDB record may have, eleven days at 1 kHz; a header that says more is not believed."""
TIMES = "time_s"
"""The column of a CSV file that says when its samples were taken."""
_UNIT = re.compile(r"(.*\S)\s*[\[(]([^\[\]()]+)[\])]")


def wfdb_extent(path: Path) -> tuple[float, int]:
    """Sample rate in Hz and number of samples of a record, by its header.

    Raises:
        ContentError: the header cannot be read or says nothing usable.
    """
    header = _header(path)
    try:
        rate_hz, count = float(header.fs or 0), int(header.sig_len or 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise unreadable_wfdb(error, "header") from error
    if not rate_hz > 0:
        raise ContentError("signal with a sample rate of 0 or less")
    if count < 1:
        raise ContentError("empty signal")
    if count > LONGEST:
        raise ContentError(f"signal of more than {LONGEST:,} samples")
    return rate_hz, count


def read_wfdb(path: Path, pick: Pick, start: int, stop: int) -> tuple[dict[str, Recording], list[str]]:
    """The recordings picked of samples `start` to `stop` of a record, given its header, and the lines of comment.

    Raises:
        ContentError: the record cannot be read, or is too large for memory.
    """
    header = _header(path)
    labels = [str(name) for name in header.sig_name or ()]
    taken = pick(labels)
    numbers = sorted({number for rows in taken.values() for number in rows})
    _bounded(len(numbers) * (stop - start))
    try:
        record = parser("wfdb", "wfdb").rdrecord(_record(path), sampfrom=start, sampto=stop, channels=numbers)
        samples = np.ascontiguousarray(record.p_signal.T, np.float32)
    except Exception as error:
        raise unreadable_wfdb(error, "record") from error
    rate_hz, units = float(record.fs), [str(unit) for unit in record.units]
    recordings = {
        name: Recording(
            samples[[numbers.index(number) for number in rows]],
            tuple(labels[number] for number in rows),
            tuple(units[numbers.index(number)] for number in rows),
            rate_hz,
        )
        for name, rows in taken.items()
    }
    return recordings, list(header.comments or ())


def _record(path: Path) -> str:
    return str(path.with_suffix(""))


@once_a_file(16)
def _header(path: Path) -> Any:
    wfdb = parser("wfdb", "wfdb")
    try:
        header = wfdb.rdheader(_record(path))
    except Exception as error:
        raise unreadable_wfdb(error, "header") from error
    if isinstance(header, wfdb.MultiRecord):
        raise ContentError("WFDB record of several segments", "each of them is a record of its own")
    return header


def unreadable_wfdb(error: Exception, what: str) -> ContentError:
    """Why a record is left out: its parser raises anything on hostile bytes."""
    return ContentError(f"unreadable WFDB {what}", f"{type(error).__name__}: {error}")


class Annotation(NamedTuple):
    """What an EDF+ or BDF+ file says of a time; `length_s` is 0 where it says none."""

    onset_s: float
    length_s: float
    text: str


@contextmanager
def opened_edf(path: Path, annotations: bool = False) -> Iterator[Any]:
    """A reader of an EDF or BDF file, and of its annotations if asked.

    Raises:
        ContentError: the file is not one, or truncated.
    """
    edf = parser("pyedflib", "pyedflib")
    mode = edf.READ_ALL_ANNOTATIONS if annotations else edf.DO_NOT_READ_ANNOTATIONS
    try:
        file = edf.EdfReader(str(path), annotations_mode=mode)
    except Exception as error:  # OSError by design, and UnicodeDecodeError or worse on hostile headers
        raise _unreadable_edf(error) from error
    try:
        yield file
    finally:
        file.close()


def edf_length_s(path: Path) -> float:
    """The length of an EDF or BDF file.

    Raises:
        ContentError: the file cannot be read or is empty.
    """
    with opened_edf(path) as file:
        length_s = float(file.getFileDuration())
    if not length_s > 0:
        raise ContentError("empty signal")
    return length_s


@once_a_file(16)
def edf_annotations(path: Path) -> list[Annotation]:
    """The annotations of an EDF+ or BDF+ file, in the file's order.

    Raises:
        ContentError: there are none, or they cannot be read.
    """
    with opened_edf(path, annotations=True) as file:
        try:
            held = [
                Annotation(float(onset), max(float(length), 0.0), str(text).strip())
                for onset, length, text in zip(*file.readAnnotations(), strict=True)
            ]
        except Exception as error:
            raise _unreadable_edf(error) from error
    if not held:
        raise ContentError("recording without annotations")
    return held


def read_edf(path: Path, pick: Pick, start_s: float, stop_s: float) -> dict[str, Recording]:
    """The recordings picked between two times of a file.

    Raises:
        ContentError: the file cannot be read, is too large for memory, or the channels of one recording differ in rate.
    """
    with opened_edf(path) as file:
        labels = [str(label) for label in file.getSignalLabels()]
        recordings = {}
        for name, rows in pick(labels).items():
            rates = {float(file.getSampleFrequency(row)) for row in rows}
            if len(rates) > 1:
                raise ContentError("signal whose channels differ in sample rate")
            rate_hz = rates.pop()
            if not rate_hz > 0:
                raise ContentError("signal with a sample rate of 0 or less")
            start, count = round(start_s * rate_hz), round((stop_s - start_s) * rate_hz)
            _bounded(len(rows) * count)
            try:
                samples = np.stack([file.readSignal(row, start, count) for row in rows])
            except Exception as error:
                raise _unreadable_edf(error) from error
            units = tuple(str(file.getPhysicalDimension(row)).strip() for row in rows)
            recordings[name] = Recording(samples.astype(np.float32), tuple(labels[row] for row in rows), units, rate_hz)
    return recordings


def _unreadable_edf(error: Exception) -> ContentError:
    return ContentError("unreadable EDF file", f"{type(error).__name__}: {error}")


def _bounded(count: int) -> None:
    """Refuse a recording of `count` numbers before it is read."""
    if count > MAX_SAMPLES:
        raise ContentError(f"signal of more than {MAX_SAMPLES:,} numbers")


def read_csv(path: Path) -> Recording:
    """The recording in a CSV file with a header line and one column a channel, `II` or `II [mV]`.

    When samples were taken says a column `time_s`, or a JSON file of the same name with the `sample_rate_hz`; that
    file may also say the `unit`.

    Raises:
        ContentError: the file is not of that form, or a cell is not a number.
    """
    text = file_bytes(path, "signal file").decode(errors="replace")
    header, _, rest = text.removeprefix("\ufeff").partition("\n")
    if not rest.strip():
        raise ContentError("empty signal")
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
    said = json_of(file_bytes(beside, "signal file"), "description of a signal")
    if not isinstance(said, dict):
        raise ContentError("signal described by what is not an object")
    return said
