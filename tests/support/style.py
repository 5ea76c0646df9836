"""Style rules that ruff does not know: sizes of files and functions, names that are not nouns or verbs, dataclasses.

`EXCEPTIONS` lists the exceptions with their reasons; the style test fails for any other violation and for an exception
that is no longer needed. `python tests/support/style.py` prints all violations.
"""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_POSITIONAL_FIELDS = 4
"""Frozen dataclasses with more fields take them by keyword alone."""
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Reason why a violation is accepted, by file and rule."""
BANNED_NAMES = frozenset(
    [
        "held",
        "told",
        "made",
        "found",
        "here",
        "wanted",
        "known",
        "kept",
        "seen",
        "said",
        "given",
        "chosen",
        "shown",
        "left",
        "taken",
        "drawn",
        "fits",
        "each",
        "much",
        "most",
        "many",
        "others",
        "own",
        "whole",
        "there",
        "heard",
        "got",
        "advised",
        "asked",
        "grown",
        "spared",
        "altered",
        "turn",
    ]
)
"""Participles, adverbs and pronouns that say nothing about a value: use the noun (`names`, `indices`, `reason`)."""
Node = ast.FunctionDef | ast.AsyncFunctionDef


def python_files() -> list[Path]:
    """Python files under version control, relative to the root."""
    output = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in output.splitlines() if (ROOT / line).exists()]


def bound_names(tree: ast.AST) -> Iterator[str]:
    """Names that code binds: variables, parameters, attributes, functions, classes, import aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name


def positional_fields(node: ast.ClassDef) -> int:
    """Number of fields of a frozen dataclass that a caller may pass by position."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2] == "dataclass":
            options = {keyword.arg for keyword in decorator.keywords if ast.unparse(keyword.value) == "True"}
            if "frozen" in options and "kw_only" not in options:
                fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
                return sum("ClassVar" not in ast.unparse(field.annotation) for field in fields)
    return 0


def violations(path: Path, source: str) -> dict[str, int]:
    """Counts by rule: lines of the file and of long functions, positional fields, uses of banned names."""
    tree = ast.parse(source)
    sizes: dict[str, int] = {}
    lines = len(source.splitlines())
    if lines > MAX_FILE_LINES and path.parts[0] != "tests":
        sizes["file"] = lines
    for node in ast.walk(tree):
        if isinstance(node, Node):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                sizes[f"function {node.name}"] = length
        elif isinstance(node, ast.ClassDef) and positional_fields(node) > MAX_POSITIONAL_FIELDS:
            sizes[f"fields of {node.name}"] = positional_fields(node)
    names = Counter(f"name {name}" for name in bound_names(tree) if name.strip("_").lower() in BANNED_NAMES)
    return sizes | dict(sorted(names.items()))


def all_violations() -> dict[str, dict[str, int]]:
    """Counts by file and rule."""
    counts = {path.as_posix(): violations(path, (ROOT / path).read_text(encoding="utf-8")) for path in python_files()}
    return {name: rules for name, rules in counts.items() if rules}


if __name__ == "__main__":
    for path, rules in all_violations().items():
        for rule, count in rules.items():
            print(f"{path}: {rule}: {count}")
