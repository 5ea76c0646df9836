"""Molecules from `.smi`, CSV or SDF files: SMILES, a structure drawing and RDKit descriptors."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TextIO, cast

import polars as pl

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.strings.chemistry import (
    PACKAGES,
    canonical,
    check_descriptors,
    describe,
    draw,
    scaffold,
    smiles_in,
    smiles_of,
    structure,
)
from shards.columns import require_columns
from shards.sources.base import Sample, Source, register
from shards.sources.checks import require_extension
from shards.sources.delimited import BrokenFileError, column_names, read_lines, valid_rows
from shards.sources.drafting.columns import Columns, TableFile, assign_roles, infer_frame
from shards.sources.drafting.draft import Draft, column_guesses, common_glob
from shards.sources.drafting.row_drafts import draft_molecules
from shards.sources.drafting.survey import MAX_ROWS, Survey, spread
from shards.sources.paths import find_files
from shards.sources.tables import CellTypes, infer_types

BROKEN = (OSError, EOFError, zlib.error, BrokenFileError)
"""Errors that reading a truncated or damaged file raises."""
_LONGEST = 10_000_000
"""Maximum number of characters in a record of an SDF."""
TABLES = (".csv", ".tsv")
MAX_PROPERTIES = 20
"""Data fields of an SDF that a draft turns into labels."""
FIELD = re.compile(r">.*<([^>]+)>")
"""The line before a data field of an SDF."""


class Record(NamedTuple):
    """A molecule and its properties, as SMILES or as a block of an SDF; or `fault`, the reason why it is unusable."""

    smiles: str = ""
    block: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    fault: str = ""
    types: CellTypes = CellTypes()


@register
@dataclass(frozen=True, kw_only=True)
class Molecules(Source):
    """Files of molecules become samples with `smiles.txt`, `image.png` (gray drawing), `table.json` and `labels.json`.

    The first three are made if the recipe has a modality of that name. A split can be made by `scaffold`
    (Bemis & Murcko 1996) and by properties. The identity is RDKit's canonical SMILES, or the CXSMILES of a racemate.
    The page on formats describes how stereochemical groups, atom maps, salts and `*` are treated.

    Attributes:
        files: Glob of `.smi`, `.csv`, `.tsv`, `.parquet` and `.sdf` files below the raw folder, also with gzip
            (`.sdf.gz`).
        smiles: Column of a table that has the SMILES.
        drawing_px: Side of the square drawing.
        bond_px: Length of a bond, so that all drawings have one scale; shorter only if the molecule would not fit.
        line_px: Width of a bond's line.
        descriptors: Names in `rdkit.Chem.Descriptors` that become the table.
        labels: Names in `rdkit.Chem.Descriptors` that become labels.
        properties: Columns of a table, or data fields of an SDF file, that become labels; if there are several
            tables, some may lack them.
    """

    type: ClassVar[str] = "molecules"
    requires: ClassVar[tuple[str, ...]] = PACKAGES

    suffixes: ClassVar[tuple[str, ...]] = (".smi", ".sdf", ".sd", ".smi.gz", ".sdf.gz", ".sd.gz")
    nouns: ClassVar[tuple[str, str]] = ("file of molecules", "files of molecules")

    files: str = "*.smi"
    smiles: str = "smiles"
    drawing_px: int = 96
    bond_px: float = 9.0
    line_px: float = 1.5
    descriptors: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()

    @property
    def reads(self) -> Mapping[str, str]:
        return {"smiles": self.smiles}

    @property
    def drawings(self) -> frozenset[str]:
        return frozenset({"image"})

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        drafts = []
        for suffixes in ((".smi", ".smi.gz"), (".sdf", ".sdf.gz", ".sd", ".sd.gz")):
            paths = [path for path in survey.files.get(cls.type, []) if path.name.lower().endswith(suffixes)]
            if not paths:
                continue
            files = common_glob(survey, paths)
            records = list(itertools.islice(cls(files=files).items(survey.root), MAX_ROWS))
            some = spread(records, 100)
            if sum(map(_is_molecule, some)) < len(some) / 2 or not some:
                continue
            columns = _sdf_columns(paths[0], survey.root) if suffixes[0] == ".sdf" else Columns()
            labels = (*columns.labels, *columns.content)
            guesses = column_guesses(columns, labels)
            drafts.append(draft_molecules({"files": files}, len(records), labels, guesses, source_types=[cls.type]))
        return drafts

    def check(self, modalities: Mapping[str, Modality]) -> None:
        extensions = {"smiles": "txt", "image": "png", "table": "json"}
        # labels alone may be joined to the content of other sources
        if not (extensions.keys() & modalities.keys() or self.labels or self.properties):
            raise ValueError("data.source of type molecules needs a modality smiles, image or table")
        for name, extension in extensions.items():
            if name in modalities:
                require_extension(modalities[name], [extension], f"data.source: modality {name!r}")

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        names = ("smiles", "image", *(("table",) if self.descriptors else ()))
        return frozenset(names) & modalities.keys()

    def items(self, raw: Path) -> Iterator[str | Record]:
        paths = find_files(raw, self.files)
        check_descriptors((*self.descriptors, *self.labels))
        self._check_properties(paths)
        types = self._types(paths)
        for path in paths:
            empty = True
            try:
                for record in self._records(path):
                    empty = False
                    yield record if isinstance(record, str) or not record.properties else record._replace(types=types)
                if empty:
                    yield Record(fault="file of molecules that is empty")
            except BROKEN:
                yield Record(fault="file of molecules that cannot be read to its end")

    def _check_properties(self, paths: list[Path]) -> None:
        """Refuse a property that is in no file, if all files are tables."""
        if not self.properties or not all(_kind(path) in TABLES for path in paths):
            return
        columns: dict[str, None] = {}
        for path in paths:
            with suppress(BrokenFileError):  # `items` counts the file
                columns.update(dict.fromkeys(next(read_lines(path)).cells))
        if absent := [name for name in self.properties if name not in columns]:
            raise ValueError(
                f"no table in {paths[0].parent} has a column {absent[0]!r}; there are {', '.join(columns)}"
            )

    def _types(self, paths: list[Path]) -> CellTypes:
        """The types of the properties, over all files."""
        if not self.properties:
            return CellTypes()

        def frames() -> Iterator[pl.DataFrame]:
            for path in paths:
                with suppress(*BROKEN):
                    records = (dict(r.properties) for r in self._records(path) if isinstance(r, Record))
                    while rows := list(itertools.islice(records, 100_000)):
                        yield pl.DataFrame(
                            {name: [row.get(name) for row in rows] for name in self.properties},
                            schema=dict.fromkeys(self.properties, pl.String),
                        )

        types = infer_types(frames(), self.missing)
        types.count(self.properties)
        return types

    def _records(self, path: Path) -> Iterator[str | Record]:
        kind = _kind(path)
        if kind in TABLES:
            for smiles, *cells in columns(path, self.smiles, self.properties):
                yield Record(smiles, "", tuple(zip(self.properties, cells, strict=True))) if cells else smiles
        elif kind in (".sdf", ".sd"):
            yield from sdf(path, self.properties)
        elif self.properties:
            raise ValueError(f"{path} contains SMILES alone, but data.source.properties needs a table or an SDF")
        else:
            with as_text(path) as lines:
                yield from (smiles_in(line) for line in lines if line.strip())

    def make(self, item: str | Record, modalities: Mapping[str, Modality]) -> Sample:
        record = Record(item) if isinstance(item, str) else item
        if record.fault:
            raise ContentError(record.fault)
        smiles, identity, molecule = structure(smiles_of(record.block) if record.block else record.smiles)
        members: dict[str, bytes] = {}
        if "smiles" in modalities:
            members["smiles.txt"] = smiles.encode()
        if "image" in modalities:
            members["image.png"] = draw(molecule, self.drawing_px, self.bond_px, self.line_px)
        if "table" in modalities:
            row = describe(molecule, self.descriptors)
            if any(value is not None for value in row.values()):
                members["table.json"] = json.dumps(row).encode()
        labels: dict[str, Any] = record.types.row(dict(record.properties))
        if labels or self.labels:
            members["labels.json"] = json.dumps({**labels, **describe(molecule, self.labels)}).encode()
        groups = {name: record.types.written(name, text) for name, text in record.properties}
        groups["scaffold"] = scaffold(molecule)
        return Sample(identity=identity, members=members, groups=groups, canonical={"smiles": identity})


def _kind(path: Path) -> str:
    """The suffix of a file, without `.gz`."""
    return (path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix).lower()


def as_text(path: Path) -> TextIO:
    """Open a text file, with or without a byte order mark; a byte that is not UTF-8 damages only its own word."""
    opened = gzip.open if path.suffix == ".gz" else open
    return cast(TextIO, opened(path, "rt", encoding="utf-8-sig", errors="replace", newline=""))


def columns(path: Path, smiles: str, properties: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the cells of some columns of a CSV or TSV file by row; those of a missing property are empty.

    Raises:
        ValueError: there is no column of SMILES, two columns have the same name, or a row is unreadable.
    """
    lines = read_lines(path)
    names = column_names(path, next(lines))
    require_columns(path, names, [smiles])
    places = [names.index(name) if name in names else -1 for name in (smiles, *properties)]
    for line in valid_rows(path, lines):
        yield ["" if place < 0 else line.cells[place] for place in places]


