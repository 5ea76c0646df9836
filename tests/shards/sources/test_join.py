"""Several sources joined into one sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import Modality
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.table import Table
from pipeline.recipe.load import load
from shards.build import SplitBy, build
from shards.manifest import Manifest
from shards.read import Members, Split
from shards.sources.join import Join

MODALITIES: dict[str, Modality] = {"image": Image(size=16, patch=16), "smiles": Smiles(), "table": Table()}
IMAGES: dict[str, Any] = {"type": "images", "pattern": "{specimen}_{view}.png", "labels": ["view"]}
ROWS: dict[str, Any] = {
    "type": "rows", "file": "specimens.csv", "key": "id", "columns": {"table": ["mass"]}, "labels": ["species"],
}  # fmt: skip
DRUGS: dict[str, Any] = {"type": "rows", "file": "drugs.csv", "key": "code", "columns": {"smiles": "drug"}}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Photos of specimens 01 (two), 02, 03 and one that is no image; rows of 01, 02, 04 and 02 again."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for i, name in enumerate(["01_top", "01_side", "02_top", "03_top"]):
        ImageOps.expand(Pillow.new("RGB", (7, 5), (i, 100, 200)), 1).save(folder / f"{name}.png")
    (folder / "02_side.png").write_bytes(b"no image")
    (folder / "specimens.csv").write_text(
        "id,species,mass,box\n01,owl,1.5,a\n02,jay,,b\n04,jay,4,b\n02,owl,2,c\n,owl,5,c\n"
    )
    (folder / "drugs.csv").write_text("code,drug\n02,OCC\n01,C1CC\n")
    return folder


def joined(raw: Path, out: Path, by: Any = ("specimen", "id"), workers: int = 1, **fields: Any) -> Manifest:
    source = Join(**{"sources": (IMAGES, ROWS), "by": by, **fields})
    return build(source, MODALITIES, SplitBy(validation=0, test=0), raw, out, workers=workers)


def samples(out: Path) -> list[Members]:
    split = Split(out, "train")
    return [split.read(shard, number) for _, _, shard, number in split.locations()]


def test_an_inner_join_has_all_modalities(raw: Path, tmp_path: Path) -> None:
    manifest = joined(raw, tmp_path / "out")
    assert manifest.fields == {"image.png": 3, "labels.json": 3, "table.json": 2}
    assert manifest.skipped == {
        "images without rows of its key": 1,
        "rows of a key that another has": 1,
        "row without id": 1,
        "rows without images of its key": 1,
        "image file is not png": 1,
    }
    side, top, other = samples(tmp_path / "out")
    assert side["image"]["png"] == (raw / "01_side.png").read_bytes()
    assert top["image"]["png"] == (raw / "01_top.png").read_bytes()
    assert json.loads(side["labels"]["json"]) == {"species": "owl", "view": "side"}
    assert json.loads(side["table"]["json"]) == json.loads(top["table"]["json"]) == {"mass": 1.5}
    assert json.loads(other["labels"]["json"]) == {"species": "jay", "view": "top"}
    assert "table" not in other, "a row without a mass is a partner nonetheless, for its labels"


def test_a_left_join_keeps_unmatched_samples(raw: Path, tmp_path: Path) -> None:
    manifest = joined(raw, tmp_path / "out", ("specimen", "id", "code"), how="left", sources=(IMAGES, ROWS, DRUGS))
    assert manifest.fields == {"image.png": 4, "labels.json": 4, "smiles.txt": 1, "table.json": 2}
    assert manifest.skipped["invalid SMILES"] == 1
    assert "images without rows of its key" not in manifest.skipped
    manifest = joined(raw, tmp_path / "rows", ("id", "specimen"), how="left", sources=(ROWS, IMAGES))
    assert manifest.fields == {"image.png": 2, "labels.json": 3, "table.json": 2}
    assert manifest.skipped == {
        "duplicate": 1,
        "images of a key that another has": 1,
        "images without rows of its key": 1,
        "row without id": 1,
        "image file is not png": 1,
    }


@pytest.mark.parametrize("how", ["inner", "left"])
def test_samples_without_a_key_are_unmatched(how: str, raw: Path, tmp_path: Path) -> None:
    (raw / "boxes.csv").write_text("box,smell\na,1\n,2\n")
    (raw / "specimens.csv").write_text("id,species,mass,box\n1,owl,1,a\n2,jay,2,\n")
    boxes = {"type": "rows", "file": "boxes.csv", "columns": {"smell": ["smell"]}}
    source = Join(sources=(ROWS, boxes), by="box", how=how)  # type: ignore[arg-type]
    both = {**MODALITIES, "smell": Table()}
    manifest = build(source, both, SplitBy(validation=0, test=0), raw, tmp_path / "out")
    assert manifest.fields["smell.json"] == 1
    assert manifest.fields["table.json"] == (1 if how == "inner" else 2)
    assert manifest.skipped == {"rows without box": 2 if how == "inner" else 1}


def test_an_inner_join_requires_all_three_sources(raw: Path, tmp_path: Path) -> None:
    manifest = joined(raw, tmp_path / "out", ("specimen", "id", "code"), sources=(IMAGES, ROWS, DRUGS))
    assert manifest.fields == {"image.png": 1, "labels.json": 1, "smiles.txt": 1}
    assert manifest.skipped["images without rows of its key"] == 3


def test_any_number_of_workers_gives_equal_bytes(raw: Path, tmp_path: Path) -> None:
    one, two = (joined(raw, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert one == two


def test_a_split_can_use_groups_of_any_source(raw: Path, tmp_path: Path) -> None:
    source = Join(sources=(IMAGES, ROWS), by=("specimen", "id"))
    for by, groups in (("box", ["a", "a", "b"]), ("view", ["side", "top", "top"])):
        build(source, MODALITIES, SplitBy(by=by, validation=0, test=0), raw, tmp_path / by)
        assert [group for _, group, *_ in Split(tmp_path / by, "train").locations()] == groups
    with pytest.raises(ValueError, match="samples can be grouped by id, species, mass, box, class, specimen, view"):
        build(source, MODALITIES, SplitBy(by="shelf"), raw, tmp_path / "out")


def test_joins_round_trip_through_recipes(raw: Path, tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "name": "joined",
        "data": {"source": {"type": "join", "by": ["specimen", "id"], "sources": [IMAGES, ROWS]}},
        "modalities": {"image": {"type": "image"}, "table": {"type": "table"}},
        "objectives": {"masked": {}},
    }
    recipe = load(state)
    again = load(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert isinstance(again.data.source, Join)
    assert build(again.data.source, recipe.modalities, SplitBy(validation=0, test=0), raw, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": [ROWS]}, "at least two"),
        ({"by": []}, "one name for all"),
        ({"by": ["id"]}, "one per source"),
        ({"sources": [IMAGES, {"type": "row"}]}, r"data\.source\.sources\.1\.type is 'row': did you mean 'rows'\?"),
        (
            {"sources": [IMAGES, {**ROWS, "fyle": "a"}]},
            r"unknown key 'data\.source\.sources\.1\.fyle': did you mean 'file'\?",
        ),
        ({"sources": [IMAGES, {**ROWS, "file": 3}]}, r"'data\.source\.sources\.1\.file' is 3: input should be"),
        ({"sources": [IMAGES, {**IMAGES, "pattern": "x"}]}, "needs named fields"),
        ({"sources": [IMAGES, {"type": "join", "by": "a", "sources": [IMAGES, ROWS]}]}, "cannot contain a join"),
    ],
)
def test_mistakes_are_named_when_the_recipe_is_read(fields: dict[str, Any], message: str) -> None:
    source = {"type": "join", "by": ["specimen", "id"], "sources": [IMAGES, ROWS], **fields}
    with pytest.raises(ValueError, match=message) as caught:
        load(
            {
                "name": "joined",
                "data": {"source": source},
                "modalities": {"image": {"type": "image"}},
                "objectives": {"masked": {}},
            }
        )
    assert "\n" not in str(caught.value)


def test_mistakes_are_named_when_shards_are_built(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"by is 'shelf', but rows can be joined by id, species, mass, box"):
        joined(raw, tmp_path / "out", by=("specimen", "shelf"))
    with pytest.raises(ValueError, match="sources 0 and 1 both make the modality 'table'"):
        joined(raw, tmp_path / "out", by=("id", "id"), sources=(ROWS, ROWS))
    assert not (tmp_path / "out").exists()
