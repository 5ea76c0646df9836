"""WFDB records, as PhysioNet has them: `.hea` with `.dat` or `.mat`, comments and annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from modalities.base import ContentError, Modality, parser
from modalities.recording import Recording
from shards.sources.base import Sample, Source, register
from shards.sources.recordings import (
    Fields,
    around,
    assigned,
    cell,
    fields_of,
    files,
    members_of,
    table_members,
    windows,
)

LONGEST = 1_000_000_000
"""Samples a record may have, eleven days at 1 kHz; a header that says more is not believed."""


class Excerpt(NamedTuple):
    """Samples `start` to `stop` of a record, and the number of the annotation they lie around, -1 for none.

    A record whose header cannot be read has no samples.
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
    leave_out: patterns of names to pass over. pattern: file name with `{fields}`.

    Fields of a record are those of its file name, `record` (its name), its comments of the form `Age: 74`, and with
    `annotations` (the extension of a file of annotations, `atr`) those of a window: `symbol` (the most frequent one
    of them), `symbols` (all, by commas) and `annotations` (how many). With `centred` there is a window around every
    annotation, whose `symbol` it is. columns: the fields of each table modality. labels: fields kept apart from
    the content. flags: labels that are 1 where the list in a field holds a code, `{sinus: [Dx, "426783006"]}`. A split
    can be made by any field.
    """

    type: ClassVar[str] = "wfdb"

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
        if self.centred and (self.annotations is None or self.window_s is None):
            raise ValueError("data.source: centred windows need annotations and window_s")

    def items(self, raw: Path) -> Iterator[Excerpt]:
        for path in files(raw, self.files):
            try:
                rate_hz, count = extent(path)
                if self.centred:
                    assert self.window_s is not None
                    at, _ = annotated(path, str(self.annotations))
                    for number, start, stop in around(at, count, rate_hz, self.window_s):
                        yield Excerpt(raw, path, start, stop, number)
                else:
                    for start, stop in windows(count, rate_hz, self.window_s, self.stride_s):
                        yield Excerpt(raw, path, start, stop)
            except ContentError:
                yield Excerpt(raw, path, 0, 0)  # counted with its reason when it is made

    def make(self, item: Excerpt, modalities: Mapping[str, Modality]) -> Sample:
        extent(item.path)
        recordings, comments = read(item.path, item.start, item.stop, modalities, self.leave_out)
        fields = {**comments, "record": item.path.stem, **fields_of(self.pattern, item.path)}
        if self.annotations is not None:
            fields |= self._annotations(item)
        name = item.path.relative_to(item.raw) if item.raw.is_dir() else item.path.name
        return Sample(
            f"{name}:{item.start}:{item.stop}",
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            {name: str(value) for name, value in fields.items()},
        )

    def _annotations(self, item: Excerpt) -> Fields:
        at, symbols = annotated(item.path, str(self.annotations))
        if item.annotation >= 0:
            return {"symbol": symbols[item.annotation]}
        inside = [symbol for when, symbol in zip(at, symbols, strict=True) if item.start <= when < item.stop]
        most = max(sorted(set(inside)), key=inside.count, default=None)
        return {"symbol": most, "symbols": ",".join(sorted(Counter(inside))), "annotations": len(inside)}


def extent(path: Path) -> tuple[float, int]:
    """Sample rate in Hz and number of samples of a record, by its header.

    Raises:
        ContentError: the header cannot be read or says nothing usable.
    """
    try:
        header = parser("wfdb", "wfdb").rdheader(str(path.with_suffix("")))
        rate_hz, count = float(header.fs or 0), int(header.sig_len or 0)
    except Exception as error:
        raise _unreadable(error, "header") from error
    if not rate_hz > 0:
        raise ContentError("signal with a sample rate of 0 or less")
    if count < 1:
        raise ContentError("empty signal")
    if count > LONGEST:
        raise ContentError(f"signal of more than {LONGEST:,} samples")
    return rate_hz, count


def _unreadable(error: Exception, what: str) -> Exception:
    """Parsers raise anything on hostile bytes; an absent package stays what it is."""
    if isinstance(error, ValueError) and "pip install" in str(error):
        return error
    return ContentError(f"unreadable WFDB {what}", f"{type(error).__name__}: {error}")


def annotated(path: Path, extension: str) -> tuple[np.ndarray, list[str]]:
    """Samples and symbols of a record's annotations.

    Raises:
        ContentError: there are none, or they cannot be read.
    """
    if not path.with_suffix(f".{extension}").is_file():
        raise ContentError("record without annotations")
    try:
        held = parser("wfdb", "wfdb").rdann(str(path.with_suffix("")), extension)
    except Exception as error:
        raise _unreadable(error, "annotations") from error
    return np.asarray(held.sample), list(held.symbol)


def read(
    path: Path, start: int, stop: int, modalities: Mapping[str, Modality], leave_out: tuple[str, ...] = ()
) -> tuple[dict[str, Recording], Fields]:
    """The recordings of each signal modality in samples `start` to `stop` of a record, and the record's comments.

    Raises:
        ContentError: the record cannot be read, or has no channel for the recipe.
    """
    wfdb = parser("wfdb", "wfdb")
    try:
        header = wfdb.rdheader(str(path.with_suffix("")))
        labels = [str(name) for name in header.sig_name or ()]
    except Exception as error:
        raise _unreadable(error, "header") from error
    taken = assigned(labels, modalities, leave_out)
    numbers = sorted({number for rows in taken.values() for number in rows})
    try:
        record = wfdb.rdrecord(str(path.with_suffix("")), sampfrom=start, sampto=stop, channels=numbers)
        samples = np.ascontiguousarray(record.p_signal.T, np.float32)
    except Exception as error:
        raise _unreadable(error, "record") from error
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
    return recordings, comments_of(header.comments or [])


def comments_of(lines: list[str]) -> Fields:
    """Comments of the form `Age: 74`; others are free text."""
    pairs = (line.lstrip("# ").partition(":") for line in lines)
    return {name.strip(): cell(value) for name, colon, value in pairs if colon and name.strip()}
