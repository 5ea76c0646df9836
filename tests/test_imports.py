"""Imports go one way, between packages and within `pipeline`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("modalities", "shards", "pipeline", "sensorium")
"""Each may import itself and those to its left."""
LAYERS = (
    "platforms",
    "machine",
    "model",
    "objectives",
    "recipe",
    "run",
    "data",
    "evaluation",
    "training",
    "commands",
    "draft",
    "cli",
    "__main__",
)
"""Modules and folders of `pipeline`; each may import itself and those to its left."""


def modules(package: str) -> dict[str, Path]:
    """Modules of a package by dotted name."""
    paths = (ROOT / package).rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a module imports, also within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rank(order: tuple[str, ...], module: str, level: int) -> int | None:
    """Position in an order of a dotted name's part at a level, None if it is not in the order."""
    part = (module.split(".") + [""] * level)[level]
    return order.index(part) if part in order else None


def violations(module: str, source: str) -> list[str]:
    """Imports of a module that go against the order of packages or layers."""
    upward_imports = []
    for line, name in imports(source):
        package, imported_package = rank(PACKAGES, module, 0), rank(PACKAGES, name, 0)
        if package is None or imported_package is None:
            continue
        layer, imported_layer = rank(LAYERS, module, 1), rank(LAYERS, name, 1)
        same = package == imported_package == PACKAGES.index("pipeline")
        upward = same and layer is not None and imported_layer is not None and imported_layer > layer
        if imported_package > package or upward:
            upward_imports.append(f"{module}:{line} imports {name}")
    return upward_imports


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    assert not [line for name, path in modules(package).items() for line in violations(name, path.read_text())]


def test_drafting_is_imported_by_sources_and_drafts_alone() -> None:
    users = {
        name
        for package in PACKAGES
        for name, path in modules(package).items()
        if any("shards.sources.drafting" in imported for _, imported in imports(path.read_text()))
    }
    assert not [name for name in users if not name.startswith(("shards.sources.", "pipeline.draft"))]


def test_every_part_of_pipeline_has_a_layer() -> None:
    parts = {name.split(".")[1] for name in modules("pipeline") if "." in name}
    assert parts == set(LAYERS)


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("modalities.text", "from shards.read import Split", False),
        ("shards.read", "import pipeline.run", False),
        ("shards.read", "from modalities.base import Modality", True),
        ("pipeline.data.loader", "from pipeline.training import step", False),
        ("pipeline.data.loader", "from pipeline import commands", False),
        ("pipeline.data.loader", "def f():\n    from pipeline.commands.plan import plan", False),
        ("pipeline.training.step", "from pipeline.data.loader import Cursor\nimport shards.read", True),
        ("pipeline.cli", "import sensorium", False),
    ],
)
def test_an_import_against_the_order_is_found(module: str, line: str, allowed: bool) -> None:
    assert (not violations(module, line)) is allowed
