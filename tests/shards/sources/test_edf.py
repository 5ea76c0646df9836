"""EDF and BDF files as samples."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest

from edf_files import edf as written
from modalities.base import Modality
from modalities.files.edf import Annotation
from modalities.files.reading import counted_changes
from modalities.files.recording import Recording, from_members
from modalities.signal import Signal
from modalities.table import Table
from outcomes import outcomes
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.base import Sample
from shards.sources.edf import Edf
from shards.sources.edf_annotations import Timeline

MODALITIES: dict[str, Modality] = {
    "eeg": Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=0.5),
    "ecg": Signal(montage="ecg", unit="mV", sample_rate_hz=100, patch_s=0.5),
    "table": Table(),
}
LABELS = ("EEG Fp1", "EEG O2-REF", "ECG ECG")
PERSONS: dict[str, Any] = {
    "pattern": "Subject{subject}_{part}.edf",
    "table": "subject-info.csv",
    "join": {"Subject": "Subject{subject}"},
    "values": {"part": {"1": "rest", "2": "task"}},
    "columns": {"table": ("Age", "Gender")},
    "labels": ("part", "Count quality"),
}


def record(
    path: Path,
    labels: tuple[str, ...] = LABELS,
    seconds: int = 6,
    rates: tuple[int, ...] = (200, 200, 100),
    change: Callable[[np.ndarray], np.ndarray] = lambda samples: samples,
) -> list[np.ndarray]:
    """A file of noise; its samples, channel by channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    kind = pyedflib.FILETYPE_BDFPLUS if path.suffix == ".bdf" else pyedflib.FILETYPE_EDFPLUS
    samples = [change(rng.standard_normal(seconds * rate)) for rate in rates]
    with pyedflib.EdfWriter(str(path), len(labels), file_type=kind) as file:
        for number, (label, rate) in enumerate(zip(labels, rates, strict=True)):
            header = {"label": label, "dimension": "mV" if "ECG" in label else "uV", "sample_frequency": rate}
            limits = {"physical_max": 8.0, "physical_min": -8.0, "digital_max": 32767, "digital_min": -32768}
            file.setSignalHeader(number, {**header, **limits, "transducer": "", "prefilter": ""})
        file.writeSamples(samples)
    return samples


def make_samples(source: Edf, raw: Path, modalities: dict[str, Modality] = MODALITIES) -> list[Sample | str]:
    return outcomes(source, raw, modalities)


def recording(sample: Sample | str, name: str) -> Recording:
    assert isinstance(sample, Sample)
    return from_members({kind: sample.members[f"{name}.{kind}"] for kind in ("npy", "json")})


@pytest.fixture
def persons(tmp_path: Path) -> Path:
    """Two persons at rest and at a task, as EEGMAT has them, and one whom the table lacks."""
    for name in ("Subject00_1", "Subject00_2", "Subject01_1", "Subject07_1"):
        record(tmp_path / "raw" / f"{name}.edf")
    (tmp_path / "raw" / "subject-info.csv").write_text(
        "Subject,Age,Gender,Count quality\nSubject00,21,F,0\nSubject01,18,M,1\n"
    )
    return tmp_path / "raw"


@pytest.mark.parametrize("suffix", ["edf", "bdf", "EDF"])
def test_one_file_gives_eeg_and_ecg(tmp_path: Path, suffix: str) -> None:
    samples = record(tmp_path / f"a.{suffix}")
    [sample] = make_samples(Edf(), tmp_path)
    assert isinstance(sample, Sample)
    eeg, ecg = recording(sample, "eeg"), recording(sample, "ecg")
    assert (eeg.channels, eeg.units, eeg.rate_hz) == (("EEG Fp1", "EEG O2-REF"), ("uV", "uV"), 200.0)
    assert (ecg.channels, ecg.units, ecg.rate_hz) == (("ECG ECG",), ("mV",), 100.0)
    np.testing.assert_allclose(eeg.samples, samples[:2], atol=1e-3)
    np.testing.assert_allclose(ecg.samples, samples[2:], atol=1e-3)
    assert sample.identity == f"a.{suffix}:0:6000"
    assert sample.members.keys() == {"eeg.npy", "eeg.json", "ecg.npy", "ecg.json"}


