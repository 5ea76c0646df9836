"""The benchmarks of sound run, and show what they claim."""

from __future__ import annotations

import pytest

from benchmark import line


@pytest.mark.slow
def test_windows_in_one_pass_are_correct() -> None:
    row = line("windows.py", "--minutes", "1", "--window", "2")
    assert row["windows"] == 30
    assert row["wrong"]["source"] == 0 < row["wrong"]["seek"]
    assert all(value > 0 for value in (*row["seconds"].values(), row["ratio"]))


@pytest.mark.slow
def test_the_sharp_filter_removes_tones() -> None:
    rows = line("resampling.py", "--seconds", "1", "--repeats", "3")["rows"]
    aliases = [row["alias_db"] for row in rows if row["alias_db"]["ours"] is not None]
    assert len(aliases) == 6
    assert all(alias["ours"] < -100 < -20 < alias["default"] for alias in aliases)
    assert all(row["ratio"] > 0 for row in rows)
