"""EDF and BDF recordings: EEG, ECG and other channels of one file, beside a table of the persons."""

from __future__ import annotations

import glob
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from modalities.base import Modality
from modalities.files.edf import Annotation, edf_annotations, edf_header, edf_length_s, edf_offset_s, read_edf
from modalities.files.reading import ContentError, count_change
from shards.sources.base import Sample, Source, matching, register
from shards.sources.fields import fields_of, names_in, rows_by
from shards.sources.recordings import (
    Fields,
    assigned,
    check_inside,
    check_windows,
    count_rest,
    groups_of,
    members_of,
    read_ahead,
    table_members,
    windows,
    written,
)
from shards.sources.tables import read_rows

SUFFIXES = (".edf", ".bdf")
BAD = "BAD"
"""How annotations begin, in any case, that mark what is not to be used, for mne too: BAD_acq_skip, `bad segment`."""


class Excerpt(NamedTuple):
    """A part of a file, and the number of the annotation it belongs to, -1 for none.

    Both times are 0 where the file cannot be read, or the annotation is too near an end for a window. A `stop_s` of -1
    is the end of the file.
    """

    raw: Path
    path: Path
    start_s: Fraction
    stop_s: Fraction
    annotation: int = -1

    @property
    def times(self) -> str:
        """Its beginning and end in ms, by a colon."""
        times = [1000 * time_s for time_s in (self.start_s, self.stop_s)]
        return ":".join(str(time.numerator if time.denominator == 1 else float(time)) for time in times)


