"""Every script and notebook in examples/ runs, and leaves what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = {
    "chemist": ("activity/result.json", "predictions.parquet", "model/model.safetensors"),
    "cardiologist": ("run/result.json", "rhythm/result.json"),
    "biologist": ("run/result.json", "genus/result.json", "embeddings.parquet"),
    "audio_researcher": ("run/result.json", "digit/result.json"),
    "data_scientist": ("wine.yaml", "cultivar/result.json", "predictions.parquet"),
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def test_every_script_is_listed() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(RESULTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_quick_start_scripts_run(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(tmp_path / name)]
    result = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "pretrained" in result.stdout
    for file in RESULTS[name]:
        path = tmp_path / name / file
        assert path.stat().st_size > 0
        if path.suffix == ".parquet":
            assert pl.read_parquet(path).height > 50
        if path.suffix == ".json":
            assert json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_cells_run_in_order(path: Path, tmp_path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "commit notebooks without outputs"
    # As in a kernel the main module has no file, so that worker processes do not run the cells again.
    words = [sys.executable, "-c", "\n\n".join(cells)]
    result = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "nearest neighbor" in result.stdout
