"""The base install imports everything, takes a recipe of tables from shards to scores, and names absent extras."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml
from scipy.io import wavfile

from environments import ROOT, create_environment

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import importlib, pkgutil
import modalities, pipeline, recipes, sensorium, shards
packages = (modalities, pipeline, recipes, sensorium, shards)
names = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
for name in sensorium._LOCATIONS:
    getattr(sensorium, name)
print(len(names))
"""
ABSENT = """
import importlib
for name in ("rdkit", "torchaudio", "wfdb", "Bio", "tifffile", "simplejpeg", "matplotlib", "wandb", "s3fs", "ray"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is installed")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment of the base install."""
    return create_environment(tmp_path_factory.mktemp("environment") / "base")


def run(python: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in the environment, with this source tree as the only other place of modules."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([python, *words], cwd=cwd, env=environment, capture_output=True, text=True)


def sensorium(python: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command `sensorium` in the environment."""
    return run(python, "-m", "pipeline", *words, cwd=cwd)


def write_recipe(
    folder: Path, source: Mapping[str, Any], modality: Mapping[str, Any], name: str = "x", **evaluate: Any
) -> Path:
    """Write a tiny recipe of one modality, named `name`."""
    recipe = {
        "name": "tiny",
        "model": {"dim": 16, "depth": 1, "heads": 2, "embedding": 8, "decoder": {"dim": 16, "depth": 1, "heads": 2}},
        "data": {"source": dict(source), "shards": [{"path": str(folder / "shards")}]},
        "modalities": {name: dict(modality)},
        "objectives": {"masked": {}},
        "train": {"steps": 4, "batch_size": 16, "precision": "fp32", "workers": 0, "log_every": 1},
        "evaluate": {"gallery": 10, **evaluate},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_table(folder: Path) -> Path:
    """Write a table of 100 rows and its recipe, with a probe of the column `kind`."""
    rng = np.random.default_rng(0)
    (folder / "raw").mkdir()
    kinds = rng.integers(2, size=100)
    rows = [f"{'ab'[kind]},{kind + rng.normal():.3f},{rng.normal():.3f}" for kind in kinds]
    (folder / "raw" / "table.csv").write_text("\n".join(["kind,height,weight", *rows]))
    source = {"type": "rows", "file": "table.csv", "columns": {"x": ["height", "weight"]}, "labels": ["kind"]}
    return write_recipe(folder, source, {"type": "table", "mask": {"ratio": 0.5}}, probe="kind")


@pytest.fixture(scope="module")
def trained(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, shards and a run of a table, made in the environment."""
    folder = tmp_path_factory.mktemp("table")
    recipe = write_table(folder)
    for words in (
        ("shards", "build", recipe, "--raw", folder / "raw", "--out", folder / "shards", "--workers", "1"),
        ("pretrain", recipe, "--out", folder / "run"),
    ):
        process = sensorium(python, *words, cwd=folder)
        assert process.returncode == 0, process.stderr[-3000:]
    return folder


def test_every_module_can_be_imported(python: Path, tmp_path: Path) -> None:
    process = run(python, "-c", ABSENT, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    process = run(python, "-c", IMPORT_ALL, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    assert int(process.stdout) > 100


def test_a_recipe_of_tables_runs_from_shards_to_scores(python: Path, trained: Path) -> None:
    process = sensorium(python, "evaluate", trained / "run", cwd=trained)
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads((trained / "run" / "result.json").read_text())
    assert (result["evaluate"]["samples"], result["evaluate"]["probe"]["label"]) == (5, "kind")


def wfdb_record(folder: Path) -> None:
    (folder / "r.hea").write_text("r 1 100 1000\nr.dat 16 200(0)/mV 16 0 0 0 0 I\n")
    np.arange(1000, dtype="<i2").tofile(folder / "r.dat")


def jpeg(folder: Path) -> None:
    PIL.Image.fromarray(np.arange(48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)).save(folder / "a.jpg")


def wave(folder: Path) -> None:
    wavfile.write(folder / "a.wav", 8000, np.arange(8000, dtype=np.int16))


def fasta(folder: Path) -> None:
    (folder / "a.fasta").write_text(">a\nACGTACGTACGT\n")


def smiles(folder: Path) -> None:
    (folder / "a.smi").write_text("CCO ethanol\n")


@pytest.mark.parametrize(
    ("extra", "source", "modality", "write"),
    [
        ("molecules", {"type": "molecules"}, {"type": "smiles"}, smiles),
        ("audio", {"type": "audio", "modality": "x"}, {"type": "spectrogram"}, wave),
        ("biosignals", {"type": "wfdb"}, {"type": "signal", "sample_rate_hz": 100, "patch_s": 0.1}, wfdb_record),
        ("sequences", {"type": "fasta", "dna": "x"}, {"type": "dna"}, fasta),
        ("images", {"type": "images", "modality": "x"}, {"type": "image"}, jpeg),
    ],
)
def test_raw_files_without_their_reader_fail_with_the_name_of_the_extra(
    extra: str, source: dict[str, Any], modality: dict[str, Any], write: Any, python: Path, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    recipe = write_recipe(tmp_path, source, modality, name="smiles" if extra == "molecules" else "x")
    words = ("shards", "build", recipe, "--raw", tmp_path / "raw", "--out", tmp_path / "shards", "--workers", "1")
    process = sensorium(python, *words, cwd=tmp_path)
    assert process.returncode == 2, process.stdout + process.stderr[-3000:]
    line = process.stderr.splitlines()[-1]
    assert f"pip install 'sensorium[{extra}]' or pip install " in line
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("report", ("report", "run")),
        ("tracking", ("pretrain", "recipe.yaml", "train.trackers=[tensorboard]", "--out", "tracked")),
        ("remote", ("pretrain", "recipe.yaml", "data.shards=[{path: s3://bucket/shards}]", "--out", "remote")),
        ("ray", ("shards", "build", "recipe.yaml", "--raw", "raw", "--out", "spread", "--engine", "ray")),
    ],
)
def test_commands_without_their_package_fail_with_the_name_of_the_extra(
    extra: str, words: tuple[str, ...], python: Path, trained: Path
) -> None:
    process = sensorium(python, *words, cwd=trained)
    assert process.returncode == 2, process.stdout + process.stderr[-3000:]
    assert f"pip install 'sensorium[{extra}]' or pip install " in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_doctor_names_the_missing_extras(python: Path, tmp_path: Path) -> None:
    process = sensorium(python, "doctor", "--json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    missing = "\n".join(json.loads(process.stdout)["missing"])
    for extra in ("molecules", "audio", "biosignals", "sequences", "images", "report", "tracking", "remote", "ray"):
        assert f"sensorium[{extra}]" in missing
