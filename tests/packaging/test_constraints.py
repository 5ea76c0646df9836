"""constraints.txt pins what pyproject.toml asks for."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from environments import ROOT, project


def test_every_requirement_has_a_pin_within_its_range() -> None:
    rows = [line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pins = {canonicalize_name(name): Version(version) for name, version in rows}
    assert len(pins) == len(rows), "a package is pinned twice"
    table = project()
    lines = [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]
    requirements = [Requirement(line) for line in lines if not line.startswith("sensorium[")]
    assert len(requirements) > 40
    for requirement in requirements:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
