"""Tars that webdataset's own writers wrote become shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from modalities.base import Modality
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.table import Table
from modalities.text import Text
from pipeline.recipe.load import load
from shards.build import build
from shards.read import Split
from shards.sources.webdataset import WebDataset
from shards.split import SplitBy

MODALITIES: dict[str, Modality] = {
    "image": Image(size=32, patch=16),
    "mask": Image(size=32, patch=16),
    "taxonomy": Text(),
    "record": Table(),
    "smiles": Smiles(),
}
SOURCE: dict[str, Any] = {
    "members": {"image": ("jpg", "png"), "mask": "seg.npz", "taxonomy": "transcript", "smiles": "txt"},
    "columns": {"record": ("mass", "wing")},
    "labels": ("cls", "species"),
}
ALL = SplitBy(validation=0, test=0)


def samples(count: int) -> list[dict[str, Any]]:
    """Objects that the default encoders of webdataset turn into bytes."""
    rng = np.random.default_rng(0)
    return [
        {
            "__key__": f"part/{number:04d}",
            "jpg" if number % 2 else "PNG": rng.integers(0, 255, (40, 32, 3), np.uint8),
            "seg.npz": {"mask": rng.integers(0, 2, (40, 32), np.uint8) * 255},
            "transcript": f"Apis mellifera {number}",
            "txt": "OCC" if number else "C(C)O",
            "json": {"mass": number / 2, "wing": None if number == 2 else "long", "species": f"s{number % 2}"},
            "cls": number,
            "pyd": {"never": "read"},
        }
        for number in range(count)
    ]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two tars of three samples."""
    folder = tmp_path / "raw"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "birds-%03d.tar"), maxcount=3, verbose=0) as writer:
        for sample in samples(6):
            writer.write(sample)
    return folder


def stored(out: Path) -> list[dict[str, dict[str, bytes]]]:
    split = Split(out, "train")
    rows = sorted((number, shard) for _, _, shard, number in split.locations())
    return [split.read(shard, number) for number, shard in rows]


def test_tars_of_a_shard_writer_become_shards(raw: Path, tmp_path: Path) -> None:
    manifest = build(WebDataset(**SOURCE), MODALITIES, ALL, raw, tmp_path / "out")
    assert not manifest.skipped
    assert manifest.fields == {
        "image.jpg": 3,
        "image.png": 3,
        "labels.json": 6,
        "mask.npy": 6,
        "record.json": 6,
        "smiles.txt": 6,
        "taxonomy.txt": 6,
    }
    theirs = samples(6)
    with tarfile.open(raw / "birds-000.tar") as tar:
        jpeg = tar.extractfile("part/0001.jpg").read()  # type: ignore[union-attr]
    for number, sample in enumerate(stored(tmp_path / "out")):
        assert sample["taxonomy"]["txt"].decode() == f"Apis mellifera {number}"
        assert sample["smiles"]["txt"] == b"CCO"
        assert json.loads(sample["labels"]["json"]) == {"cls": number, "species": f"s{number % 2}"}
        assert json.loads(sample["record"]["json"]) == {"mass": number / 2, "wing": None if number == 2 else "long"}
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["mask"]["npy"])), theirs[number]["seg.npz"]["mask"])
        if number == 1:
            assert sample["image"] == {"jpg": jpeg}
        if number % 2 == 0:
            pixels = MODALITIES["image"].decode(sample["image"]).pixels
            np.testing.assert_array_equal((pixels * 255).round(), theirs[number]["PNG"])


def test_a_split_can_use_a_field_or_the_tar(raw: Path, tmp_path: Path) -> None:
    for by, groups in (("tar", {"birds-000.tar", "birds-001.tar"}), ("species", {"s0", "s1"})):
        build(WebDataset(**SOURCE), MODALITIES, SplitBy(by=by, validation=0, test=0), raw, tmp_path / by)
        assert {group for _, group, _, _ in Split(tmp_path / by, "train").locations()} == groups


def test_a_field_identifies_samples(raw: Path, tmp_path: Path) -> None:
    source = WebDataset(members={"taxonomy": "transcript"}, key="species")
    manifest = build(source, MODALITIES, ALL, raw, tmp_path / "out")
    assert manifest.counts()["train"] == 2
    assert manifest.skipped == {"duplicate": 4}
    other = WebDataset(members={"taxonomy": "transcript"}, key="colony")
    with pytest.raises(ValueError, match=r"no usable sample .*sample without colony: 6"):
        build(other, MODALITIES, ALL, raw, tmp_path / "none")


