"""Pickles that stand in shards others made are never loaded."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modalities.base import Modality
from modalities.files.recording import Recording, to_members
from modalities.image import Image, Picture
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from pipeline.data.loader import TrainingBatches
from pipeline.data.workers import prefetch
from shards.read import Split
from shards.tars import index_tars

TRACES = np.random.default_rng(0).standard_normal((2, 400), np.float32)
RECORDING = Recording(TRACES, ("I", "II"), ("mV", "mV"), 100.0)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def modalities() -> dict[str, Modality]:
    ecg = Signal(montage="ecg", unit="mV", sample_rate_hz=100, patch_s=0.2)
    return {
        "smiles": Smiles().fit(["CCO"]),
        "image": Image(size=16, patch=8).fit([Picture(np.random.default_rng(0).random((16, 16, 1)), ("grey",))]),
        "ecg": ecg.fit([ecg.decode(to_members(RECORDING))]),
        "audio": Spectrogram(),
        "table": Table().fit([{"weight": 1.0}, {"weight": 2.0}]),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_pickles_in_tars_are_never_loaded(modalities: dict[str, Modality], tmp_path: Path, workers: int) -> None:
    sprung = tmp_path / "sprung"
    pickled, buffer = pickle.dumps(Trap(sprung)), io.BytesIO()
    np.save(buffer, np.array([[Trap(sprung)] * 400] * 2, object), allow_pickle=True)
    array = buffer.getvalue()
    for spring in (lambda: pickle.loads(pickled), lambda: np.load(io.BytesIO(array), allow_pickle=True)):
        spring()
        sprung.rmdir()  # the trap works
    description = to_members(RECORDING)["json"]
    faulty = {
        "pkl": {"image.pkl": pickled},
        "png": {"image.png": pickled},
        "pixels": {"image.npy": array},
        "traces": {"ecg.npy": array, "ecg.json": description},
        "bare": {"ecg.npy": pickled, "ecg.json": description},
        "sound": {"audio.npy": array, "audio.json": description},
        "string": {"smiles.pickle": pickled},
        "row": {"table.json": pickled},
        "tensor": {"table.pt": pickled},
    }
    readable = {
        "good": {"smiles.txt": b"CCO"},
        "beside": {"smiles.txt": b"CCO", "notes.pkl": pickled, "labels.pickle": pickled},  # of no modality: not read
    }
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for key, members in {**faulty, **readable}.items():
            for member, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{member}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    index_tars(tmp_path, {})
    size = len(faulty) + len(readable)
    stream = TrainingBatches(
        sets=(Split(tmp_path, "train"),),
        modalities=modalities,
        seed=0,
        block=size,
        batch_size=size,
        micro_batch_size=size,
    )
    (batch,) = prefetch(stream, range(1), workers)
    assert {fault.key for fault in batch.faults} == set(faulty)
    assert sorted(key for key in batch.keys if key) == sorted(readable)
    assert not sprung.exists()