def sdf(path: Path, names: tuple[str, ...]) -> Iterator[Record]:
    """Yield the records of an SDF with the data fields `names`; a field that a record lacks is empty."""
    block: list[str] = []
    properties = dict.fromkeys(names, "")
    name, size, inside = "", 0, True
    with as_text(path) as file:
        for line in map(str.rstrip, file):
            size += len(line)
            if line == "$$$$":
                yield _record(block, properties, size)
                block, properties, name, size, inside = [], dict.fromkeys(names, ""), "", 0, True
            elif size > _LONGEST:
                continue
            elif inside:
                block.append(line)
                inside = line != "M  END"
            elif field := FIELD.match(line):
                name = field[1]
            elif name in properties and line:
                properties[name] = f"{properties[name]}\n{line}".strip()
    if any(block):
        yield _record(block, properties, size)


def _record(block: list[str], properties: Mapping[str, str], size: int) -> Record:
    if size > _LONGEST:
        return Record(fault=f"SDF record of more than {_LONGEST:,} characters")
    if any("\ufffd" in text for text in properties.values()):
        return Record(fault="SDF record with a field that is not UTF-8")
    return Record("", "\n".join(block), tuple(properties.items()))


def _is_molecule(record: str | Record) -> bool:
    try:
        if isinstance(record, str):
            return bool(canonical(record))
        return not record.fault and bool(smiles_of(record.block))
    except ContentError:
        return False


def _sdf_columns(path: Path, folder: Path) -> Columns:
    """The roles of the data fields of an SDF, by its first records; file names are relative to `folder`."""
    with as_text(path) as lines:
        fields = (match[1] for line in itertools.islice(lines, MAX_ROWS) if (match := FIELD.match(line)))
        names = tuple(dict.fromkeys(fields))[:MAX_PROPERTIES]
    rows = [dict(record.properties) for record in itertools.islice(sdf(path, names), 500)]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))
    frame = frame.with_columns(pl.all().replace("", None)) if names else frame
    return assign_roles(infer_frame(frame), folder)
