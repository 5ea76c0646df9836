"""WFDB records as samples."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from modalities.base import Modality
from modalities.files.reading import counted_changes
from modalities.files.recording import Recording, from_members
from modalities.signal import Signal
from modalities.table import Table
from outcomes import outcomes
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.base import Sample
from shards.sources.wfdb import Wfdb, parse_comments

ECG = Signal(montage="ecg", unit="mV", sample_rate_hz=100, patch_s=0.1)
MODALITIES: dict[str, Modality] = {"ecg": ECG, "table": Table()}


def record(
    folder: Path,
    name: str,
    leads: tuple[str, ...] = ("I", "MLII", "v5"),
    seconds: float = 4,
    comments: tuple[str, ...] = ("Age: 74", "Sex: Male", "Dx: 426783006,164889003", "free text", "Rx: Unknown"),
    **more: Any,
) -> np.ndarray:
    """A record of noise at 250 Hz, of which the samples `(channels, T)` are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(name)).standard_normal((round(seconds * 250), len(leads)))
    wfdb.wrsamp(
        name,
        fs=250,
        units=more.pop("units", ["mV"] * len(leads)),
        sig_name=list(leads),
        p_signal=samples,
        fmt=["16"] * len(leads),
        comments=list(comments),
        write_dir=str(folder),
        **more,
    )
    return samples.T


def make_samples(source: Wfdb, raw: Path, modalities: dict[str, Modality] = MODALITIES) -> list[Sample | str]:
    return outcomes(source, raw, modalities)


def recording(sample: Sample | str, name: str = "ecg") -> Recording:
    assert isinstance(sample, Sample)
    return from_members({kind: sample.members[f"{name}.{kind}"] for kind in ("npy", "json")})


def labels(sample: Sample | str) -> Any:
    assert isinstance(sample, Sample)
    return json.loads(sample.members["labels.json"])


def test_a_record_with_its_comments(tmp_path: Path) -> None:
    samples = record(tmp_path / "g1", "JS01")
    source = Wfdb(
        columns={"table": ("Age", "Sex", "Height")},
        labels=("Dx", "Rx"),
        flags={"sinus": ("Dx", "426783006"), "flutter": ("Dx", "164890007"), "drug": ("Rx", "1")},
    )
    [sample] = make_samples(source, tmp_path)
    assert isinstance(sample, Sample)
    raw = recording(sample)
    assert raw.channels == ("I", "MLII", "v5"), "names stay as the file has them"
    assert (raw.units, raw.rate_hz, raw.start_s) == (("mV",) * 3, 250.0, 0.0)
    np.testing.assert_allclose(raw.samples, samples, atol=1e-3)
    assert json.loads(sample.members["table.json"]) == {"Age": 74, "Sex": "Male", "Height": None}
    assert labels(sample) == {"Dx": "426783006,164889003", "Rx": None, "sinus": 1, "flutter": 0, "drug": None}
    assert sample.groups == {
        "Age": "74", "Sex": "Male", "Dx": "426783006,164889003", "Rx": "", "record": "JS01",
    }  # fmt: skip
    assert sample.identity == "g1/JS01.hea:0:1000"
    assert make_samples(source, tmp_path / "g1" / "JS01.hea")[0].members == sample.members  # type: ignore[union-attr]


def test_matlab_records(tmp_path: Path) -> None:
    from scipy.io import savemat

    integers = np.random.default_rng(0).integers(-900, 900, (2, 500), dtype=np.int16)
    savemat(tmp_path / "E1.mat", {"val": integers}, format="4")
    lines = ["E1 2 250 500", *(f"E1.mat 16+24 1000(0)/mV 16 0 0 0 0 {lead}" for lead in ("I", "II")), "# Age: 5"]
    (tmp_path / "E1.hea").write_text("\n".join(lines) + "\n")
    [sample] = make_samples(Wfdb(), tmp_path)
    np.testing.assert_allclose(recording(sample).samples, integers / 1000, atol=1e-6)


