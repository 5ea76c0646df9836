"""BIOSCAN-5M: its CSV of specimens and its tree of images."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from modalities.base import ContentError, Modality, file_bytes
from shards.names import need_columns
from shards.sources.base import Sample, Source, matching, register
from shards.sources.numbers import number_or_text
from shards.sources.rows import as_json, cells

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")
_NOT_A_NUMBER = frozenset({"processid", "sampleid", "taxon", "dna_bin", "dna_barcode", "split", "chunk", *RANKS})


@register
@dataclass(frozen=True, kw_only=True)
class Bioscan(Source):
    """Specimens of BIOSCAN-5M (Gharaee et al. 2024): image, DNA barcode, taxonomy and other columns of its CSV.

    file: the CSV, a glob below the raw folder. images: folder of a size of images, laid out as
    `{split}/{chunk}/{processid}.jpg`. splits: the rows taken by the column `split`, all by default; what is trained on
    and tested is divided by `data.split`. image, dna: the modalities of these, left out where the recipe has no such.
    columns: for other modalities their columns, cells of a table or words of one text; by default the text `taxonomy`
    reads from phylum to species as far as it is known. labels: columns kept apart. A split can be made by any column,
    such as `dna_bin`, `genus` or `species`; where it is empty the specimens stay together.
    """

    type: ClassVar[str] = "bioscan"

    file: str = "**/*.csv"
    images: str = "images/cropped_256"
    splits: tuple[str, ...] = ()
    image: str = "image"
    dna: str = "dna"
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=lambda: {"taxonomy": RANKS})
    labels: tuple[str, ...] = ()

    def items(self, raw: Path) -> Iterator[tuple[Path, dict[str, str] | None]]:
        paths = matching(raw, self.file)
        folder = (raw.parent if raw.is_file() else raw) / self.images
        listed = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        wanted = ["processid", "dna_barcode", "split", "chunk", *listed, *self.labels]
        for path in paths:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                rows = csv.DictReader(file)
                try:
                    known = rows.fieldnames or ()
                except csv.Error as error:
                    raise ValueError(f"{path} cannot be read: {error}") from error
                need_columns(path, known, wanted)
                for row in _rows(rows):
                    if row is None:
                        yield folder, None
                    elif not self.splits or row["split"] in self.splits:
                        yield folder, {name: value or "" for name, value in row.items() if name is not None}

    def make(self, item: tuple[Path, dict[str, str] | None], modalities: Mapping[str, Modality]) -> Sample:
        folder, row = item
        if row is None:
            raise ContentError("row that is not CSV")
        if not row["processid"]:
            raise ContentError("row without a processid")
        members: dict[str, bytes] = {}
        if self.image in modalities:
            path = folder / row["split"] / row["chunk"] / f"{row['processid']}.jpg"
            members[f"{self.image}.jpg"] = file_bytes(path, "image file")
        if self.dna in modalities and row["dna_barcode"]:
            members[f"{self.dna}.txt"] = row["dna_barcode"].encode()
        if not members:
            raise ContentError("row without image and DNA")
        values = {name: self._value(name, cell) for name, cell in row.items()}
        here = {name: columns for name, columns in self.columns.items() if name in modalities}
        members |= cells(values, here, modalities)
        if self.labels:
            members["labels.json"] = as_json(values, self.labels)
        return Sample(row["processid"], members, dict(row))

    @staticmethod
    def _value(column: str, cell: str) -> Any:
        return cell or None if column in _NOT_A_NUMBER else number_or_text(cell)


def _rows(rows: csv.DictReader[str]) -> Iterator[dict[str, str] | None]:
    """All rows, None for one that is not CSV, as where a quote has no end; the next line goes on."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield None
