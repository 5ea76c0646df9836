"""Folders of recordings as samples."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modalities.base import Modality
from modalities.files.mpeg import scan_frames
from modalities.files.reading import ContentError
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.audio import AudioFolder
from shards.sources.base import Sample

MODALITIES: dict[str, Modality] = {"audio": Spectrogram(sample_rate_hz=8000, mel_bands=16), "table": Table()}


def record(path: Path, seed: int = 0) -> None:
    """A quarter of a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).standard_normal(2000) * 0.1, 8000)


def make_samples(source: AudioFolder, raw: Path) -> list[Sample | str]:
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
    return [s if isinstance(s, str) else json.loads(s.members["labels.json"]) for s in make_samples(source, raw)]


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
    first, second, third, *faults = make_samples(source, digits)
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


def test_a_build_splits_by_speaker_and_counts_skipped_files(digits: Path, tmp_path: Path) -> None:
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
    values = labels(AudioFolder(pattern="{species}/{recorder}_{date}"), tmp_path)
    assert values[0] == {"species": "parus major", "recorder": "amp", "date": "2026-05-01"}
    assert values[1] == {"species": "turdus", "recorder": "song", "date": "meter_4_2026-05-02"}
    assert values[2] == "file name that is not {species}/{recorder}_{date}"
    assert labels(AudioFolder(pattern="{species}/{recorder}_{date}.flac"), tmp_path)[1].startswith("file name")
    extensions = [next(iter(s.members)) for s in make_samples(AudioFolder(), tmp_path) if isinstance(s, Sample)]
    assert extensions == ["audio.flac", "audio.ogg", "audio.flac"]


def test_a_repeated_field_must_have_one_value(tmp_path: Path) -> None:
    record(tmp_path / "ann" / "ann_1.wav")
    record(tmp_path / "ann" / "bob_1.wav")
    values = labels(AudioFolder(pattern="{speaker}/{speaker}_{i}.wav"), tmp_path)
    assert values == [{"speaker": "ann", "i": "1"}, "file name that is not {speaker}/{speaker}_{i}.wav"]


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
    first, second, *faults = make_samples(source, listed)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert json.loads(first.members["labels.json"]) == {"category": "dog", "fold": 1}
    assert json.loads(first.members["table.json"]) == {"gain_db": 1.5}
    assert "table.json" not in second.members
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


def test_paths_in_a_table_distinguish_equal_file_names(listed: Path) -> None:
    (listed / "paths.csv").write_text("filename,x\naudio/3-300-C.wav,1\naudio/old/3-300-C.wav,2\n")
    values = labels(AudioFolder(table="paths.csv", labels=("x",)), listed)
    assert [row for row in values if isinstance(row, dict)] == [{"x": 1}, {"x": 2}]


def test_mistakes_are_reported(listed: Path, tmp_path: Path) -> None:
    for fields, message in (
        ({"table": "none.csv"}, "no file"),
        ({"table": "meta/esc50.csv", "filename": "path"}, "has no column 'path'; it has filename, fold"),
        ({"table": "meta/esc50.csv", "labels": ("target",)}, "has no column 'target'"),
        ({"files": "*.wav"}, r"no \.wav, \.mp3, \.flac, \.ogg file \*\.wav in"),
    ):
        with pytest.raises(ValueError, match=message):
            list(AudioFolder(**fields).items(listed))  # type: ignore[arg-type]
    (listed / "twice.csv").write_text("filename\n1-100-A.wav\n1-100-A.wav\n")
    with pytest.raises(ValueError, match=r"has two rows with filename '1-100-A\.wav'"):
        list(AudioFolder(table="twice.csv").items(listed))
    for fields, message in (
        ({"pattern": "{}.wav"}, "needs named fields"),
        ({"pattern": "a.wav"}, "needs named fields"),
        ({"labels": ("digit",)}, "'digit' is not in the pattern"),
        ({"pattern": "{a}.wav", "columns": {"table": ("b",)}}, "'b' is not in the pattern"),
    ):
        with pytest.raises(ValueError, match=message):
            AudioFolder(**fields)  # type: ignore[arg-type]


def test_one_file_equals_a_folder_with_one_file(digits: Path) -> None:
    (sample,) = make_samples(AudioFolder(pattern="{digit}_{speaker}_{i}.wav"), digits / "recordings" / "7_ann_3.wav")
    assert isinstance(sample, Sample)
    assert sample.groups["speaker"] == "ann"


