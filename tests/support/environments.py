"""Environments of a part of the packages that are installed here, made of links in a second instead of by pip."""

from __future__ import annotations

import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def project() -> dict[str, Any]:
    """The `[project]` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of the installed distributions that pip would install for requirements."""
    names: set[str] = set()
    visited: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in visited or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            visited.add((name, extra))
            names.add(name)
            for line in distribution(name).requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None
                    waiting.append(needed)
    return names


def create_environment(folder: Path, extras: Iterable[str] = ()) -> Path:
    """Create a virtual environment of the base install and extras, without sensorium itself; return its interpreter.

    A package that is not a requirement of pyproject.toml, direct or not, cannot be imported in it.
    """
    table = project()
    lines = [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for name in closure(lines):
        link_distribution(name, site)
    return python


def link_distribution(name: str, site: Path) -> None:
    """Link a distribution's files; a folder that several distributions share is created instead.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    owner = distribution(name)
    if owner.files is None:
        raise PackageNotFoundError(name)
    base, linked = Path(str(owner.locate_file(""))).resolve(), set[str]()
    for file in owner.files:
        if file.parts[0] in ("..", "__pycache__") or file.parts[0] in linked:
            continue
        depth = 1
        while depth < len(file.parts) and not _has_one_owner(base.joinpath(*file.parts[:depth])):
            depth += 1
        if depth == 1:
            linked.add(file.parts[0])
        link = site.joinpath(*file.parts[:depth])
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(base.joinpath(*file.parts[:depth]))


def _has_one_owner(folder: Path) -> bool:
    """Whether a folder is a package, metadata or libraries of a wheel, not a namespace."""
    return (folder / "__init__.py").is_file() or folder.suffix in (".dist-info", ".libs")
