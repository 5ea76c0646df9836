"""WFDB records, as PhysioNet has them: `.hea` with `.dat` or `.mat`, comments and annotations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from modalities.base import Modality
from modalities.files.reading import ContentError, cache_by_mtime, lazy_import
from modalities.files.waveforms import read_wfdb, unreadable_wfdb, wfdb_extent, wfdb_header
from modalities.strings.cells import Codes
from shards.sources.base import Sample, Source, matching, register
from shards.sources.fields import fields_of, names_in
from shards.sources.recordings import (
    Fields,
    around,
    assigned,
    check_inside,
    check_windows,
    count_rest,
    groups_of,
    members_of,
    read_ahead,
    table_members,
    windows,
)
from shards.sources.tables import single_cell

SUFFIXES = (".hea",)


class Part(NamedTuple):
    """Where a segment lies in its record: the name of the record and the frame that the segment begins at."""

    record: str
    begin: int


class Excerpt(NamedTuple):
    """Ticks `start` to `stop` of a record, and the number of the annotation they lie around, -1 for none.

    A tick is the time of a sample of the record's fastest channel. A record that cannot be read, and an annotation too
    near an end for a window, have no ticks. part: of which record of several segments this is one.
    """

    raw: Path
    path: Path
    start: int
    stop: int
    annotation: int = -1
    part: Part | None = None


@register
@dataclass(frozen=True, kw_only=True)
class Wfdb(Source):
    """One sample a record, or a window of one.

    files: glob of headers below the raw folder. window_s, stride_s: records are cut to windows of `window_s`, one
    every `stride_s` (default: without overlap). Channels go to the signal modalities that know their names, each at
    its own rate (several samples a frame); leave_out: patterns of names to pass over. A channel without a gain is
    uncalibrated, which a modality takes with `unit: null` alone. pattern: what file names are made of
    (`fields.fields_of`).

    Fields of a record are those of its file name, `record` (its name), `start_s` (of a window), its comments of the
    form `Age: 74`, and with `annotations` (the extension of a file of annotations, `atr`) those of a window: `symbol`
    (the most frequent one of them), `symbols` (all, by commas) and `annotations` (how many). With `centred` there is a
    window around every annotation, whose `symbol` it is; those too near the ends are left out. Annotations lie where
    their file's own clock (`time resolution`) says, and windows begin at any sample of the fastest channel. The rest of
    a record that is shorter than a window is left out and counted.

    Each segment of a record of several is a sample or cut to windows, with the `record`, comments and, if it has none
    itself, annotations of the whole; `start_s` counts from the beginning of the whole, and `segment` is the name of
    the segment.

    columns: the fields of each table modality. labels: fields kept apart from the content. flags: labels that are 1
    where the list in a field holds a code, `{sinus: [Dx, "426783006"]}`. A split can be made by any field.
    """

    type: ClassVar[str] = "wfdb"
    requires: ClassVar[tuple[str, ...]] = ("wfdb",)

    files: str = "*.hea"
    window_s: float | None = None
    stride_s: float | None = None
    leave_out: tuple[str, ...] = ()
    pattern: str | None = None
    annotations: str | None = None
    centred: bool = False
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    flags: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names_in(self.pattern)
        check_windows(self.window_s, self.stride_s)
        if self.centred and (self.annotations is None or self.window_s is None):
            raise ValueError("data.source: centred windows need annotations and window_s")

    def items(self, raw: Path) -> Iterator[Excerpt]:
        paths = matching(raw, self.files, anywhere=True)
        folders: dict[Path, Folder] = {}
        headers = headers_by_folder(dict.fromkeys(path.parent for path in paths))
        for path in paths:
            while path.parent not in folders:
                folder, content = next(headers, (path.parent, EMPTY))
                folders[folder] = content
            extents, parts = folders[path.parent]
            part = parts.get(path.stem)
            if path not in extents:
                yield Excerpt(raw, path, 0, 0, part=part)  # counted with its reason when it is made
                continue
            rate_hz, count = extents.pop(path)
            if not extents and not parts:
                folders[path.parent] = EMPTY  # an archive may have a folder for each of many records
            try:
                if self.centred:
                    assert self.window_s is not None
                    at = self._annotated(path, part).ticks()
                    for number, start, stop in around(at, count, rate_hz, self.window_s):
                        yield Excerpt(raw, path, start, stop, number, part)
                else:
                    for start, stop in windows(count, rate_hz, self.window_s, self.stride_s):
                        yield Excerpt(raw, path, start, stop, part=part)
                    count_rest(count, rate_hz, self.window_s, self.stride_s)
            except ContentError:
                yield Excerpt(raw, path, 0, 0, part=part)

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        rate_hz, _ = wfdb_extent(item.path)
        ticks = wfdb_header(item.path).ticks
        begins, ends = Fraction(item.start, ticks), Fraction(item.stop, ticks)
        check_inside(item.annotation, item.start, item.stop)
        labels = self._annotations(item) if self.annotations is not None else {}
        pick = partial(assigned, modalities=modalities, leave_out=self.leave_out)
        recordings, comments = read_wfdb(item.path, pick, begins, ends)
        fields = comments_of(comments, self.missing)
        begin, record = 0, item.path.stem
        if item.part is not None:
            record, begin = item.part
            whole = wfdb_header(whole_of(item.path, item.part))
            fields = {**comments_of(list(whole.comments), self.missing), **fields}
            fields["segment"] = item.path.stem
        fields["record"] = record
        if item.part is not None or self.window_s is not None:
            fields["start_s"] = float(begin + begins) / rate_hz
        fields |= fields_of(self.pattern, item.path, SUFFIXES) | labels
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        of = f":{item.annotation}" if item.annotation >= 0 else ""
        return Sample(
            f"{name}:{_written(begins)}:{_written(ends)}{of}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )

    def _annotations(self, item: Excerpt) -> Fields:
        annotated = self._annotated(item.path, item.part)
        if item.annotation >= 0:
            return {"symbol": annotated.symbols[item.annotation]}
        inside = annotated.between(item.start, item.stop).symbols
        most = max(sorted(set(inside)), key=inside.count, default=None)
        return {"symbol": most, "symbols": sorted(set(inside)), "annotations": len(inside)}

    def _annotated(self, path: Path, part: Part | None) -> Placed:
        """A record's annotations; those of the whole lie before or after a segment too, and are left out.

        Raises:
            ContentError: there are none, or they cannot be read.
        """
        header, file = wfdb_header(path), path.with_suffix(f".{self.annotations}")
        of_whole = part is not None and not file.is_file()
        if part is not None and of_whole:
            file = whole_of(path, part).with_suffix(f".{self.annotations}")
        samples, symbols, clock_hz = annotated(file)
        frames = 1 if clock_hz is None else Fraction(str(header.rate_hz)) / Fraction(str(clock_hz))
        if part is None or not of_whole:
            return Placed(samples, symbols, Fraction(frames * header.ticks))
        placed = Placed(samples, symbols, Fraction(frames * header.ticks), part.begin * header.ticks)
        return placed.between(0, header.frames * header.ticks)


class Placed(NamedTuple):
    """Annotations in the ticks of a record, in order of time.

    samples: counted by the clock of their file, each of which is `step` ticks, that of tick `begin` being tick 0 of the
    record.
    """

    samples: np.ndarray
    symbols: list[str]
    step: Fraction
    begin: int = 0

    def ticks(self) -> Iterator[int]:
        """The tick nearest to each."""
        up, down = self.step.as_integer_ratio()
        return ((2 * sample * up + down) // (2 * down) - self.begin for sample in self.samples.tolist())

    def between(self, start: int, stop: int) -> Placed:
        """Those from one tick on and before another, exactly."""
        edges = [math.ceil((self.begin + tick) / self.step) for tick in (start, stop)]
        first, last = np.searchsorted(self.samples, edges)
        return self._replace(samples=self.samples[first:last], symbols=self.symbols[first:last])


def _written(frames: Fraction) -> str:
    return str(frames.numerator if frames.denominator == 1 else float(frames))


def whole_of(path: Path, part: Part) -> Path:
    """The header of the record that a segment belongs to."""
    return path.with_name(f"{part.record}.hea")


class Folder(NamedTuple):
    """Ticks a second and number of ticks of the records in a folder, and the segments there by name."""

    extents: dict[Path, tuple[float, int]]
    parts: dict[str, Part]


EMPTY = Folder({}, {})


def headers_by_folder(folders: Iterable[Path]) -> Iterator[tuple[Path, Folder]]:
    """All headers of each folder that has some; a segment belongs to the first record there that lists it.

    Headers of the next folders are read at the same time, for some archives have a folder for each record.
    """
    paths = (path for folder in folders for path in sorted(folder.glob("*.hea")))
    for folder, headers in itertools.groupby(read_ahead(wfdb_header, paths), key=lambda pair: pair[0].parent):
        extents, parts = dict[Path, tuple[float, int]](), dict[str, Part]()
        for path, header in headers:
            if isinstance(header, ContentError):
                continue
            with suppress(ContentError):
                rate_hz, frames = header.extent()
                extents[path] = rate_hz * header.ticks, frames * header.ticks
            begin = 0
            for name, length in header.segments:
                if name != "~":
                    parts.setdefault(name, Part(path.stem, begin))
                begin += length
        yield folder, Folder(extents, parts)


class Annotations(NamedTuple):
    """A file of annotations in order of time: samples at `clock_hz`, None where nothing says it, and symbols."""

    samples: np.ndarray
    symbols: list[str]
    clock_hz: float | None


@cache_by_mtime(16)
def annotated(path: Path) -> Annotations:
    """The annotations of a file.

    Raises:
        ContentError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ContentError("record without annotations")
    wfdb = lazy_import("wfdb", "wfdb")
    try:
        content = wfdb.rdann(str(path.with_suffix("")), path.suffix.removeprefix("."))
        clock_hz = float(content.fs) if content.fs else None
        samples = np.asarray(content.sample, np.int64)
        order = np.argsort(samples, kind="stable")
        return Annotations(samples[order], [content.symbol[n] for n in order], clock_hz)
    except Exception as error:
        raise unreadable_wfdb(error, "annotations") from error


def comments_of(lines: list[str], codes: Codes | None = None) -> Fields:
    """Comments of the form `Age: 74`, None where the value is unknown; others are free text."""
    pairs = (line.lstrip("# ").partition(":") for line in lines)
    return {
        name.strip(): None if value.strip().lower() == "unknown" else single_cell(value, name.strip(), codes)
        for name, colon, value in pairs
        if colon and name.strip()
    }
