"""Folders of recordings as samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modalities.base import ContentError, Modality
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.audio import AudioFolder
from shards.sources.base import Sample

MODALITIES: dict[str, Modality] = {"audio": Spectrogram(rate_hz=8000, mel_bands=16), "table": Table()}


def record(path: Path, seed: int = 0) -> None:
    """A quarter of a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).standard_normal(2000) * 0.1, 8000)


def made(source: AudioFolder, raw: Path) -> list[Sample | str]:
    samples: list[Sample | str] = []
    for item in source.items(raw):
        try:
            sample = source.make(item, MODALITIES)
            MODALITIES["audio"].decode(
                {name[6:]: data for name, data in sample.members.items() if name.startswith("audio.")}
            )
            samples.append(sample)
        except ContentError as error:
            samples.append(error.reason)
    return samples


def labels(source: AudioFolder, raw: Path) -> list[Any]:
    return [s if isinstance(s, str) else json.loads(s.members["labels.json"]) for s in made(source, raw)]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Spoken digits as FSDD names them, one file otherwise named, one without sound and one that is none."""
    raw = tmp_path / "raw"
    for i, name in enumerate(["0_ann_0.wav", "0_bob_12.wav", "7_ann_3.wav", "speech.wav"]):
        record(raw / "recordings" / name, i)
    soundfile.write(raw / "recordings" / "8_ann_0.wav", np.zeros(2000), 8000)
    (raw / "recordings" / "9_ann_0.wav").write_bytes(b"ID3 this is something else")
    (raw / "README.txt").write_text("not a recording")
    return raw


def test_fields_of_the_file_name_become_labels_and_groups(digits: Path) -> None:
    source = AudioFolder(pattern="{digit}_{speaker}_{i}.wav")
    first, second, third, *faults = made(source, digits)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert isinstance(third, Sample)
    assert first.members["audio.wav"] == (digits / "recordings" / "0_ann_0.wav").read_bytes()
    assert json.loads(second.members["labels.json"]) == {"digit": "0", "speaker": "bob", "i": "12"}
    assert second.groups == {"digit": "0", "speaker": "bob", "i": "12"}
    assert third.identity == "recordings/7_ann_3.wav"
    assert faults == [
        "silent or constant audio",
        "audio file is not wav",
        "file name that is not {digit}_{speaker}_{i}.wav",
    ]
    assert labels(AudioFolder(pattern="{digit}_{speaker}_{i}", labels=("digit",)), digits)[2] == {"digit": "7"}


def test_a_build_splits_by_speaker_and_counts_what_is_left_out(digits: Path, tmp_path: Path) -> None:
    source = AudioFolder(pattern="{digit}_{speaker}_{i}.wav")
    manifest = build(source, MODALITIES, SplitBy(by="speaker", validation=0, test=0.4), digits, tmp_path / "out")
    assert manifest.fields == {"audio.wav": 3, "labels.json": 3}
    assert sum(manifest.skipped.values()) == 3
    assert manifest.skipped["silent or constant audio"] == 1
    assert {group for _, group, *_ in Split(tmp_path / "out", "train").locations()} == {"ann"}
    assert {group for _, group, *_ in Split(tmp_path / "out", "test").locations()} == {"bob"}


def test_a_pattern_over_folders(tmp_path: Path) -> None:
    record(tmp_path / "2026" / "parus major" / "amp_2026-05-01.flac")
    record(tmp_path / "2026" / "turdus" / "song_meter_4_2026-05-02.OGG")
    record(tmp_path / "amp_2026-05-03.flac")
    found = labels(AudioFolder(pattern="{species}/{recorder}_{date}"), tmp_path)
    assert found[0] == {"species": "parus major", "recorder": "amp", "date": "2026-05-01"}
    assert found[1] == {"species": "turdus", "recorder": "song", "date": "meter_4_2026-05-02"}
    assert found[2] == "file name that is not {species}/{recorder}_{date}"
    assert labels(AudioFolder(pattern="{species}/{recorder}_{date}.flac"), tmp_path)[1].startswith("file name")
    extensions = [next(iter(s.members)) for s in made(AudioFolder(), tmp_path) if isinstance(s, Sample)]
    assert extensions == ["audio.flac", "audio.ogg", "audio.flac"]


def test_a_field_that_stands_twice_says_the_same_twice(tmp_path: Path) -> None:
    record(tmp_path / "ann" / "ann_1.wav")
    record(tmp_path / "ann" / "bob_1.wav")
    found = labels(AudioFolder(pattern="{speaker}/{speaker}_{i}.wav"), tmp_path)
    assert found == [{"speaker": "ann", "i": "1"}, "file name that is not {speaker}/{speaker}_{i}.wav"]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A folder with a table of its recordings, laid out as ESC-50."""
    raw = tmp_path / "raw"
    for i, name in enumerate(["1-100-A.wav", "2-200-B.wav", "3-300-C.wav", "old/3-300-C.wav", "4-400-D.wav"]):
        record(raw / "audio" / name, i)
    (raw / "meta").mkdir()
    (raw / "meta" / "esc50.csv").write_text(
        "filename,fold,category,gain_db\n1-100-A.wav,1,dog,1.5\n2-200-B,2,rain,NA\n3-300-C.wav,1,sea,0\n"
        "5-500-E.wav,2,dog,2\n"
    )
    return raw