@register
@dataclass(frozen=True, kw_only=True)
class Edf(Source):
    """One sample a file, or a window of one, of all signal modalities and a table.

    files: glob below the raw folder. window_s, stride_s: recordings are cut to windows of `window_s`, one every
    `stride_s` (default: without overlap). Channels go to the signal modalities that know their names, `EEG Fp1` to one
    of montage eeg, `ECG ECG` to one of montage ecg; leave_out: patterns of names to pass over (`EOG*`).

    annotations: how those of EDF+ and BDF+ files become fields. overlap: windows over time, each with those that it
    overlaps, as `symbol` (the text that covers most of it, or stands in it most often), `symbols` (all, by commas) and
    `annotations` (how many). centred, onset: one window of `window_s` around each, or from where each begins, whose
    text is `symbol`; windows beyond the ends are left out. annotation_file: those of a second file, as of the pairs of
    Sleep-EDF, count too; it is named by the fields of the first, and `*` may stand for what these do not say: files
    `*-PSG.edf`, pattern `{night:7}{rest}-PSG.edf` and annotation_file `{night}*-Hypnogram.edf` join SC4001EC-Hypnogram
    to SC4001E0-PSG. Its annotations are moved by the difference of the times at which both files begin.

    Windows over annotations that begin with `bad` in any case (`BAD_acq_skip`, as mne exports them) are left out; a
    recording that is not cut to windows is taken whole, and counted. The rest of a recording that is shorter than a
    window is left out and counted.

    Fields of a recording are those of its file name by `pattern` (`Subject{subject}_{part}.edf`), `record` (its name),
    `start_s` (of the window), and the row of `table` (a CSV, TSV or Parquet file below the raw folder) that `join`
    finds: `{Subject: "Subject{subject}"}` is the row whose column `Subject` holds that text. values: other words for
    a field's values, `{part: {"1": rest, "2": task}}`. columns: the fields of each table modality. labels: fields
    kept apart from the content. flags: labels that are 1 where the list in a field holds a code. A split can be made
    by any field.
    """

    type: ClassVar[str] = "edf"
    requires: ClassVar[tuple[str, ...]] = ("pyedflib",)

    files: str = "*.[eEbB][dD][fF]"
    window_s: float | None = None
    stride_s: float | None = None
    leave_out: tuple[str, ...] = ()
    annotations: Literal["overlap", "centred", "onset"] | None = None
    annotation_file: str | None = None
    pattern: str | None = None
    table: str | None = None
    join: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    flags: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names_in(self.pattern)
        check_windows(self.window_s, self.stride_s)
        if (self.table is None) != (not self.join) or len(self.join) > 1:
            raise ValueError("data.source: table and join of one column belong together")

        if self.annotations in ("centred", "onset") and (self.window_s is None or self.stride_s is not None):
            raise ValueError(f"data.source: annotations '{self.annotations}' need window_s and no stride_s")
        if self.annotation_file is not None and self.annotations is None:
            raise ValueError("data.source.annotation_file needs annotations")
        if self.annotation_file is not None and "/" in self.annotation_file:
            raise ValueError("data.source.annotation_file names a file in the recording's folder, without '/'")

    def items(self, raw: Path) -> Iterator[Excerpt]:
        paths = matching(raw, self.files, anywhere=True)
        if self.table is not None:  # what its cells mean is counted once, not by each process that reads it
            used = [*(name for names in self.columns.values() for name in names), *self.labels]
            read_rows((raw if raw.is_dir() else raw.parent) / self.table, self.missing, text=self.join, used=used)
        if self.window_s is None:
            yield from (Excerpt(raw, path, Fraction(0), Fraction(-1)) for path in paths)
            return
        for path, length_s in read_ahead(edf_length_s, paths):
            try:
                if isinstance(length_s, ContentError):
                    raise length_s
                for start_s, stop_s, number in self._cuts(path, length_s):
                    yield Excerpt(raw, path, start_s, stop_s, number)
            except ContentError:
                yield Excerpt(raw, path, Fraction(0), Fraction(0))  # counted with its reason when it is made

    def _cuts(self, path: Path, length_s: Fraction) -> Iterator[tuple[Fraction, Fraction, int]]:
        """Beginning and end of each window, and the number of its annotation, -1 for none."""
        window_s = Fraction(str(self.window_s))
        if self.annotations in ("centred", "onset"):
            early_s = window_s / 2 if self.annotations == "centred" else Fraction(0)
            for number, each in enumerate(self._timeline(path).annotations):
                start_s = Fraction(str(each.onset_s)) - early_s
                inside = 0 <= start_s <= length_s - window_s
                yield (start_s, start_s + window_s, number) if inside else (Fraction(0), Fraction(0), number)
        else:
            stride_s = window_s if self.stride_s is None else Fraction(str(self.stride_s))
            ticks = math.lcm(
                *(time_s.denominator for time_s in (length_s, window_s, stride_s))
            )  # of which all are whole
            count = int(length_s * ticks)
            for start, stop in windows(count, ticks, self.window_s, self.stride_s):
                yield Fraction(start, ticks), Fraction(stop, ticks), -1
            count_rest(count, ticks, self.window_s, self.stride_s)

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        length_s = edf_length_s(item.path)
        if item.stop_s < 0:
            item = item._replace(stop_s=length_s)
        check_inside(item.annotation, item.start_s, item.stop_s)
        timeline = self._timeline(item.path)
        if timeline.bad(float(item.start_s), float(item.stop_s)):
            if self.window_s is not None:
                raise ContentError("window over an annotation that begins with 'bad'")
            count_change("recording taken whole, over annotations that begin with 'bad'")
        pick = partial(assigned, modalities=modalities, leave_out=self.leave_out)
        recordings = read_edf(item.path, pick, item.start_s, item.stop_s)
        fields = self._fields(item, timeline)
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        of = f":{item.annotation}" if item.annotation >= 0 else ""
        return Sample(
            f"{name}:{item.times}{of}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )

    def _timeline(self, path: Path) -> Timeline:
        """The annotations of a file and of its second file.

        Raises:
            ContentError: they cannot be read, or the source asks for some and there are none.
        """
        files = (path,) if self.annotation_file is None else (path, self._second(path))
        found = timeline(files, tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files))
        if self.annotations is not None and not found.annotations:
            raise ContentError("recording without annotations")
        return found

    def _second(self, path: Path) -> Path:
        """The file that has a recording's annotations.

        Raises:
            ValueError: the recipe names it by a field that its pattern does not give.
            ContentError: there is none, or several.
        """
        assert self.annotation_file is not None
        fields = {**fields_of(self.pattern, path, SUFFIXES), "record": path.stem}
        try:
            form = self.annotation_file.format(**{name: glob.escape(text) for name, text in fields.items()})
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"data.source.annotation_file {self.annotation_file!r} asks for a field that pattern does not give"
            ) from error
        files = [other for other in sorted(path.parent.glob(form)) if other != path]
        if len(files) != 1:
            raise ContentError(f"recording with {'several files' if files else 'no file'} of annotations", form)
        return files[0]

    def _fields(self, item: Excerpt, timeline: Timeline) -> Fields:
        named = fields_of(self.pattern, item.path, SUFFIXES)
        fields = {**named, "record": item.path.stem, "start_s": float(item.start_s)}
        if self.annotations is not None:
            fields |= said(timeline, item)
        if self.table is not None:
            [(column, form)] = self.join.items()
            folder = item.raw if item.raw.is_dir() else item.raw.parent
            try:
                key = form.format(**fields)
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"data.source.join {form!r} asks for a field that pattern does not give") from error
            rows = table_rows(folder / self.table, column, tuple(self.missing.items()))
            if key not in rows:
                raise ContentError("recording without a row in the table", key)
            fields = rows[key] | fields
        return {name: self.values.get(name, {}).get(str(written(value)), value) for name, value in fields.items()}