def test_unknown_extensions_are_decoded_as_set_in_the_recipe(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        writer.write({"__key__": "1", "meta": b'{"mass": 2}', "grade": b"3.5", "note": b"small", "txt": b"Apis"})
    source = WebDataset(
        members={"taxonomy": "txt"},
        columns={"record": ("mass", "grade", "note")},
        decode={"meta": "json", "grade": "number", "note": "text"},
    )
    build(source, MODALITIES, ALL, tmp_path / "a.tar", tmp_path / "out")
    (sample,) = stored(tmp_path / "out")
    assert json.loads(sample["record"]["json"]) == {"mass": 2, "grade": 3.5, "note": "small"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"cls": b"three"}, "cls member that is not a number"),
        ({"cls": b"true"}, "cls member that is not a number"),
        ({"json": b"{"}, "json member is not JSON"),
        ({"txt": b"\xff"}, "txt member that is not UTF-8"),
        ({"seg.npz": b"PK"}, "npz member that cannot be read"),
        ({"png": b"\x89PNG", "b.png": b"\x89PNG"}, "image with several png members"),
        ({"jpg": b"no image"}, None),
        ({"webp": b"ignored"}, "sample without content"),
    ],
)
def test_unusable_members_skip_their_sample(files: dict[str, bytes], reason: str | None, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        writer.write({"__key__": "1", "transcript": b"Apis"})
        writer.write({"__key__": "2", **files})
    source = WebDataset(members={**SOURCE["members"], "image": ("jpg", "png", "b.png")})
    manifest = build(source, MODALITIES, ALL, tmp_path, tmp_path / "out")
    assert manifest.counts()["train"] == 1
    ((skipped, count),) = manifest.skipped.items()
    assert count == 1
    assert reason in (None, skipped)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_pickles_are_never_read(tmp_path: Path) -> None:
    pickled = npz(a=np.array([{}], object))
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        writer.write({"__key__": "1", "transcript": b"Apis", "seg.npz": npz(a=np.zeros((4, 4)), b=np.zeros(2))})
        writer.write({"__key__": "2", "transcript": b"Apis", "seg.npz": pickled})
        writer.write({"__key__": "3", "transcript": b"Apis", "pkl": b"cos\nsystem\n(S'false'\ntR."})
    manifest = build(WebDataset(**SOURCE), MODALITIES, ALL, tmp_path, tmp_path / "out")
    assert manifest.counts()["train"] == 1
    assert manifest.skipped.pop("npz member with several arrays") == 1
    assert sum(manifest.skipped.values()) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"members": {"image": "pkl"}}, "a Python pickle can run any code"),
        ({"members": {"image": ["jpg", "a.PTH"]}}, "a Python pickle can run any code"),
        ({"members": {"image": "jpg"}, "decode": {"pyd": "json"}}, "a Python pickle can run any code"),
        ({"members": {}}, "data.source.members is empty: give the extensions of each modality"),
        ({"members": {"photo": "jpg"}}, "refers to modality 'photo', but the recipe defines none"),
        ({"members": {"image": "ten"}}, "data.source.members.image: 'image' is of type image, which does not read ten"),
        ({"members": {"image": "jpg"}, "columns": {"image": ["a"]}}, "data.source.columns.image is also in members"),
    ],
)
def test_invalid_recipes_are_refused_in_one_line(source: dict[str, Any], message: str) -> None:
    recipe = {
        "name": "x",
        "data": {"source": {"type": "webdataset", **source}},
        "modalities": {"image": {"type": "image"}},
        "objectives": {"masked": {}},
    }
    with pytest.raises(ValueError, match=message):
        load(recipe)


def test_compressed_tars_and_paths_outside_the_folder_are_refused(tmp_path: Path) -> None:
    for mode, name, message in (("w:gz", "1.transcript", "not a readable tar"), ("w", "../1.transcript", "outside")):
        with tarfile.open(tmp_path / "a.tar", mode) as tar:
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"Apis"))
        with pytest.raises(ValueError, match=message):
            list(WebDataset(members={"taxonomy": "transcript"}).items(tmp_path))
