"""Files and functions are short, and names are nouns and verbs."""

from __future__ import annotations

import json
from pathlib import Path

from style import LEFTOVERS, all_violations, violations


def test_files_keep_the_rules_except_for_a_table_that_shrinks() -> None:
    counts, allowed = all_violations(), json.loads(LEFTOVERS.read_text(encoding="utf-8"))
    larger = {
        f"{path}: {rule}: {count}, allowed: {allowed.get(path, {}).get(rule, 0)}"
        for path, rules in counts.items()
        for rule, count in rules.items()
        if count > allowed.get(path, {}).get(rule, 0)
    }
    assert not larger
    assert allowed == counts, "leftovers.json allows more than needed: run python tests/support/style.py"


def test_long_functions_and_banned_names_are_counted() -> None:
    body = "\n".join("    x = 1" for _ in range(50))
    source = f"def f(found, x):\n{body}\nclass A:\n    _kept: int = 0\nfor held in []:\n    x.told = held\n"
    expected = {"function f": 51, "name _kept": 1, "name found": 1, "name held": 1, "name told": 1}
    assert violations(Path("pipeline/x.py"), source) == expected


def test_frozen_dataclasses_of_more_than_four_fields_take_keywords() -> None:
    fields = "".join(f"    {name}: int\n" for name in "abcde")
    counted = {"fields of A": 5}
    assert violations(Path("shards/x.py"), f"@dataclass(frozen=True)\nclass A:\n{fields}") == counted
    assert violations(Path("shards/x.py"), f"@dataclass(frozen=True, kw_only=True)\nclass A:\n{fields}") == {}
    four = fields.replace("a: int", "a: ClassVar[int]")
    assert violations(Path("shards/x.py"), f"@dataclass(frozen=True)\nclass A:\n{four}") == {}


def test_long_files_are_counted_outside_of_tests() -> None:
    source = "x = 1\n" * 401
    assert violations(Path("shards/x.py"), source) == {"file": 401}
    assert violations(Path("tests/test_x.py"), source) == {}
