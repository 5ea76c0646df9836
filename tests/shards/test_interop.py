"""`datasets` and `webdataset` read our tars, and we read theirs."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import tifffile
import webdataset
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import MODALITY_TYPES, Modality
from modalities.dna import Dna
from modalities.files.recording import Recording, to_members
from modalities.image import Image
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from modalities.text import Text
from shards.build import SplitBy, build
from shards.hf_features import array_type, describe_features
from shards.read import Split
from shards.sources.base import Sample, Source
from shards.sources.hub import Hub
from shards.sources.rows import Rows
from shards.tars import index_tars, verify_shards

SPLIT = SplitBy(validation=0, test=0)
MODALITIES: dict[str, Modality] = {"image": Image(size=32, patch=16), "record": Table(), "text": Text()}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def loaded(out: Path, described: bool, streaming: bool) -> list[dict[str, Any]]:
    """All samples as a user of `datasets` gets them."""
    features = datasets.Features.from_dict(json.loads((out / "features.json").read_text())) if described else None
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": str(out / "train-*.tar")},
        features=features,
        split="train",
        streaming=streaming,
        cache_dir=str(out.parent / "cache"),
    )
    return list(rows)


def ours(out: Path) -> list[dict[str, bytes]]:
    split = Split(out, "train")
    return [
        {f"{m}.{e}": data for m, parts in split.read(shard, i).items() for e, data in parts.items()}
        for _, _, shard, i in split.locations()
    ]


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        ImageOps.expand(Pillow.new("RGB", (18, 8 + i), (i, 0, 0)), 1, "white").save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_samples_with_the_same_members_load_without_features(streaming: bool, tmp_path: Path) -> None:
    raw = photos(tmp_path / "raw", 8)
    (raw / "a.csv").write_text("file,words,size\n" + "\n".join(f"{i}.png,bird {i},{i}" for i in range(8)))
    source = Rows(columns={"image": "file", "text": "words", "record": ("size",)}, labels=("words",))
    build(source, MODALITIES, SPLIT, raw, tmp_path / "out", samples_per_shard=3)
    for described in (False, True):
        rows = loaded(tmp_path / "out", described, streaming)
        assert [row["text.txt"] for row in rows] == [f"bird {i}" for i in range(8)]
        assert [row["record.json"] for row in rows] == [{"size": i} for i in range(8)]
        assert [row["labels.json"] for row in rows] == [{"words": f"bird {i}"} for i in range(8)]
        assert [row["image.png"].size for row in rows] == [(20, 10 + i) for i in range(8)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_modality_missing_in_sample_2_loads_with_features(streaming: bool, tmp_path: Path) -> None:
    raw = photos(tmp_path / "raw", 3)
    (raw / "a.csv").write_text("file,words\n0.png,bird\n,fish\n2.png,\n")
    build(Rows(columns={"image": "file", "text": "words"}), MODALITIES, SPLIT, raw, tmp_path / "out")
    with pytest.raises(ValueError, match="share the same prefix"):
        loaded(tmp_path / "out", False, streaming)
    rows = loaded(tmp_path / "out", True, streaming)
    assert [row["text.txt"] for row in rows] == ["bird", "fish", None]
    assert [row["image.png"] and row["image.png"].size for row in rows] == [(20, 10), None, (20, 12)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_first_seen_in_sample_1000_loads_with_features(streaming: bool, tmp_path: Path) -> None:
    """Rows of two tables with different columns; a column changes its type too."""
    raw = tmp_path / "raw"
    raw.mkdir()
    tar = tmp_path / "tars" / "train-00000.tar"
    tar.parent.mkdir()
    cells: list[dict[str, Any]] = [{"mass": i} for i in range(999)] + [{"mass": "heavy", "wing": 7.5}, {"wing": None}]
    with tarfile.open(tar, "w") as file:
        for i, row in enumerate(cells):
            data = json.dumps(row).encode()
            entry = tarfile.TarInfo(f"{i:04d}.record.json")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    manifest = index_tars(tar.parent, {})
    (tar.parent / "features.json").write_text(json.dumps(describe_features(manifest.fields, {})))
    rows = loaded(tar.parent, True, streaming)
    assert [row["record.json"] for row in rows] == cells


def test_a_build_describes_tables_with_different_columns(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [json.dumps({"id": str(i), "cells": {"mass": i} if i < 999 else {"wing": 7.5}}) for i in range(1002)]
    (raw / "a.jsonl").write_text("\n".join(lines))
    source = Hub(dataset="json", files="*.jsonl", key="id", columns={"record": "cells"})
    build(source, MODALITIES, SPLIT, raw, tmp_path / "out", samples_per_shard=1002)
    rows = loaded(tmp_path / "out", True, False)
    assert [row["record.json"] for row in rows] == [{"mass": i} for i in range(999)] + [{"wing": 7.5}] * 3


def test_signals_of_any_montage_load_with_features(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    arrays = [np.random.default_rng(0).normal(size=size).astype(np.float32) for size in ((3, 1000), (2, 700))]

    class Two(Source):
        type = "two"

        def items(self, raw: Path) -> Any:
            yield from range(2)

        def make(self, item: int, modalities: Any) -> Sample:
            names = ("I", "II", "III")[: len(arrays[item])]
            parts = to_members(Recording(arrays[item], names, ("mV",) * len(names), 100.0))
            return Sample(identity=str(item), members={f"ecg.{extension}": data for extension, data in parts.items()})

    build(Two(), {"ecg": Signal(montage="ecg")}, SPLIT, raw, tmp_path / "out")  # type: ignore[arg-type]
    rows = loaded(tmp_path / "out", True, False)
    for row, array in zip(rows, arrays, strict=True):
        np.testing.assert_array_equal(np.array(row["ecg.npy"]), array)
        assert row["ecg.json"]["channels"] == ["I", "II", "III"][: len(array)]


def files_of(modality: str, extension: str, number: int) -> dict[str, bytes]:
    """The members of a sample whose one modality is stored in one format."""
    rng, file = np.random.default_rng(number), io.BytesIO()
    if modality in ("image", "bands"):
        bands = 5 if modality == "bands" else 3
        pixels = rng.integers(0, 255, (12, 8 + number, bands), np.uint8)
        if extension == "npy":
            np.save(file, pixels if number else pixels[..., 0])  # one of the two has no band axis
        elif modality == "bands":
            tifffile.imwrite(file, pixels.astype(np.float32), photometric="minisblack", planarconfig="contig")
        else:
            Pillow.fromarray(pixels).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(extension, extension))
    elif modality == "sound" and extension == "npy":
        return to_members(Recording(rng.random((1, 300), np.float32), ("a",), ("",), 100.0))
    elif modality == "sound":
        soundfile.write(file, 0.1 * rng.standard_normal(4000), 8000, format=extension)
    elif modality == "signal":
        return to_members(
            Recording(
                rng.random((number + 1, 300), np.float32), ("I", "II")[: number + 1], ("mV",) * (number + 1), 100.0
            )
        )
    elif modality == "table":
        file.write(json.dumps({"mass": 1.5} if number else {"mass": "heavy", "sex": None}).encode())
    else:
        file.write((b"CGTAC" if modality == "dna" else b"CCO") * (number + 1))
    return {extension: file.getvalue()}


class Formats(Source):
    """Two samples per format, each with only the members of that format."""

    type = "formats"
    FORMATS = (
        *(("image", extension) for extension in ("jpg", "png", "webp", "tif", "npy")),
        *(("bands", extension) for extension in ("tif", "npy")),
        *(("sound", extension) for extension in ("wav", "flac", "ogg", "mp3", "npy")),
        *(("signal", "npy"), ("smiles", "txt"), ("dna", "txt"), ("text", "txt"), ("table", "json")),
    )

    def items(self, raw: Path) -> Any:
        yield from ((*kind, number) for kind in self.FORMATS for number in range(2))

    def make(self, item: Any, modalities: Any) -> Sample:
        modality, extension, number = item
        members = {f"{modality}.{end}": data for end, data in files_of(*item).items()}
        members["labels.json"] = json.dumps({"kind": modality, "number": number}).encode()
        return Sample(identity=f"{modality} {extension} {number}", members=members)


def test_members_of_every_type_load_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the guide run unchanged: sounds are bytes, because `datasets` decodes none without torchcodec."""
    extensions = {kind.type: set(kind.extensions) for kind in MODALITY_TYPES.values()}
    formats = {(name, end) for name, end in Formats.FORMATS}
    assert extensions["image"] - {"jpeg", "tiff"} <= {end for name, end in formats if name == "image"}
    assert extensions["spectrogram"] - {"json"} <= {end for name, end in formats if name == "sound"}
    kinds: dict[str, Modality] = {
        **{"image": Image(), "bands": Image(), "sound": Spectrogram(), "signal": Signal(), "smiles": Smiles()},
        **{"dna": Dna(), "text": Text(), "table": Table()},
    }
    manifest = build(Formats(), kinds, SPLIT, tmp_path, tmp_path / "shards" / "finds", samples_per_shard=9)
    assert not manifest.skipped
    page = (Path(__file__).parents[2] / "docs" / "guides" / "shards_elsewhere.md").read_text()
    snippet = page[page.index("import datasets, json") :].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    rows = list(scope["finds"])
    assert [row["__key__"] for row in rows] == [
        key for key, *_ in Split(tmp_path / "shards/finds", "train").locations()
    ]
    assert len(rows) == 2 * len(Formats.FORMATS)
    for row, stored in zip(rows, ours(tmp_path / "shards/finds"), strict=True):
        assert {name for name, value in row.items() if value is not None} == {*stored, "__key__", "__url__"}
        for name, data in stored.items():
            check_member(name, row[name], data)