def test_windows_over_time(tmp_path: Path) -> None:
    samples = record(tmp_path, "a", seconds=5)
    windows = make_samples(Wfdb(window_s=2), tmp_path)
    assert [s.identity for s in windows if isinstance(s, Sample)] == ["a.hea:0:500", "a.hea:500:1000"]
    np.testing.assert_allclose(recording(windows[1]).samples, samples[:, 500:1000], atol=1e-3)
    assert len(make_samples(Wfdb(window_s=2, stride_s=1), tmp_path)) == 4
    assert len(make_samples(Wfdb(window_s=60), tmp_path)) == 1, "a short record is one window"


def test_windows_over_and_around_annotations(tmp_path: Path) -> None:
    samples = record(tmp_path, "100", seconds=4)
    at = np.array([10, 300, 400, 500, 990])
    wfdb.wrann("100", "atr", at, symbol=["N", "N", "V", "V", "N"], write_dir=str(tmp_path))
    over = Wfdb(
        window_s=2, annotations="atr", labels=("symbol", "symbols", "annotations"), flags={"pvc": ("symbols", "V")}
    )
    assert [labels(sample) for sample in make_samples(over, tmp_path)] == [
        {"symbol": "N", "symbols": "N,V", "annotations": 3, "pvc": 1},
        {"symbol": "N", "symbols": "N,V", "annotations": 2, "pvc": 1},
    ]
    around = make_samples(Wfdb(window_s=0.4, annotations="atr", centered=True, labels=("symbol",)), tmp_path)
    beyond = "annotation too near an end of its recording"
    assert [s if isinstance(s, str) else labels(s)["symbol"] for s in around] == [beyond, "N", "V", "V", beyond]
    np.testing.assert_allclose(recording(around[1]).samples, samples[:, 250:350], atol=1e-3)
    record(tmp_path, "unannotated")
    assert make_samples(over, tmp_path)[-1] == "record without annotations"
    centered = Wfdb(files="un*", window_s=0.4, annotations="atr", centered=True)
    assert make_samples(centered, tmp_path)[-1] == "record without annotations"
    (tmp_path / "100.atr").write_bytes(b"\xff")
    assert make_samples(over, tmp_path)[0] == "unreadable WFDB annotations"
    with pytest.raises(ValueError, match="need annotations and window_s"):
        Wfdb(centered=True)


def test_two_annotations_at_one_time_are_two_samples(tmp_path: Path) -> None:
    record(tmp_path, "a")
    wfdb.wrann("a", "atr", np.array([500, 500]), symbol=["N", "+"], aux_note=["", "(AFIB"], write_dir=str(tmp_path))
    outcomes = make_samples(Wfdb(window_s=1, annotations="atr", centered=True), tmp_path)
    assert [sample.identity for sample in outcomes if isinstance(sample, Sample)] == [
        "a.hea:375:625:0",
        "a.hea:375:625:1",
    ]


def test_header_and_annotations_are_parsed_once_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wfdb.io.header

    record(tmp_path, "a", seconds=8)
    wfdb.wrann("a", "atr", np.arange(100, 1900, 100), symbol=["N"] * 18, fs=250, write_dir=str(tmp_path))
    parsed = Counter[str]()
    monkeypatch.setattr(wfdb, "rdrecord", lambda *a, **k: pytest.fail("the header is parsed again"))
    for module, name in ((wfdb.io.header, "parse_header_content"), (wfdb, "rdann")):
        read = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, read=read: parsed.update([name]) or read(*a))
    source = Wfdb(window_s=1, annotations="atr", labels=("annotations",))
    items = list(source.items(tmp_path))
    assert [source._annotation_fields(item)["annotations"] for item in items] == [2, 2, 3, 2, 3, 2, 3, 1]
    assert parsed["rdann"] == 1
    assert parsed["parse_header_content"] == 1
    wfdb.wrann("a", "atr", np.array([100]), symbol=["N"], write_dir=str(tmp_path))
    assert [source._annotation_fields(item)["annotations"] for item in items] == [1, *[0] * 7], "a new file is read"


