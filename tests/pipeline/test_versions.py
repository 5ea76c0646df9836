"""A run knows by which versions of parsers its data was made, and warns of data made or read by others."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.embed import embed_file
from pipeline.commands.predict import predict_file
from pipeline.evaluation.predictor import Settings
from pipeline.run import Run
from runs import pretrained as pretrain
from sensorium import evaluate, finetune

Reads = Callable[[], Any]


@pytest.fixture
def run_copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may write to."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def older(shards: Path, tmp_path: Path) -> Path:
    """The same shards as an older RDKit would have made them."""
    folder = Path(shutil.copytree(shards, tmp_path / "older"))
    state = json.loads((folder / "manifest.json").read_text())
    state["versions"]["rdkit"] = "2025.3.6"
    (folder / "manifest.json").write_text(json.dumps(state))
    return folder


def warnings(reads: Reads, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of warnings on standard error."""
    capsys.readouterr()
    reads()
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def warning(data: Path, run: Path, present: str, recorded: str) -> str:
    return (
        f"warning: {data} is read with other versions of packages than the training data of {run}: "
        f"rdkit {present}, not {recorded}"
    )


def test_a_run_records_the_versions_of_its_data_packages(run: Path, shards: Path) -> None:
    packages = ("chembl_structure_pipeline", "imagecodecs", "pillow", "rdkit")
    installed = {n: importlib.metadata.version(n) for n in packages}
    assert Run(run).versions() == installed == json.loads((shards / "manifest.json").read_text())["versions"]


def test_pretraining_warns_about_shards_of_other_versions(
    older: Path, recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["data"]["shards"] = [{"path": str(older)}]
    out, installed = tmp_path / "new", importlib.metadata.version("rdkit")
    for steps in (2, 4):  # a new run, and one that goes on
        assert warnings(partial(pretrain, recipe, [f"train.steps={steps}"], out), capsys) == [
            warning(older, out, installed, "2025.3.6")
        ]
    assert Run(out).versions()["rdkit"] == "2025.3.6"


def test_shards_of_other_versions_are_reported_in_one_line(
    run_copy: Path, shards: Path, older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed, settings = importlib.metadata.version("rdkit"), Settings(mode="linear", labels=20)
    expected = [warning(older, run_copy, "2025.3.6", installed)]

    def tuned(data: Path) -> None:
        finetune(run_copy, data, "qed", out=tmp_path / "tuned", compare=False, settings=settings)

    assert warnings(lambda: evaluate(run_copy, older), capsys) == expected
    assert warnings(lambda: evaluate(run_copy, shards), capsys) == []
    assert warnings(lambda: tuned(older), capsys) == expected
    assert warnings(lambda: tuned(shards), capsys) == []
    assert warnings(lambda: embed_file(run_copy, older, tmp_path / "e.parquet"), capsys) == expected
    assert warnings(lambda: predict_file(tmp_path / "tuned", older, tmp_path / "p.parquet"), capsys) == [
        warning(older, tmp_path / "tuned", "2025.3.6", installed)
    ]


def test_files_are_read_with_the_installed_versions(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new.csv"
    data.write_text("smiles\n" + "CCO\nCCN\nc1ccccc1")
    assert warnings(lambda: embed_file(run_copy, data, tmp_path / "e.parquet"), capsys) == []
    state = Run(run_copy).versions()
    (run_copy / "versions.json").write_text(json.dumps({**state, "rdkit": "2025.3.6"}))
    expected = [warning(data, run_copy, state["rdkit"], "2025.3.6")]
    assert warnings(lambda: embed_file(run_copy, data, tmp_path / "e.parquet"), capsys) == expected
    (run_copy / "versions.json").unlink()
    assert warnings(lambda: embed_file(run_copy, data, tmp_path / "e.parquet"), capsys) == [], "old runs have none"
