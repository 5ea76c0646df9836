"""Data sets that the library `datasets` reads, as samples; no test needs a network."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import tifffile
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from modalities.text import Text
from outcomes import outcomes
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.base import Sample
from shards.sources.hub import Hub, Row
from shards.store import ShardError

MODALITIES: dict[str, Modality] = {
    "image": Image(size=16, patch=16),
    "audio": Spectrogram(sample_rate_hz=8000, mel_bands=16),
    "smiles": Smiles(),
    "text": Text(),
    "table": Table(),
}
COLUMNS: dict[str, Any] = {"image": "photo", "audio": "call", "smiles": "drug", "text": "note", "table": ("x", "seen")}


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    ImageOps.expand(Pillow.new("RGB", (7, 5), colour), 1, "white").save(buffer, "png")
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).standard_normal(2000) * 0.1, 8000, format="WAV")
    return buffer.getvalue()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three rows in Parquet: whole, without media, with an image that is none."""
    folder = tmp_path / "raw"
    folder.mkdir()
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "call": datasets.Audio(),
            "drug": datasets.Value("string"),
            "note": datasets.Value("string"),
            "x": datasets.Value("float32"),
            "seen": datasets.Value("date32"),
            "species": datasets.ClassLabel(names=["owl", "jay"]),
            "unused": datasets.Value("string"),
        }
    )
    rows = {
        "photo": [{"bytes": png("red"), "path": None}, None, {"bytes": b"no image", "path": "a.png"}],
        "call": [{"bytes": wav(), "path": "call.wav"}, None, None],
        "drug": ["OCC", None, "CCN"],
        "note": ["a red bird", "grey", None],
        "x": [1.5, None, 3.0],
        "seen": [datetime.date(2015, 11, 5), datetime.date(2015, 11, 6), None],
        "species": [1, 0, -1],
        "unused": ["a", "b", "c"],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows, schema=features.arrow_schema), folder / "birds.parquet")
    return folder


def make_samples(source: Hub, raw: Path) -> list[Sample | str]:
    return outcomes(source, raw, MODALITIES)


def test_columns_become_members_unchanged(raw: Path) -> None:
    source = Hub(dataset="parquet", files="*.parquet", columns=COLUMNS, labels=("species",))
    first, second, third = make_samples(source, raw)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert isinstance(third, Sample)
    assert first.identity == "1"
    assert first.members == {
        "image.png": png("red"),
        "audio.wav": wav(),
        "smiles.txt": b"CCO",
        "text.txt": b"a red bird",
        "table.json": b'{"x": 1.5, "seen": "2015-11-05"}',
        "labels.json": b'{"species": "jay"}',
    }
    assert second.members.keys() == {"text.txt", "table.json", "labels.json"}
    assert first.groups == {
        "drug": "OCC",
        "note": "a red bird",
        "x": "1.5",
        "species": "jay",
        "seen": "2015-11-05",
        "scaffold": "",
    }
    assert third.groups["species"] == ""
    assert json.loads(third.members["labels.json"]) == {"species": None}


def test_a_build_counts_unusable_samples(raw: Path, tmp_path: Path) -> None:
    source = Hub(dataset="parquet", files="*.parquet", columns=COLUMNS, key="note", groups=("unused",))
    manifest = build(source, MODALITIES, SplitBy(by="unused", validation=0, test=0), raw, tmp_path / "out", workers=2)
    assert manifest.skipped == {"row without note": 1}
    assert manifest.source["dataset"] == "parquet"
    assert [group for _, group, *_ in Split(tmp_path / "out", "train").locations()] == ["a", "b"]
    source = Hub(dataset="parquet", files="*.parquet", columns={"image": "photo"})
    manifest = build(source, MODALITIES, SplitBy(validation=0, test=0), raw, tmp_path / "images")
    assert manifest.skipped == {"row without content": 1, "image file is not png": 1}


def test_json_lines_and_limits(tmp_path: Path) -> None:
    rows = [{"x": i, "note": f"n{i}"} for i in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Hub(dataset="json", files="*.jsonl", columns={"table": ("x", "note")}, limit=2)
    assert list(source.items(tmp_path)) == [Row(1, rows[0]), Row(2, rows[1])]
    assert len(list(Hub(dataset="json", files="*", columns={"text": "note"}).items(tmp_path / "a.jsonl"))) == 5


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("owl", "jay"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png("red"))
    source = Hub(dataset="imagefolder", files="**/*.png", columns={"image": "image"}, labels=("label",))
    samples = [sample for sample in make_samples(source, tmp_path) if isinstance(sample, Sample)]
    assert sorted(json.loads(sample.members["labels.json"])["label"] for sample in samples) == ["jay", "owl"]
    assert all(sample.members["image.png"] == png("red") for sample in samples)


@pytest.mark.parametrize(
    ("cell", "modality", "member"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], "image", "image.npy"),
        (png("red"), "image", "image.png"),
        ({"bytes": png("red"), "path": "photo.dat"}, "image", "image.png"),
        ({"bytes": wav(), "path": None}, "audio", "audio.wav"),
        ({"mass": 1.5}, "table", "table.json"),
        (1.5, "table", "table.json"),
        (None, "table", "row without content"),
        ([[1.0], [1.0, 2.0]], "image", "image of lists that are not an array"),
        (b"who knows", "image", "image bytes of no known kind"),
        (wav(), "image", "image bytes of no known kind"),
        ({"bytes": None, "path": "/nowhere.png"}, "image", "image file is missing"),
        (3.5, "image", "image cannot be made of float"),
        ("text", "image", "image cannot be made of str"),
    ],
)
def test_kinds_of_cells(cell: Any, modality: str, member: str) -> None:
    source = Hub(dataset="json", columns={modality: "cell"})
    if " " in member:
        with pytest.raises(ContentError, match=member):
            source.make(Row(1, {"cell": cell}), MODALITIES)
        return
    sample = source.make(Row(1, {"cell": cell}), MODALITIES)
    assert list(sample.members) == [member]
    MODALITIES[modality].decode({member.partition(".")[2]: sample.members[member]})


