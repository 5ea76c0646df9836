"""WFDB records, as on PhysioNet: `.hea` with `.dat` or `.mat`, comments and annotations."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.files.recording import UNCALIBRATED
from modalities.files.waveforms import read_wfdb, read_wfdb_extent, read_wfdb_header
from shards.sources.base import Sample, register
from shards.sources.biosignals import BiosignalFolder, Fields, assign_channels
from shards.sources.drafting.columns import TableFile, assign_roles, infer_frame
from shards.sources.drafting.draft import Draft, Sketch, guessed_fields
from shards.sources.drafting.filenames import find_pattern
from shards.sources.drafting.settings import TABLE
from shards.sources.drafting.signal_settings import Channel, SignalInfo, signal_settings
from shards.sources.drafting.survey import Survey, spread
from shards.sources.paths import find_files
from shards.sources.wfdb_records import (
    NO_HEADERS,
    FolderHeaders,
    Segment,
    headers_by_folder,
    parse_comments,
    record_annotations,
)
from shards.sources.windows import refuse_empty_window


class Excerpt(NamedTuple):
    """Ticks `start` to `stop` of a record or segment: one item.

    A tick is the time of a sample of the record's fastest channel. start, stop: both 0 if the record is unreadable or
    the annotation is too near an end. raw: the raw folder. path: the header. annotation: number of the annotation that
    the window is centered on, or -1. segment: position of the segment in its record, None if there is only one.
    """

    raw: Path
    path: Path
    start: int
    stop: int
    annotation: int = -1
    segment: Segment | None = None


@register
@dataclass(frozen=True, kw_only=True)
class Wfdb(BiosignalFolder):
    """One sample per record, or per window of one.

    Channels go to the signal modalities that know their names, each at its own rate (several samples per frame). A
    channel without a gain is uncalibrated; only a modality with `unit: null` takes it. Annotations follow the clock
    of their file (`time resolution`), and windows begin at any sample of the fastest channel. A remainder
    shorter than a window is dropped and counted.

    Fields of a record are those of its file name, `record` (its name), `start_s` (of a window), its comments of the
    form `Age: 74` and, with annotations, `symbol` (of the annotation, or the most frequent in the window), `symbols`
    (all, separated by commas) and `annotations` (their number). Each segment of a record of several segments is a
    sample, or is cut into windows. It has the field `segment` (its name), the `record` and comments of the whole
    record and, if it has no annotation file, the annotations of the whole record; `start_s` counts from the beginning
    of the whole record.

    Attributes:
        files: Glob of headers that also applies in every folder below the raw folder.
        annotations: Extension of the files of annotations, such as `atr`; none are read by default.
        centered: Whether one window is cut around each annotation instead of windows at regular times; windows that
            cross an end of the record are skipped.
    """

    type: ClassVar[str] = "wfdb"
    requires: ClassVar[tuple[str, ...]] = ("wfdb",)
    suffixes: ClassVar[tuple[str, ...]] = (".hea",)

    nouns: ClassVar[tuple[str, str]] = ("WFDB header", "WFDB headers")

    files: str = "*.hea"
    annotations: str | None = None
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centered and (self.annotations is None or self.window_s is None):
            raise ValueError("data.source: centered windows need annotations and window_s")

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        paths = survey.files.get(cls.type, [])
        samples, records = _samples_and_records(paths)
        headers = [header for path in spread(samples) if (header := _read_header(path))]
        if not headers:
            return []
        signals = signal_settings([info for info, _ in headers])
        sketch = Sketch(
            source={"type": cls.type, **signals.source},
            modalities=dict(signals.modalities),
            samples=round(len(samples) * signals.windows),
            source_types={cls.type},
            guesses=list(signals.guesses),
        )
        comments = pl.DataFrame([{"": None, **fields} for _, fields in headers], infer_schema_length=None).drop("")
        if comments.width:
            sketch.columns = assign_roles(infer_frame(comments), survey.root)
        sketch.groups += [(name, comments[name].n_unique()) for name in sketch.columns.groups]
        names = find_pattern([path.stem for path in paths])
        if names is not None and names.group:
            sketch.source["pattern"] = f"{names.pattern}.hea"
            sketch.groups += names.groups
            sketch.guesses.append(f"file names are {names.pattern}{guessed_fields(names)}")
        sketch.labels += sketch.columns.labels
        if sketch.columns.content:
            sketch.source["columns"], sketch.modalities["table"] = {"table": list(sketch.columns.content)}, TABLE
            sketch.guesses.append("the table is made of the comments in the headers")
        if all(path.with_suffix(".atr").is_file() for path in spread(paths)):
            sketch.source["annotations"] = "atr"
            sketch.labels.append("symbol")
        if sketch.labels:
            sketch.source["labels"] = list(sketch.labels)
        if not sketch.columns.content and (table := _find_table(paths, tables)) is not None:
            _sketch_join(sketch, survey, *table)
        sketch.groups = sketch.groups or [("record", records)]
        return [sketch.finish()]

    def items(self, raw: Path) -> Iterator[Excerpt]:
        paths = find_files(raw, self.files, recursive=True)
        folders: dict[Path, FolderHeaders] = {}
        headers = headers_by_folder(dict.fromkeys(path.parent for path in paths))
        for path in paths:
            while path.parent not in folders:
                folder, content = next(headers, (path.parent, NO_HEADERS))
                folders[folder] = content
            extents, segments = folders[path.parent]
            segment = segments.get(path.stem)
            if path not in extents:
                yield Excerpt(raw, path, 0, 0, segment=segment)  # `make` counts it with its reason
                continue
            rate_hz, count = extents.pop(path)
            if not extents and not segments:
                folders[path.parent] = NO_HEADERS  # frees memory: an archive may have one folder per record
            try:
                for start, stop, number in self._windows(path, segment, count, rate_hz):
                    yield Excerpt(raw, path, start, stop, number, segment)
            except ContentError:
                yield Excerpt(raw, path, 0, 0, segment=segment)

    def _windows(
        self, path: Path, segment: Segment | None, count: int, rate_hz: float
    ) -> Iterator[tuple[int, int, int]]:
        """Start and stop of each window in ticks, and the number of its annotation or -1."""
        if self.centered:
            assert self.annotations is not None
            centers = record_annotations(path, segment, self.annotations).ticks()
            for number, start, stop in self.centered_windows(centers, count, rate_hz):
                yield start, stop, number
            return
        for start, stop in self.windows(count, rate_hz):
            yield start, stop, -1
        self.count_remainder(count, rate_hz)

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        rate_hz, _ = read_wfdb_extent(item.path)
        ticks = read_wfdb_header(item.path).ticks
        start, stop = Fraction(item.start, ticks), Fraction(item.stop, ticks)  # in frames
        refuse_empty_window(item.annotation, item.start, item.stop)
        annotations = self._annotation_fields(item)
        assign = partial(assign_channels, modalities=modalities, exclude=self.exclude)
        recordings, comments = read_wfdb(item.path, assign, start, stop)
        fields: Fields = parse_comments(comments, self.missing)
        begin, record = 0, item.path.stem
        if item.segment is not None:
            record, begin = item.segment
            record_header = read_wfdb_header(item.segment.record_path(item.path))
            fields = {**parse_comments(record_header.comments, self.missing), **fields, "segment": item.path.stem}
        fields["record"] = record
        if item.segment is not None or self.window_s is not None:
            fields["start_s"] = float(begin + start) / rate_hz
        fields |= self.name_fields(item.path) | annotations
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        suffix = f":{item.annotation}" if item.annotation >= 0 else ""
        return self.sample(f"{name}:{_format(start)}:{_format(stop)}{suffix}", recordings, fields)

    def _annotation_fields(self, item: Excerpt) -> Fields:
        if self.annotations is None:
            return {}
        annotations = record_annotations(item.path, item.segment, self.annotations)
        if item.annotation >= 0:
            return {"symbol": annotations.symbols[item.annotation]}
        symbols = annotations.between(item.start, item.stop).symbols
        main = max(sorted(set(symbols)), key=symbols.count, default=None)
        return {"symbol": main, "symbols": sorted(set(symbols)), "annotations": len(symbols)}


def _samples_and_records(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The headers that become samples, of records of one segment and of segments, and the number of their records."""
    records: dict[Path, str] = {}
    for _, folder in headers_by_folder(dict.fromkeys(path.parent for path in paths)):
        for path in folder.extents:
            records[path] = folder.segments[path.stem].record if path.stem in folder.segments else path.stem
    samples = [path for path in paths if path in records]
    return samples, len({records[path] for path in samples})