class Timeline:
    """Annotations of a recording, in the order of its file, and what of them lies in a window."""

    def __init__(self, annotations: Sequence[Annotation]):
        self.annotations = tuple(annotations)
        self._order = sorted(range(len(annotations)), key=lambda n: annotations[n].onset_s)
        ordered = [annotations[n] for n in self._order]
        self._onsets = np.array([each.onset_s for each in ordered])
        self._ends = np.round([each.onset_s + each.length_s for each in ordered], 7)  # without the error of the sum
        self._latest = np.maximum.accumulate(self._ends)
        bad = np.array([each.text.upper().startswith(BAD) for each in ordered], bool)
        self._bad_onsets, self._bad_latest = self._onsets[bad], np.maximum.accumulate(self._ends[bad])

    def within(self, start_s: float, stop_s: float) -> list[Annotation]:
        """Those that a window overlaps, or that are of no length and begin in it."""
        first, last = np.searchsorted(self._latest, start_s), np.searchsorted(self._onsets, stop_s)
        onsets, ends = self._onsets[first:last], self._ends[first:last]
        return [
            self.annotations[self._order[first + n]] for n in np.flatnonzero((ends > start_s) | (onsets >= start_s))
        ]

    def bad(self, start_s: float, stop_s: float) -> bool:
        """Whether one of them begins with `BAD`."""
        last = int(np.searchsorted(self._bad_onsets, stop_s)) - 1
        return last >= 0 and bool(self._bad_latest[last] > start_s or self._bad_onsets[last] >= start_s)


@lru_cache(maxsize=16)
def timeline(files: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> Timeline:
    """The annotations of a recording, and of a second file by its date; states: size and time of each, as read.

    Raises:
        ContentError: they cannot be read, or the second file cannot be placed.
    """
    first, *others = files
    annotations = list(edf_annotations(first))
    for second in others:
        starts = edf_header(first).start, edf_header(second).start
        if starts[0] is None or starts[1] is None:
            raise ContentError("EDF file whose date cannot be read", "it places the annotations of a second file")
        late_s = (starts[1] - starts[0]).total_seconds() + edf_offset_s(second) - edf_offset_s(first)
        annotations += [each._replace(onset_s=round(each.onset_s + late_s, 7)) for each in edf_annotations(second)]
    return Timeline(annotations)


def said(timeline: Timeline, item: Excerpt) -> Fields:
    """What annotations say of an excerpt."""
    if item.annotation >= 0:
        return {"symbol": timeline.annotations[item.annotation].text}
    start_s, stop_s = float(item.start_s), float(item.stop_s)
    covered, times = defaultdict[str, float](float), Counter[str]()
    for onset_s, length_s, text in timeline.within(start_s, stop_s):
        covered[text] += min(stop_s, onset_s + length_s) - max(start_s, onset_s)
        times[text] += 1
    most = max(sorted(times), key=lambda text: (covered[text], times[text]), default=None)
    return {"symbol": most, "symbols": sorted(times), "annotations": times.total()}


@lru_cache(maxsize=4)
def table_rows(path: Path, column: str, codes: tuple[tuple[str, tuple[str | float, ...]], ...]) -> dict[str, Fields]:
    """A table read once a process: its rows by a column; codes: what means missing, by column."""
    return rows_by(path, column, codes=dict(codes))
