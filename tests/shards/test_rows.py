"""Rows of table files as samples."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import Modality
from modalities.files.reading import counted_changes
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.table import Table
from modalities.text import Text
from outcomes import outcomes
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.base import Sample
from shards.sources.rows import Rows
from shards.sources.tables import infer_types, is_typed, read_table

MODALITIES: dict[str, Modality] = {"smiles": Smiles(), "image": Image(size=16, patch=16), "table": Table()}
COLUMNS: dict[str, Any] = {"smiles": "structure", "image": "photo", "table": ("weight", "colour")}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five rows: whole, without photo, without SMILES, of a missing photo, of an invalid SMILES."""
    folder = tmp_path / "raw"
    (folder / "photos").mkdir(parents=True)
    ImageOps.expand(Pillow.new("RGB", (14, 14), "red"), 1).save(folder / "photos" / "a.JPG")
    (folder / "rows.csv").write_text(
        "id,structure,photo,weight,colour,toxic\n"
        "m1,OCC,photos/a.JPG,1.5,red,1\n"
        "m2,CCN,,2,NA,0\n"
        "m3,,photos/a.JPG,,blue,\n"
        "m4,CCC,photos/none.jpg,4,red,1\n"
        "m5,C1CC,photos/a.JPG,5,red,1\n"
    )
    return folder


def read_frame(path: Path) -> pl.DataFrame:
    """A table file, its columns as what they are."""
    written = read_table(path)
    return infer_types([written], typed=is_typed(path)).frame(written)


def make_samples(source: Rows, raw: Path, modalities: dict[str, Modality] = MODALITIES) -> list[Sample | str]:
    return outcomes(source, raw, modalities)


def test_cells_are_content_or_name_files(raw: Path) -> None:
    first, second, third, missing, invalid = make_samples(Rows(columns=COLUMNS, key="id", labels=("toxic",)), raw)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert isinstance(third, Sample)
    assert first.members["smiles.txt"] == b"CCO"
    assert first.members["image.jpg"] == (raw / "photos" / "a.JPG").read_bytes()
    assert json.loads(first.members["table.json"]) == {"weight": 1.5, "colour": "red"}
    assert json.loads(first.members["labels.json"]) == {"toxic": 1}
    assert json.loads(second.members["table.json"]) == {"weight": 2.0, "colour": None}
    assert json.loads(third.members["table.json"]) == {"weight": None, "colour": "blue"}
    assert json.loads(third.members["labels.json"]) == {"toxic": None}
    assert [sorted(sample.members) for sample in (first, second, third)] == [
        ["image.jpg", "labels.json", "smiles.txt", "table.json"],
        ["labels.json", "smiles.txt", "table.json"],
        ["image.jpg", "labels.json", "table.json"],
    ]
    assert (missing, invalid) == ("image file is missing", "invalid SMILES")


def test_identity_and_groups(raw: Path) -> None:
    keyed, numbered = (make_samples(Rows(columns=COLUMNS, key=key), raw)[:3] for key in ("id", None))
    assert [sample.identity for sample in keyed] == ["m1", "m2", "m3"]  # type: ignore[union-attr]
    assert [sample.identity for sample in numbered] == ["1", "2", "3"]  # type: ignore[union-attr]
    assert keyed[0].groups == {  # type: ignore[union-attr]
        "id": "m1", "structure": "OCC", "photo": "photos/a.JPG", "weight": "1.5", "colour": "red", "toxic": "1",
        "scaffold": "",
    }  # fmt: skip
    assert keyed[2].groups["scaffold"] == ""  # type: ignore[union-attr]


def test_a_build_counts_missing_files_and_keeps_the_rest(raw: Path, tmp_path: Path) -> None:
    source = Rows(columns=COLUMNS, key="id", labels=("toxic",))
    manifest = build(source, MODALITIES, SplitBy(by="colour", validation=0, test=0), raw, tmp_path / "out")
    assert manifest.skipped == {"image file is missing": 1, "invalid SMILES": 1}
    assert manifest.fields == {"image.jpg": 2, "labels.json": 3, "smiles.txt": 2, "table.json": 3}
    assert [group for _, group, *_ in Split(tmp_path / "out", "train").locations()] == ["red", "", "blue"]