def test_oversized_files_are_not_read(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalities.files.reading.MAX_BYTES", 2000)
    assert (
        make_samples(AudioFolder(pattern="{digit}_{speaker}_{i}.wav"), digits)[0]
        == "recording of more than 2,000 bytes"
    )


LONG = np.random.default_rng(5).integers(-9000, 9000, (20_000, 2)).astype(np.int16)
"""Two and a half seconds at 8 kHz."""


def samples_of(sample: Sample | str) -> np.ndarray:
    """Samples `(T, C)` of a part."""
    assert isinstance(sample, Sample)
    [(name, data)] = [(name, data) for name, data in sample.members.items() if name.startswith("audio.")]
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert rate_hz == 8000
    assert name == "audio.flac"
    return samples


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_long_recordings_are_cut_losslessly(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"ann_1.{suffix}", LONG, 8000, subtype="PCM_16")
    source = AudioFolder(pattern="{speaker}_{i}", window_s=1, labels=("speaker", "start_s"))
    first, second = make_samples(source, tmp_path)
    np.testing.assert_array_equal(samples_of(first), LONG[:8000])
    np.testing.assert_array_equal(samples_of(second), LONG[8000:16_000])
    assert isinstance(second, Sample)
    assert second.identity == f"ann_1.{suffix}:8000:16000"
    assert json.loads(second.members["labels.json"]) == {"speaker": "ann", "start_s": 1.0}
    assert second.groups == {"speaker": "ann", "i": "1", "start_s": "1.0"}
    overlapping = make_samples(AudioFolder(window_s=1, stride_s=0.5), tmp_path)
    assert len(overlapping) == 4
    np.testing.assert_array_equal(samples_of(overlapping[3]), LONG[12_000:])


def test_other_sample_types_are_cut(tmp_path: Path) -> None:
    floats = (LONG / 20_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", floats, 8000, subtype="FLOAT")
    [part] = make_samples(AudioFolder(window_s=2), tmp_path)
    assert isinstance(part, Sample)
    samples, _ = soundfile.read(io.BytesIO(part.members["audio.wav"]), dtype="float32")
    np.testing.assert_array_equal(samples, floats[:16_000])
    (tmp_path / "a.wav").unlink()
    soundfile.write(tmp_path / "a.wav", LONG.astype(np.int32) << 8, 8000, subtype="PCM_32")
    [part] = make_samples(AudioFolder(window_s=2), tmp_path)
    assert isinstance(part, Sample)
    samples, _ = soundfile.read(io.BytesIO(part.members["audio.wav"]), dtype="float32")
    np.testing.assert_allclose(samples, LONG[:16_000] / 2.0**23, rtol=1e-6)
    (tmp_path / "a.wav").unlink()
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(20_000) / 8000)
    soundfile.write(tmp_path / "a.ogg", tone, 8000)
    [part] = make_samples(AudioFolder(window_s=2), tmp_path)
    assert np.abs(samples_of(part)[2000:14_000, 0] / 32768 - tone[2000:14_000]).max() < 0.1


def test_a_recording_no_longer_than_a_window_keeps_its_bytes(digits: Path) -> None:
    members_of_all = [s.members["audio.wav"] for s in make_samples(AudioFolder(), digits) if isinstance(s, Sample)]
    cut = [s for s in make_samples(AudioFolder(window_s=60), digits) if isinstance(s, Sample)]
    assert [s.members["audio.wav"] for s in cut] == members_of_all
    assert cut[0].identity == "recordings/0_ann_0.wav"
    assert cut[0].groups == {"start_s": "0.0"}


def test_faults_of_long_recordings_are_counted(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    soundfile.write(raw / "good.wav", LONG, 8000)
    data = (raw / "good.wav").read_bytes()
    (raw / "cut.wav").write_bytes(data[:-5000])
    (raw / "empty.wav").write_bytes(b"")
    (raw / "flac.wav").write_bytes(b"fLaC" + bytes(99))
    (raw / "rate.wav").write_bytes(data[:24] + bytes(8) + data[32:])
    silent = np.concatenate([LONG[:8000], np.zeros((8000, 2), np.int16)])
    soundfile.write(raw / "silent.wav", silent, 8000)
    source = AudioFolder(window_s=1)
    manifest = build(source, MODALITIES, SplitBy(validation=0, test=0), raw, tmp_path / "out", workers=2)
    assert manifest.fields == {"audio.flac": 3}
    assert manifest.skipped == {
        "truncated wav audio": 1,
        "empty audio file": 1,
        "audio file is not wav": 1,
        "audio with a sample rate of 0": 1,
        "silent or constant audio": 1,
    }


def test_mp3_files_are_read_and_cut(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(20_000) / 8000)
    soundfile.write(tmp_path / "ann_1.mp3", tone, 8000, format="MP3")
    [sample] = make_samples(AudioFolder(pattern="{speaker}_{i}.mp3"), tmp_path)
    assert isinstance(sample, Sample)
    assert sample.members["audio.mp3"] == (tmp_path / "ann_1.mp3").read_bytes()
    assert json.loads(sample.members["labels.json"]) == {"speaker": "ann", "i": "1"}
    raw = MODALITIES["audio"].decode({"mp3": sample.members["audio.mp3"]})
    spectrum = np.abs(np.fft.rfft(raw.samples[0, 2000:18_000]))
    assert spectrum.argmax() == 880, "half-hertz bins"
    assert len(make_samples(AudioFolder(window_s=1), tmp_path)) == 2


def test_an_mp3_file_without_a_stated_length_is_cut_to_its_end(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * 44_100)
    soundfile.write(raw / "a.mp3", noise, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    data = (raw / "a.mp3").read_bytes()
    (raw / "a.mp3").write_bytes(data[scan_frames(data).first :])
    assert soundfile.info(raw / "a.mp3").duration < 10
    for window_s, count, workers in ((None, 1, 1), (3, 6, 2)):
        out = tmp_path / f"{window_s}"
        manifest = build(
            AudioFolder(window_s=window_s), MODALITIES, SplitBy(validation=0, test=0), raw, out, workers=workers
        )
        assert manifest.skipped == {}
        assert manifest.changed["mp3 audio that does not state its length: frames counted"] == count
        split = Split(out, "train")
        members = [split.read(shard, slot) for _, _, shard, slot in split.locations()]
        lengths = [
            soundfile.info(io.BytesIO(data)).duration
            for members_of_sample in members
            for data in members_of_sample["audio"].values()
        ]
        assert sum(lengths) == pytest.approx(20 if window_s is None else 18, abs=0.06)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_recording_without_a_stated_length_ends_with_its_data(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", LONG, 8000, subtype="PCM_16")
    data = bytearray((tmp_path / f"a.{suffix}").read_bytes())
    if suffix == "flac":
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    else:
        data[40:44] = bytes(4)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    first, second = make_samples(AudioFolder(window_s=1), tmp_path)
    np.testing.assert_array_equal(samples_of(first), LONG[:8000])
    np.testing.assert_array_equal(samples_of(second), LONG[8000:16_000])
    [single] = make_samples(AudioFolder(), tmp_path)
    assert isinstance(single, Sample)
    samples, _ = soundfile.read(io.BytesIO(single.members[f"audio.{suffix}"]), dtype="int16")
    np.testing.assert_array_equal(samples, LONG)


def test_telephone_recordings_are_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", LONG[:, 0], 8000, subtype="GSM610")
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        all_frames = file.read(20_000, dtype="float32")
    for number, sample in enumerate(make_samples(AudioFolder(window_s=1), tmp_path)):
        assert isinstance(sample, Sample)
        samples, _ = soundfile.read(io.BytesIO(sample.members["audio.wav"]), dtype="float32")
        np.testing.assert_array_equal(samples, all_frames[number * 8000 : (number + 1) * 8000])


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"window_s": 0}, "window_s is 0"),
        ({"window_s": 2, "stride_s": -1}, "stride_s is -1"),
        ({"stride_s": 1}, "stride_s needs window_s"),
    ],
)
def test_invalid_windows_are_refused(windows: dict[str, float], message: str) -> None:
    from shards.sources.edf import Edf
    from shards.sources.wfdb import Wfdb

    for kind in (AudioFolder, Edf, Wfdb):
        with pytest.raises(ValueError, match=message):
            kind(**windows)  # type: ignore[arg-type]
