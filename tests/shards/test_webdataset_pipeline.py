"""Shards as a webdataset pipeline, for loops outside of sensorium."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tifffile
from PIL import Image as Pillow
from torch.utils.data import DataLoader

import sensorium as sm
from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.text import Text
from shards.build import build
from shards.manifest import Manifest
from shards.sources.base import Sample, Source
from shards.split import SplitBy
from shards.webdataset_pipeline import decode_members

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (9, 7, 3), np.uint8)
BANDS = RNG.normal(size=(8, 6, 5)).astype(np.float32)
SOUND = (RNG.integers(-(2**15), 2**15, (400, 2)) / 2**15).astype(np.float32)
SIGNAL = RNG.normal(size=(2, 30)).astype(np.float32)


def files(number: int) -> dict[str, bytes]:
    """Members of every type."""
    image, tiff, sound, array = (io.BytesIO() for _ in range(4))
    Pillow.fromarray(PIXELS).save(image, "png")
    tifffile.imwrite(tiff, BANDS, photometric="minisblack", planarconfig="contig")
    soundfile.write(sound, SOUND, 8000, format="flac", subtype="PCM_16")
    np.save(array, SIGNAL)
    return {
        "photo.png": image.getvalue(),
        "bands.tif": tiff.getvalue(),
        "call.flac": sound.getvalue(),
        "ecg.npy": array.getvalue(),
        "text.txt": f"Bär {number}".encode(),
        "labels.json": json.dumps({"number": number}).encode(),
    }


class Everything(Source):
    type = "everything"

    def items(self, raw: Path) -> Any:
        yield from range(20)

    def make(self, item: int, modalities: Mapping[str, Modality]) -> Sample:
        return Sample(identity=str(item), members=files(item))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    split = SplitBy(validation=0.2, test=0)
    build(Everything(), {"text": Text()}, split, folder, folder / "out", samples_per_shard=4)
    return folder / "out"


def test_members_are_decoded_to_arrays(shards: Path) -> None:
    samples = list(sm.webdataset(shards, "train"))
    assert len({sample["__key__"] for sample in samples}) == Manifest.read(shards).counts()["train"] == 16
    for sample in samples:
        assert sample["photo.png"].dtype == np.uint8
        np.testing.assert_array_equal(sample["photo.png"], PIXELS)
        np.testing.assert_array_equal(sample["bands.tif"], BANDS)
        samples_of_sound, rate_hz = sample["call.flac"]
        np.testing.assert_array_equal(samples_of_sound, SOUND)
        assert rate_hz == 8000
        np.testing.assert_array_equal(sample["ecg.npy"], SIGNAL)
        assert sample["text.txt"] == f"Bär {sample['labels.json']['number']}"
        assert sample["__url__"].startswith(f"{shards}/train-")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_loader_iterates_over_every_sample_once(shards: Path, workers: int) -> None:
    rows = sm.webdataset(shards, "train", shuffle=True).shuffle(8).to_tuple("photo.png", "labels.json").batched(3)
    batches = list(DataLoader(rows, batch_size=None, num_workers=workers))
    assert sorted(label["number"] for _, labels in batches for label in labels) == sorted(
        sample["labels.json"]["number"] for sample in sm.webdataset(shards)
    )
    for images, labels in batches:
        assert images.shape == (len(labels), *PIXELS.shape)


def test_a_second_iteration_is_another_epoch(shards: Path) -> None:
    samples = sm.webdataset(f"file://{shards}", "validation")
    assert [sample["__key__"] for sample in samples] == [sample["__key__"] for sample in samples]


def test_sounds_need_soundfile(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"pip install 'sensorium\[audio\]'"):
        list(sm.webdataset(shards))


def test_images_of_16_bits_and_pixels_without_data_are_float32() -> None:
    deep = RNG.integers(0, 2**16, (9, 7), np.uint16)
    for pixels, expected in ((deep, deep[..., None] / 65535), (PIXELS, PIXELS)):
        file = io.BytesIO()
        Pillow.fromarray(pixels).save(file, "png")
        decoded = decode_members({"a.png": file.getvalue()})["a.png"]
        assert decoded.dtype == (np.uint8 if pixels is PIXELS else np.float32)
        np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-6)
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, np.where(np.eye(8), np.nan, RNG.random((8, 8))).astype(np.float32))
    assert np.isnan(decode_members({"a.tif": tiff.getvalue()})["a.tif"]).sum() == 8


def test_pickles_and_broken_members_are_refused() -> None:
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object))
    for name, data in (
        ("a.npy", pickled.getvalue()),
        ("a.json", b"{"),
        ("a.png", b"\x89PNG"),
        ("a.flac", b"fLaC"),
    ):
        with pytest.raises(ContentError):
            decode_members({"__key__": "1", name: data})
    assert decode_members({"__key__": "1", "a.pkl": b"bytes"}) == {"__key__": "1", "a.pkl": b"bytes"}


def test_an_empty_split_or_folder_is_reported_in_one_line(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the test split of .* is empty \(train 16, validation 4, test 0\)"):
        sm.webdataset(shards, "test")
    with pytest.raises(ValueError, match="no shards at"):
        sm.webdataset(tmp_path)