def test_annotations_are_placed_by_their_own_clock(tmp_path: Path) -> None:
    samples = np.zeros(125 * 40)
    beats = np.arange(2, 38)
    samples[beats * 125] = np.where(beats == 4, 2.0, 1.0)
    samples += 0.01 * np.sin(np.arange(len(samples)) / 7)
    options: dict[str, Any] = {"units": ["mV"], "sig_name": ["II"], "fmt": ["16"], "write_dir": str(tmp_path)}
    wfdb.wrsamp("a", fs=125, p_signal=samples[:, None], **options)
    symbols = ["V" if beat == 4 else "N" for beat in beats]
    wfdb.wrann("a", "atr", beats * 500 + 1, symbol=symbols, fs=500, write_dir=str(tmp_path))
    outcomes = make_samples(Wfdb(window_s=1, annotations="atr", centered=True, labels=("symbol",)), tmp_path)
    assert len(outcomes) == 36
    peaks = {(labels(sample)["symbol"], round(float(recording(sample).samples.max()))) for sample in outcomes}
    assert peaks == {("V", 2), ("N", 1)}
    over = make_samples(Wfdb(window_s=4, annotations="atr", labels=("symbols", "annotations")), tmp_path)
    assert [labels(sample)["annotations"] for sample in over] == [2, *[4] * 8, 2]
    assert [labels(sample)["symbols"] for sample in over] == ["N", "N,V", *["N"] * 8]


def test_annotations_of_a_record_with_several_samples_per_frame(tmp_path: Path) -> None:
    """Annotations without a clock of their own count frames, not samples."""
    samples = np.zeros((1000, 4))
    samples[[300, 600], 0] = 1000
    samples[:, 3] += np.arange(1000) % 5
    samples.astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 1 100 1000\nr.dat 16x4 1000/mV 16 0 0 0 0 II\n")
    wfdb.wrann("r", "atr", np.array([300, 600]), symbol=["N", "V"], write_dir=str(tmp_path))
    normal, ectopic = make_samples(Wfdb(window_s=1, annotations="atr", centered=True, labels=("symbol",)), tmp_path)
    assert isinstance(normal, Sample)
    assert normal.identity == "r.hea:250:350:0"
    for sample, symbol in ((normal, "N"), (ectopic, "V")):
        raw = recording(sample)
        assert (raw.rate_hz, raw.samples.shape, int(raw.samples.argmax())) == (400, (1, 400), 200)
        assert labels(sample) == {"symbol": symbol}


def framed(folder: Path, samples: np.ndarray, rate_hz: float, step: int, **beats: Any) -> None:
    """A record of one lead, `each` samples a frame, with annotations at `at` of a clock of `clock_hz`."""
    folder.mkdir(exist_ok=True)
    samples.astype("<i2").tofile(folder / "r.dat")
    lead = f"r.dat 16x{step} 200(0)/mV 16 0 0 0 0 II"
    (folder / "r.hea").write_text(f"r 1 {rate_hz:g} {len(samples) // step}\n{lead}\n")
    if beats:
        at = np.asarray(beats["at"])
        symbols = beats.get("symbols", "N" * len(at))
        wfdb.wrann("r", "atr", at, symbol=list(symbols), fs=beats["clock_hz"], write_dir=str(folder))


def test_annotations_are_not_rounded_to_frames(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-900, 900, 600)
    framed(tmp_path, samples, 10, 10, at=[96, 97, 100, 196, 399, 599], symbols="NVALRN", clock_hz=100)
    source = Wfdb(window_s=1, annotations="atr", labels=("symbols", "start_s"))
    assert [tuple(labels(sample).values()) for sample in make_samples(source, tmp_path)] == [
        ("N,V", 0), ("A,L", 1), ("", 2), ("R", 3), ("", 4), ("N", 5),
    ]  # fmt: skip
    [single] = make_samples(Wfdb(annotations="atr", labels=("annotations",)), tmp_path)
    assert labels(single) == {"annotations": 6}, "the last lies in the last half of the last frame"


