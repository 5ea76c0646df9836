"""EDF and BDF recordings: EEG, ECG and other channels, with annotations and a table of persons."""

from __future__ import annotations

import glob
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from string import Formatter
from typing import ClassVar, Literal, NamedTuple

from modalities.base import Modality
from modalities.files.edf import read_edf, read_edf_header, read_edf_length_s
from modalities.files.reading import ContentError, count_change
from shards.sources.base import Sample, register
from shards.sources.biosignals import BiosignalFolder, Fields, assign_channels, read_ahead
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft, Sketch, guessed_fields
from shards.sources.drafting.filenames import find_pattern
from shards.sources.drafting.settings import TABLE
from shards.sources.drafting.signal_settings import Channel, SignalInfo, signal_settings
from shards.sources.drafting.survey import Survey, spread
from shards.sources.edf_annotations import Timeline, read_timeline
from shards.sources.fields import index_rows, path_fields, pattern_fields
from shards.sources.members import join_list
from shards.sources.paths import find_files
from shards.sources.tables import read_rows
from shards.sources.windows import refuse_empty_window


class Excerpt(NamedTuple):
    """A part of a file: one item.

    raw: the raw folder. start_s, stop_s: both 0 if the file is unreadable or the annotation is too near an end; a
    `stop_s` of -1 is the end of the file. annotation: number of the annotation that the window belongs to, or -1.
    """

    raw: Path
    path: Path
    start_s: Fraction
    stop_s: Fraction
    annotation: int = -1

    @property
    def identity(self) -> str:
        """The path relative to the raw folder, start and stop in ms and the number of the annotation, by colons."""
        times_ms = [1000 * time_s for time_s in (self.start_s, self.stop_s)]
        texts = [str(time.numerator if time.denominator == 1 else float(time)) for time in times_ms]
        name = self.path.relative_to(self.raw) if self.raw.is_dir() else self.path.name
        return ":".join([str(name), *texts, *([str(self.annotation)] if self.annotation >= 0 else [])])