def check_member(name: str, value: Any, data: bytes) -> None:
    """Check that `datasets` returns the content of a member."""
    extension = name.rpartition(".")[2]
    if extension in ("jpg", "png", "webp"):
        np.testing.assert_array_equal(np.asarray(value), np.asarray(Pillow.open(io.BytesIO(data))))
    elif extension == "npy":
        np.testing.assert_array_equal(np.array(value), np.load(io.BytesIO(data)))
    elif extension == "json":
        assert value == json.loads(data)
    else:
        assert value == (data.decode() if extension == "txt" else data)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_the_type_of_an_array_is_read_from_its_header(version: tuple[int, int]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((3, 5), np.float32), version)
    cut = file.getvalue()[: -3 * 5 * 4]
    assert array_type(cut) == ("float32", 2)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        array_type(pickled.getvalue())


def test_features_are_those_that_datasets_would_infer() -> None:
    for extension in {*Image.extensions, *Spectrogram.extensions, *Text.extensions} - {"npy", "json"}:
        described = datasets.Features.from_dict(describe_features([f"a.{extension}"], {}))[f"a.{extension}"]
        if extension in ("tif", "tiff") or extension in WebDataset.AUDIO_EXTENSIONS:
            assert described == datasets.Value("binary")  # which `datasets` may not decode
        elif extension in WebDataset.IMAGE_EXTENSIONS:
            assert described == datasets.Image()
        else:
            assert described == datasets.Value("string")
    mixed = describe_features(
        ["a.npy", "b.npy"], {"a.npy": [("int16", 2), ("float32", 2)], "b.npy": [("int16", 2), ("int16", 3)]}
    )
    assert datasets.Features.from_dict(mixed)["a.npy"] == datasets.List(datasets.List(datasets.Value("float32")))
    assert datasets.Features.from_dict(mixed)["b.npy"] == datasets.Json()