@pytest.mark.parametrize("clock_hz", [250, 1000, 360])
def test_centered_windows_start_at_any_sample(tmp_path: Path, clock_hz: int) -> None:
    samples = np.random.default_rng(0).integers(-5, 5, 250 * 60)
    beats = np.arange(300, len(samples) - 500, 333)
    samples[beats] = 1000
    framed(tmp_path, samples, 1, 250, at=np.round(beats * clock_hz / 250).astype(int), clock_hz=clock_hz)
    outcomes = make_samples(Wfdb(window_s=2, annotations="atr", centered=True), tmp_path)
    assert len(outcomes) == len(beats)
    for sample, beat in zip(outcomes, beats, strict=True):
        raw = recording(sample)
        assert (raw.rate_hz, raw.samples.shape) == (250, (1, 500))
        assert abs(int(raw.samples.argmax()) - 250) <= (clock_hz == 360)
        assert isinstance(sample, Sample)
        assert float(sample.groups["start_s"]) == pytest.approx(beat / 250 - 1, abs=1 / 250 + 1e-9)
    assert outcomes[0].identity == "r.hea:0.2:2.2:0" or clock_hz == 360  # type: ignore[union-attr]


def test_windows_need_not_be_a_multiple_of_frames(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-900, 900, 250 * 60)
    framed(tmp_path, samples, 1, 250)
    half = make_samples(Wfdb(window_s=0.5), tmp_path)
    assert [s.identity for s in half[:3] if isinstance(s, Sample)] == ["r.hea:0:0.5", "r.hea:0.5:1", "r.hea:1:1.5"]
    joined = np.concatenate([recording(sample).samples[0] for sample in half])
    assert [recording(sample).samples.shape[1] for sample in half] == [125] * 120
    np.testing.assert_allclose(joined, samples / 200, atol=1e-6)
    assert [recording(sample).samples.shape[1] for sample in make_samples(Wfdb(window_s=2.5), tmp_path)] == [625] * 24
    strided = make_samples(Wfdb(window_s=1, stride_s=0.1, labels=("start_s",)), tmp_path)
    assert [labels(sample)["start_s"] for sample in strided] == pytest.approx(np.arange(591) / 10)
    np.testing.assert_allclose(recording(strided[3]).samples[0], samples[75:325] / 200, atol=1e-6)


def test_slow_channels_are_cut_to_their_nearest_samples(tmp_path: Path) -> None:
    slow, fast = np.arange(400), np.arange(1600) % 777
    np.hstack([slow[:, None], fast.reshape(-1, 4)]).astype("<i2").tofile(tmp_path / "r.dat")
    lines = ["r 2 100 400", "r.dat 16 100/mV 16 0 0 0 0 EEG C3-A2", "r.dat 16x4 100/mV 16 0 0 0 0 II"]
    (tmp_path / "r.hea").write_text("\n".join(lines) + "\n")
    eeg = Signal(montage="eeg", unit="mV", sample_rate_hz=100, patch_s=0.1)
    windows = make_samples(Wfdb(window_s=0.5025, stride_s=0.4975), tmp_path, {"ecg": ECG, "eeg": eeg})
    assert len(windows) == 8
    for number, sample in enumerate(windows):
        start = number * 199
        np.testing.assert_allclose(recording(sample).samples[0], fast[start : start + 201] / 100, atol=1e-6)
        first = round(start / 4)
        np.testing.assert_allclose(recording(sample, "eeg").samples[0], slow[first : first + 50] / 100, atol=1e-6)


def test_remainders_of_records_are_counted(tmp_path: Path) -> None:
    record(tmp_path / "raw", "a", seconds=5)
    record(tmp_path / "raw", "long", seconds=5.004)
    reason = "end of a recording, shorter than a window, left out"
    for window_s, stride_s, rests in ((2, None, 2), (2.5, None, 1), (2, 1, 1), (6, None, 0), (None, None, 0)):
        with counted_changes() as changes:
            make_samples(Wfdb(window_s=window_s, stride_s=stride_s), tmp_path / "raw")
        assert changes == ({reason: rests} if rests else {}), (window_s, stride_s)
    split = SplitBy(validation=0, test=0)
    manifest = build(Wfdb(window_s=2), MODALITIES, split, tmp_path / "raw", tmp_path / "out", workers=2)
    assert manifest.changed == {reason: 2}


