"""The table of formats names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "formats.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| format")]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_each_row_names_its_tests(row: str) -> None:
    cells = re.split(r"(?<!\\) \| ", row.strip("| "))
    assert len(cells) == 6, "format, variant, how it is read, library, what is refused, test"
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", cells[-1])
    assert named
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"