def test_windows_of_all_modalities_cover_the_same_time(tmp_path: Path) -> None:
    samples = record(tmp_path / "a.edf")
    windows = make_samples(Edf(window_s=2, stride_s=1.5, labels=("start_s",)), tmp_path)
    assert len(windows) == 3
    np.testing.assert_allclose(recording(windows[1], "eeg").samples, [x[300:700] for x in samples[:2]], atol=1e-3)
    np.testing.assert_allclose(recording(windows[1], "ecg").samples, [samples[2][150:350]], atol=1e-3)
    assert json.loads(windows[1].members["labels.json"]) == {"start_s": 1.5}  # type: ignore[union-attr]


def test_subjects_are_joined_with_their_recordings(persons: Path) -> None:
    rest, task, other, missing = make_samples(Edf(**PERSONS), persons)
    assert isinstance(rest, Sample)
    assert isinstance(task, Sample)
    assert isinstance(other, Sample)
    assert json.loads(rest.members["table.json"]) == {"Age": 21, "Gender": "F"}
    assert json.loads(rest.members["labels.json"]) == {"part": "rest", "Count quality": 0}
    assert json.loads(task.members["labels.json"]) == {"part": "task", "Count quality": 0}
    assert json.loads(other.members["table.json"]) == {"Age": 18, "Gender": "M"}
    assert rest.groups["subject"] == task.groups["subject"] == "00"
    assert missing == "recording without a row in the table"


def test_a_build_keeps_each_subject_in_one_split(persons: Path, tmp_path: Path) -> None:
    (persons / "Subject01_2.edf").write_bytes((persons / "Subject00_1.edf").read_bytes()[:700])
    (persons / "notes.edf").write_text("not an EDF file")
    record(persons / "Subject01_3.edf", ("EEG Fp1", "EEG fp1", "ECG ECG"))
    record(persons / "Subject01_4.edf", ("EEG Fp1", "EEG O2", "ECG ECG"), rates=(200, 100, 100))
    record(persons / "Subject01_5.edf", ("EEG Fp1", "Temp", "ECG ECG"))
    split = SplitBy(by="subject", validation=0, test=0.4, large=1)
    manifest = build(Edf(window_s=2, **PERSONS), MODALITIES, split, persons, tmp_path / "out")
    assert manifest.skipped == {
        "unreadable EDF file": 2,
        "signal with a channel twice": 3,
        "signal whose channels differ in sample rate": 3,
        "signal with an unknown channel": 3,
        "recording without a row in the table": 3,
    }
    assert manifest.fields["eeg.npy"] == manifest.fields["ecg.npy"] == manifest.fields["table.json"] == 9
    groups = [{g for _, g, *_ in Split(tmp_path / "out", name).locations()} for name in ("train", "test")]
    assert groups == [{"00"}, {"01"}]


def test_files_without_information_are_counted(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    record(raw / "good.edf")
    record(raw / "clipped.edf", change=lambda samples: samples.clip(-0.5, 0.5))
    record(raw / "flat.edf", change=np.zeros_like)
    (raw / "empty.edf").write_bytes(b"")
    (raw / "png.edf").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999))
    data = bytearray((raw / "good.edf").read_bytes())
    signals = int(data[252:256])
    data[256 + 216 * signals : 264 + 216 * signals] = b"0       "  # samples a record of the first channel
    (raw / "rate.edf").write_bytes(data)
    (raw / "cut.edf").write_bytes((raw / "good.edf").read_bytes()[:-900])
    manifest = build(Edf(), MODALITIES, SplitBy(validation=0, test=0), raw, tmp_path / "out")
    assert manifest.fields["eeg.npy"] == 1
    assert manifest.skipped == {
        "signal with a clipped channel": 1,
        "signal with a constant channel": 1,
        "unreadable EDF file": 2,
        "EDF file whose size is not what its header says": 2,
    }


