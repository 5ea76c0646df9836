"""Plain features of every kind of data."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image as Pillow

from modalities.dna import Dna
from modalities.files.pictures import THUMBNAIL_PX
from modalities.files.recording import RHYTHMS_HZ, Recording, to_members
from modalities.files.sound import Audio
from modalities.image import Image
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from pipeline.evaluation.baseline import features


def test_strings_become_token_shares_and_absent_modalities_zeros() -> None:
    dna, table = Dna(kmer=1), Table(min_count=1).fit([{"mass": 1.0}, {"mass": 3.0}])
    row = {"mass": 3.0}
    samples: list[Any] = [
        (
            {"dna": {"txt": b"AAAC"}, "table": {"json": json.dumps(row).encode()}},
            {"dna": dna.tokenize("AAAC"), "table": table.tokenize(row)},
        ),
        ({}, {}),
    ]
    vector = features(samples, {"dna": dna, "table": table})
    np.testing.assert_allclose(vector[0, :6], [0, 0, 0.75, 0.25, 0, 0])
    assert vector[0, 6:].tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]  # the number, not missing, and that it is one
    assert not vector[1].any()


def test_table_rows_become_cells_by_column_in_any_order() -> None:
    table = Table(min_count=1).fit([{"mass": 1.0, "sex": "m"}, {"mass": 3.0, "sex": "f"}])
    rows: list[dict[str, Any]] = [{"mass": 3.0, "sex": "f"}, {"sex": "f", "mass": 3.0}, {"mass": None, "sex": "f"}]
    one, other, missing = (table.plain(row) for row in rows)
    assert one.tolist() == other.tolist() != missing.tolist()


def test_molecules_become_fingerprints() -> None:
    smiles = Smiles().fit(["CCO", "CCN"])
    vector = smiles.plain("CCO")
    assert vector.shape == (2048,)
    assert 0 < vector.sum() < 20


def test_images_become_thumbnails() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:, 0] = 255
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "png")
    image = Image(size=32, patch=8).fit([Image().parse(buffer.getvalue())])
    vector = image.plain(image.parse(buffer.getvalue()))
    red = vector[: THUMBNAIL_PX**2].reshape(THUMBNAIL_PX, THUMBNAIL_PX)
    assert red[:, 0].max() == 0
    assert red[:, -1].min() == 1
    np.testing.assert_allclose(vector[-6:], [0.5, 0, 0, 0.5, 0, 0], atol=1e-6)


def test_images_with_different_bands_are_concatenated() -> None:
    half = {bands: np.zeros((40, 60, *bands), np.uint8) for bands in ((), (3,))}
    for pixels in half.values():
        pixels[:, 30:] = 255
    files = [io.BytesIO(), io.BytesIO()]
    for pixels, file in zip(half.values(), files, strict=True):
        Pillow.fromarray(pixels).save(file, "png")
    samples_of_files = [{"it": {"png": file.getvalue()}} for file in files]
    image = Image(size=32, patch=8).fit([Image().decode(members["it"]) for members in samples_of_files])
    assert set(image.band_names) == {"grey", "red", "green", "blue"}
    samples: list[Any] = [
        (members, {"it": image.tokenize(image.decode(members["it"]))}) for members in samples_of_files
    ]
    vector = features(samples, {"it": image})
    assert vector.shape == (2, 4 * (THUMBNAIL_PX**2 + 2))
    grey = np.array([name == "grey" for name in image.band_names])
    np.testing.assert_allclose(vector[:, -8:-4], [grey * 0.5, ~grey * 0.5])
    np.testing.assert_allclose(vector[:, -4:], [grey * 0.5, ~grey * 0.5])


def test_sounds_become_mel_band_levels() -> None:
    time_s = np.arange(8000) / 8000
    low, high = (Audio(np.sin(2 * np.pi * hz * time_s)[None].astype(np.float32), 8000) for hz in (200, 3000))
    spectrogram = Spectrogram(sample_rate_hz=8000, mel_bands=16, patch=(4, 4)).fit([low, high])
    means = [spectrogram.plain(sound)[:16] for sound in (low, high)]
    assert means[0].argmax() < 4
    assert means[1].argmax() > 12


def test_signals_slower_than_any_band_become_means_and_stds() -> None:
    hours = Recording(np.arange(96, dtype=np.float32)[None], ("Cz",), ("uV",), 1 / 3600)
    signal = Signal(montage="eeg", unit="uV", sample_rate_hz=1 / 3600, patch_s=4 * 3600)
    signal = signal.fit([signal.decode(to_members(hours))])
    assert signal.plain(signal.parse(hours)).shape == (2 * signal.widths[0],)


def test_signals_become_band_powers_by_channel() -> None:
    time_s = np.arange(1000) / 100
    samples = np.stack([np.sin(2 * np.pi * hz * time_s) for hz in (2.03, 10.03)]).astype(np.float32)
    recording = Recording(samples, ("Cz", "Fz"), ("uV", "uV"), 100)
    signal = Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=0.5)
    signal = signal.fit([signal.decode(to_members(recording))])
    vector = signal.plain(signal.parse(recording)).reshape(-1, len(RHYTHMS_HZ) + 1)
    rhythms = {name: vector[signal.vocabulary.id(name)] for name in ("Cz", "Fz")}
    assert rhythms["Cz"][:-1].argmax() == 0
    assert rhythms["Fz"][:-1].argmax() == 2
