"""BIOSCAN-5M: its CSV of specimens and its tree of images."""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from modalities.base import Modality
from modalities.files.reading import ContentError, read_file
from shards.columns import require_columns
from shards.sources.base import SOURCE_TYPES, Sample, Source, register
from shards.sources.checks import require_cells, require_extension
from shards.sources.delimited import column_names, read_lines
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft, choose_split
from shards.sources.drafting.settings import MASKS, dna_settings
from shards.sources.drafting.survey import Survey, spread
from shards.sources.members import cell_members, dump_cells
from shards.sources.paths import find_files
from shards.sources.tables import CellTypes, infer_types

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")
_NOT_A_NUMBER = frozenset({"processid", "sampleid", "taxon", "dna_bin", "dna_barcode", "split", "chunk", *RANKS})


class Specimen(NamedTuple):
    """The cells of a CSV row as written, the types of its columns, and the reason why it is unreadable, or empty."""

    folder: Path
    row: dict[str, str]
    types: CellTypes
    fault: str = ""


@register
@dataclass(frozen=True, kw_only=True)
class Bioscan(Source):
    """Specimens of BIOSCAN-5M (Gharaee et al. 2024): image, DNA barcode, taxonomy and other columns of its CSV file.

    A split can be made by any column, such as `dna_bin`, `genus` or `species`; specimens without a value stay
    together.

    Attributes:
        file: The CSV file, a glob below the raw folder.
        images: Folder of one image size, with files `{split}/{chunk}/{processid}.jpg`.
        splits: Values of the column `split` whose rows are used; all by default. Training and test are divided by
            `data.split`.
        image: Name of the image modality; omitted if the recipe does not define it.
        dna: Name of the DNA modality; omitted if the recipe does not define it.
        columns: By further modality, its columns: cells of a table or words of one text. By default the text
            `taxonomy` consists of the known names from phylum to species.
        labels: Columns stored as labels, apart from the content.
    """

    type: ClassVar[str] = "bioscan"

    file: str = "**/*.csv"
    images: str = "images/cropped_256"
    splits: tuple[str, ...] = ()
    image: str = "image"
    dna: str = "dna"
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=lambda: {"taxonomy": RANKS})
    labels: tuple[str, ...] = ()

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        required = {"processid", "dna_barcode", "split", "chunk"}
        table = next((table for table in tables if required <= set(table.frame.columns)), None)
        if table is None:
            return []
        ids = set(table.frame["processid"])
        photos = [path for path in spread(survey.files.get("images", []), 1000) if path.stem in ids]
        folders = Counter("/".join(path.relative_to(survey.root).parts[:-3]) for path in photos)
        image = SOURCE_TYPES["images"].draft_modality(photos) if photos else None
        dna = dna_settings(spread(table.frame["dna_barcode"].drop_nulls().to_list(), 500))
        ranks = [rank for rank in RANKS if rank in table.frame.columns]
        labels = tuple(rank for rank in ("order", "family", "genus", "species") if rank in ranks)
        groups = [name for name in ("dna_bin", "species") if name in table.frame.columns]
        split = choose_split([(name, table.count_values(name)) for name in groups])
        taxonomy = {"type": "text", "vocabulary": 4096, "length": 20, "mask": MASKS["text"]}
        parts = {"image": image, "dna": dna, "taxonomy": taxonomy if ranks else None}
        name = "this is BIOSCAN-5M, by its columns; data.source.splits selects some of its own splits"
        draft = Draft(
            source={
                "type": cls.type,
                "file": glob.escape(survey.name(table.path)),
                **({"images": folders.most_common(1)[0][0]} if image else {}),
                "columns": {"taxonomy": ranks} if ranks else {},
                "labels": list(labels),
            },
            modalities={name: settings for name, settings in parts.items() if settings},
            samples=len(table.frame),
            source_types=frozenset({"images"} if image else ()),
            tables=frozenset({table.path}),
            split=split,
            labels=labels,
            guesses=(name, split.guess),
            is_linked=True,
            is_exact=True,
        )
        return [draft]

    def check(self, modalities: Mapping[str, Modality]) -> None:
        content = {self.image: "jpg", self.dna: "txt"}
        if not content.keys() & modalities.keys():
            raise ValueError(f"data.source of type bioscan needs a modality {self.image!r} or {self.dna!r}")
        for name, extension in content.items():
            if name in modalities:
                require_extension(modalities[name], [extension], f"data.source: modality {name!r}")
        columns = {name: names for name, names in self.columns.items() if (name, names) != ("taxonomy", RANKS)}
        if "taxonomy" in modalities:
            columns = self.columns
        require_cells(columns, modalities)

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        return frozenset(modalities.keys() & {self.image, self.dna, *self.columns})

    def items(self, raw: Path) -> Iterator[Specimen]:
        paths = find_files(raw, self.file)
        folder = (raw.parent if raw.is_file() else raw) / self.images
        listed = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        used = [*listed, *self.labels]
        for path in paths:
            lines = read_lines(path)
            columns = column_names(path, next(lines))
            require_columns(path, columns, ["processid", "dna_barcode", "split", "chunk", *used])
        types = infer_types(
            (frame for path in paths for frame in _frames(path, used)), self.missing, text=_NOT_A_NUMBER
        )
        types.count(used)
        for path in paths:
            lines = read_lines(path)
            names = next(lines).cells
            for line in lines:
                row = dict(zip(names, line.cells, strict=False))
                if line.fault or not self.splits or row["split"] in self.splits:
                    yield Specimen(folder, row, types, line.fault)

    def make(self, item: Specimen, modalities: Mapping[str, Modality]) -> Sample:
        folder, row, types, fault = item
        if fault:
            raise ContentError("row that is not CSV", fault)
        if not row["processid"]:
            raise ContentError("row without a processid")
        members: dict[str, bytes] = {}
        if self.image in modalities:
            path = folder / row["split"] / row["chunk"] / f"{row['processid']}.jpg"
            members[f"{self.image}.jpg"] = read_file(path, "image file")
        if self.dna in modalities and (barcode := types.written("dna_barcode", row["dna_barcode"])):
            members[f"{self.dna}.txt"] = barcode.encode()
        if not members:
            raise ContentError("row without image and DNA")
        values = types.row(row)
        columns = {name: names for name, names in self.columns.items() if name in modalities}
        members |= cell_members(values, columns, modalities)
        if self.labels:
            members["labels.json"] = dump_cells(values, self.labels)
        return Sample(
            identity=row["processid"],
            members=members,
            groups={name: types.written(name, cell) for name, cell in row.items()},
        )


def _frames(path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield some columns of a CSV as text, many rows at a time; skips rows with a fault."""
    lines = read_lines(path)
    names = next(lines).cells
    places = {name: names.index(name) for name in columns}
    good = (line.cells for line in lines if not line.fault)
    while rows := list(itertools.islice(good, 100_000)):
        yield pl.DataFrame({name: [row[place] for row in rows] for name, place in places.items()})
