"""EDF, BDF and WFDB recordings, with a table of persons or records where there is one."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from modalities.files.edf import read_edf_header
from modalities.files.reading import ContentError
from modalities.files.recording import UNCALIBRATED
from modalities.files.waveforms import read_wfdb_header
from pipeline.draft import settings
from pipeline.draft.base import ALONE, Draft, Sheet, grouped, values_of
from pipeline.draft.columns import Columns, columns_of, typed
from pipeline.draft.names import names_of
from pipeline.draft.settings import TABLE, Heard, State
from pipeline.draft.survey import Survey, spread
from shards.sources.edf import Edf
from shards.sources.fields import path_fields
from shards.sources.wfdb import Wfdb
from shards.sources.wfdb_records import headers_by_folder, parse_comments


def edf(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """EDF and BDF files, whose names may lead to a row of a table."""
    paths = seen.kinds.get("edf", [])
    heard = [each for path in spread(paths) if (each := _edf_heard(path))]
    if not heard:
        return []
    signals = settings.signals(heard)
    suffixes = {path.suffix for path in paths}
    names = names_of([path.stem for path in paths]) if len(suffixes) == 1 else None
    pattern = f"{names.pattern}{suffixes.pop()}" if names else None
    source: State = {"type": "edf"}
    if signals.window_s:
        source["window_s"] = signals.window_s
    if signals.leave_out:
        source["exclude"] = [glob.escape(label) for label in signals.leave_out]
    labels: tuple[str, ...] = names.labels if names else ()
    fields = [(names.group, len(set(names.values[names.group])))] if names and names.group else []
    guesses = list(signals.guesses)
    if pattern:
        source["pattern"] = pattern
        guesses.append(f"file names are {pattern}{values_of(names)}")
    modalities, columns = dict(signals.modalities), Columns()
    used: set[str | Path] = {"edf"}
    joined = _joined_records(pattern, paths, sheets)
    objectives = None
    if joined:
        sheet, column, form = joined
        columns = sheet.columns
        cells = [name for name in columns.content if name != column]
        source |= {"table": seen.name(sheet.path), "join": {column: form}}
        if cells:
            source["columns"] = {"table": cells}
            modalities["table"] = TABLE
            guesses.append("all windows of a person share one row of the table")
        labels = (*labels, *(name for name in columns.labels if name not in labels))
        used.add(sheet.path)
        guesses.append(f"{seen.name(sheet.path)} has a row for {form} in its column {column}")
    if {"eeg", "ecg"} <= modalities.keys():
        objectives = {"masked": {}, "contrastive": {"weight": 0.1, "pairs": [["eeg", "ecg"]]}}
    split = grouped(fields or [("record", len(paths))], ALONE)
    return [
        Draft.of(
            split,
            columns,
            source={**source, **({"labels": list(labels)} if labels else {})},
            modalities=modalities,
            samples=round(len(paths) * signals.windows),
            used=used,
            labels=labels,
            guesses=guesses,
            linked=joined is not None,
            objectives=objectives,
        )
    ]


def _edf_heard(path: Path) -> Heard | None:
    try:
        header = read_edf_header(path)
    except ContentError:
        return None
    channels = tuple((channel.label, channel.unit, header.rate_hz(channel)) for channel in header.signals)
    return Heard(channels, float(header.length_s)) if channels and header.length_s > 0 else None


def _joined_records(
    pattern: str | None, paths: Sequence[Path], sheets: Sequence[Sheet]
) -> tuple[Sheet, str, str] | None:
    """The table of persons or recordings: its column, and what of a file's name stands there."""
    forms = ["{record}"]
    if pattern:
        ends = [match.end() for match in re.finditer(r"\{\w+\}", pattern)]
        forms = [*dict.fromkeys(pattern[:end] for end in ends), *(f for f in re.findall(r"\{\w+\}", pattern)), *forms]
    some = [
        {**path_fields(pattern, path, (*Edf.suffixes, *Wfdb.suffixes)), "record": path.stem}
        for path in spread(paths, 1000)
    ]
    for sheet, form in itertools.product(sheets, forms):
        column = sheet.holding({form.format(**each) for each in some})
        if (
            column
            and sheet.frame[column].cast(pl.String).equals(sheet.texts[column])
            and sheet.frame[column].is_unique().all()
        ):
            return sheet, column, form
    return None