@pytest.mark.parametrize(
    "source",
    [
        Rows(columns={"smiles": "SMILES"}),
        Rows(columns={"table": ("weight", "SMILES")}),
        Rows(columns={"smiles": "structure"}, key="SMILES"),
        Rows(columns={"smiles": "structure"}, labels=("SMILES",)),
    ],
)
def test_an_unknown_column_lists_the_columns(raw: Path, source: Rows) -> None:
    names = "id, structure, photo, weight, colour, toxic"
    with pytest.raises(ValueError, match=rf"rows\.csv has no column 'SMILES'; it has {names}"):
        next(source.items(raw))


def test_rows_without_content_or_key(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,structure\n1,\n,CCO\n,CCN\n")
    assert make_samples(Rows(columns={"smiles": "structure"}, key="id"), tmp_path) == [
        "row without content",
        "row without id",
        "row without id",
    ]


def test_cells_that_cannot_name_a_file_are_counted(tmp_path: Path) -> None:
    frame = pl.DataFrame({"photo": ["x" * 300 + ".png", "none.png"], "held": [{"bytes": b"PNG"}] * 2})
    frame.write_parquet(tmp_path / "a.parquet")
    assert make_samples(Rows(columns={"image": "photo"}), tmp_path / "a.parquet") == [
        "image file that cannot be read",
        "image file is missing",
    ]
    assert set(make_samples(Rows(columns={"image": "held"}), tmp_path / "a.parquet")) == {
        "image is a column of neither text nor names of files"
    }


def test_one_column_makes_a_table_and_several_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,genus,species,photo\n21,Turdus,merula,a.png\n,Larus,,\n,,,\n")
    source = Rows(columns={"table": "age", "text": ("genus", "species")})
    first, second, third = make_samples(source, tmp_path, {**MODALITIES, "text": Text()})
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert first.members == {"table.json": b'{"age": 21}', "text.txt": b"Turdus merula"}
    assert second.members == {"text.txt": b"Larus"}, "a table of nothing but missing cells is none"
    assert third == "row without content"
    with pytest.raises(ValueError, match="'image' is of type image, not table or text"):
        make_samples(Rows(columns={"image": ("photo", "age")}), tmp_path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows.parquet"])
def test_formats_contain_equal_rows(raw: Path, tmp_path: Path, name: str) -> None:
    frame = read_frame(raw / "rows.csv")
    path = tmp_path / name
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="," if path.suffix == ".csv" else "\t", null_value="NaN")
    assert read_frame(path).equals(frame)
    columns = {"smiles": "structure", "table": ("weight", "colour")}
    ours, theirs = (make_samples(Rows(columns=columns, key="id"), where) for where in (path, raw))
    for a, b in zip(ours, theirs, strict=True):
        assert a == b or (a.identity, a.members) == (b.identity, b.members)  # type: ignore[union-attr]


@pytest.mark.parametrize("empty", ["NULL", "N/A", "?", "NaN", "#N/A", "-", " 7.5", ""])
def test_a_numeric_column_stays_numeric_with_any_missing_marker(tmp_path: Path, empty: str) -> None:
    (tmp_path / "a.csv").write_text(f"mass,name\n1.5,x\n{empty},{empty}\n2,y\n")
    frame = read_frame(tmp_path / "a.csv")
    assert frame["mass"].to_list() == [1.5, 7.5 if empty == " 7.5" else None, 2.0]
    assert frame.schema["name"] == pl.String
    assert frame["name"][1] == (empty if empty == " 7.5" else None)


def test_groups_are_cells_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("site,id,mass\n001,7,1\n002,007,2\n")
    (tmp_path / "b.csv").write_text("site,id,mass\n001,8,1\nB12,9,2\n")
    samples = make_samples(Rows(columns={"table": ("mass",)}, key="id", labels=("id",)), tmp_path)
    assert [sample.groups["site"] for sample in samples] == ["001", "002", "001", "B12"]  # type: ignore[union-attr]
    assert [sample.identity for sample in samples] == ["7", "007", "8", "9"]  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_texts_and_file_names_are_read_as_written(tmp_path: Path, suffix: str) -> None:
    ImageOps.expand(Pillow.new("L", (14, 14)), 1, 99).save(tmp_path / "007", "png")
    frame = pl.DataFrame({"note": ["1.50"], "photo": ["007"]})
    frame.write_csv(tmp_path / "a.csv") if suffix == "csv" else frame.write_parquet(tmp_path / "a.parquet")
    source = Rows(columns={"text": "note", "image": "photo"})
    (sample,) = make_samples(source, tmp_path / f"a.{suffix}", {**MODALITIES, "text": Text()})
    assert isinstance(sample, Sample)
    assert sample.members["text.txt"] == b"1.50"
    assert len(sample.members) == 2


def test_numeric_types_of_databases_are_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame({"mass": [Decimal("0.25"), None], "lasted": [datetime.timedelta(minutes=1), None]})
    frame.with_columns(photo=pl.lit(b"JPEG")).write_parquet(tmp_path / "A.PARQUET")
    assert read_frame(tmp_path / "A.PARQUET").rows() == [(0.25, 60.0, b"JPEG"), (None, None, b"JPEG")]
    first, _ = make_samples(Rows(file="*.PARQUET", columns={"table": ("mass",)}), tmp_path)
    assert first.groups == {"mass": "0.25", "lasted": "60.0"}  # type: ignore[union-attr]


def test_parquet_types_without_a_json_equivalent(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    frame = pl.DataFrame({"a": [1.0, float("nan"), None], "day": [day] * 3, "n": [1, None, 3]})
    frame.write_parquet(tmp_path / "a.parquet")
    samples = make_samples(Rows(columns={"table": ("a", "day", "n")}, labels=("a",)), tmp_path / "a.parquet")
    rows = [json.loads(sample.members["table.json"]) for sample in samples]  # type: ignore[union-attr]
    assert rows == [
        {"a": 1.0, "day": "2026-01-02", "n": 1},
        {"a": None, "day": "2026-01-02", "n": None},
        {"a": None, "day": "2026-01-02", "n": 3},
    ]
    assert json.loads(samples[1].members["labels.json"]) == {"a": None}  # type: ignore[union-attr]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\xff,\n")
    for name in ("empty.csv", "bad.parquet", "picture.csv"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: ") as caught:
            read_frame(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no file"):
        read_frame(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"no file \*\.tsv in"):
        next(Rows(file="*.tsv").items(tmp_path))


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("mass,size,mass\n1,2,3\n")
    with pytest.raises(ValueError, match=r"twice\.csv has the column 'mass' twice"):
        read_frame(tmp_path / "twice.csv")


def test_keys_are_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,x\n007,1\n7,2\n")
    samples = make_samples(Rows(columns={"table": ("x",)}, key="id"), tmp_path)
    assert [(s.identity, s.groups["id"]) for s in samples if isinstance(s, Sample)] == [("007", "007"), ("7", "7")]


def test_a_broken_file_among_others_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing more")
    source = Rows(file="*.parquet", columns={"table": ("x",)})
    with pytest.raises(ValueError, match="cannot be read"):
        list(source.items(tmp_path))
    pl.DataFrame({"x": [1, 2]}).write_parquet(tmp_path / "b.parquet")
    first, *other_samples = make_samples(source, tmp_path)
    assert first == "table file that cannot be read"
    assert [s.identity for s in other_samples if isinstance(s, Sample)] == ["2", "3"]


def test_files_without_read_permission_are_counted(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> bytes:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert "image file that cannot be read" in make_samples(Rows(columns=COLUMNS), raw)


def test_an_unreadable_row_in_one_of_several_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    (tmp_path / "b.csv").write_text("x\n1\n2,3\n")
    with pytest.raises(ValueError, match=r"b\.csv cannot be read: line 3, 2 cells under a header of 1"):
        make_samples(Rows(columns={"table": ("x",)}), tmp_path)


def test_missing_markers_as_keys_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x\nNA,1\nb,2\n")
    with counted_changes() as changes:
        first, second = make_samples(Rows(columns={"table": ("x",)}, key="id"), tmp_path)
    assert (first, isinstance(second, Sample)) == ("row without id", True)
    assert changes == {"id: 'NA' is missing": 1}
