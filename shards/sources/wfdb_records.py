"""Headers, segments, comments and annotations of WFDB records."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.files.reading import ContentError, cache_by_mtime, lazy_import
from modalities.files.waveforms import read_wfdb_header, wfdb_error
from modalities.strings.cells import Codes
from shards.sources.biosignals import read_ahead
from shards.sources.tables import parse_cell


class Segment(NamedTuple):
    """The place of a segment in its record: the record's name, and the frame of the record at which it begins."""

    record: str
    begin: int

    def record_path(self, path: Path) -> Path:
        """The header of the record that the segment at `path` belongs to."""
        return path.with_name(f"{self.record}.hea")


class FolderHeaders(NamedTuple):
    """The headers in a folder.

    extents: ticks per second and number of ticks of each readable record. A tick is the time of a sample of the
    record's fastest channel. segments: place of each segment, by its name.
    """

    extents: dict[Path, tuple[float, int]]
    segments: dict[str, Segment]


NO_HEADERS = FolderHeaders({}, {})


def headers_by_folder(folders: Iterable[Path]) -> Iterator[tuple[Path, FolderHeaders]]:
    """Yield the headers of each folder that has any; a segment belongs to the first record there that lists it.

    Headers of the next folders are read ahead, because some archives have one folder per record.
    """
    paths = (path for folder in folders for path in sorted(folder.glob("*.hea")))
    for folder, headers in itertools.groupby(read_ahead(read_wfdb_header, paths), key=lambda pair: pair[0].parent):
        extents, segments = dict[Path, tuple[float, int]](), dict[str, Segment]()
        for path, header in headers:
            if isinstance(header, ContentError):
                continue
            with suppress(ContentError):
                rate_hz, frames = header.extent()
                extents[path] = rate_hz * header.ticks, frames * header.ticks
            begin = 0
            for name, length in header.segments:
                if name != "~":
                    segments.setdefault(name, Segment(path.stem, begin))
                begin += length
        yield folder, FolderHeaders(extents, segments)


class AnnotationFile(NamedTuple):
    """Annotations in order of time.

    samples: times `(N,)` int64, in samples at `clock_hz`. clock_hz: None if the file does not state it.
    """

    samples: np.ndarray
    symbols: list[str]
    clock_hz: float | None


@cache_by_mtime(16)
def read_annotations(path: Path) -> AnnotationFile:
    """Read a file of annotations.

    Raises:
        ContentError: the file is missing or unreadable.
    """
    if not path.is_file():
        raise ContentError("record without annotations")
    wfdb = lazy_import("wfdb", "wfdb")
    try:
        content = wfdb.rdann(str(path.with_suffix("")), path.suffix.removeprefix("."))
        clock_hz = float(content.fs) if content.fs else None
        samples = np.asarray(content.sample, np.int64)
        order = np.argsort(samples, kind="stable")
        return AnnotationFile(samples[order], [content.symbol[number] for number in order], clock_hz)
    except Exception as error:
        raise wfdb_error(error, "annotations") from error


class RecordAnnotations(NamedTuple):
    """Annotations on the time axis of a record, in order of time.

    samples: times `(N,)` int64, in samples of the annotation file's clock. step: ticks of the record per sample. begin:
    the tick of the annotation file at which the record begins.
    """

    samples: np.ndarray
    symbols: list[str]
    step: Fraction
    begin: int = 0

    def ticks(self) -> Iterator[int]:
        """The nearest tick of the record to each annotation."""
        up, down = self.step.as_integer_ratio()
        return ((2 * sample * up + down) // (2 * down) - self.begin for sample in self.samples.tolist())

    def between(self, start: int, stop: int) -> RecordAnnotations:
        """The annotations from tick `start` on and before tick `stop`, exactly."""
        edges = [math.ceil((self.begin + tick) / self.step) for tick in (start, stop)]
        first, last = np.searchsorted(self.samples, edges)
        return self._replace(samples=self.samples[first:last], symbols=self.symbols[first:last])


def record_annotations(path: Path, segment: Segment | None, extension: str) -> RecordAnnotations:
    """The annotations of the record or segment whose header is at `path`.

    A segment without an annotation file has the annotations of its record that are within the segment.

    Raises:
        ContentError: the annotations are missing or unreadable.
    """
    header, file = read_wfdb_header(path), path.with_suffix(f".{extension}")
    inherited = segment if not file.is_file() else None
    if inherited is not None:
        file = inherited.record_path(path).with_suffix(f".{extension}")
    samples, symbols, clock_hz = read_annotations(file)
    frames = 1 if clock_hz is None else Fraction(str(header.rate_hz)) / Fraction(str(clock_hz))
    step = Fraction(frames * header.ticks)
    if inherited is None:
        return RecordAnnotations(samples, symbols, step)
    annotations = RecordAnnotations(samples, symbols, step, inherited.begin * header.ticks)
    return annotations.between(0, header.frames * header.ticks)


def parse_comments(lines: Sequence[str], codes: Codes | None = None) -> dict[str, Any]:
    """Fields from comments of the form `Age: 74`, None if the value is unknown; other comments are ignored.

    codes: values that mean missing, by field.
    """
    pairs = (line.lstrip("# ").partition(":") for line in lines)
    return {
        name.strip(): None if value.strip().lower() == "unknown" else parse_cell(value, name.strip(), codes)
        for name, colon, value in pairs
        if colon and name.strip()
    }
