"""EDF and BDF recordings: EEG, ECG and other channels of one file, beside a table of the persons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from modalities.base import ContentError, Modality
from modalities.waveforms import Annotation, edf_annotations, edf_length_s, read_edf
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
    table_members,
    windows,
    written,
)

SUFFIXES = (".edf", ".bdf")


class Excerpt(NamedTuple):
    """`start_ms` to `stop_ms` of a file, and the number of the annotation it belongs to, -1 for none.

    Both are 0 where the file cannot be read, or the annotation is too near an end for a window.
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
    text is `symbol`; windows beyond the ends are left out.

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

    def items(self, raw: Path) -> Iterator[Excerpt]:
        for path in matching(raw, self.files, anywhere=True):
            try:
                for start, stop, number in self._cuts(path):
                    yield Excerpt(raw, path, start, stop, number)
            except ContentError:
                yield Excerpt(raw, path, 0, 0)  # counted with its reason when it is made

    def _cuts(self, path: Path) -> Iterator[tuple[int, int, int]]:
        """Beginning and end of each window in ms, and the number of its annotation, -1 for none."""
        length_ms = round(edf_length_s(path) * 1000)
        if self.annotations in ("centred", "onset"):
            assert self.window_s is not None
            late = 0 if self.annotations == "centred" else round(self.window_s * 1000) // 2
            at = [round(held.onset_s * 1000) + late for held in edf_annotations(path)]
            for number, start, stop in around(at, length_ms, 1000.0, self.window_s):
                yield start, stop, number
        else:
            for start, stop in windows(length_ms, 1000.0, self.window_s, self.stride_s):
                yield start, stop, -1

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        check_inside(item.annotation, item.start_ms, item.stop_ms)
        pick = partial(assigned, modalities=modalities, leave_out=self.leave_out)
        recordings = read_edf(item.path, pick, item.start_s, item.stop_s)
        fields = self._fields(item)
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        of = f":{item.annotation}" if item.annotation >= 0 else ""
        return Sample(
            f"{name}:{item.start_ms}:{item.stop_ms}{of}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )

    def _fields(self, item: Excerpt) -> Fields:
        named = fields_of(self.pattern, item.path, SUFFIXES)
        fields = {**named, "record": item.path.stem, "start_s": item.start_s}
        if self.annotations is not None:
            fields |= said(edf_annotations(item.path), item)
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
