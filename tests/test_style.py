"""Files and functions are short, and names are nouns and verbs."""

from __future__ import annotations

from pathlib import Path

from style import EXCEPTIONS, all_violations, violations


def test_files_follow_the_rules_with_few_exceptions() -> None:
    counts = all_violations()
    pairs = {(path, rule) for path, rules in counts.items() for rule in rules}
    assert {f"{path}: {rule}: {counts[path][rule]}" for path, rule in pairs - EXCEPTIONS.keys()} == set()
    assert EXCEPTIONS.keys() - pairs == set(), "these exceptions are no longer needed"
    assert len(EXCEPTIONS) <= 5


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
