"""Files of recordings as a modality takes them when a user names one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest
import wfdb

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.files.recording import Recording, from_members, to_members
from modalities.files.waveforms import read_wfdb, read_wfdb_extent, read_wfdb_header
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


def recording(modality: Modality, path: Path) -> Recording:
    return from_members(modality.read_members(path))


def reason(modality: Modality, path: Path) -> str:
    """Why a file is refused, when it is read or when its members are."""
    with pytest.raises(ContentError) as caught:
        modality.decode(modality.read_members(path))
    return caught.value.reason


@pytest.mark.parametrize("name", ["a", "a.hea", "a.dat"])
def test_a_wfdb_record_is_read_by_any_of_its_file_names(tmp_path: Path, name: str) -> None:
    samples = wfdb_record(tmp_path, "a")
    raw = recording(ECG, tmp_path / name)
    assert (raw.channels, raw.units, raw.rate_hz) == (("I", "MLII"), ("mV", "mV"), 250.0)
    np.testing.assert_allclose(raw.samples, samples, atol=1e-3)
    assert ECG.parse(tmp_path / name).channels == ("I", "II")


def test_each_modality_reads_its_channels_from_a_mixed_file(tmp_path: Path) -> None:
    eeg, ecg, _ = edf_file(tmp_path / "a.EDF", ("EEG Fp1", "ECG ECG", "Temp"), (200, 100, 50))
    raw = recording(EEG, tmp_path / "a.EDF")
    assert (raw.channels, raw.units, raw.rate_hz) == (("EEG Fp1",), ("uV",), 200.0)
    np.testing.assert_allclose(raw.samples, [eeg], atol=1e-3)
    raw = recording(ECG, tmp_path / "a.EDF")
    assert (raw.channels, raw.units, raw.rate_hz) == (("ECG ECG",), ("mV",), 100.0)
    np.testing.assert_allclose(raw.samples, [ecg], atol=1e-3)
    wfdb_record(tmp_path, "b", ("PLETH", "II"))
    assert recording(ECG, tmp_path / "b").channels == ("II",)
    assert reason(EEG, tmp_path / "b") == "signal without any of the recipe's channels"
    assert reason(Signal(sample_rate_hz=100), tmp_path / "a.EDF") == "signal whose channels differ in sample rate"


def test_arrays_are_read_with_their_json_file(tmp_path: Path) -> None:
    raw = Recording(noise(), ("I", "II"), ("mV", "mV"), 250.0)
    for extension, data in to_members(raw).items():
        (tmp_path / f"a.{extension}").write_bytes(data)
    np.testing.assert_array_equal(recording(ECG, tmp_path / "a.npy").samples, raw.samples)
    np.save(tmp_path / "sound.npy", noise(1, 8000) / 8)
    (tmp_path / "sound.json").write_text('{"sample_rate_hz": 8000}')
    audio = Spectrogram(sample_rate_hz=8000, mel_bands=16)
    assert audio.decode(audio.read_members(tmp_path / "sound.npy")).rate_hz == 8000


CSV = "time_s,II [mV],V1 (uV)\n" + "".join(f"{i / 100},{np.sin(i)},{i * i}\n" for i in range(60))


def test_csv_files_state_times_and_units(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + CSV, encoding="utf-8")
    raw = recording(ECG, tmp_path / "a.csv")
    assert (raw.channels, raw.units) == (("II", "V1"), ("mV", "uV"))
    np.testing.assert_allclose(raw.times, np.arange(60) / 100)  # type: ignore[arg-type]
    np.testing.assert_allclose(raw.samples, [np.sin(np.arange(60)), np.arange(60) ** 2], rtol=1e-6)
    assert ECG.parse(tmp_path / "a.csv").rate_hz == pytest.approx(100)
    (tmp_path / "b.csv").write_text("I,II\n" + "".join(f"{i},{-i}\n" for i in range(60)))
    assert reason(ECG, tmp_path / "b.csv") == "signal whose sample rate is not a number"
    (tmp_path / "b.json").write_text(json.dumps({"sample_rate_hz": 50, "unit": "uV"}))
    raw = recording(ECG, tmp_path / "b.csv")
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
        ("a.csv", CSV.replace(",V1 (uV)", ""), "CSV signal whose columns do not match its header"),
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
def test_files_without_a_recording_are_refused_with_a_reason(tmp_path: Path, name: str, content: Any, why: str) -> None:
    (tmp_path / name).write_text(content, newline="")
    path = tmp_path / ("a" + Path(name).suffix if name[0] == "a" else "missing.edf")
    assert reason(ECG, path) == why


@pytest.mark.parametrize(
    ("beside", "why"),
    [("{", "description of a signal is not JSON"), ("[1]", "signal whose description is not a JSON object")],
)
def test_a_csv_with_an_invalid_description_is_refused(tmp_path: Path, beside: str, why: str) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.json").write_text(beside)
    assert reason(ECG, tmp_path / "a.csv") == why


def header(folder: Path, *lines: str, name: str = "r", encoding: str = "utf-8") -> Path:
    """A WFDB header of these lines."""
    path = folder / f"{name}.hea"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def channels(path: Path, numbers: list[int], start: int, stop: int) -> Recording:
    return read_wfdb(path, lambda labels: {"ecg": numbers}, start, stop)[0]["ecg"]


def test_each_channel_of_a_record_has_its_own_rate(tmp_path: Path) -> None:
    """As in MIMIC-IV: ECG of four samples a frame, a pulse of two, and breath of one, in two files."""
    tone = np.round(1000 * np.sin(2 * np.pi * 260 * np.arange(10_000) / 1000))
    pulse, breath = np.arange(5000) % 700, np.arange(2500) % 900
    frames = [tone.reshape(-1, 4), -tone.reshape(-1, 4), pulse.reshape(-1, 2)]
    np.hstack(frames).astype("<i2").tofile(tmp_path / "m.dat")
    breath.astype("<i2").tofile(tmp_path / "b.dat")
    path = header(
        tmp_path, "r 4 250 2500", "m.dat 16x4 1000/mV 16 0 0 0 0 I", "m.dat 16x4 1000/mV 16 0 0 0 0 II",
        "m.dat 16x2 100/NU 16 0 0 0 0 PLETH", "b.dat 16 10/Ohm 16 0 0 0 0 RESP",
    )  # fmt: skip
    assert read_wfdb_extent(path) == (250, 2500)
    raw = recording(ECG, tmp_path / "r")
    assert (raw.channels, raw.rate_hz, raw.samples.shape) == (("I", "II"), 1000, (2, 10_000))
    np.testing.assert_allclose(raw.samples[0], tone / 1000, atol=1e-6)
    np.testing.assert_allclose(raw.samples[1], -tone / 1000, atol=1e-6)
    window = channels(path, [2], 100, 200)
    assert window.rate_hz == 500
    np.testing.assert_allclose(window.samples[0], pulse[200:400] / 100, atol=1e-6)
    window = channels(path, [3], 100, 200)
    assert window.rate_hz == 250
    np.testing.assert_allclose(window.samples[0], breath[100:200] / 10, atol=1e-6)
    with pytest.raises(ContentError, match="signal whose channels differ in sample rate"):
        channels(path, [0, 3], 0, 100)
    assert reason(Signal(sample_rate_hz=100), tmp_path / "r") == "signal whose channels differ in sample rate"


@pytest.mark.parametrize("start", [0, 1, 700, 65_536, 65_537, 140_000])
def test_differences_are_summed_from_the_beginning(tmp_path: Path, start: int) -> None:
    """Format 8 holds differences, of two channels here, the first of two samples a frame."""
    values = np.cumsum(np.random.default_rng(0).integers(-9, 10, (150_000, 3)), 0)
    first = np.stack([np.repeat(values[:, 0], 2) + np.tile([0, 3], 150_000), np.repeat(values[:, 2], 2)])[0]
    second = values[:, 1]
    differences = np.diff(first, prepend=-500), np.diff(second, prepend=70)
    data = np.hstack([differences[0].reshape(-1, 2), differences[1][:, None]])
    assert np.abs(data[1:]).max() < 100
    data[0] = [3, 3, -4]
    (tmp_path / "r.dat").write_bytes(b"four" + data.astype(np.int8).tobytes())
    path = header(
        tmp_path, "r 2 100 150000", "r.dat 8x2+4 10/mV 12 0 -500 0 0 I", "r.dat 8+4 20(5)/mV 12 0 70 0 0 II"
    )  # fmt: skip
    stop = start + 500
    expected = -500 + np.cumsum(data[:, :2].ravel()), 70 + np.cumsum(data[:, 2])
    np.testing.assert_allclose(channels(path, [0], start, stop).samples[0], expected[0][2 * start : 2 * stop] / 10)
    np.testing.assert_allclose(channels(path, [1], start, stop).samples[0], (expected[1][start:stop] - 5) / 20)


@pytest.mark.parametrize("stated", ["", " 0"])
@pytest.mark.parametrize(("form", "samples"), [("16", 1), ("16x2", 2), ("212", 1)])
def test_a_header_without_a_length_takes_it_from_the_file_size(
    tmp_path: Path, stated: str, form: str, samples: int
) -> None:
    values = np.round(500 * np.sin(np.arange(3600) / 9)).astype(np.int64)
    if form == "212":
        pairs = values.reshape(-1, 2) & 0xFFF
        data = np.stack([pairs[:, 0] & 255, pairs[:, 0] >> 8 | pairs[:, 1] >> 8 << 4, pairs[:, 1] & 255], 1)
        data.astype(np.uint8).tofile(tmp_path / "r.dat")
    else:
        values.astype("<i2").tofile(tmp_path / "r.dat")
    path = header(tmp_path, "# a comment", f"r 1 360{stated}", f"r.dat {form} 200 12 0 0 0 0 II")
    assert read_wfdb_extent(path) == (360, 3600 // samples)
    np.testing.assert_allclose(recording(ECG, path).samples[0], values / 200, atol=1e-6)
    np.testing.assert_allclose(channels(path, [0], 300, 1700).samples[0], values[300 * samples : 1700 * samples] / 200)
    assert reason(ECG, header(tmp_path, "e 1 360", "gone.dat 16 200", name="e")) == "unreadable WFDB record"
    flac = header(tmp_path, "f 1 360", "f.flac 516 200", name="f")
    assert reason(ECG, flac) == "WFDB header without a number of samples"


@pytest.mark.parametrize("line", ["r.dat 16 0 16 0 0 0 0 II", "r.dat 16 0(7)/mV 16 0 0 0 0 II"])
def test_an_uncalibrated_channel_is_not_in_millivolts(tmp_path: Path, line: str) -> None:
    values = np.round(500 * np.sin(np.arange(1000) / 9))
    values.astype("<i2").tofile(tmp_path / "r.dat")
    path = header(tmp_path, "r 1 250 1000", line)
    assert recording(ECG, path).units == ("adu",)
    assert reason(ECG, path) == "uncalibrated signal: its file has no gain"
    plain = Signal(montage="ecg", sample_rate_hz=100, patch_s=0.2)
    with counted_changes() as changes:
        raw = plain.parse(path)
    assert changes == {"channel II is uncalibrated: its numbers are those of the converter": 1}
    np.testing.assert_allclose(raw.samples[0], values - 7 * ("(7)" in line), atol=1e-3)
    bare = header(tmp_path, "b 1 250 1000", "r.dat 16", name="b")
    assert recording(Signal(), bare).channels == ("signal 0",)
    assert recording(Signal(), bare).units == ("adu",)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_non_ascii_letters_in_a_header(tmp_path: Path, encoding: str) -> None:
    np.arange(500).astype("<i2").tofile(tmp_path / "r.dat")
    lines = "r 1 250 500", "r.dat 16 0.2/µV 16 0 0 0 0 Ableitung für II", "# Ort: Köln"
    path = header(tmp_path, *lines, encoding=encoding)
    raw = recording(Signal(sample_rate_hz=250), path)
    assert (raw.channels, raw.units) == (("Ableitung für II",), ("µV",))
    np.testing.assert_allclose(raw.samples[0], np.arange(500) / 0.2)
    assert read_wfdb_header(path).comments == ("Ort: Köln",)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_skewed_record_ends_with_its_last_channel(tmp_path: Path, samples: int) -> None:
    late, early = np.arange(1000 * samples), np.arange(1000 * samples) % 700
    rows = [late.reshape(-1, samples), early.reshape(-1, samples)]
    np.hstack(rows).astype("<i2").tofile(tmp_path / "r.dat")
    form = f"16x{samples}"
    path = header(
        tmp_path, "r 2 250 1000", f"r.dat {form}:8 100/mV 16 0 0 0 0 I", f"r.dat {form} 100/mV 16 0 0 0 0 II"
    )  # fmt: skip
    assert read_wfdb_extent(path) == (250, 992)
    with counted_changes() as changes:
        raw = ECG.parse(path)
    assert changes == {"last samples of a skewed WFDB record left out: not all channels have them": 1}
    np.testing.assert_allclose(raw.samples[0], late[8 * samples :] / 100, atol=1e-6)
    np.testing.assert_allclose(raw.samples[1], early[: 992 * samples] / 100, atol=1e-6)


def test_a_header_without_a_length_reads_no_other_folder(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    np.zeros(100, "<i2").tofile(tmp_path / "n.dat")
    (folder / "n.hea").write_text("n 1 360\n../n.dat 16 200 16 0 0 0 0 II\n")
    with pytest.raises(ContentError, match="unreadable WFDB header"):
        read_wfdb(folder / "n.hea", lambda labels: {"ecg": [0]}, 0, 100)
