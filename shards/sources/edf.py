"""EDF and BDF recordings: EEG, ECG and other channels of one file, beside a table of the persons."""

from __future__ import annotations

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from modalities.base import ContentError, Modality, count_change
from modalities.edf import Annotation, edf_annotations, edf_header, edf_length_s, read_edf
from shards.sources.base import Sample, Source, matching, register
from shards.sources.fields import fields_of, names_in, rows_by
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
    written,
)

SUFFIXES = (".edf", ".bdf")
BAD = re.compile(r"bad(?![a-z])", re.IGNORECASE)
"""How annotations begin that mark what is not to be used, by mne's convention: BAD_acq_skip, `bad segment`."""


class Excerpt(NamedTuple):
    """`start_ms` to `stop_ms` of a file, and the number of the annotation it belongs to, -1 for none.

    Both are 0 where the file cannot be read, or the annotation is too near an end for a window. A `stop_ms` of -1 is
    the end of the file.
    """

    raw: Path
    path: Path
    start_ms: int
    stop_ms: int
    annotation: int = -1

    @property
    def start_s(self) -> float:
        """Its beginning in s."""
        return self.start_ms / 1000

    @property
    def stop_s(self) -> float:
        """Its end in s."""
        return self.stop_ms / 1000


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
    to SC4001E0-PSG. Its annotations are moved by the difference of both files' dates.

    Windows over annotations that begin with `bad` (`BAD_acq_skip`, as mne exports them) are left out; a recording that
    is not cut to windows is taken whole, and counted.

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
        if self.window_s is None:
            yield from (Excerpt(raw, path, 0, -1) for path in paths)
            return
        for path, length_s in read_ahead(edf_length_s, paths):
            try:
                if isinstance(length_s, ContentError):
                    raise length_s
                for start, stop, number in self._cuts(path, round(length_s * 1000)):
                    yield Excerpt(raw, path, start, stop, number)
            except ContentError:
                yield Excerpt(raw, path, 0, 0)  # counted with its reason when it is made

    def _cuts(self, path: Path, length_ms: int) -> Iterator[tuple[int, int, int]]:
        """Beginning and end of each window in ms, and the number of its annotation, -1 for none."""
        assert self.window_s is not None
        if self.annotations in ("centred", "onset"):
            late = 0 if self.annotations == "centred" else round(self.window_s * 1000) // 2
            at = [round(each.onset_s * 1000) + late for each in self._annotations(path)]
            for number, start, stop in around(at, length_ms, 1000.0, self.window_s):
                yield start, stop, number
        else:
            for start, stop in windows(length_ms, 1000.0, self.window_s, self.stride_s):
                yield start, stop, -1

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        length_s = edf_length_s(item.path)
        if item.stop_ms < 0:
            item = item._replace(stop_ms=round(length_s * 1000))
        check_inside(item.annotation, item.start_ms, item.stop_ms)
        annotations = self._annotations(item.path)
        if any(BAD.match(text) for text in said(annotations, item._replace(annotation=-1))["symbols"]):
            if self.window_s is not None:
                raise ContentError("window over an annotation that begins with 'bad'")
            count_change("recording taken whole, over annotations that begin with 'bad'")
        pick = partial(assigned, modalities=modalities, leave_out=self.leave_out)
        recordings = read_edf(item.path, pick, item.start_s, item.stop_s)
        fields = self._fields(item, annotations)
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        of = f":{item.annotation}" if item.annotation >= 0 else ""
        return Sample(
            f"{name}:{item.start_ms}:{item.stop_ms}{of}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )

    def _annotations(self, path: Path) -> list[Annotation]:
        """The annotations of a file and of its second file.

        Raises:
            ContentError: they cannot be read, or the source asks for some and there are none.
        """
        annotations = edf_annotations(path)
        if self.annotation_file is not None:
            second = self._second(path)
            starts = edf_header(path).start, edf_header(second).start
            if starts[0] is None or starts[1] is None:
                raise ContentError("EDF file whose date cannot be read", "it places the annotations of a second file")
            late_s = (starts[1] - starts[0]).total_seconds()
            annotations = annotations + [
                each._replace(onset_s=each.onset_s + late_s) for each in edf_annotations(second)
            ]
        if self.annotations is not None and not annotations:
            raise ContentError("recording without annotations")
        return annotations

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

    def _fields(self, item: Excerpt, annotations: Sequence[Annotation]) -> Fields:
        named = fields_of(self.pattern, item.path, SUFFIXES)
        fields = {**named, "record": item.path.stem, "start_s": item.start_s}
        if self.annotations is not None:
            fields |= said(annotations, item)
        if self.table is not None:
            [(column, form)] = self.join.items()
            folder = item.raw if item.raw.is_dir() else item.raw.parent
            try:
                key = form.format(**fields)
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"data.source.join {form!r} asks for a field that pattern does not give") from error
            rows = table_rows(folder / self.table, column)
            if key not in rows:
                raise ContentError("recording without a row in the table", key)
            fields = rows[key] | fields
        return {name: self.values.get(name, {}).get(str(written(value)), value) for name, value in fields.items()}


def said(annotations: Sequence[Annotation], item: Excerpt) -> Fields:
    """What annotations say of an excerpt."""
    if item.annotation >= 0:
        return {"symbol": annotations[item.annotation].text}
    covered, times = defaultdict[str, float](float), Counter[str]()
    for onset_s, length_s, text in annotations:
        shared_s = min(item.stop_s, onset_s + length_s) - max(item.start_s, onset_s)
        if shared_s > 0 or (length_s == 0 and item.start_s <= onset_s < item.stop_s):
            covered[text] += shared_s
            times[text] += 1
    most = max(sorted(times), key=lambda text: (covered[text], times[text]), default=None)
    return {"symbol": most, "symbols": sorted(times), "annotations": times.total()}


table_rows = lru_cache(maxsize=4)(rows_by)
"""A table read once a process."""
