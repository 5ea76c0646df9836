"""Shards and pipeline know modalities by their contract alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import modalities
from modalities.base import MODALITY_TYPES, Modality

ROOT = Path(modalities.__file__).parent.parent
CONCRETE = {
    base.__module__
    for cls in MODALITY_TYPES.values()
    for base in cls.__mro__
    if issubclass(base, Modality) and base is not Modality and base.__module__.startswith("modalities.")
}
"""Modules of modalities and of their common bases."""


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """(file, class) of every class that a file imports from a module of one modality."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in CONCRETE:
                for alias in node.names:
                    if alias.name[0].isupper() and not alias.name.isupper():
                        yield str(path.relative_to(ROOT)), alias.name


def test_no_file_imports_the_class_of_a_modality() -> None:
    assert len(CONCRETE) >= 7
    assert {*imports("shards"), *imports("pipeline"), *imports("sensorium")} == set()


def test_no_file_compares_types_of_modalities() -> None:
    types = set(MODALITY_TYPES)
    for folder in ("shards", "pipeline", "sensorium"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "type":
                    compared = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
                    assert not compared & types, f"{path}:{node.lineno}"
