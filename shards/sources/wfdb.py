"""WFDB records, as PhysioNet has them: `.hea` with `.dat` or `.mat`, comments and annotations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from modalities.base import ContentError, Modality, once_a_file, parser
from modalities.cells import Codes
from modalities.waveforms import read_wfdb, unreadable_wfdb, wfdb_extent, wfdb_header
from shards.sources.base import Sample, Source, matching, register
from shards.sources.fields import fields_of, names_in
from shards.sources.recordings import (
    Fields,
    around,
    assigned,
    check_inside,
    check_windows,
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
    """Frames `start` to `stop` of a record, and the number of the annotation they lie around, -1 for none.

    A record that cannot be read, and an annotation too near an end for a window, have no frames. part: of which record
    of several segments this is one.
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
    their file's own clock (`time resolution`) says.

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
                    at, _ = self._annotated(path, part)
                    for number, start, stop in around(at, count, rate_hz, self.window_s):
                        yield Excerpt(raw, path, start, stop, number, part)
                else:
                    for start, stop in windows(count, rate_hz, self.window_s, self.stride_s):
                        yield Excerpt(raw, path, start, stop, part=part)
            except ContentError:
                yield Excerpt(raw, path, 0, 0, part=part)

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        rate_hz, _ = wfdb_extent(item.path)
        check_inside(item.annotation, item.start, item.stop)
        labels = self._annotations(item) if self.annotations is not None else {}
        pick = partial(assigned, modalities=modalities, leave_out=self.leave_out)
        recordings, comments = read_wfdb(item.path, pick, item.start, item.stop)
        fields = comments_of(comments, self.missing)
        begin, record = 0, item.path.stem
        if item.part is not None:
            record, begin = item.part
            whole = wfdb_header(whole_of(item.path, item.part))
            fields = {**comments_of(list(whole.comments), self.missing), **fields}
            fields["segment"] = item.path.stem
        fields["record"] = record
        if item.part is not None or self.window_s is not None:
            fields["start_s"] = (begin + item.start) / rate_hz
        fields |= fields_of(self.pattern, item.path, SUFFIXES) | labels
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        of = f":{item.annotation}" if item.annotation >= 0 else ""
        return Sample(
            f"{name}:{item.start}:{item.stop}{of}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )

    def _annotations(self, item: Excerpt) -> Fields:
        at, symbols = self._annotated(item.path, item.part)
        if item.annotation >= 0:
            return {"symbol": symbols[item.annotation]}
        inside = [symbol for when, symbol in zip(at, symbols, strict=True) if item.start <= when < item.stop]
        most = max(sorted(set(inside)), key=inside.count, default=None)
        return {"symbol": most, "symbols": sorted(set(inside)), "annotations": len(inside)}

    def _annotated(self, path: Path, part: Part | None) -> tuple[np.ndarray, list[str]]:
        """Frames and symbols of a record's annotations; those of the whole lie before or after a segment too.

        Raises:
            ContentError: there are none, or they cannot be read.
        """
        rate_hz, count = wfdb_extent(path)
        file, begin = path.with_suffix(f".{self.annotations}"), 0
        of_whole = part is not None and not file.is_file()
        if part is not None and of_whole:
            file, begin = whole_of(path, part).with_suffix(f".{self.annotations}"), part.begin
        samples, symbols, clock_hz = annotated(file)
        frames = np.floor(samples * (rate_hz / (clock_hz or rate_hz)) + 0.5).astype(np.int64) - begin
        if not of_whole:
            return frames, symbols
        inside = (frames >= 0) & (frames < count)
        return frames[inside], [symbol for symbol, within in zip(symbols, inside, strict=True) if within]


def whole_of(path: Path, part: Part) -> Path:
    """The header of the record that a segment belongs to."""
    return path.with_name(f"{part.record}.hea")


class Folder(NamedTuple):
    """Frames a second and number of frames of the records in a folder, and the segments there by name."""

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
                extents[path] = header.extent()
            begin = 0
            for name, frames in header.segments:
                if name != "~":
                    parts.setdefault(name, Part(path.stem, begin))
                begin += frames
        yield folder, Folder(extents, parts)


class Annotations(NamedTuple):
    """A file of annotations: their samples at `clock_hz`, None where neither it nor its record says, and symbols."""

    samples: np.ndarray
    symbols: list[str]
    clock_hz: float | None


@once_a_file(16)
def annotated(path: Path) -> Annotations:
    """The annotations of a file.

    Raises:
        ContentError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ContentError("record without annotations")
    wfdb = parser("wfdb", "wfdb")
    try:
        content = wfdb.rdann(str(path.with_suffix("")), path.suffix.removeprefix("."))
        clock_hz = float(content.fs) if content.fs else None
        return Annotations(np.asarray(content.sample, np.int64), list(content.symbol), clock_hz)
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
