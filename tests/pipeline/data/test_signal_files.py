"""A table that names files of signals goes the whole way: shards, pretraining, fine-tuning, predictions, embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import wfdb

from pipeline.commands.build import build_shards
from pipeline.commands.embed import embed_file
from pipeline.commands.predict import predict_file
from pipeline.evaluation.predictor import Settings
from runs import pretrained as pretrain
from sensorium import finetune

RECIPE: dict[str, Any] = {
    "name": "beats",
    "model": {"dim": 32, "depth": 1, "heads": 2, "embedding": 16, "decoder": {"dim": 16, "depth": 1, "heads": 2}},
    "data": {
        "source": {"type": "rows", "file": "old.csv", "columns": {"ecg": "file"}, "labels": ["fast"]},
        "split": {"validation": 0.1, "test": 0.2},
    },
    "modalities": {"ecg": {"type": "signal", "montage": "ecg", "unit": "mV", "sample_rate_hz": 50, "patch_s": 0.5}},
    "objectives": {"masked": {}},
    "train": {"steps": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "workers": 0},
    "evaluate": {"gallery": 10},
}


def write(folder: Path, table: str, numbers: range) -> Path:
    """A table of records of two leads; a fast one beats at 4 Hz, a slow one at 1 Hz."""
    rng = np.random.default_rng(numbers.start)
    for number in numbers:
        wave = np.sin(2 * np.pi * (4 if number % 2 else 1) * np.arange(1000) / 250 + rng.random())
        samples = np.stack([wave, -wave], 1) + 0.1 * rng.standard_normal((1000, 2))
        wfdb.wrsamp(
            f"r{number}", fs=250, units=["mV"] * 2, sig_name=["I", "MLII"], p_signal=samples, fmt=["16"] * 2,
            write_dir=str(folder),
        )  # fmt: skip
    rows = {"file": [f"r{n}" for n in numbers], "fast": ["yes" if n % 2 else "no" for n in numbers]}
    pl.DataFrame(rows).write_csv(folder / table)
    return folder / table


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("raw"), "old.csv", range(24)).parent


def test_a_table_that_names_wfdb_records(raw: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    recipe = {**RECIPE, "data": {**RECIPE["data"], "shards": [{"path": str(shards)}]}}
    build_shards(recipe, raw, shards, workers=1)
    run = pretrain(recipe, out=tmp_path / "run")
    labelled = write(raw, "labelled.csv", range(100, 140))
    settings = Settings(epochs=2, batch_size=8)
    result = finetune(run, labelled, "fast", out=tmp_path / "t", columns={"ecg": "file"}, settings=settings)
    assert (result.labels + result.test, result.skipped) == (40, 0)
    new = write(raw, "new.csv", range(200, 220))
    predict_file(tmp_path / "t", new, tmp_path / "p.parquet", columns={"ecg": "file"})
    predictions = pl.read_parquet(tmp_path / "p.parquet")["fast"].to_list()
    assert sum(predictions[n] == ("yes" if n % 2 else "no") for n in range(20)) >= 18, "1 Hz and 4 Hz are told apart"
    embed_file(run, new, tmp_path / "e.parquet", columns={"ecg": "file"})
    assert len(pl.read_parquet(tmp_path / "e.parquet")) == 20


def test_a_row_whose_record_is_broken_is_named(raw: Path, tmp_path: Path) -> None:
    from modalities.signal import Signal
    from pipeline.data.labelled import load

    ecg = Signal(**{name: value for name, value in RECIPE["modalities"]["ecg"].items() if name != "type"})
    table = write(raw, "broken.csv", range(300, 303))
    (raw / "r300.dat").write_bytes(b"cut")
    (raw / "r301.hea").unlink()
    fitted = ecg.fit([ecg.parse(raw / "r302")])
    with pytest.raises(ValueError, match=r"broken\.csv, row 1: unreadable WFDB record .*--skip-invalid"):
        load(table, {"ecg": fitted}, columns={"ecg": "file"})
    samples = load(table, {"ecg": fitted}, columns={"ecg": "file"}, skip_invalid=True)
    assert samples.skipped == {"row 1": "unreadable WFDB record", "row 2": "signal file is missing"}
