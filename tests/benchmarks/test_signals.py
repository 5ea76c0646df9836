"""The benchmarks of signals run, and show what they claim."""

from __future__ import annotations

import pytest

from benchmark import line


@pytest.mark.slow
def test_signals_are_resampled_without_aliasing() -> None:
    rows = line("signal_resampling.py", "--repeats", "5")["rows"]
    aliases = [row["alias_db"] for row in rows if row["alias_db"]["ours"] is not None]
    assert len(aliases) == 7
    assert all(alias["ours"] < -100 < -20 < alias["default"] for alias in aliases)
    assert all(ratio > 0 for row in rows for ratio in row["ratio"].values())


@pytest.mark.slow
def test_windows_with_many_annotations_are_timed() -> None:
    row = line("annotated_windows.py", "--windows", "50", "--annotations", "8000")
    assert row["windows"] == 50
    assert row["growth"].keys() == {"source", "overlap", "walk"}
    assert all(value > 0 for value in row["growth"].values())