def add(tar: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(tar, "w") as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return tar


def test_webdataset_tars_are_read_as_by_webdataset(tmp_path: Path) -> None:
    """Keys in folders with dots, dots in members, files that belong to no sample."""
    members = {
        f"v1.0/part/{i:03d}.{extension}": f"{extension} {i}".encode()
        for i in range(3)
        for extension in ("jpg", "txt", "json", "seg.mask.png", "CLS")
    }
    nothing = {"README": b"read me", "v1.0/.DS_Store": b""}
    tar = add(tmp_path / "00000.tar", {**nothing, **members})
    manifest = index_tars(tmp_path, {"jpg": "photo", "seg.mask.png": "mask", "json": "labels", "cls": "kind"})
    assert manifest.fields == {"kind.CLS": 3, "labels.json": 3, "mask.png": 3, "photo.jpg": 3, "txt.txt": 3}
    assert verify_shards(tmp_path) == manifest
    split = Split(tmp_path, "train")
    theirs = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [key for key, *_ in split.locations()] == [sample["__key__"] for sample in theirs]
    for i, sample in enumerate(theirs):
        stored = split.read(0, i)
        assert stored["mask"]["png"] == sample["seg.mask.png"]
        assert stored["photo"]["jpg"] == sample["jpg"]
        assert stored["labels"]["json"] == sample["json"]
        assert stored["kind"]["cls"] == sample["cls"]


def test_a_repeated_member_is_refused(tmp_path: Path) -> None:
    add(tmp_path / "00000.tar", {"0.jpg": b"a", "0.seg.jpg": b"b"})
    with pytest.raises(ValueError, match=r"00000\.tar has the member 'photo\.jpg' of '0' twice"):
        index_tars(tmp_path, {"jpg": "photo", "seg.jpg": "photo"})


def test_files_that_belong_to_no_sample_are_ignored(tmp_path: Path) -> None:
    add(tmp_path / "00000.tar", {"a/0.jpg": b"a", "__MACOSX/a/._0.jpg": b"b", "a/LICENSE": b"c", "a/0.": b"d"})
    assert index_tars(tmp_path, {"jpg": "photo"}).fields == {"photo.jpg": 1}
    assert [key for key, *_ in Split(tmp_path, "train").locations()] == ["a/0"]
    verify_shards(tmp_path)


def test_the_split_of_a_tar_follows_from_its_name(tmp_path: Path) -> None:
    for name in ("Test-000", "VAL_0", "training", "testimony"):
        add(tmp_path / f"{name}.tar", {f"{name}.txt": b"a"})
    assert index_tars(tmp_path, {"txt": "text"}).counts() == {"train": 2, "validation": 1, "test": 1}


def test_the_number_of_workers_does_not_change_the_index(tmp_path: Path) -> None:
    for number in range(5):
        add(tmp_path / f"{number:05d}.tar", {f"{number}{i}.txt": b"a" * i for i in range(4)})
    messages: list[str] = []
    one = index_tars(tmp_path, {"txt": "text"}, messages.append)
    assert index_tars(tmp_path, {"txt": "text"}, messages.append, workers=2) == one
    assert messages[:5] == messages[5:]
    assert verify_shards(tmp_path).counts()["train"] == 20
