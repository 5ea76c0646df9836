"""Folders of images as samples."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.image import Image
from modalities.table import Table
from outcomes import outcomes
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.base import Sample
from shards.sources.images import ImageFolder

MODALITIES: dict[str, Modality] = {"image": Image(size=16, patch=16, bands="rgb"), "table": Table()}


def photo(path: Path, colour: int = 0) -> None:
    """A picture of one colour in a black frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.expand(Pillow.new("RGB", (7, 5), (colour, 100, 200)), 1).save(path)


def make_samples(source: ImageFolder, raw: Path) -> list[Sample | str]:
    return outcomes(source, raw, MODALITIES)


def labels(source: ImageFolder, raw: Path) -> list[Any]:
    return [
        s if isinstance(s, str) else json.loads(s.members.get("labels.json", b"null"))
        for s in make_samples(source, raw)
    ]


@pytest.fixture
def fish(tmp_path: Path) -> Path:
    """Frames of videos in a folder a species, and a table of most of them."""
    raw = tmp_path / "fish"
    for i, name in enumerate(
        [
            "bream/2015_1_a_frame1.png",
            "bream/2015_1_a_frame2.png",
            "chub/2015_2_b_frame1.jpg",
            "perch/2016_3_c_frame7.PNG",
        ]
    ):
        photo(raw / name, i)
    (raw / "fish.csv").write_text(
        "image,species,length_mm,date\n"
        "bream/2015_1_a_frame1.png,bream,380,2015-11-05\n"
        "bream/2015_1_a_frame2.png,bream,NA,2015-11-05\n"
        "chub/2015_2_b_frame1,chub,210,2015-11-06\n"
        "chub/lost.png,chub,200,2015-11-07\n"
    )
    return raw


def test_the_class_is_the_folder(fish: Path) -> None:
    photo(fish / "stray.webp")
    first, *_ = make_samples(ImageFolder(), fish)
    assert isinstance(first, Sample)
    assert first.identity == "bream/2015_1_a_frame1.png"
    assert first.members["image.png"] == (fish / "bream" / "2015_1_a_frame1.png").read_bytes()
    assert first.groups == {"class": "bream"}
    assert labels(ImageFolder(), fish) == [*({"class": name} for name in ("bream", "bream", "chub", "perch")), None]
    assert labels(ImageFolder(labels=()), fish)[0] is None


def test_the_pattern_defines_groups_and_labels(fish: Path) -> None:
    source = ImageFolder(pattern="{species}/{video:6}_{camera}_frame{frame}", labels=("species",))
    first, *_, last = make_samples(source, fish)
    assert isinstance(first, Sample)
    assert isinstance(last, Sample)
    assert first.groups == {"class": "bream", "species": "bream", "video": "2015_1", "camera": "a", "frame": "1"}
    assert list(last.members) == ["image.png", "labels.json"]
    assert json.loads(last.members["labels.json"]) == {"species": "perch"}
    assert labels(ImageFolder(pattern="{species}/{video:5}_{camera}_frame{frame}"), fish)[0].startswith("file name")


def test_a_table_names_images(fish: Path) -> None:
    source = ImageFolder(
        table="fish.csv",
        filename="image",
        pattern="{video:6}_{rest}",
        labels=("species", "class"),
        columns={"table": ("length_mm", "date")},
    )
    first, second, third, *faults = make_samples(source, fish)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert isinstance(third, Sample)
    assert json.loads(first.members["table.json"]) == {"length_mm": 380, "date": "2015-11-05"}
    assert json.loads(second.members["table.json"]) == {"length_mm": None, "date": "2015-11-05"}
    assert json.loads(third.members["labels.json"]) == {"species": "chub", "class": "chub"}
    assert second.groups["length_mm"] == ""
    assert faults == ["image without a row in the table", "row of the table without its image"]


def test_a_build_splits_by_video_and_counts_by_reason(fish: Path, tmp_path: Path) -> None:
    (fish / "chub" / "2015_2_b_frame2.png").write_bytes(b"no image")
    (fish / "chub" / "2015_2_b_frame3.jpg").write_bytes((fish / "chub" / "2015_2_b_frame1.jpg").read_bytes()[:-40])
    pages = io.BytesIO()
    tifffile.imwrite(pages, np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    (fish / "chub" / "2015_2_b_frame4.tif").write_bytes(pages.getvalue())
    (fish / "chub" / "2015_2_b_frame5.npy").write_bytes(b"")
    (fish / "chub" / "2015_2_b_frame6.jpg").write_bytes((fish / "bream" / "2015_1_a_frame1.png").read_bytes())
    for colour in ("red", "black"):
        Pillow.new("RGB", (9, 7), colour).save(fish / "chub" / f"2015_2_b_{colour}.png")
    source = ImageFolder(pattern="{species}/{video:6}_{rest}", labels=("species",))
    manifest = build(source, MODALITIES, SplitBy(by="video", validation=0, test=0.3), fish, tmp_path / "out")
    assert manifest.skipped == {
        "unreadable jpg image": 1,
        "empty image file": 1,
        "image file is not png": 1,
        "image file is not jpg": 1,
        "constant image": 2,
        "TIFF of several pages": 1,
    }
    groups = [{g for _, g, *_ in Split(tmp_path / "out", name).locations()} for name in ("train", "test")]
    assert groups[0] | groups[1] == {"2015_1", "2015_2", "2016_3"}
    assert not groups[0] & groups[1]
    assert manifest.fields == {"image.jpg": 1, "image.png": 3, "labels.json": 4}


def test_mistakes_are_reported(fish: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.png, \.jpg.* file \*\*/\* in"):
        list(ImageFolder().items(tmp_path / "empty"))
    with pytest.raises(ValueError, match="has no column 'filename'; it has image, species"):
        list(ImageFolder(table="fish.csv").items(fish))
    with pytest.raises(ValueError, match="has no column 'weight'"):
        list(ImageFolder(table="fish.csv", filename="image", labels=("weight",)).items(fish))
    with pytest.raises(ValueError, match="'species' is not in the pattern"):
        ImageFolder(labels=("species",))
    with pytest.raises(ValueError, match="named fields"):
        ImageFolder(pattern="{:3}.png")
    item = next(ImageFolder().items(fish))
    (fish / "bream" / "2015_1_a_frame1.png").unlink()
    with pytest.raises(ContentError, match="image is missing"):
        ImageFolder().make(item, MODALITIES)


def test_nodata_pixels_and_skipped_frames_are_counted_in_the_manifest(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(3):
        heights = np.random.default_rng(i).random((16, 16), np.float32) * 50 + 100
        heights[:4] = -9999
        tifffile.imwrite(raw / f"{i}.tif", heights, extratags=[(42113, "s", 0, "-9999", True)])
    frames = [Pillow.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16), np.uint8)) for i in range(3)]
    frames[0].save(raw / "video.png", save_all=True, append_images=frames[1:])
    modalities = {"image": Image(size=16, patch=4)}
    manifest = build(ImageFolder(labels=()), modalities, SplitBy(validation=0, test=0), raw, tmp_path / "out")
    assert manifest.changed == {"image pixels without data": 3 * 64, "image frames after the first, left out": 2}
    assert manifest.skipped == {}
    strict = {"image": Image(size=16, patch=4, nodata="refuse")}
    manifest = build(ImageFolder(labels=()), strict, SplitBy(validation=0, test=0), raw, tmp_path / "strict")
    assert manifest.skipped == {"image with pixels without data": 3}
