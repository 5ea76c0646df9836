"""The script that compares two source trees finds every difference, and none of a tree from itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "same_loss.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_differences_are_lines_and_exit_with_1(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"fish": {"files": {"a.tar": "12"}, "losses": [{"loss": 0.5}, {"loss": 0.25}]}}))
    new.write_text(json.dumps({"fish": {"files": {"a.tar": "13"}, "losses": [{"loss": 0.5}, {"loss": 0.26}]}}))
    process = run("compare", old, new)
    assert process.returncode == 1
    assert process.stdout.splitlines() == [
        'fish.files.a.tar: "12" is now "13"',
        "fish.losses[1].loss: 0.25 is now 0.26",
    ]
    process = run("compare", old, old)
    assert (process.returncode, process.stdout) == (0, "the same: fish\n")


def test_an_unknown_commit_is_named(tmp_path: Path) -> None:
    process = run("versus", "no-such-commit", "--data", tmp_path)
    assert process.returncode == 1
    assert "no-such-commit" in process.stderr


@pytest.mark.slow
def test_a_tree_computes_the_same_values_as_itself(tmp_path: Path) -> None:
    process = run("versus", "HEAD", "--data", tmp_path, "--sets", "molecules")
    assert (process.returncode, process.stdout) == (0, "the same: molecules\n"), process.stderr