@register
@dataclass(frozen=True, kw_only=True)
class Edf(BiosignalFolder):
    """One sample per file, or per window of one, with all signal modalities and tables.

    Channels go to the signal modalities that know their names: `EEG Fp1` to one of montage eeg, `ECG ECG` to one of
    montage ecg. Windows that overlap an annotation beginning with `bad`, in any case (`BAD_acq_skip` in exports of
    mne), are skipped; a recording that is not cut into windows is kept, which is counted. A remainder shorter than a
    window is dropped and counted. Fields of a recording are those of its file
    name, `record` (the file name without suffix), `start_s` (of the window), and a row of `table`.

    Attributes:
        files: Glob that also applies in every folder below the raw folder.
        annotations: How annotations of EDF+ and BDF+ files become fields. `overlap`: windows at regular times, each
            with the annotations that it overlaps as `symbol` (the text that covers most of it, or is most frequent in
            it), `symbols` (all texts, separated by commas) and `annotations` (their number). `centered`, `onset`: one
            window of `window_s` around each annotation, or from its start on, with its text as `symbol`; windows that
            cross an end of the recording are skipped.
        annotation_file: A second file of annotations in the same folder, as in the pairs of Sleep-EDF, named by the
            fields of the first file with `*` for the rest: files `*-PSG.edf`, pattern `{night:7}{rest}-PSG.edf` and
            annotation_file `{night}*-Hypnogram.edf` join SC4001EC-Hypnogram to SC4001E0-PSG. The dates of both files
            place its annotations.
        table: CSV, TSV or Parquet file with one row per person or recording, relative to the raw folder.
        join: The column of `table` and the text that it has for a recording: `{Subject: "Subject{subject}"}`.
        values: Replacements for the values of a field: `{part: {"1": rest, "2": task}}`.
    """

    type: ClassVar[str] = "edf"
    requires: ClassVar[tuple[str, ...]] = ("pyedflib",)
    suffixes: ClassVar[tuple[str, ...]] = (".edf", ".bdf")

    nouns: ClassVar[tuple[str, str]] = ("EDF or BDF file", "EDF or BDF files")

    files: str = "*.[eEbB][dD][fF]"
    annotations: Literal["overlap", "centered", "onset"] | None = None
    annotation_file: str | None = None
    table: str | None = None
    join: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.table is None) != (not self.join) or len(self.join) > 1:
            raise ValueError("data.source: table needs a join by one column, and join needs a table")
        if self.annotations in ("centered", "onset") and (self.window_s is None or self.stride_s is not None):
            raise ValueError(f"data.source: annotations '{self.annotations}' need window_s and no stride_s")
        if self.annotation_file is not None and self.annotations is None:
            raise ValueError("data.source.annotation_file needs annotations")
        if self.annotation_file is not None and "/" in self.annotation_file:
            raise ValueError("data.source.annotation_file names a file in the recording's folder, without '/'")
        names = {*pattern_fields(self.pattern), "record"}
        if self.annotation_file is not None:
            _check_form(self.annotation_file, names, "annotation_file")
        for form in self.join.values():
            _check_form(form, {*names, "start_s", "symbol", "symbols", "annotations"}, "join")

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        paths = survey.files.get(cls.type, [])
        recordings = [info for path in spread(paths) if (info := _signal_info(path))]
        if not recordings:
            return []
        signals = signal_settings(recordings)
        sketch = Sketch(
            source={"type": cls.type, **signals.source},
            modalities=dict(signals.modalities),
            samples=round(len(paths) * signals.windows),
            source_types={cls.type},
            guesses=list(signals.guesses),
        )
        suffixes = {path.suffix for path in paths}
        names = find_pattern([path.stem for path in paths]) if len(suffixes) == 1 else None
        pattern = f"{names.pattern}{suffixes.pop()}" if names else None
        if names is not None and pattern is not None:
            sketch.source["pattern"] = pattern
            sketch.labels += names.labels
            sketch.groups += names.groups
            sketch.guesses.append(f"file names are {pattern}{guessed_fields(names)}")
        if (table := _find_table(pattern, paths, tables)) is not None:
            _sketch_table(sketch, survey, *table)
        if {"eeg", "ecg"} <= sketch.modalities.keys():
            sketch.objectives = {"masked": {}, "contrastive": {"weight": 0.1, "pairs": [["eeg", "ecg"]]}}
        sketch.groups = sketch.groups or [("record", len(paths))]
        if sketch.labels:
            sketch.source["labels"] = sketch.labels
        return [sketch.finish()]

    def items(self, raw: Path) -> Iterator[Excerpt]:
        paths = find_files(raw, self.files, recursive=True)
        if self.table is not None:  # counts missing cells once, not in each process that reads the table
            columns = [*(name for names in self.columns.values() for name in names), *self.labels]
            read_rows(_folder(raw) / self.table, self.missing, text=self.join, used=columns)
        if self.window_s is None:
            yield from (Excerpt(raw, path, Fraction(0), Fraction(-1)) for path in paths)
            return
        for path, length_s in read_ahead(read_edf_length_s, paths):
            try:
                if isinstance(length_s, ContentError):
                    raise length_s
                for start_s, stop_s, number in self._windows_s(path, length_s):
                    yield Excerpt(raw, path, start_s, stop_s, number)
            except ContentError:
                yield Excerpt(raw, path, Fraction(0), Fraction(0))  # `make` counts it with its reason

    def _windows_s(self, path: Path, length_s: Fraction) -> Iterator[tuple[Fraction, Fraction, int]]:
        """Start and stop of each window in s, and the number of its annotation or -1."""
        window_s = Fraction(str(self.window_s))
        if self.annotations in ("centered", "onset"):
            lead_s = window_s / 2 if self.annotations == "centered" else Fraction(0)
            for number, annotation in enumerate(self._timeline(path).annotations):
                start_s = Fraction(str(annotation.onset_s)) - lead_s
                inside = 0 <= start_s <= length_s - window_s
                yield (start_s, start_s + window_s, number) if inside else (Fraction(0), Fraction(0), number)
        else:
            stride_s = window_s if self.stride_s is None else Fraction(str(self.stride_s))
            # ticks per second, such that all three times are whole numbers of ticks
            ticks = math.lcm(length_s.denominator, window_s.denominator, stride_s.denominator)
            count = int(length_s * ticks)
            for start, stop in self.windows(count, ticks):
                yield Fraction(start, ticks), Fraction(stop, ticks), -1
            self.count_remainder(count, ticks)

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        length_s = read_edf_length_s(item.path)
        if item.stop_s < 0:
            item = item._replace(stop_s=length_s)
        refuse_empty_window(item.annotation, item.start_s, item.stop_s)
        timeline = self._timeline(item.path)
        if timeline.is_bad(float(item.start_s), float(item.stop_s)):
            if self.window_s is not None:
                raise ContentError("window over an annotation that begins with 'bad'")
            count_change("recording taken whole, over annotations that begin with 'bad'")
        assign = partial(assign_channels, modalities=modalities, exclude=self.exclude)
        recordings = read_edf(item.path, assign, item.start_s, item.stop_s)
        return self.sample(item.identity, recordings, self._fields(item, timeline))

    def _timeline(self, path: Path) -> Timeline:
        """The annotations of a file and of its second file.

        Raises:
            ContentError: the annotations are unreadable, or missing although the source needs them.
        """
        timeline = read_timeline((path,) if self.annotation_file is None else (path, self._annotation_path(path)))
        if self.annotations is not None and not timeline.annotations:
            raise ContentError("recording without annotations")
        return timeline

    def _annotation_path(self, path: Path) -> Path:
        """Path of the second file, with the annotations of a recording.

        Raises:
            ContentError: no file or several files have that name.
        """
        assert self.annotation_file is not None
        fields = {name: glob.escape(text) for name, text in {**self.name_fields(path), "record": path.stem}.items()}
        name = self.annotation_file.format(**fields)
        paths = [other for other in sorted(path.parent.glob(name)) if other != path]
        if len(paths) != 1:
            raise ContentError(f"recording with {'several files' if paths else 'no file'} of annotations", name)
        return paths[0]

    def _fields(self, item: Excerpt, timeline: Timeline) -> Fields:
        fields: Fields = {**self.name_fields(item.path), "record": item.path.stem, "start_s": float(item.start_s)}
        if item.annotation >= 0:
            fields["symbol"] = timeline.annotations[item.annotation].text
        elif self.annotations is not None:
            fields |= timeline.fields(float(item.start_s), float(item.stop_s))
        if self.table is not None:
            [(column, form)] = self.join.items()
            rows = _table_rows(_folder(item.raw) / self.table, column, tuple(self.missing.items()))
            if (key := form.format(**fields)) not in rows:
                raise ContentError("recording without a row in the table", key)
            fields = rows[key] | fields
        return {name: self.values.get(name, {}).get(str(join_list(value)), value) for name, value in fields.items()}


