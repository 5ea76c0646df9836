"""EDF and BDF files as they are found: headers that EDFlib refuses, values as it has them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest

from edf_files import edf
from modalities.files.edf import _decode, read_edf, read_edf_annotations, read_edf_header, read_edf_length_s
from modalities.files.reading import ContentError
from modalities.files.recording import Recording
from modalities.signal import Signal

EEG = Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=0.1)


def noise(count: int = 2000, channels: int = 2, scale: float = 300) -> list[np.ndarray]:
    return [(scale * row).astype(int) for row in np.random.default_rng(0).standard_normal((channels, count))]


def read(path: Path) -> Recording:
    return read_edf(path, lambda labels: {"eeg": [0, 1]}, 0.0, read_edf_length_s(path))["eeg"]


@pytest.mark.parametrize("unit", [b"\xb5V", "µV".encode(), "μV".encode()])
def test_a_unit_in_latin_1_or_utf_8(tmp_path: Path, unit: bytes) -> None:
    edf(tmp_path / "a.edf", digital := noise(), units=(unit, unit))
    with pytest.raises(OSError, match="Physical Dimension"):
        pyedflib.EdfReader(str(tmp_path / "a.edf"))
    raw = EEG.parse(tmp_path / "a.edf")
    assert (raw.units, raw.rate_hz) == (("uV", "uV"), 200)
    np.testing.assert_allclose(raw.samples, np.stack(digital)[[0, 1]] / 10, atol=1e-4)


def test_a_label_with_a_degree_sign_and_an_invalid_date(tmp_path: Path) -> None:
    digital = [*noise(), np.arange(10)]
    labels, units = ("EEG Fp1", "EEG Cz", b"Temp \xb0C"), ("uV", "uV", "C")
    edf(tmp_path / "a.edf", digital, labels, units, (200, 200, 1), start=b"99.99.9900.00.00")
    header = read_edf_header(tmp_path / "a.edf")
    assert ([channel.label for channel in header.signals][-1], header.start) == ("Temp °C", None)
    np.testing.assert_allclose(read(tmp_path / "a.edf").samples, np.stack(digital[:2]) / 10, atol=1e-4)
    edf(tmp_path / "b.edf", noise(), start=b"31.12.8523.59.59")
    assert read_edf_header(tmp_path / "b.edf").start == datetime(1985, 12, 31, 23, 59, 59)


@pytest.mark.parametrize(
    ("name", "samples", "record_s", "rate_hz"),
    [("a.edf", 20, 0.1, 200), ("a.edf", 100, 0.5, 200), ("a.edf", 1000, 7, 1000 / 7), ("a.bdf", 256, 1, 256)],
)
def test_values_equal_those_of_edflib(tmp_path: Path, name: str, samples: int, record_s: float, rate_hz: float) -> None:
    scale = 200_000 if name == "a.bdf" else 300
    edf(tmp_path / name, digital := noise(4 * samples, scale=scale), samples=(samples, samples), record_s=record_s)
    raw = read(tmp_path / name)
    assert raw.rate_hz == pytest.approx(rate_hz)
    np.testing.assert_allclose(raw.samples, np.stack(digital) / (1 if name == "a.bdf" else 10), atol=1e-3, rtol=1e-6)
    header = read_edf_header(tmp_path / name)
    with pyedflib.EdfReader(str(tmp_path / name)) as file:
        for row, (start, count) in ((0, (0, 4 * samples)), (1, (samples - 3, 7)), (1, (samples, 2 * samples))):
            ours = _decode(tmp_path / name, header, row, start, count)
            np.testing.assert_allclose(ours, file.readSignal(row, start, count), rtol=1e-12)


def test_an_inverted_channel_and_one_without_a_scale(tmp_path: Path) -> None:
    edf(tmp_path / "a.edf", digital := noise())
    data = bytearray((tmp_path / "a.edf").read_bytes())
    first = 256 + 2 * (16 + 80 + 8)
    data[first : first + 8], data[first + 16 : first + 24] = data[first + 16 : first + 24], data[first : first + 8]
    (tmp_path / "a.edf").write_bytes(data)
    header = read_edf_header(tmp_path / "a.edf")
    np.testing.assert_allclose(_decode(tmp_path / "a.edf", header, 0, 0, 2000), -digital[0] / 10, atol=1e-4)
    data[first : first + 8] = data[first + 16 : first + 24]
    (tmp_path / "a.edf").write_bytes(data)
    with pytest.raises(ContentError, match="EDF channel whose limits are equal"):
        read(tmp_path / "a.edf")


def test_an_unknown_number_of_records_comes_from_the_file_size(tmp_path: Path) -> None:
    edf(tmp_path / "a.edf", digital := noise(), records=-1)
    assert read_edf_length_s(tmp_path / "a.edf") == 10
    np.testing.assert_allclose(read(tmp_path / "a.edf").samples, np.stack(digital) / 10, atol=1e-4)


def test_numbers_padded_with_nul(tmp_path: Path) -> None:
    import mne

    edf(tmp_path / "a.edf", digital := noise())
    data = bytearray((tmp_path / "a.edf").read_bytes())
    for start, stop in ((0, 8), (184, 192), (236, 244), (244, 252), (252, 256)):
        data[start:stop] = data[start:stop].replace(b" ", b"\0")
    (tmp_path / "a.edf").write_bytes(data)
    assert read_edf_header(tmp_path / "a.edf").records == 10
    raw = read(tmp_path / "a.edf")
    np.testing.assert_allclose(raw.samples, np.stack(digital) / 10, atol=1e-4)
    data[0:8] = b"0       "
    (tmp_path / "a.edf").write_bytes(data)
    theirs = mne.io.read_raw_edf(tmp_path / "a.edf", verbose="error")
    np.testing.assert_allclose(read(tmp_path / "a.edf").samples, 1e6 * theirs.get_data(), atol=1e-3)


def onsets(times: Sequence[float], more: dict[int, bytes] | None = None) -> list[bytes]:
    return [f"+{time:g}\x14\x14\0".encode() + (more or {}).get(n, b"") for n, time in enumerate(times)]


def test_edf_plus_d_files_without_gaps_are_read(tmp_path: Path) -> None:
    texts = onsets(np.arange(10) + 0.25, {3: b"+3.75\x152.5\x14left hand\x14\0", 5: b"+6.5\x14\xe4u\xdferst\x14\0"})
    edf(tmp_path / "a.edf", digital := noise(), reserved="EDF+D", texts=texts)
    with pytest.raises(OSError, match="discontinuous"):
        pyedflib.EdfReader(str(tmp_path / "a.edf"))
    np.testing.assert_allclose(read(tmp_path / "a.edf").samples, np.stack(digital) / 10, atol=1e-4)
    assert read_edf_annotations(tmp_path / "a.edf") == [(3.5, 2.5, "left hand"), (6.25, 0, "äußerst")]


@pytest.mark.parametrize(
    "times", [[*range(5), *range(6, 11)], [0, 0.004, *range(2, 10)], [*range(9), float("nan")], range(9, -1, -1)]
)
def test_records_with_gaps_are_refused_by_name(tmp_path: Path, times: Sequence[float]) -> None:
    edf(tmp_path / "a.edf", noise(), reserved="EDF+D", texts=onsets(times))
    with pytest.raises(ContentError) as caught:
        read(tmp_path / "a.edf")
    assert caught.value.reason == "discontinuous EDF+ file"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-900], "EDF file whose size is not what its header says"),
        (lambda data: data + b"\0\0", "EDF file whose size is not what its header says"),
        (lambda data: data[:252] + b"0   " + data[256:], "unreadable EDF file"),
        (lambda data: data[:252] + b"3   " + data[256:], "unreadable EDF file"),
        (lambda data: data[:244] + b"nan     " + data[252:], "unreadable EDF file"),
        (lambda data: data[:244] + b"0       " + data[252:], "empty signal"),
        (lambda data: b"1" + data[1:], "unreadable EDF file"),
        (lambda data: data[:300], "unreadable EDF file"),
    ],
)
def test_files_of_other_types_are_refused_with_a_reason(tmp_path: Path, change: Any, why: str) -> None:
    edf(tmp_path / "a.edf", noise())
    (tmp_path / "a.edf").write_bytes(change((tmp_path / "a.edf").read_bytes()))
    with pytest.raises(ContentError) as caught:
        read(tmp_path / "a.edf")
    assert caught.value.reason == why


def test_a_plain_edf_file_with_a_channel_named_annotations(tmp_path: Path) -> None:
    digital = [np.zeros(2000, int), *noise()]
    edf(tmp_path / "a.edf", digital, ("EDF Annotations", "EEG Fp1", "EEG Cz"), ("", "uV", "uV"), (200, 200, 200))
    np.testing.assert_allclose(read(tmp_path / "a.edf").samples, np.stack(digital[1:]) / 10, atol=1e-4)
