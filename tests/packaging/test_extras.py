"""Optional packages: the table of extras is that of pyproject.toml, and each missing package is one line."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from environments import ROOT, project
from modalities.extras import EXTRAS, install_command
from modalities.files.reading import MissingPackageError, lazy_import
from modalities.image import Image

MODULES = {"biopython": "Bio"}
"""Names of modules that differ from their package's."""
PACKAGES = ("modalities", "shards", "pipeline", "recipes", "sensorium")


class Blocker:
    """A finder of modules that behaves as if a package were not installed."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def block(package: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a package's module impossible to import, and return its name."""
    module = MODULES.get(package, package)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocker(module), *sys.meta_path])
    return module


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Path and syntax tree of each file of the packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_the_table_of_extras_equals_pyproject() -> None:
    table = project()["optional-dependencies"]
    extras = {name: lines for name, lines in table.items() if name not in ("all", "dev", "docs")}
    assert {Requirement(line).name: extra for extra, lines in extras.items() for line in lines} == EXTRAS
    (everything,) = table["all"]
    assert Requirement(everything).extras == set(extras)


def test_lazy_imports_name_packages_in_pyproject() -> None:
    base = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}
    calls = [
        (path, ast.literal_eval(node.args[1]))
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_import"
        if isinstance(node.args[1], ast.Constant)
    ]
    assert {package for _, package in calls} >= {"rdkit", "simplejpeg", "wfdb", "biopython", "imagehash", "matplotlib"}
    assert [call for call in calls if call[1] not in EXTRAS and canonicalize_name(call[1]) not in base] == []


def test_optional_packages_are_only_imported_lazily() -> None:
    modules = {MODULES.get(package, package) for package in EXTRAS}
    imports = [
        (path, name)
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    ]
    assert [item for item in imports if item[1].partition(".")[0] in modules] == []


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_names_its_extra_in_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = block(package, monkeypatch)
    with pytest.raises(MissingPackageError) as caught:
        lazy_import(module, package)
    line = f"this needs the package '{package}': pip install 'sensorium[{EXTRAS[package]}]' or pip install {package}"
    assert str(caught.value) == line


def test_packages_of_the_base_install_have_no_extra() -> None:
    assert install_command("scipy") == "pip install scipy"


def test_a_jpeg_without_its_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL.Image

    pixels, buffer = np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8), io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "jpeg")
    assert Image().decode({"jpg": buffer.getvalue()}).pixels.shape == (64, 64, 3)
    block("simplejpeg", monkeypatch)
    with pytest.raises(MissingPackageError, match=r"'simplejpeg': pip install 'sensorium\[images\]'"):
        Image().decode({"jpg": buffer.getvalue()})
