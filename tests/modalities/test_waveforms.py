"""Files of recordings as a modality takes them when a user names one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest
import wfdb

from modalities.base import ContentError, Modality
from modalities.recording import Recording, from_members, to_members
from modalities.signal import Signal
from modalities.spectrogram import Spectrogram

ECG = Signal(montage="ecg", unit="mV", sample_rate_hz=100, patch_s=0.2)
EEG = Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=0.2)


def noise(channels: int = 2, count: int = 500) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((channels, count)).astype(np.float32)


def wfdb_record(folder: Path, name: str, leads: tuple[str, ...] = ("I", "MLII")) -> np.ndarray:
    samples = noise(len(leads))
    wfdb.wrsamp(
        name, fs=250, units=["mV"] * len(leads), sig_name=list(leads), p_signal=samples.T.astype(np.float64),
        fmt=["16"] * len(leads), write_dir=str(folder),
    )  # fmt: skip
    return samples


def edf_file(path: Path, labels: tuple[str, ...], rates: tuple[int, ...]) -> list[np.ndarray]:
    samples = [noise(1, 4 * rate)[0].astype(np.float64) for rate in rates]
    with pyedflib.EdfWriter(str(path), len(labels), file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for number, (label, rate) in enumerate(zip(labels, rates, strict=True)):
            limits = {"physical_max": 8.0, "physical_min": -8.0, "digital_max": 32767, "digital_min": -32768}
            unit = "mV" if "ECG" in label else "uV"
            header = {"label": label, "dimension": unit, "sample_frequency": rate, "transducer": "", "prefilter": ""}
            file.setSignalHeader(number, header | limits)
        file.writeSamples(samples)
    return samples


def held(modality: Modality, path: Path) -> Recording:
    return from_members(modality.members(path))


def reason(modality: Modality, path: Path) -> str:
    """Why a file is refused, when it is read or when its members are."""
    with pytest.raises(ContentError) as caught:
        modality.decode(modality.members(path))
    return caught.value.reason


@pytest.mark.parametrize("name", ["a", "a.hea", "a.dat"])
def test_a_wfdb_record_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    samples = wfdb_record(tmp_path, "a")
    raw = held(ECG, tmp_path / name)
    assert (raw.channels, raw.units, raw.rate_hz) == (("I", "MLII"), ("mV", "mV"), 250.0)
    np.testing.assert_allclose(raw.samples, samples, atol=1e-3)
    assert ECG.parse(tmp_path / name).channels == ("I", "II")


def test_of_a_file_of_many_kinds_each_modality_takes_its_own(tmp_path: Path) -> None:
    eeg, ecg, _ = edf_file(tmp_path / "a.EDF", ("EEG Fp1", "ECG ECG", "Temp"), (200, 100, 50))
    raw = held(EEG, tmp_path / "a.EDF")
    assert (raw.channels, raw.units, raw.rate_hz) == (("EEG Fp1",), ("uV",), 200.0)
    np.testing.assert_allclose(raw.samples, [eeg], atol=1e-3)
    raw = held(ECG, tmp_path / "a.EDF")
    assert (raw.channels, raw.units, raw.rate_hz) == (("ECG ECG",), ("mV",), 100.0)
    np.testing.assert_allclose(raw.samples, [ecg], atol=1e-3)
    wfdb_record(tmp_path, "b", ("PLETH", "II"))
    assert held(ECG, tmp_path / "b").channels == ("II",)
    assert reason(EEG, tmp_path / "b") == "signal without any of the recipe's channels"
    assert reason(Signal(sample_rate_hz=100), tmp_path / "a.EDF") == "signal whose channels differ in sample rate"


def test_arrays_come_with_the_json_beside_them(tmp_path: Path) -> None:
    raw = Recording(noise(), ("I", "II"), ("mV", "mV"), 250.0)
    for extension, data in to_members(raw).items():
        (tmp_path / f"a.{extension}").write_bytes(data)
    np.testing.assert_array_equal(held(ECG, tmp_path / "a.npy").samples, raw.samples)
    np.save(tmp_path / "sound.npy", noise(1, 8000) / 8)
    (tmp_path / "sound.json").write_text('{"sample_rate_hz": 8000}')
    audio = Spectrogram(rate_hz=8000, mel_bands=16)
    assert audio.decode(audio.members(tmp_path / "sound.npy")).rate_hz == 8000


CSV = "time_s,II [mV],V1 (uV)\n" + "".join(f"{i / 100},{np.sin(i)},{i * i}\n" for i in range(60))


def test_csv_files_say_their_times_and_units(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + CSV, encoding="utf-8")
    raw = held(ECG, tmp_path / "a.csv")
    assert (raw.channels, raw.units) == (("II", "V1"), ("mV", "uV"))
    np.testing.assert_allclose(raw.times, np.arange(60) / 100)  # type: ignore[arg-type]
    np.testing.assert_allclose(raw.samples, [np.sin(np.arange(60)), np.arange(60) ** 2], rtol=1e-6)
    assert ECG.parse(tmp_path / "a.csv").rate_hz == pytest.approx(100)
    (tmp_path / "b.csv").write_text("I,II\n" + "".join(f"{i},{-i}\n" for i in range(60)))
    assert reason(ECG, tmp_path / "b.csv") == "signal whose sample rate is not a number"
    (tmp_path / "b.json").write_text(json.dumps({"sample_rate_hz": 50, "unit": "uV"}))
    raw = held(ECG, tmp_path / "b.csv")
    assert (raw.channels, raw.units, raw.rate_hz) == (("I", "II"), ("uV", "uV"), 50.0)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", "", "empty signal"),
        ("a.csv", "time_s,II\n", "empty signal"),
        ("a.csv", CSV.replace("II [mV]", "II"), "signal without a unit"),
        ("a.csv", CSV.replace("V1 (uV)", "II [mV]"), "signal with a channel twice"),
        ("a.csv", CSV[: CSV.rindex(",")], "unreadable CSV signal"),
        ("a.csv", CSV.replace("0.5,", "0.5,,"), "unreadable CSV signal"),
        ("a.csv", CSV.replace("3481", "nan"), "signal with samples that are not numbers"),
        ("a.csv", CSV.replace("3481", "much"), "unreadable CSV signal"),
        ("a.csv", CSV.replace(",V1 (uV)", ""), "CSV signal whose columns do not fit its header"),
        ("a.csv", CSV.replace("II [mV]", "I\rI"), "unreadable CSV signal"),
        ("a.csv", CSV.replace("II [mV]", "I" * 200_000), "unreadable CSV signal"),
        ("a.edf", "no EDF", "unreadable EDF file"),
        ("a.edf", "", "unreadable EDF file"),
        ("a.hea", "", "unreadable WFDB header"),
        ("a.hea", "a 1 0 1000\na.dat 16 200 16 0 0 0 0 II\n", "signal with a sample rate of 0 or less"),
        ("a.hea", "a 1 250 1000\ngone.dat 16 200 16 0 0 0 0 II\n", "unreadable WFDB record"),
        ("a.hea", "a 1 250 999999999\ngone.dat 16 200 16 0 0 0 0 II\n", "signal of more than 100,000,000 numbers"),
        ("a.hdf", "", "signal file of the unknown kind .hdf"),
        ("b.json", "{}", "signal file is missing"),
    ],
)
def test_files_that_hold_no_recording_are_refused_by_reason(tmp_path: Path, name: str, content: Any, why: str) -> None:
    (tmp_path / name).write_text(content, newline="")
    path = tmp_path / ("a" + Path(name).suffix if name[0] == "a" else "missing.edf")
    assert reason(ECG, path) == why


@pytest.mark.parametrize(
    ("beside", "why"),
    [("{", "description of a signal is not JSON"), ("[1]", "signal described by what is not an object")],
)
def test_a_csv_described_by_no_description_is_refused(tmp_path: Path, beside: str, why: str) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.json").write_text(beside)
    assert reason(ECG, tmp_path / "a.csv") == why
