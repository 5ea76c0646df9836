"""FASTA files with and without a table of specimens."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from modalities.base import Modality
from modalities.dna import Dna
from modalities.files.reading import counted_changes
from modalities.table import Table
from modalities.text import Text
from outcomes import outcomes
from pipeline.recipe.load import load
from shards.build import SplitBy, build
from shards.sources.base import Sample
from shards.sources.derive import derive_columns
from shards.sources.fasta import Fasta, read_records

MODALITIES: dict[str, Modality] = {"dna": Dna(), "table": Table(), "text": Text()}
DERIVE: dict[str, dict[str, str | int | tuple[str, ...]]] = {
    "genus": {"column": "scientific_name", "word": 1},
    "land": {"column": "country", "pattern": "[^:]+"},
    "latitude": {"column": "lat_lon", "pattern": r"^\S+ [NS]"},
    "longitude": {"column": "lat_lon", "pattern": r"\S+ [EW]$"},
}
SOURCE = Fasta(
    table="specimens.tsv",
    key="accession",
    columns={"table": ("land", "latitude", "longitude", "mass"), "text": ("scientific_name", "country")},
    derive=DERIVE,
    labels=("genus",),
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three specimens, the last without most cells; a record without a row and a row without a record."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.fasta").write_text(">007 a header\nACGTAC\nGTACGT\n\n>8|x\tCOI\nacgtnnnn\n>9\nTTTTGGGG\n>10\nAAAACCCC")
    (folder / "specimens.tsv").write_text(
        "accession\tscientific_name\tcountry\tlat_lon\tmass\n"
        "007\tTurdus merula\tPeru: Lima\t25.66 S 54.16 W\t12.5\n"
        "8|x\tTurdus iliacus\tNorway\t60 N 5.3 E\t\n"
        "9\t\t\t\tNA\n"
        "11\tLarus canus\tNorway\t\t3\n"
    )
    return folder


def make_samples(source: Fasta, raw: Path, modalities: dict[str, Modality] = MODALITIES) -> list[Sample | str]:
    return outcomes(source, raw, modalities)


def test_records_are_joined_with_their_rows(raw: Path) -> None:
    first, second, third, alone, last = make_samples(SOURCE, raw)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert isinstance(third, Sample)
    assert first.identity == "007"
    assert first.members["dna.txt"] == b"ACGTACGTACGT"
    assert first.members["text.txt"] == b"Turdus merula Peru: Lima"
    row = {"land": "Peru", "latitude": -25.66, "longitude": -54.16, "mass": 12.5}
    assert json.loads(first.members["table.json"]) == row
    assert json.loads(first.members["labels.json"]) == {"genus": "Turdus"}
    assert json.loads(second.members["table.json"]) == {
        "land": "Norway", "latitude": 60.0, "longitude": 5.3, "mass": None,
    }  # fmt: skip
    assert third.members.keys() == {"dna.txt", "labels.json"}
    assert json.loads(third.members["labels.json"]) == {"genus": None}
    assert (alone, last) == ("DNA without a table row", "table row without DNA")


def test_groups_are_columns_derived_columns_ids_and_sequences(raw: Path) -> None:
    first, second, third, *_ = make_samples(SOURCE, raw)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert isinstance(third, Sample)
    assert first.groups["genus"] == second.groups["genus"] == "Turdus"
    assert first.groups["id"] == first.groups["accession"] == "007"
    assert second.groups["sequence"] == "ACGTNNNN"
    assert third.groups["genus"] == third.groups["scientific_name"] == ""


def test_a_build_counts_skipped_records(raw: Path, tmp_path: Path) -> None:
    (raw / "b.fasta").write_text(">12\nMEEPQSDPSV\n>007\nACGT\n>13\n")
    with (raw / "specimens.tsv").open("a") as table:
        table.write("12\tLarus canus\t\t\t\n13\tLarus canus\t\t\t\n14\tA b\t\t\t\n14\tA c\t\t\t\n")
    (raw / "c.fasta").write_text(">14\nACGT\n")
    (raw / "d.fasta").write_bytes(b"\x89PNG\r\n\x1a\n")
    (raw / "e.fasta").write_text("")
    split = SplitBy(by="genus", validation=0, test=0.5)
    manifest = build(SOURCE, MODALITIES, split, raw, tmp_path / "out")
    assert manifest.skipped == {
        "DNA that is empty or not a string": 1,
        "DNA with other letters than IUPAC's": 1,
        "DNA with several table rows": 1,
        "DNA without a table row": 1,
        "FASTA file that is empty": 1,
        "duplicate": 1,
        "file that is not FASTA": 1,
        "table row without DNA": 1,
    }
    assert manifest.counts() == {"train": 2, "validation": 0, "test": 1}
    assert build(SOURCE, MODALITIES, split, raw, tmp_path / "again", workers=2) == manifest


def test_records_alone_need_no_table(raw: Path) -> None:
    samples = make_samples(Fasta(), raw, {"dna": Dna()})
    assert [sample.identity for sample in samples] == ["007", "8|x", "9", "10"]  # type: ignore[union-attr]
    assert make_samples(Fasta(dna="gene"), raw / "a.fasta", {"gene": Dna()})[0].members == {  # type: ignore[union-attr]
        "gene.txt": b"ACGTACGTACGT"
    }


def test_duplicate_sequences_are_kept_once(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nACGTACGT\n>b\nacgtacgt\n>c\nACGTACGG\n>gaps\nACGT--ACGT\n>rna\nACGUACGU\n")
    for unique, count in ((False, 5), (True, 2)):
        split = SplitBy(by="sequence", validation=0, test=0.4)
        manifest = build(Fasta(unique=unique), {"dna": Dna()}, split, tmp_path, tmp_path / f"{unique}")
        assert sum(manifest.counts().values()) == count
        assert manifest.skipped == ({"duplicate": 3} if unique else {})


@pytest.mark.parametrize(
    ("pattern", "expected"), [(r"x(\d+)", ["1", "DNA without an id"]), (r"\d\d", ["DNA without an id", "22"])]
)
def test_ids_by_pattern(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    (tmp_path / "a.fasta").write_text(">x1 y\nACGT\n>z22\nACGT\n")
    samples = make_samples(Fasta(pattern=pattern), tmp_path)
    assert [s if isinstance(s, str) else s.identity for s in samples] == expected


def test_compressed_and_broken_files(tmp_path: Path) -> None:
    text = "".join(f">r{i}\n{'ACGT' * 20}{i * 'A'}\n" for i in range(200)).encode()
    (tmp_path / "a.fasta.gz").write_bytes(gzip.compress(text))
    assert len(list(read_records(tmp_path / "a.fasta.gz"))) == 200
    (tmp_path / "a.fasta.gz").write_bytes(gzip.compress(text)[:-60])
    records = list(read_records(tmp_path / "a.fasta.gz"))
    assert records[-1].fault == "FASTA file that cannot be read to its end"
    assert all(record.sequence.startswith("ACGT") for record in records[:-1])
    (tmp_path / "a.fasta.gz").write_bytes(b"not gzip")
    assert [record.fault for record in read_records(tmp_path / "a.fasta.gz")] == [
        "FASTA file that cannot be read to its end"
    ]


def test_bytes_around_the_records_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_bytes(
        "\ufeff; old remark\r\n>a \N{GREEK SMALL LETTER ALPHA}\r\nAC\r\nGT\r\n".encode() + b">b \xff\nAC\n"
    )
    assert [record.sequence for record in read_records(tmp_path / "a.fa")] == ["ACGT", "AC"]
    with pytest.raises(ValueError, match=r"no file \*\.fasta\* in"):
        list(Fasta().items(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "id"}, r"specimens\.tsv has no column 'id'; it has accession,"),
        ({"table": "none.tsv"}, r"no file .*none\.tsv"),
        ({"labels": ("colour",)}, "no column 'colour'"),
        ({"columns": {"table": ("colour",)}}, "no column 'colour'"),
        ({"derive": {"x": {"column": "colour", "word": 1}}, "columns": {}, "labels": ()}, "no column 'colour'"),
        (
            {"derive": {"x": {"column": ("colour", "land"), "word": 1}}, "columns": {}, "labels": ()},
            "no column 'colour or land'; it has accession",
        ),
    ],
)
def test_missing_files_are_named(raw: Path, changes: dict[str, Any], message: str) -> None:
    fields = {name: getattr(SOURCE, name) for name in ("table", "key", "columns", "derive", "labels")}
    with pytest.raises(ValueError, match=message):
        make_samples(Fasta(**{**fields, **changes}), raw)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"derive": {"g": {"column": "a", "words": 1}}}, r"unknown key 'data\.source\.derive\.g\.words'"),
        ({"derive": {"g": {"column": "a"}}}, r"derive\.g needs column and one of word, pattern and date"),
        ({"derive": {"g": {"column": "a", "word": 1, "date": "month"}}}, r"one of word, pattern and date"),
        ({"derive": {"g": {"column": [], "word": 1}}}, r"derive\.g needs column"),
        ({"derive": {"g": {"column": "a", "date": "months"}}}, r"g\.date is 'months': did you mean 'month'\?"),
        ({"derive": {"g": {"column": "a", "word": 0}}}, "counted from 1"),
        ({"derive": {"g": {"column": "a", "word": "x"}}}, "counted from 1"),
        ({"derive": {"g": {"column": "a", "pattern": "("}}}, r"derive\.g\.pattern is not a regular expression"),
        ({"pattern": "["}, r"data\.source\.pattern is not a regular expression"),
        ({"table": None, "labels": ["a"]}, "no table with these columns"),
        ({"tables": "x"}, r"unknown key 'data\.source\.tables': did you mean 'table'"),
    ],
)
def test_recipes_with_mistakes(source: dict[str, Any], message: str) -> None:
    recipe = {
        "name": "x",
        "modalities": {"dna": {"type": "dna"}},
        "objectives": {"masked": {}},
        "data": {"source": {"type": "fasta", "table": "t.tsv", **source}},
    }
    with pytest.raises(ValueError, match=message):
        load(recipe)


@pytest.mark.parametrize(
    ("text", "value"), [("25.66 S", -25.66), ("5W", -5.0), ("5 N", 5.0), ("5 X", "5 X"), ("12", 12), (" ", None)]
)
def test_numbers_and_degrees(text: str, value: Any) -> None:
    assert derive_columns({"a": text}, {"b": {"column": "a", "pattern": ".*"}})["b"] == value


@pytest.mark.parametrize(
    ("text", "month", "year"),
    [
        ("21-May-2019", "May", 2019),
        ("May-2019", "May", 2019),
        ("2019-05-21", "May", 2019),
        ("2019-05", "May", 2019),
        ("2019-05-21T10:30Z", "May", 2019),
        ("21-May-2019/03-Jun-2019", "May", 2019),
        ("2019-12-30/2020-01-02", "Dec", 2019),
        ("21 September 2019", "Sep", 2019),
        ("2019", None, 2019),
        (2019, None, 2019),
        ("2018/2019", None, 2018),
        (datetime.date(2019, 5, 21), "May", 2019),
        (None, None, None),
    ],
)
def test_genbank_and_iso_dates_have_equal_months_and_years(text: Any, month: Any, year: Any) -> None:
    parts: dict[str, Any] = {part: {"column": "when", "date": part} for part in ("month", "year")}
    with counted_changes() as changes:
        assert derive_columns({"when": text}, parts) == {"when": text, "month": month, "year": year}
    assert not changes


@pytest.mark.parametrize("text", ["market day 2019", "not collected", "2019-13-01", "1990-1995"])
def test_cells_without_a_month_are_missing_and_counted(text: str) -> None:
    with counted_changes() as changes:
        assert derive_columns({"when": text}, {"m": {"column": "when", "date": "month"}})["m"] is None
    assert changes == {"when without a month that can be read: m is missing": 1}


@pytest.mark.parametrize("names", [("country",), ("geo_loc_name",), ("country", "geo_loc_name")])
@pytest.mark.parametrize("iso", [False, True])
def test_the_birds_recipe_reads_genbank_tables_before_and_after_2024(
    names: tuple[str, ...], iso: bool, tmp_path: Path
) -> None:
    """2024 renamed the qualifier `country` to `geo_loc_name`; of a table with both the filled cell counts."""
    source = load("birds").data.source
    assert isinstance(source, Fasta)
    places = ("Peru: Lima", "Norway")
    cells = [[place if len(names) == 1 or i == j else "" for j in range(len(names))] for i, place in enumerate(places)]
    dates = ("2019-05-21", "2019-05") if iso else ("21-May-2019", "May-2019")
    (tmp_path / "barcodes.fasta").write_text(">A1\nACGTACGT\n>A2\nACGTACGA\n")
    header = ("accession", "scientific_name", *names, "collection_date", "lat_lon")
    rows = [(f"A{i + 1}", "Turdus merula", *cells[i], dates[i], "25.66 S 54.16 W") for i in range(2)]
    (tmp_path / "specimens.tsv").write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n")
    results = outcomes(source, tmp_path, {"dna": Dna(), "table": Table()})
    for sample, country in zip(results, ("Peru", "Norway"), strict=True):
        assert isinstance(sample, Sample)
        assert json.loads(sample.members["table.json"]) == {
            "country": country, "latitude": -25.66, "longitude": -54.16, "month": "May", "year": 2019,
        }  # fmt: skip
