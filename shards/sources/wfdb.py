"""WFDB records, as PhysioNet has them: `.hea` with `.dat` or `.mat`, comments and annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from modalities.base import ContentError, Modality, once_a_file, parser
from modalities.waveforms import read_wfdb, unreadable_wfdb, wfdb_extent
from shards.sources.base import Sample, Source, matching, register
from shards.sources.fields import fields_of, names_in
from shards.sources.numbers import number_or_text
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
)

SUFFIXES = (".hea",)


class Excerpt(NamedTuple):
    """Samples `start` to `stop` of a record, and the number of the annotation they lie around, -1 for none.

    A record that cannot be read, and an annotation too near an end for a window, have no samples.
    """

    raw: Path
    path: Path
    start: int
    stop: int
    annotation: int = -1


@register
@dataclass(frozen=True, kw_only=True)
class Wfdb(Source):
    """One sample a record, or a window of one.

    files: glob of headers below the raw folder. window_s, stride_s: records are cut to windows of `window_s`, one
    every `stride_s` (default: without overlap). Channels go to the signal modalities that know their names;
    leave_out: patterns of names to pass over. pattern: what file names are made of (`fields.fields_of`).

    Fields of a record are those of its file name, `record` (its name), its comments of the form `Age: 74`, and with
    `annotations` (the extension of a file of annotations, `atr`) those of a window: `symbol` (the most frequent one
    of them), `symbols` (all, by commas) and `annotations` (how many). With `centred` there is a window around every
    annotation, whose `symbol` it is; those too near the ends are left out. columns: the fields of each table
    modality. labels: fields kept apart from the content. flags: labels that are 1 where the list in a field holds a
    code, `{sinus: [Dx, "426783006"]}`. A split can be made by any field.
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
        for path in matching(raw, self.files, anywhere=True):
            try:
                rate_hz, count = wfdb_extent(path)
                if self.centred:
                    assert self.window_s is not None
                    at, _ = annotated(path.with_suffix(f".{self.annotations}"))
                    for number, start, stop in around(at, count, rate_hz, self.window_s):
                        yield Excerpt(raw, path, start, stop, number)
                else:
                    for start, stop in windows(count, rate_hz, self.window_s, self.stride_s):
                        yield Excerpt(raw, path, start, stop)
            except ContentError:
                yield Excerpt(raw, path, 0, 0)  # counted with its reason when it is made

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        wfdb_extent(item.path)
        check_inside(item.annotation, item.start, item.stop)
        pick = partial(assigned, modalities=modalities, leave_out=self.leave_out)
        recordings, comments = read_wfdb(item.path, pick, item.start, item.stop)
        fields = {**comments_of(comments), "record": item.path.stem, **fields_of(self.pattern, item.path, SUFFIXES)}
        if self.annotations is not None:
            fields |= self._annotations(item)
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        of = f":{item.annotation}" if item.annotation >= 0 else ""
        return Sample(
            f"{name}:{item.start}:{item.stop}{of}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )

    def _annotations(self, item: Excerpt) -> Fields:
        at, symbols = annotated(item.path.with_suffix(f".{self.annotations}"))
        if item.annotation >= 0:
            return {"symbol": symbols[item.annotation]}
        inside = [symbol for when, symbol in zip(at, symbols, strict=True) if item.start <= when < item.stop]
        most = max(sorted(set(inside)), key=inside.count, default=None)
        return {"symbol": most, "symbols": sorted(set(inside)), "annotations": len(inside)}


@once_a_file(16)
def annotated(path: Path) -> tuple[np.ndarray, list[str]]:
    """Samples and symbols of a file of annotations.

    Raises:
        ContentError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ContentError("record without annotations")
    wfdb = parser("wfdb", "wfdb")
    try:
        held = wfdb.rdann(str(path.with_suffix("")), path.suffix.removeprefix("."))
    except Exception as error:
        raise unreadable_wfdb(error, "annotations") from error
    return np.asarray(held.sample), list(held.symbol)


def comments_of(lines: list[str]) -> Fields:
    """Comments of the form `Age: 74`, None where the value is unknown; others are free text."""
    pairs = (line.lstrip("# ").partition(":") for line in lines)
    return {
        name.strip(): None if value.strip().lower() == "unknown" else number_or_text(value)
        for name, colon, value in pairs
        if colon and name.strip()
    }
