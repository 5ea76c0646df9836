"""The benchmarks of sound run, and show what they claim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def line(script: str, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (printed,) = done.stdout.splitlines()
    return json.loads(printed)


@pytest.mark.slow
def test_windows_in_one_pass_are_right() -> None:
    row = line("windows.py", "--minutes", "1", "--window", "2")
    assert row["windows"] == 30
    assert row["wrong"]["source"] == 0 < row["wrong"]["seek"]
    assert all(value > 0 for value in (*row["seconds"].values(), row["ratio"]))


@pytest.mark.slow
def test_the_sharp_filter_keeps_tones_out() -> None:
    rows = line("resampling.py", "--seconds", "1", "--repeats", "3")["rows"]
    aliases = [row["alias_db"] for row in rows if row["alias_db"]["ours"] is not None]
    assert len(aliases) == 6
    assert all(each["ours"] < -100 < -20 < each["default"] for each in aliases)
    assert all(row["ratio"] > 0 for row in rows)