def test_files_in_streamed_data_sets_are_fetched(tmp_path: Path, serve: Callable[[Path], Any]) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    server = serve(tmp_path)
    rows = datasets.load_dataset("imagefolder", data_files=[f"{server.url}/a.png"], split="train", streaming=True)
    cell = next(iter(rows.cast_column("image", datasets.Image(decode=False))))
    assert cell["image"] == {"path": f"{server.url}/a.png", "bytes": None}
    sample = Hub(dataset="imagefolder", columns={"image": "image"}).make(Row(1, cell), MODALITIES)
    assert sample.members == {"image.png": png("red")}


def test_a_build_counts_missing_remote_files_and_continues_after_a_dead_link(
    tmp_path: Path, serve: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "web" / name).write_bytes(png("red"))
    (tmp_path / "web" / "long.png").write_bytes(png("red") + bytes(9000))
    server = serve(tmp_path / "web")
    names = [*["a.png"] * 64, "b.png", "gone.png", "long.png"]
    cells = [{"photo": {"path": f"{server.url}/{name}", "bytes": None}} for name in names]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").write_text("\n".join(map(json.dumps, cells)))
    source = Hub(dataset="json", files="*.jsonl", columns={"image": "photo"})
    monkeypatch.setattr("shards.sources.hub.MAX_BYTES", 9000)
    server.faults["b.png"] = ["403"]
    with pytest.raises(ShardError, match=r"cannot fetch http://.*/b\.png: 403"):
        build(source, MODALITIES, SplitBy(), tmp_path / "raw", tmp_path / "out")
    assert server.requests["a.png"] == 64
    manifest = build(source, MODALITIES, SplitBy(), tmp_path / "raw", tmp_path / "out")
    assert server.requests["a.png"] == 64, "what was made is kept"
    assert sum(manifest.counts().values()) == 65
    assert manifest.skipped == {"image file is missing": 1, "image file of more than 9,000 bytes": 1}


@pytest.mark.parametrize("start", [b"ID3", b"\xff\xf3", b"\xff\xfb"])
def test_every_mp3_variant_is_detected_by_content(start: bytes) -> None:
    sample = Hub(dataset="json", columns={"audio": "cell"}).make(Row(1, {"cell": start + bytes(9)}), MODALITIES)
    assert list(sample.members) == ["audio.mp3"]


def test_sounds_in_data_sets_get_their_length() -> None:
    data = bytearray(wav())
    data[40:44] = bytes(4)
    for cell in (bytes(data), {"bytes": bytes(data), "path": "a.wav"}):
        with counted_changes() as changes:
            sample = Hub(dataset="json", columns={"audio": "cell"}).make(Row(1, {"cell": cell}), MODALITIES)
        assert sample.members == {"audio.wav": wav()}
        assert changes == {"wav audio that does not state its length: read to the end of the file": 1}


def test_bigtiff_is_detected_by_content() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.arange(63, dtype=np.uint8).reshape(7, 9), bigtiff=True)
    sample = Hub(dataset="json", columns={"image": "cell"}).make(Row(1, {"cell": buffer.getvalue()}), MODALITIES)
    assert list(sample.members) == ["image.tif"]


def test_mistakes_are_reported(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def items(**fields: Any) -> list[Row]:
        return list(
            Hub(**{"dataset": "parquet", "files": "*.parquet", "columns": {"table": ("x",)}, **fields}).items(raw)
        )

    (raw / "broken.bin").write_bytes(b"PAR1 and no more")
    for fields, message in (
        ({"columns": {"table": ("y",)}}, "data set parquet has no column 'y'; it has photo, call"),
        ({"files": "*.csv"}, r"no file \*\.csv in"),
        ({"files": "*.bin"}, "data set parquet cannot be opened"),
        ({"split": "valid"}, "Bad split: valid"),
        ({"columns": {}}, "columns"),
        ({"limit": 0}, "limit"),
        ({"dataset": "pandas"}, "data set pandas"),
    ):
        with pytest.raises(ValueError, match=message):
            items(**fields)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="data set no/where cannot be opened"):
        items(dataset="no/where", files=None)