def segmented(folder: Path) -> dict[str, np.ndarray]:
    """A record of 4 s, a gap of 2 s, then 3 s, its list of leads, and another record; what each file holds."""
    parts = {
        "p1_1": record(folder, "p1_1", seconds=4),
        "p1_2": record(folder, "p1_2", seconds=3, comments=("Age: 80",)),
    }
    (folder / "p1.hea").write_text("p1/4 3 250 2250\np1_leads 0\np1_1 1000\n~ 500\np1_2 750\n# Ward: B\n# Age: 70\n")
    (folder / "p1_leads.hea").write_text("p1_leads 1 250 0\n~ 0 200/mV 0 0 0 0 0 I\n")
    return parts | {"other": record(folder, "other", seconds=2)}


def test_segments_stay_with_their_record_and_its_time(tmp_path: Path) -> None:
    parts = segmented(tmp_path)
    source = Wfdb(window_s=1.5, labels=("record", "segment", "start_s", "Ward", "Age"))
    outcomes = make_samples(source, tmp_path)
    assert [outcomes[1], outcomes[-1]] == ["WFDB record of several segments", "empty signal"]
    samples = [sample for sample in outcomes if isinstance(sample, Sample)]
    assert [labels(sample) for sample in samples] == [
        {"record": "other", "segment": None, "start_s": 0.0, "Ward": None, "Age": 74},
        {"record": "p1", "segment": "p1_1", "start_s": 0.0, "Ward": "B", "Age": 74},
        {"record": "p1", "segment": "p1_1", "start_s": 1.5, "Ward": "B", "Age": 74},
        {"record": "p1", "segment": "p1_2", "start_s": 6.0, "Ward": "B", "Age": 80},
        {"record": "p1", "segment": "p1_2", "start_s": 7.5, "Ward": "B", "Age": 80},
    ]
    np.testing.assert_allclose(recording(samples[4]).samples, parts["p1_2"][:, 375:], atol=1e-3)
    alone = make_samples(source, tmp_path / "p1_2.hea")
    assert [labels(sample)["record"] for sample in alone] == ["p1", "p1"]
    manifest = build(
        source, MODALITIES, SplitBy(by="record", validation=0, test=0.5, large=1), tmp_path, tmp_path / "o"
    )
    assert manifest.skipped == {"WFDB record of several segments": 1, "empty signal": 1}
    groups = [{g for _, g, *_ in Split(tmp_path / "o", name).locations()} for name in ("train", "test")]
    assert sorted(groups, key=sorted) == [{"other"}, {"p1"}]


def test_annotations_of_a_multi_segment_record_are_placed_in_its_segments(tmp_path: Path) -> None:
    segmented(tmp_path)
    at = np.array([100, 700, 1200, 1700, 2000])
    wfdb.wrann("p1", "atr", at * 2, symbol=["N", "V", "A", "F", "N"], fs=500, write_dir=str(tmp_path))
    source = Wfdb(files="p1_[12].hea", annotations="atr", labels=("symbols",))
    assert [labels(sample)["symbols"] for sample in make_samples(source, tmp_path)] == ["N,V", "F,N"]
    centered = Wfdb(files="p1_2.hea", annotations="atr", centered=True, window_s=0.4, labels=("symbol", "start_s"))
    assert [labels(sample) for sample in make_samples(centered, tmp_path)] == [
        {"symbol": "F", "start_s": 6.6}, {"symbol": "N", "start_s": 7.8},
    ]  # fmt: skip