def test_a_table_names_recordings(listed: Path) -> None:
    source = AudioFolder(
        table="meta/esc50.csv", labels=("category", "fold"), columns={"table": ("gain_db",)}, pattern="{a}-{b}-{c}"
    )
    first, second, *faults = made(source, listed)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert json.loads(first.members["labels.json"]) == {"category": "dog", "fold": 1}
    assert json.loads(first.members["table.json"]) == {"gain_db": 1.5}
    assert json.loads(second.members["table.json"]) == {"gain_db": None}
    assert second.groups == {
        "filename": "2-200-B", "fold": "2", "category": "rain", "gain_db": "", "a": "2", "b": "200", "c": "B",
    }  # fmt: skip
    shared = "recording whose name in the table stands for several files"
    assert faults == [
        shared,
        "recording without a row in the table",
        shared,
        "row of the table without its recording",
    ]


def test_paths_in_a_table_are_told_apart(listed: Path) -> None:
    (listed / "paths.csv").write_text("filename,x\naudio/3-300-C.wav,1\naudio/old/3-300-C.wav,2\n")
    found = labels(AudioFolder(table="paths.csv", labels=("x",)), listed)
    assert [row for row in found if isinstance(row, dict)] == [{"x": 1}, {"x": 2}]


def test_mistakes_are_named(listed: Path, tmp_path: Path) -> None:
    for fields, message in (
        ({"table": "none.csv"}, "no file"),
        ({"table": "meta/esc50.csv", "filename": "path"}, "has no column 'path'; it has filename, fold"),
        ({"table": "meta/esc50.csv", "labels": ("target",)}, "has no column 'target'"),
        ({"files": "*.wav"}, r"no \.wav, \.flac, \.ogg file \*\.wav in"),
    ):
        with pytest.raises(ValueError, match=message):
            list(AudioFolder(**fields).items(listed))  # type: ignore[arg-type]
    (listed / "twice.csv").write_text("filename\n1-100-A.wav\n1-100-A.wav\n")
    with pytest.raises(ValueError, match=r"has filename '1-100-A\.wav' twice"):
        list(AudioFolder(table="twice.csv").items(listed))
    for fields, message in (
        ({"pattern": "{}.wav"}, "needs named fields"),
        ({"pattern": "a.wav"}, "needs named fields"),
        ({"labels": ("digit",)}, "'digit' is not in the pattern"),
        ({"pattern": "{a}.wav", "columns": {"table": ("b",)}}, "'b' is not in the pattern"),
    ):
        with pytest.raises(ValueError, match=message):
            AudioFolder(**fields)  # type: ignore[arg-type]
    item = next(AudioFolder().items(listed))
    with pytest.raises(ValueError, match="'sound', which the recipe has not"):
        AudioFolder(modality="sound").make(item, MODALITIES)


def test_one_file_is_a_folder_of_one(digits: Path) -> None:
    (sample,) = made(AudioFolder(pattern="{digit}_{speaker}_{i}.wav"), digits / "recordings" / "7_ann_3.wav")
    assert isinstance(sample, Sample)
    assert sample.groups["speaker"] == "ann"


def test_huge_files_are_left_unread(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalities.base.MAX_BYTES", 2000)
    assert made(AudioFolder(pattern="{digit}_{speaker}_{i}.wav"), digits)[0] == "recording of more than 2,000 bytes"
