"""FASTA, with a table that shares its ids where there is one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipeline.draft import settings
from pipeline.draft.base import ALONE, Draft, Sheet, glob_of, grouped
from pipeline.draft.columns import Columns
from pipeline.draft.settings import TABLE, State
from pipeline.draft.survey import OPENED, ROWS, Survey, spread
from shards.sources.fasta import read_records

_BINOMIAL = re.compile(r"[A-Z][a-z]+ [a-z][\w .-]*")
_PLACE = re.compile(r"\d+(\.\d+)? [NS] \d+(\.\d+)? [EW]")


def fasta(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """DNA in FASTA files."""
    paths = seen.kinds.get("fasta", [])
    found = [
        record
        for path in paths[:OPENED]
        for record in itertools.islice((record for record in read_records(path) if not record.fault), ROWS)
    ]
    dna = settings.dna([record.sequence for record in spread(found, 500)])
    if dna is None:
        return []
    source: State = {"type": "fasta", "files": glob_of(seen, paths)}
    used: set[str | Path] = {"fasta"}
    modalities, columns, labels = {"dna": dna}, Columns(), []
    guesses, fields = [], []
    joined = _joined_ids([record.name for record in found], sheets)
    if joined:
        sheet, column, pattern = joined
        columns = sheet.columns
        derive = _derived(sheet, columns)
        left = {name for name in columns.left if name not in {spec["column"] for spec in derive.values()}}
        cells = [n for n in columns.content if n != column and n not in {spec["column"] for spec in derive.values()}]
        cells += [name for name in derive if name != "genus"]
        labels = [*(name for name in derive if name == "genus"), *columns.labels]
        source |= {"table": seen.name(sheet.path), "key": column, **({"pattern": pattern} if pattern else {})}
        source |= {key: value for key, value in (("derive", derive), ("labels", labels)) if value}
        if cells:
            source["columns"], modalities["table"] = {"table": cells}, TABLE
        fields = [(name, sheet.distinct(name)) for name in columns.groups if name != column]
        if "genus" in derive:
            name = str(derive["genus"]["column"])
            genera = sheet.frame[name].drop_nulls().str.split(" ").list.first().n_unique()
            fields.insert(0, ("genus", genera))
            guesses.append(f"genus is the first word of {name}")
        columns = Columns(candidates=columns.candidates, left={n: w for n, w in columns.left.items() if n in left})
        used.add(sheet.path)
        guesses.append(f"{seen.name(sheet.path)} has the ids of the sequences in its column {column}")
    split = grouped(
        fields or [("sequence", len({record.sequence for record in found}))],
        ALONE,
    )
    return [
        Draft.of(
            split,
            columns,
            source=source,
            modalities=modalities,
            samples=len(found),
            used=used,
            labels=labels,
            guesses=guesses,
            linked=joined is not None and len(modalities) > 1,
        )
    ]


def _joined_ids(headers: Sequence[str], sheets: Sequence[Sheet]) -> tuple[Sheet, str, str | None] | None:
    """The table that shares ids with FASTA headers: its column, and the pattern of an id in a header."""
    for sheet, pattern in itertools.product(sheets, (None, r"^[^|\s]+", r"\|([^|\s]+)")):
        if pattern is None:
            ids = [header.split()[0] for header in headers if header.split()]
        else:
            ids = [match[match.re.groups] for header in headers if (match := re.search(pattern, header))]
        if column := sheet.holding(ids):
            return sheet, column, pattern
    return None


def _derived(sheet: Sheet, columns: Columns) -> dict[str, dict[str, str | int]]:
    """Columns to make of binomial names and of places such as `25.66 S 54.16 W`."""
    derive: dict[str, dict[str, str | int]] = {}
    for name in sheet.frame.columns:
        if sheet.frame[name].dtype != pl.String or name in columns.files:
            continue
        some = spread(sheet.frame[name].drop_nulls().to_list(), 200)
        if some and sum(bool(_PLACE.fullmatch(cell)) for cell in some) >= 0.8 * len(some):
            derive["latitude"] = {"column": name, "pattern": r"^\S+ [NS]"}
            derive["longitude"] = {"column": name, "pattern": r"\S+ [EW]$"}
        elif (
            name in columns.labels
            and "genus" not in sheet.frame.columns
            and sum(bool(_BINOMIAL.fullmatch(cell)) for cell in some) >= 0.8 * len(some)
        ):
            derive.setdefault("genus", {"column": name, "word": 1})
    return derive
