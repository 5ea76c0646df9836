"""The reference pages are what the code says, and every key of a recipe has a meaning."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script `docs/generate.py` as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_recipe_key_is_documented(generate: ModuleType) -> None:
    assert len(generate.all_parts()) > 30
    assert not generate.missing()


def test_reference_pages_are_up_to_date() -> None:
    """In a process of its own, because other tests register classes that the pages do not have."""
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_keys_have_type_default_unit_and_meaning(generate: ModuleType) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Part:
        """A part.

        Attributes:
            size (px): Side of
                the square.
            window_s: Length.
        """

        size: int | tuple[int, int] = 3
        window_s: float | None
        other: bool = False

    Part.__annotations__.update(size=int | tuple[int, int], window_s=float | None, other=bool)
    rows = [key.row() for key in generate.keys_of(Part)]
    assert rows[0] == "| `size` | integer or [integer, integer] | `3` | px | Side of the square. |"
    assert rows[1] == "| `window_s` | number or `null` | required | s | Length. |"
    assert generate.keys_of(Part)[2].meaning == ""


def test_every_command_and_public_function_has_a_section(generate: ModuleType) -> None:
    pages = generate.pages()
    for command in ("pretrain", "finetune", "shards build", "shards index", "init", "export"):
        assert f"\n## sensorium {command}\n" in pages["commands.md"]
    for function in ("pretrain", "finetune", "build_shards", "export"):
        assert f"sensorium.{function}(" in pages["python.md"]