def wfdb(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """WFDB records, with the comments of their headers or else with a table."""
    paths = seen.kinds.get("wfdb", [])
    samples, records = _samples_and_records(paths)
    heard, comments = [], []
    for path in spread(samples):
        try:
            header = read_wfdb_header(path)
            rate_hz, count = header.extent()
        except ContentError:  # it has changed since
            continue
        if header.channels:
            channels = tuple(
                (each.name, each.unit if each.gain else UNCALIBRATED, rate_hz * each.samples)
                for each in header.channels
            )
            heard.append(Heard(channels, count / rate_hz))
            texts = parse_comments(list(header.comments))
            comments.append({name: str(value) for name, value in texts.items() if value is not None})
    if not heard:
        return []
    signals = settings.signals(heard)
    frame = pl.DataFrame([{"": None, **each} for each in comments], infer_schema_length=None)
    columns = columns_of(typed(frame.drop("")), seen.root) if frame.width > 1 else Columns()
    names = names_of([path.stem for path in paths])
    source: State = {"type": "wfdb"}
    if signals.window_s:
        source["window_s"] = signals.window_s
    if signals.leave_out:
        source["exclude"] = [glob.escape(label) for label in signals.leave_out]
    fields = [(name, frame[name].n_unique()) for name in columns.groups]
    guesses = list(signals.guesses)
    if names and names.group:
        source["pattern"] = f"{names.pattern}.hea"
        fields.append((names.group, len(set(names.values[names.group]))))
        guesses.append(f"file names are {names.pattern}{values_of(names)}")
    modalities = dict(signals.modalities)
    labels = columns.labels
    if columns.content:
        source["columns"], modalities["table"] = {"table": list(columns.content)}, TABLE
        guesses.append("the table is made of the comments in the headers")
    if all(path.with_suffix(".atr").is_file() for path in spread(paths)):
        source["annotations"], labels = "atr", (*labels, "symbol")
    if labels:
        source["labels"] = list(labels)
    used: set[str | Path] = {"wfdb"}
    joined = None if columns.content else _joined_stems(paths, sheets)
    if joined:
        sheet, column, cells = joined
        columns, modalities["table"] = sheet.columns, TABLE
        rows: State = {"type": "rows", "file": glob.escape(seen.name(sheet.path)), "columns": {"table": cells}}
        if columns.labels:
            rows["labels"] = list(columns.labels)
        labels = (*labels, *columns.labels)
        source = {"type": "join", "sources": [source, rows], "by": ["record", column]}
        fields = [*((name, sheet.distinct(name)) for name in columns.groups if name != column), *fields]
        used.add(sheet.path)
        guesses.append(f"{seen.name(sheet.path)} names records in its column {column}")
    split = grouped(fields or [("record", records)], ALONE)
    return [
        Draft.of(
            split,
            columns,
            source=source,
            modalities=modalities,
            samples=round(len(samples) * signals.windows),
            used=used,
            labels=labels,
            guesses=guesses,
            linked=joined is not None,
        )
    ]


def _samples_and_records(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The headers of what becomes samples, records of one segment or segments, and how many records they make up."""
    records: dict[Path, str] = {}
    for _, folder in headers_by_folder(dict.fromkeys(path.parent for path in paths)):
        for path in folder.extents:
            records[path] = folder.segments[path.stem].record if path.stem in folder.segments else path.stem
    samples = [path for path in paths if path in records]
    return samples, len({records[path] for path in samples})


def _joined_stems(paths: Sequence[Path], sheets: Sequence[Sheet]) -> tuple[Sheet, str, list[str]] | None:
    """The table whose rows are about records: the column that names them, and its columns of content."""
    for sheet in sheets:
        column = sheet.holding(path.stem for path in spread(paths, 1000))
        if column is None or not sheet.frame[column].cast(pl.String).equals(sheet.texts[column]):
            continue
        if cells := [name for name in sheet.columns.content if name != column]:
            return sheet, column, cells
    return None
