"""Registries: names, errors, and classes of installed packages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest

from modalities.registry import Registry


class Base:
    type: ClassVar[str]


class Gray(Base):
    type = "gray"


@pytest.fixture
def registry() -> Registry[Base]:
    return Registry("sensorium.tests")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str, code: str) -> None:
    """Write a package with one entry point to a folder on the path, as pip would."""
    (folder / "plugin_of_test.py").write_text(code)
    info = folder / "plugin_of_test-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-test\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[sensorium.tests]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "plugin_of_test", raising=False)


def test_classes_are_found_by_name(registry: Registry[Base]) -> None:
    assert registry.register(Gray) is Gray
    assert registry.find("gray", "image.type") is registry["gray"] is Gray
    assert list(registry) == ["gray"]
    assert len(registry) == 1
    assert "grey" not in registry


@pytest.mark.parametrize(
    ("name", "hint"), [("grey", "'grey': did you mean 'gray'"), (None, "None; known: gray"), (7, "7; known: gray")]
)
def test_an_unknown_name_is_explained(registry: Registry[Base], name: object, hint: str) -> None:
    registry.register(Gray)
    with pytest.raises(ValueError, match=rf"^image\.type is {hint}"):
        registry.find(name, "image.type")


def test_a_name_is_registered_for_one_class(registry: Registry[Base]) -> None:
    class Other(Base):
        type = "gray"

    registry.register(Gray)
    registry.register(Gray)
    with pytest.raises(ValueError, match=r"Other cannot be registered as 'gray' in sensorium\.tests: .*Gray has"):
        registry.register(Other)


CODE = """
from tests_registry_of_plugin import REGISTRY

@REGISTRY.register
class Sepia:
    type = "sepia"

class Plain:
    type = "plain"
"""


@pytest.fixture
def shared(registry: Registry[Base], monkeypatch: pytest.MonkeyPatch) -> Registry[Base]:
    """The registry, where the plug-in can import it."""
    module = type(sys)("tests_registry_of_plugin")
    module.REGISTRY = registry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_registry_of_plugin", module)
    registry.register(Gray)
    return registry


def test_entry_points_are_loaded_for_unregistered_names(
    shared: Registry[Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "sepia", "plugin_of_test:Sepia", CODE)
    assert shared.find("gray", "image.type") is Gray
    assert "plugin_of_test" not in sys.modules
    assert shared.find("sepia", "image.type").type == "sepia"
    assert sorted(shared) == ["gray", "sepia"]


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("sepia", "plugin_of_test:Missing", r"cannot be loaded \(AttributeError: .*Missing"),
        ("sepia", "no_such_module:Sepia", r"cannot be loaded \(ModuleNotFoundError: .*no_such_module"),
        ("plain", "plugin_of_test:Plain", "is not a class registered as 'plain'"),
        ("brown", "plugin_of_test:Sepia", "is not a class registered as 'brown'"),
    ],
)
def test_a_broken_entry_point_is_named(
    shared: Registry[Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, name, target, CODE)
    with pytest.raises(ValueError, match=f"entry point '{name}' of sensorium.tests in .* 'plugin-of-test' {reason}"):
        shared.find("unknown", "image.type")
    assert shared.find("gray", "image.type") is Gray