def _signal_info(path: Path) -> SignalInfo | None:
    """The channels and length of a recording by its header; None if it is unreadable or empty."""
    try:
        header = read_edf_header(path)
    except ContentError:
        return None
    channels = tuple(Channel(channel.label, channel.unit, header.rate_hz(channel)) for channel in header.signals)
    return SignalInfo(channels, float(header.length_s)) if channels and header.length_s > 0 else None


def _find_table(
    pattern: str | None, paths: Sequence[Path], tables: Sequence[TableFile]
) -> tuple[TableFile, str, str] | None:
    """The table of persons or recordings, its column, and the text that the column has for a recording."""
    forms = ["{record}"]
    if pattern:
        ends = [match.end() for match in re.finditer(r"\{\w+\}", pattern)]
        forms = [*dict.fromkeys(pattern[:end] for end in ends), *re.findall(r"\{\w+\}", pattern), *forms]
    fields = [{**path_fields(pattern, path, Edf.suffixes), "record": path.stem} for path in spread(paths, 1000)]
    for table, form in itertools.product(tables, forms):
        column = table.find_column({form.format(**named) for named in fields})
        if column and table.is_text(column) and table.frame[column].is_unique().all():
            return table, column, form
    return None


def _sketch_table(sketch: Sketch, survey: Survey, table: TableFile, column: str, form: str) -> None:
    """Add a table that is joined by a column."""
    cells = [name for name in table.columns.content if name != column]
    sketch.source |= {"table": survey.name(table.path), "join": {column: form}}
    if cells:
        sketch.source["columns"] = {"table": cells}
        sketch.modalities["table"] = TABLE
        sketch.guesses.append("all windows of a person share one row of the table")
    sketch.labels += [name for name in table.columns.labels if name not in sketch.labels]
    sketch.columns = table.columns
    sketch.tables.add(table.path)
    sketch.is_linked = True
    sketch.guesses.append(f"{survey.name(table.path)} has a row for {form} in its column {column}")


def _folder(raw: Path) -> Path:
    return raw if raw.is_dir() else raw.parent


def _check_form(form: str, names: Collection[str], key: str) -> None:
    """Check that all fields in braces in a text are in `names`; `key` is its recipe key.

    Raises:
        ValueError: a field is not, or the braces are not balanced.
    """
    try:
        fields = [name for _, name, _, _ in Formatter().parse(form) if name is not None]
    except ValueError as error:
        raise ValueError(f"data.source.{key} {form!r} is not text with fields in braces: {error}") from error
    if unknown := [name for name in fields if name not in names]:
        raise ValueError(f"data.source.{key} {form!r} uses the field {unknown[0]!r}, which is not in the pattern")


@lru_cache(maxsize=4)
def _table_rows(path: Path, column: str, codes: tuple[tuple[str, tuple[str | float, ...]], ...]) -> dict[str, Fields]:
    """The rows of a table by a column, read once per process; codes: cells that mean missing, by column."""
    return index_rows(path, column, codes=dict(codes))
