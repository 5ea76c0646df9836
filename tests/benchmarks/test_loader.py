"""The benchmark of the loader runs, and refuses sides that hand over other samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_one_line_compares_every_installed_loader(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "loader.py"), "--work", str(tmp_path), "--samples", "8192"]
    done = subprocess.run(
        [*words, "--modalities", "smiles", "--workers", "1", "--repeats", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (line,) = done.stdout.splitlines()
    (row,) = json.loads(line)["rows"]
    assert all(row[name] > 0 for name in ("ours", "webdataset", "datasets", "decode_limit", "ratio_best_peer"))
    assert row["litdata"] is row["streaming"] is None
    assert "litdata and streaming are left out" in done.stderr
    before, after = json.loads(line)["memory"]["smiles"]["anonymous_mib"]
    assert after < 1.1 * before
