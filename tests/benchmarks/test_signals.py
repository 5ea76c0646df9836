"""The benchmarks of signals run, and show what they claim."""

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
def test_signals_are_resampled_without_aliases_and_fast() -> None:
    rows = line("signal_resampling.py", "--repeats", "5")["rows"]
    aliases = [row["alias_db"] for row in rows if row["alias_db"]["ours"] is not None]
    assert len(aliases) == 7
    assert all(each["ours"] < -100 < -20 < each["default"] for each in aliases)
    assert all(row["ratio"]["polyphase"] < 1 for row in rows)


@pytest.mark.slow
def test_windows_do_not_walk_all_annotations() -> None:
    row = line("annotated_windows.py", "--windows", "50", "--annotations", "8000")
    assert row["windows"] == 50
    assert row["growth"]["source"] < 2 < row["growth"]["walk"]
    assert row["growth"]["overlap"] < 2
