"""The changelog, the citation and the page on platforms say what the code says."""

from __future__ import annotations

import re

import yaml
from packaging.requirements import Requirement

from environments import ROOT, project
from pipeline.recipe.renamed import OPTIONS, RENAMED


def code_words(name: str) -> set[str]:
    """Words within backticks of a Markdown file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return {word for span in re.findall(r"`([^`]+)`", text) for word in re.split(r"[\s.:=]+", span)}


def test_the_changelog_lists_every_renamed_key() -> None:
    words = code_words("CHANGELOG.md")
    for row in RENAMED:
        assert row.old.partition("=")[0].rpartition(".")[2] in words, row
        if row.new is not None:
            assert set(re.split("[.=]", row.new)) <= words, row
    for (command, old), new in OPTIONS.items():
        assert {command, old, new} <= words


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project()["version"]
    assert citation["license"] == project()["license"]


def test_the_page_on_platforms_lists_every_extra_and_its_packages() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", (ROOT / "docs/platforms.md").read_text(encoding="utf-8"), re.M)
    extras = {
        name: {Requirement(line).name for line in lines}
        for name, lines in project()["optional-dependencies"].items()
        if name not in ("all", "dev", "docs")
    }
    assert {name: set(packages.split(", ")) for name, packages in rows if name != "all"} == extras