def test_channels_are_assigned_to_matching_modalities(tmp_path: Path) -> None:
    record(tmp_path, "a", ("II", "EEG C3-A2", "PLETH"), units=["mV", "uV", "NU"])
    eeg = Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=0.1)
    both: dict[str, Modality] = {"ecg": ECG, "eeg": eeg}
    assert make_samples(Wfdb(), tmp_path, both) == ["signal with an unknown channel"]
    [sample] = make_samples(Wfdb(exclude=("pl*",)), tmp_path, both)
    assert recording(sample, "ecg").channels == ("II",)
    assert recording(sample, "eeg").channels == ("EEG C3-A2",)
    assert recording(sample, "eeg").units == ("uV",)
    modality = Signal(montage="ecg", channels=("II", "V1"), unit="mV", sample_rate_hz=100, patch_s=0.1)
    [sample] = make_samples(Wfdb(), tmp_path, {"ecg": modality})
    assert recording(sample).channels == ("II",)
    assert make_samples(Wfdb(exclude=("*",)), tmp_path) == ["recording without a channel for the recipe"]


def test_file_names_give_fields(tmp_path: Path) -> None:
    record(tmp_path / "p7", "s3_lr")
    record(tmp_path / "p7", "odd")
    bad, good = make_samples(Wfdb(pattern="p{patient}/s{study}_{rate}.hea"), tmp_path)
    assert isinstance(good, Sample)
    assert bad == "file name that is not p{patient}/s{study}_{rate}.hea"
    assert {name: good.groups[name] for name in ("patient", "study", "rate")} == {
        "patient": "7",
        "study": "3",
        "rate": "lr",
    }