def test_channels_may_be_excluded(tmp_path: Path) -> None:
    record(tmp_path / "a.edf", ("EEG Fp1", "EOG left", "ECG"))
    assert make_samples(Edf(), tmp_path) == ["signal with an unknown channel"]
    [sample] = make_samples(Edf(exclude=("eog*",)), tmp_path)
    assert recording(sample, "eeg").channels == ("EEG Fp1",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"join": {}}, "table needs a join by one column"),
        ({"table": None}, "table needs a join by one column"),
        ({"join": {"Subject": "{person}"}}, "'person', which is not in the pattern"),
        ({"join": {"Subject": "{subject"}}, "is not text with fields in braces"),
        ({"join": {"Person": "Subject{subject}"}}, "has no column 'Person'"),
        ({"table": "none.csv"}, "no file"),
    ],
)
def test_recipes_that_do_not_match_the_files_are_refused(persons: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_samples(Edf(**{**PERSONS, **changes}), persons)


def test_a_duplicate_subject_in_the_table_is_refused(persons: Path) -> None:
    (persons / "twice.csv").write_text("Subject,Age\nSubject00,1\nSubject00,2\n")
    with pytest.raises(ValueError, match="has two rows with Subject 'Subject00'"):
        make_samples(Edf(**{**PERSONS, "table": "twice.csv"}), persons)


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        next(Edf().items(tmp_path))


@pytest.mark.skipif("SENSORIUM_DATA" not in os.environ, reason="SENSORIUM_DATA names no folder of real data")
def test_the_arithmetic_recipe_reads_the_real_files() -> None:
    from pipeline.recipe.load import load

    recipe = load("arithmetic")
    assert isinstance(recipe.data.source, Edf)
    items = list(recipe.data.source.items(Path(os.environ["SENSORIUM_DATA"]) / "eeg_arithmetic"))
    assert len(items) == 480
    sample = recipe.data.source.make(items[13], recipe.modalities)
    eeg = recipe.modalities["eeg"]
    assert isinstance(eeg, Signal)
    raw = eeg.prepare(recording(sample, "eeg"))
    assert len(raw.channels) == 20
    assert raw.channels[-1] == "A2-A1"
    assert 1 < np.abs(raw.samples).mean() < 100, "in uV"
    assert json.loads(sample.members["labels.json"])["part"] == "task"


NOTES = [(0.0, 2.5, "rest"), (2.5, 2.0, "left, hand"), (4.5, 1.5, "rest"), (1.0, -1, "blink"), (4.2, -1, "blink")]


def annotated(path: Path, notes: list[tuple[float, float, str]] = NOTES) -> list[np.ndarray]:
    """A file of six seconds with annotations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = [np.random.default_rng(n).standard_normal(1200) for n in range(2)]
    with pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for number, label in enumerate(("EEG Fp1", "EEG O2")):
            limits = {"physical_max": 8.0, "physical_min": -8.0, "digital_max": 32767, "digital_min": -32768}
            header = {"label": label, "dimension": "uV", "sample_frequency": 200, "transducer": "", "prefilter": ""}
            file.setSignalHeader(number, header | limits)
        file.writeSamples(samples)
        for note in notes:
            file.writeAnnotation(*note)
    return samples


def annotations_of(source: Edf, raw: Path) -> list[Any]:
    return [s if isinstance(s, str) else json.loads(s.members["labels.json"]) for s in make_samples(source, raw)]


def test_windows_are_labeled_by_the_annotations_that_cover_them(tmp_path: Path) -> None:
    annotated(tmp_path / "a.edf")
    fields = ("symbol", "symbols", "annotations")
    assert [
        tuple(row.values()) for row in annotations_of(Edf(window_s=2, annotations="overlap", labels=fields), tmp_path)
    ] == [
        ("rest", "blink,rest", 2),
        ("left, hand", "left, hand,rest", 2),
        ("rest", "blink,left, hand,rest", 3),
    ]
    annotated(tmp_path / "b.edf", [(5.0, -1, "b"), (5.1, -1, "b"), (5.2, -1, "a")])
    source = Edf(window_s=3, annotations="overlap", labels=fields, flags={"a": ("symbols", "a")})
    assert annotations_of(source, tmp_path / "b.edf") == [
        {"symbol": None, "symbols": "", "annotations": 0, "a": 0},
        {"symbol": "b", "symbols": "a,b", "annotations": 3, "a": 1},
    ]


def test_a_flag_matches_text_with_a_comma(tmp_path: Path) -> None:
    annotated(tmp_path / "a.edf", [(0.0, 2.0, "seizure, left temporal"), (2.0, 4.0, "rest")])
    source = Edf(
        window_s=2,
        annotations="overlap",
        flags={"seizure": ("symbols", "seizure, left temporal"), "other": ("symbols", "seizure")},
        labels=("symbols",),
    )
    assert annotations_of(source, tmp_path)[:2] == [
        {"symbols": "seizure, left temporal", "seizure": 1, "other": 0},
        {"symbols": "rest", "seizure": 0, "other": 0},
    ]
    [first, *_] = make_samples(source, tmp_path)
    assert isinstance(first, Sample)
    assert first.groups["symbols"] == "seizure, left temporal"


def test_windows_from_and_around_annotations(tmp_path: Path) -> None:
    samples = annotated(tmp_path / "a.edf")
    onset = Edf(window_s=2, annotations="onset", labels=("symbol", "start_s"))
    beyond = "annotation too near an end of its recording"
    windows = annotations_of(onset, tmp_path)
    assert windows.count(beyond) == 2, "windows that would end after the file are left out and counted"
    assert sorted((row["start_s"], row["symbol"]) for row in windows if row != beyond) == [
        (0.0, "rest"), (1.0, "blink"), (2.5, "left, hand"),
    ]  # fmt: skip
    at = next(s for s in make_samples(onset, tmp_path) if isinstance(s, Sample) and s.groups["symbol"] == "left, hand")
    np.testing.assert_allclose(recording(at, "eeg").samples, [x[500:900] for x in samples], atol=1e-3)
    centered = annotations_of(Edf(window_s=2, annotations="centered", labels=("start_s",)), tmp_path)
    assert sorted(row["start_s"] for row in centered if row != beyond) == [0.0, 1.5, 3.2, 3.5]
    assert centered.count(beyond) == 1


def test_no_two_windows_are_the_same_sample(tmp_path: Path) -> None:
    annotated(tmp_path / "a.edf", [(2.5, -1, "blink"), (2.5, 1.0, "left hand")])
    for how in ("onset", "centered"):
        both = make_samples(Edf(window_s=1, annotations=how), tmp_path)  # type: ignore[arg-type]
        assert len({sample.identity for sample in both if isinstance(sample, Sample)}) == 2
    with pyedflib.EdfWriter(str(tmp_path / "long.edf"), 1, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        limits = {"physical_max": 8.0, "physical_min": -8.0, "digital_max": 32767, "digital_min": -32768}
        header = {"label": "EEG Fp1", "dimension": "uV", "sample_frequency": 1, "transducer": "", "prefilter": ""}
        file.setSignalHeader(0, header | limits)
        file.writeSamples([np.random.default_rng(0).standard_normal(10_020)])
    last = make_samples(Edf(window_s=0.5, stride_s=0.25), tmp_path / "long.edf")[-40:]
    assert len({sample.identity for sample in last if isinstance(sample, Sample)}) == 40


def test_invalid_annotations_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "plain.edf")
    assert make_samples(Edf(annotations="overlap"), tmp_path) == ["recording without annotations"]
    assert make_samples(Edf(window_s=2, annotations="onset"), tmp_path) == ["recording without annotations"]
    for wrong in ({}, {"window_s": 2.0, "stride_s": 1.0}):
        with pytest.raises(ValueError, match="annotations 'onset' need window_s and no stride_s"):
            Edf(annotations="onset", **wrong)  # type: ignore[arg-type]


SLEEP: dict[str, Any] = {
    "files": "*-PSG.edf",
    "pattern": "{night:7}{rest}-PSG.edf",
    "annotation_file": "{night}*-Hypnogram.edf",
    "annotations": "overlap",
    "window_s": 2,
    "labels": ("symbol",),
}


def hypnogram(path: Path, notes: list[tuple[float, float, str]], start: datetime) -> None:
    with pyedflib.EdfWriter(str(path), 0, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setStartdatetime(start)
        for note in notes:
            file.writeAnnotation(*note)


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """Six seconds of sleep, as of Sleep-EDF: recording and stages in two files."""
    noise = [np.random.default_rng(n).standard_normal(1200) for n in range(2)]
    with pyedflib.EdfWriter(str(tmp_path / "SC4001E0-PSG.edf"), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setStartdatetime(datetime(1989, 4, 24, 16, 13))
        for number, label in enumerate(("EEG Fp1", "EEG O2")):
            limits = {"physical_max": 8.0, "physical_min": -8.0, "digital_max": 32767, "digital_min": -32768}
            header = {"label": label, "dimension": "uV", "sample_frequency": 200, "transducer": "", "prefilter": ""}
            file.setSignalHeader(number, header | limits)
        file.writeSamples(noise)
    return tmp_path


STAGES = [(0.0, 2.0, "Sleep stage W"), (2.0, 2.0, "Sleep stage 1"), (4.0, 2.0, "Sleep stage 2")]


def test_stages_of_a_second_file_are_joined(night: Path) -> None:
    assert annotations_of(Edf(**SLEEP), night) == ["recording with no file of annotations"] * 3
    hypnogram(night / "SC4001EC-Hypnogram.edf", STAGES, datetime(1989, 4, 24, 16, 13))
    expected = [{"symbol": f"Sleep stage {stage}"} for stage in "W12"]
    assert annotations_of(Edf(**SLEEP), night) == expected
    onset = Edf(**{**SLEEP, "annotations": "onset", "window_s": 1.0, "labels": ("symbol", "start_s")})
    assert [(row["start_s"], row["symbol"][-1]) for row in annotations_of(onset, night)] == [
        (0.0, "W"),
        (2.0, "1"),
        (4.0, "2"),
    ]
    hypnogram(night / "SC4001EC-Hypnogram.edf", STAGES[:2], datetime(1989, 4, 24, 16, 13, 2))
    assert annotations_of(Edf(**SLEEP), night) == [{"symbol": None}, *expected[:2]], (
        "its times count from its own beginning"
    )
    hypnogram(night / "SC4001EP-Hypnogram.edf", STAGES, datetime(1989, 4, 24, 16, 13))
    assert annotations_of(Edf(**SLEEP), night) == ["recording with several files of annotations"] * 3


@pytest.mark.parametrize(
    ("late_s", "stages_late_s", "starts_s"),
    [(0, 0, [2.0, 4.0]), (0.5, 0, [1.5, 3.5]), (0, 0.5, [2.5, 4.5]), (0.25, 0.75, [2.5, 4.5])],
)
def test_both_files_state_the_start_of_their_first_record(
    tmp_path: Path, late_s: float, stages_late_s: float, starts_s: list[float]
) -> None:
    """Headers say whole seconds; the first annotation of the first record says the rest."""
    texts = [f"+{n + late_s:g}\x14\x14\0".encode() for n in range(10)]
    digital = np.random.default_rng(0).integers(-900, 900, 2000)
    channel: Any = (("EEG Fp1",), ("uV",), (200,))
    written(tmp_path / "SC4001E0-PSG.edf", [digital], *channel, reserved="EDF+C", texts=texts)
    notes = f"+{stages_late_s:g}\x14\x14\0+{2 + stages_late_s:g}\x152\x14W\x14\0+{4 + stages_late_s:g}\x152\x141\x14\0"
    silent = [np.zeros(1, int)]
    written(
        tmp_path / "SC4001EC-Hypnogram.edf", silent, ("Marker",), ("",), (1,), reserved="EDF+C", texts=[notes.encode()]
    )
    source = Edf(**{**SLEEP, "annotations": "onset", "window_s": 1, "labels": ("start_s", "symbol")})
    assert [list(row.values()) for row in annotations_of(source, tmp_path)] == [[starts_s[0], "W"], [starts_s[1], "1"]]
    overlap = Edf(**{**SLEEP, "window_s": 0.5, "labels": ("symbol",)})
    stages = [row["symbol"] for row in annotations_of(overlap, tmp_path)]
    assert stages.index("W") == starts_s[0] / 0.5
    assert stages.index("1") == starts_s[1] / 0.5


def test_a_second_file_without_a_date_cannot_be_aligned(night: Path) -> None:
    path = night / "SC4001EC-Hypnogram.edf"
    hypnogram(path, STAGES, datetime(1989, 4, 24, 16, 13))
    data = path.read_bytes()
    path.write_bytes(data[:168] + b"xx.xx.xx" + data[176:])
    assert annotations_of(Edf(**SLEEP), night) == ["EDF file whose date cannot be read"] * 3


def test_a_second_file_is_named_by_fields_of_the_pattern() -> None:
    with pytest.raises(ValueError, match=r"'{person}\.edf' uses the field 'person', which is not in the pattern"):
        Edf(**{**SLEEP, "annotation_file": "{person}.edf"})
    with pytest.raises(ValueError, match="annotation_file needs annotations"):
        Edf(annotation_file="{record}.edf")
    with pytest.raises(ValueError, match="without '/'"):
        Edf(annotation_file="../{record}.edf", annotations="overlap")


def test_windows_over_bad_segments_are_skipped_and_counted(tmp_path: Path) -> None:
    annotated(tmp_path / "raw" / "a.edf", [(2.5, 0.2, "BAD_acq_skip"), (5.9, 0.0, "bad"), (0.5, 0.2, "no BAD")])
    split = SplitBy(validation=0, test=0)
    manifest = build(Edf(window_s=1), {"eeg": MODALITIES["eeg"]}, split, tmp_path / "raw", tmp_path / "cut")
    assert manifest.fields["eeg.npy"] == 4
    assert manifest.skipped == {"window over an annotation that begins with 'bad'": 2}
    manifest_of_all = build(Edf(), {"eeg": MODALITIES["eeg"]}, split, tmp_path / "raw", tmp_path / "whole")
    assert (manifest_of_all.fields["eeg.npy"], manifest_of_all.skipped) == (1, {})
    assert manifest_of_all.changed == {"recording taken whole, over annotations that begin with 'bad'": 1}


@pytest.mark.parametrize("text", ["BADTRIAL", "badchannel Fp1", "Bad: cough"])
def test_annotations_that_start_with_bad_are_rejected_as_in_mne(tmp_path: Path, text: str) -> None:
    import mne

    annotated(tmp_path / "a.edf", [(2.0, 1.0, text)])
    raw = mne.io.read_raw_edf(tmp_path / "a.edf", preload=True, verbose="error")
    windows = mne.make_fixed_length_epochs(raw, 1.0, reject_by_annotation=True, verbose="error").drop_bad(
        verbose="error"
    )
    outcome = make_samples(Edf(window_s=1), tmp_path, {"eeg": MODALITIES["eeg"]})
    assert [n for n, item in enumerate(outcome) if isinstance(item, Sample)] == windows.selection.tolist()
    assert outcome[2] == "window over an annotation that begins with 'bad'"


def test_a_timeline_equals_a_search_of_all_annotations() -> None:
    rng = np.random.default_rng(0)
    onsets, lengths = rng.integers(0, 200, 300) / 10, rng.choice([0, 0.1, 0.3, 2, 15], 300)
    texts = rng.choice(["rest", "bad", "Bad_2"], 300, p=[0.9, 0.05, 0.05])
    notes = [Annotation(*fields) for fields in zip(onsets.tolist(), lengths.tolist(), texts.tolist(), strict=True)]
    for some in (notes, notes[:20], notes[:1], []):
        timeline = Timeline(some)
        for tenths in range(-10, 380):
            start, stop = tenths / 10, (tenths + 7) / 10
            inside = [
                note
                for note in some
                if round(10 * note.onset_s) < tenths + 7
                and (round(10 * (note.onset_s + note.length_s)) > tenths or round(10 * note.onset_s) >= tenths)
            ]
            assert sorted(timeline.within(start, stop)) == sorted(inside)
            assert timeline.is_bad(start, stop) == any(note.text != "rest" for note in inside)


def test_annotations_are_scanned_once_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    annotated(tmp_path / "a.edf", [(n, 0.005, "click") for n in range(6)])
    walked: list[int] = []

    class Counted(Timeline):
        def __init__(self, annotations: Any):
            walked.append(len(annotations))
            super().__init__(annotations)

    monkeypatch.setattr("shards.sources.edf_annotations.Timeline", Counted)
    assert len(make_samples(Edf(window_s=0.5), tmp_path)) == 12
    assert walked == [6]
    annotated(tmp_path / "a.edf", [(1.0, 0.5, "bad")])
    assert make_samples(Edf(window_s=0.5), tmp_path)[2] == "window over an annotation that begins with 'bad'", (
        "read again"
    )


def test_no_sample_is_lost_between_whole_milliseconds(tmp_path: Path) -> None:
    digital = np.random.default_rng(0).integers(-900, 900, 3 * 1111)
    written(tmp_path / "a.edf", [digital], ("EEG Fp1",), ("uV",), (1111,), 0.5555)  # 2 kHz
    eeg: dict[str, Modality] = {"eeg": Signal(montage="eeg", unit="uV", sample_rate_hz=1000, patch_s=0.005)}
    [single] = make_samples(Edf(), tmp_path, eeg)
    assert isinstance(single, Sample)
    assert single.identity == "a.edf:0:1666.5"
    np.testing.assert_allclose(recording(single, "eeg").samples[0], digital / 10, atol=1e-4)
    samples = eeg["eeg"].parse(tmp_path / "a.edf").samples
    assert samples.shape == (1, 3333)
    with counted_changes() as changes:
        windows = make_samples(Edf(window_s=0.0105), tmp_path, eeg)
    assert [recording(window, "eeg").samples.shape[1] for window in windows] == [21] * 158
    assert [window.identity for window in windows[:3] if isinstance(window, Sample)] == [
        "a.edf:0:10.5", "a.edf:10.5:21", "a.edf:21:31.5",
    ]  # fmt: skip
    joined = np.concatenate([recording(window, "eeg").samples[0] for window in windows])
    np.testing.assert_allclose(joined, digital[: 158 * 21] / 10, atol=1e-4)
    assert changes == {"end of a recording, shorter than a window, left out": 1}


def test_remainders_of_recordings_are_counted(tmp_path: Path) -> None:
    annotated(tmp_path / "raw" / "a.edf", [(3.5, 0.1, "bad")])
    annotated(tmp_path / "raw" / "b.edf")
    reason = "end of a recording, shorter than a window, left out"
    for settings, rests in (
        ({"window_s": 4}, {reason: 2}),
        ({"window_s": 2}, {}),
        ({"window_s": 7}, {}),
        ({"window_s": 4, "stride_s": 1}, {}),
        ({"window_s": 4, "stride_s": 1.5}, {reason: 2}),
        ({"window_s": 1, "stride_s": 2}, {}),
        ({"window_s": 1, "stride_s": 5.5}, {reason: 2}),
        ({"window_s": 4, "annotations": "onset"}, {}),
    ):
        with counted_changes() as changes:
            make_samples(Edf(**settings), tmp_path / "raw")  # type: ignore[arg-type]
        assert changes == rests, settings
    split = SplitBy(validation=0, test=0)
    eeg = {"eeg": MODALITIES["eeg"]}
    manifest = build(Edf(window_s=4), eeg, split, tmp_path / "raw", tmp_path / "out", workers=2)
    assert manifest.skipped == {"window over an annotation that begins with 'bad'": 1}
    assert manifest.changed == {reason: 2}, "also where the last window is left out"


def test_recordings_are_not_read_until_samples_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards.sources import edf

    record(tmp_path / "a.edf")
    monkeypatch.setattr(edf, "read_edf_length_s", lambda path: pytest.fail("read"))
    assert [item.path.name for item in Edf().items(tmp_path)] == ["a.edf"]


def test_missing_values_in_the_table_of_subjects(persons: Path) -> None:
    with counted_changes() as changes:
        rest, _, other, _ = make_samples(Edf(**PERSONS, missing={"Age": (21,)}), persons)
    assert isinstance(rest, Sample)
    assert isinstance(other, Sample)
    assert json.loads(rest.members["table.json"]) == {"Age": None, "Gender": "F"}
    assert json.loads(other.members["table.json"]) == {"Age": 18, "Gender": "M"}
    assert changes == {"Age: '21' is missing": 1}
