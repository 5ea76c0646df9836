"""A small tree of BIOSCAN-5M's own layout."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from modalities.base import Modality
from modalities.dna import Dna
from modalities.image import Image
from modalities.table import Table
from modalities.text import Text
from outcomes import outcomes
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.base import Sample
from shards.sources.bioscan import Bioscan

FIELDS = [
    "processid", "sampleid", "taxon", "phylum", "class", "order", "family", "subfamily", "genus", "species", "dna_bin",
    "dna_barcode", "country", "province_state", "coord-lat", "coord-lon", "image_measurement_value", "area_fraction",
    "scale_factor", "inferred_ranks", "split", "index_bioscan_1M_insect", "chunk",
]  # fmt: skip
MODALITIES: dict[str, Modality] = {
    "image": Image(size=32, patch=16), "dna": Dna(kmer=5), "taxonomy": Text(length=20), "table": Table(),
}  # fmt: skip
BARCODE = "AACTTTATATTTTATTTTTGGAGCATGATCAGGAATAGTAGGAACTTCA"


def specimen(number: int, **fields: str) -> dict[str, str]:
    row = dict.fromkeys(FIELDS, "") | {
        "processid": f"BIOUG{number:04d}",
        "sampleid": f"S{number}",
        "phylum": "Arthropoda",
        "class": "Insecta",
        "order": "Diptera",
        "family": "Sciaridae",
        "dna_bin": f"BOLD:AAA{number % 3}",
        "dna_barcode": BARCODE[number:] + BARCODE[:number],
        "country": "Costa Rica",
        "coord-lat": "10.9",
        "coord-lon": "-85.6",
        "image_measurement_value": "12345",
        "split": "pretrain",
        "chunk": "07",
    }
    return row | fields


def tree(folder: Path, rows: list[dict[str, str]], absent: tuple[str, ...] = ()) -> Path:
    """A CSV and a tree of images as BIOSCAN-5M's."""
    metadata = folder / "metadata" / "csv"
    metadata.mkdir(parents=True)
    with (metadata / "BIOSCAN_5M_Insect_Dataset_metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        if row["processid"] not in absent:
            place = folder / "images" / "cropped_256" / row["split"] / row["chunk"]
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
            Pillow.fromarray(pixels).save(place / f"{row['processid']}.jpg")
    return folder


def make_samples(source: Bioscan, raw: Path, modalities: dict[str, Modality] = MODALITIES) -> list[Sample | str]:
    return outcomes(source, raw, modalities)


def test_members_of_a_specimen(tmp_path: Path) -> None:
    ranks = {"subfamily": "Sciarinae", "genus": "Bradysia", "species": "Bradysia ocellaris"}
    rows = [specimen(1, **ranks), specimen(2, chunk="", split="val")]
    source = Bioscan(
        columns={
            "taxonomy": ("order", "family", "genus", "species"),
            "table": ("country", "coord-lat", "area_fraction"),
        },
        labels=("species", "dna_bin"),
    )
    first, second = make_samples(source, tree(tmp_path, rows))
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert first.identity == "BIOUG0001"
    assert Pillow.open(io.BytesIO(first.members["image.jpg"])).size == (32, 24)
    assert first.members["dna.txt"].decode() == rows[0]["dna_barcode"]
    assert first.members["taxonomy.txt"] == b"Diptera Sciaridae Bradysia Bradysia ocellaris"
    assert json.loads(first.members["table.json"]) == {
        "country": "Costa Rica",
        "coord-lat": 10.9,
        "area_fraction": None,
    }
    assert json.loads(first.members["labels.json"]) == {"species": "Bradysia ocellaris", "dna_bin": "BOLD:AAA1"}
    assert first.groups["dna_bin"] == "BOLD:AAA1"
    assert first.groups["genus"] == "Bradysia"
    assert second.members["taxonomy.txt"] == b"Diptera Sciaridae"
    assert json.loads(second.members["labels.json"])["species"] is None
    assert second.groups["species"] == ""


def test_the_default_taxonomy_reads_from_phylum_to_species(tmp_path: Path) -> None:
    (sample,) = make_samples(Bioscan(), tree(tmp_path, [specimen(1, genus="Bradysia")]))
    assert isinstance(sample, Sample)
    assert sample.members["taxonomy.txt"] == b"Arthropoda Insecta Diptera Sciaridae Bradysia"
    assert sample.members.keys() == {"image.jpg", "dna.txt", "taxonomy.txt"}


def test_modalities_outside_the_recipe_are_not_read(tmp_path: Path) -> None:
    raw = tree(tmp_path, [specimen(1), specimen(2, dna_barcode="")], absent=("BIOUG0001", "BIOUG0002"))
    sample, without = make_samples(Bioscan(), raw, {"dna": Dna()})
    assert isinstance(sample, Sample)
    assert sample.members.keys() == {"dna.txt"}
    assert without == "row without image and DNA"


def test_only_rows_of_the_selected_splits_are_read(tmp_path: Path) -> None:
    raw = tree(tmp_path, [specimen(1), specimen(2, split="train"), specimen(3, split="key_unseen")])
    samples = make_samples(Bioscan(splits=("pretrain", "train")), raw)
    assert [sample.identity for sample in samples] == ["BIOUG0001", "BIOUG0002"]  # type: ignore[union-attr]
    assert len(make_samples(Bioscan(), raw)) == 3


def test_shards_are_built_from_the_folder_tree(tmp_path: Path) -> None:
    rows = [specimen(i) for i in range(12)]
    rows += [specimen(20, processid=""), specimen(21), specimen(22, dna_barcode="not DNA!"), specimen(1)]
    raw = tree(tmp_path / "raw", rows, absent=("BIOUG0021", ""))
    (raw / "images" / "cropped_256" / "pretrain" / "07" / "BIOUG0003.jpg").write_bytes(b"\xff\xd8\xff broken")
    split = SplitBy(by="dna_bin", validation=0, test=0.3, large=0.5)
    manifest = build(Bioscan(labels=("family",)), MODALITIES, split, raw, tmp_path / "out")
    assert manifest.skipped["image file is missing"] == 1
    assert manifest.skipped["row without a processid"] == 1
    assert manifest.skipped["DNA with other letters than IUPAC's"] == 1
    assert manifest.skipped["duplicate"] == 1
    assert sum(manifest.skipped.values()) == 5
    assert sum(manifest.counts().values()) == 11
    groups = [{group for _, group, *_ in Split(tmp_path / "out", name).locations()} for name in ("train", "test")]
    assert groups[0] | groups[1] == {"BOLD:AAA0", "BOLD:AAA1", "BOLD:AAA2"}
    assert not groups[0] & groups[1]


def test_an_invalid_csv_row_is_skipped_alone(tmp_path: Path) -> None:
    raw = tree(tmp_path, [specimen(1), specimen(2, country="Perú"), specimen(3)])
    (file,) = (raw / "metadata" / "csv").glob("*.csv")
    file.write_text(file.read_text().replace("Perú", '"Perú'))
    first, second, third = make_samples(Bioscan(), raw)
    assert isinstance(first, Sample)
    assert isinstance(third, Sample)
    assert (first.identity, second, third.identity) == ("BIOUG0001", "row that is not CSV", "BIOUG0003")
    raw.joinpath("metadata", "csv", "wide.csv").write_text('processid,"split')
    with pytest.raises(ValueError, match=r"wide\.csv cannot be read: line 1, a quoted cell without its end"):
        list(Bioscan(file="**/wide.csv").items(raw))


@pytest.mark.parametrize("options", [{"labels": ("colour",)}, {"columns": {"table": ("colour",)}}])
def test_missing_files_are_named(tmp_path: Path, options: dict[str, Any]) -> None:
    raw = tree(tmp_path / "raw", [specimen(1)])
    with pytest.raises(ValueError, match="no column 'colour'; it has processid, sampleid"):
        list(Bioscan(**options).items(raw))
    with pytest.raises(ValueError, match=r"no file .*\.csv in"):
        list(Bioscan().items(tmp_path / "raw" / "images"))