def test_a_build_counts_unusable_samples(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for i in range(6):
        record(raw, f"good{i}" + "x" * i, comments=(f"Age: {i}",))
    record(raw, "twice", ("II", "ii"))
    record(raw, "short", seconds=0.05)
    (raw / "empty.hea").write_bytes(b"")
    (raw / "binary.hea").write_bytes(bytes(range(256)))
    (raw / "gone.hea").write_text("gone 1 250 1000\ngone.dat 16 200 16 0 0 0 0 II\n")
    (raw / "rate.hea").write_text("rate 1 0 1000\ngood0.dat 16 200 16 0 0 0 0 II\n")
    (raw / "long.hea").write_text("long 1 250 99999999999\ngood0.dat 16 200 16 0 0 0 0 II\n")
    record(raw, "cut")
    (raw / "cut.dat").write_bytes((raw / "cut.dat").read_bytes()[:100])
    record(raw, "flat")
    (raw / "flat.dat").write_bytes(bytes(6000))
    manifest = build(Wfdb(), MODALITIES, SplitBy(by="record", validation=0, test=0.3), raw, tmp_path / "out")
    assert manifest.fields == {"ecg.json": 6, "ecg.npy": 6}
    assert sum(manifest.skipped.values()) == 9
    assert manifest.skipped["signal with a channel twice"] == 1
    assert manifest.skipped["signal shorter than a patch"] == 1
    assert manifest.skipped["signal with a constant channel"] == 1
    assert manifest.skipped["signal of more than 1,000,000,000 samples"] == 1
    assert manifest.skipped["unreadable WFDB header"] >= 2
    assert manifest.skipped["unreadable WFDB record"] >= 2
    assert sum(len(Split(tmp_path / "out", name)) for name in ("train", "test")) == 6
    with pytest.raises(ValueError, match=r"no file \*\.hea in"):
        next(Wfdb().items(tmp_path / "out"))


def test_signals_without_information_are_counted(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    record(raw, "good")
    for name, change in (
        ("gaps", lambda x: np.where(np.arange(len(x))[:, None] == 7, np.nan, x)),
        ("clipped", lambda x: x.clip(-0.5, 0.5)),
        ("flat", lambda x: x * 0 + 0.25),
    ):
        samples = change(np.random.default_rng(1).standard_normal((1000, 2)))
        wfdb.wrsamp(
            name, fs=250, units=["mV"] * 2, sig_name=["I", "II"], fmt=["16"] * 2, write_dir=str(raw),
            d_signal=np.where(np.isnan(samples), -32768, samples * 1000).astype(np.int64), adc_gain=[1000.0] * 2,
            baseline=[0, 0],
        )  # fmt: skip
    (raw / "rate.hea").write_text("rate 1 0 1000\ngood.dat 16 200 16 0 0 0 0 II\n")
    manifest = build(Wfdb(), MODALITIES, SplitBy(validation=0, test=0), raw, tmp_path / "out")
    assert manifest.fields["ecg.npy"] == 1
    assert manifest.skipped == {
        "signal with samples that are not numbers": 1,
        "signal with a clipped channel": 1,
        "signal with a constant channel": 1,
        "signal with a sample rate of 0 or less": 1,
    }


def test_a_missing_sample_excludes_a_lead_or_a_window(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    samples = np.random.default_rng(0).integers(-900, 900, (2000, 3))
    samples[:100] = -32768  # a monitor before its leads are on
    samples[[700, 1200], [1, 2]] = -32768
    samples.astype("<i2").tofile(raw / "a.dat")
    (raw / "a.hea").write_text(
        "a 3 250 2000\n" + "".join(f"a.dat 16 1000/mV 16 0 0 0 0 {n}\n" for n in ("I", "II", "V1"))
    )
    lenient: dict[str, Modality] = {
        "ecg": Signal(montage="ecg", unit="mV", sample_rate_hz=100, patch_s=0.1, faulty_channels="exclude")
    }
    split = SplitBy(validation=0, test=0)
    strict = build(Wfdb(window_s=2), {"ecg": ECG}, split, raw, tmp_path / "strict")
    assert strict.fields["ecg.npy"] == 1, "windows are judged one by one"
    assert strict.skipped == {"signal with samples that are not numbers": 3}
    manifest = build(Wfdb(window_s=2), lenient, split, raw, tmp_path / "lenient")
    assert (manifest.fields["ecg.npy"], manifest.skipped) == (4, {})
    assert manifest.changed == {
        "recording cut to its longest stretch without missing samples": 1,
        "channel II left out: missing samples": 1,
        "channel V1 left out: missing samples": 1,
    }
    all_records = build(Wfdb(), lenient, split, raw, tmp_path / "whole")
    assert (all_records.fields["ecg.npy"], all_records.skipped) == (1, {})


def test_headers_are_read_ahead_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modalities.files.reading import ContentError
    from shards.sources import biosignals

    reading, maximum, lock = 0, 0, threading.Lock()

    def read(path: Path) -> int:
        nonlocal reading, maximum
        with lock:
            reading += 1
            maximum = max(maximum, reading)
        time.sleep(0.002 * (int(path.name) % 3))
        with lock:
            reading -= 1
        if path.name == "7":
            raise ContentError("seven")
        return int(path.name)

    monkeypatch.setattr(biosignals, "LOOKAHEAD", 8)
    requests: list[int] = []
    paths = (requests.append(n) or Path(str(n)) for n in range(50))
    ahead = biosignals.read_ahead(read, paths)
    assert next(ahead) == (Path("0"), 0)
    assert len(requests) == 8, "no more are read before they are needed"
    rest = list(ahead)
    assert [str(result) for _, result in rest] == [str(n) if n != 7 else "seven" for n in range(1, 50)]
    assert 1 < maximum <= 8


def test_comments_are_numbers_or_texts_or_unknown() -> None:
    lines = ["# Age: 74", "#Sex:Male", "Rx: Unknown", "free text", f"id: {'9' * 400}"]
    assert parse_comments(lines) == {"Age": 74, "Sex": "Male", "Rx": None, "id": "9" * 400}


@pytest.mark.skipif("SENSORIUM_DATA" not in os.environ, reason="SENSORIUM_DATA names no folder of real data")
def test_real_records_of_many_types() -> None:
    folder = Path(os.environ["SENSORIUM_DATA"]) / "ecg"
    assert sum(isinstance(sample, Sample) for sample in make_samples(Wfdb(), folder / "cinc2021")) == 38
    frank = make_samples(Wfdb(window_s=10, files="s0010_re.hea"), folder / "physionet")
    assert len(frank) == 3
    assert ECG.prepare(recording(frank[0])).channels[-3:] == ("VX", "VY", "VZ")
    beats = Wfdb(window_s=1, files="100.hea", annotations="atr", centered=True, labels=("symbol",))
    assert sum(1 for _ in beats.items(folder / "physionet")) > 2000