def _read_header(path: Path) -> tuple[SignalInfo, dict[str, str]] | None:
    """The channels and comments of a record; None if it has no channels, or has changed since it was found."""
    try:
        header = read_wfdb_header(path)
        rate_hz, count = header.extent()
    except ContentError:
        return None
    if not header.channels:
        return None
    channels = tuple(
        Channel(channel.name, channel.unit if channel.gain else UNCALIBRATED, rate_hz * channel.samples)
        for channel in header.channels
    )
    comments = parse_comments(list(header.comments))
    return SignalInfo(channels, count / rate_hz), {k: str(value) for k, value in comments.items() if value is not None}


def _find_table(paths: Sequence[Path], tables: Sequence[TableFile]) -> tuple[TableFile, str, list[str]] | None:
    """The table of records: its column of their names, and its columns of content."""
    for table in tables:
        column = table.find_column(path.stem for path in spread(paths, 1000))
        if column is None or not table.is_text(column):
            continue
        if cells := [name for name in table.columns.content if name != column]:
            return table, column, cells
    return None


def _sketch_join(sketch: Sketch, survey: Survey, table: TableFile, column: str, cells: list[str]) -> None:
    """Join a table of records by a column."""
    rows = {"type": "rows", "file": glob.escape(survey.name(table.path)), "columns": {"table": cells}}
    if table.columns.labels:
        rows["labels"] = list(table.columns.labels)
    sketch.source = {"type": "join", "sources": [sketch.source, rows], "by": ["record", column]}
    sketch.columns, sketch.modalities["table"] = table.columns, TABLE
    sketch.labels += table.columns.labels
    sketch.groups[:0] = [(name, table.count_values(name)) for name in table.columns.groups if name != column]
    sketch.tables.add(table.path)
    sketch.is_linked = True
    sketch.guesses.append(f"{survey.name(table.path)} names records in its column {column}")


def _format(frames: Fraction) -> str:
    return str(frames.numerator if frames.denominator == 1 else float(frames))
