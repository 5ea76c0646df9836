"""The README and the pages of the site: their links, commands and recipes are valid, and the site builds."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipeline.cli import app
from pipeline.recipe.load import load, parse_overrides

ROOT = Path(__file__).parents[2]
SITE = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "findings" / "README.md", *SITE]
RECIPE_KEYS = {"data", "train", "modalities", "evaluate", "model", "objectives", "size", "masking", "name"}


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> Iterator[list[str]]:
    """The words after `sensorium` of every command in a page."""
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["sensorium"]:
                yield words[1:]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that words call, and its arguments."""
    command = typer.main.get_command(app)
    while children := getattr(command, "commands", None):
        assert words[0] in children, words
        command, words = children[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_on_a_page_exist(path: Path) -> None:
    for words in commands(path):
        command, arguments = find_command(words)
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        for argument in arguments:
            assert not argument.startswith("--") or argument.partition("=")[0] in options, words
            key, equals, _ = argument.partition("=")
            if equals and re.fullmatch(r"\w+(\.\w+)+", key):
                assert key.split(".")[0] in RECIPE_KEYS
                parse_overrides([argument])


def test_pages_have_commands() -> None:
    assert sum(len(list(commands(path))) for path in TEXTS) > 30


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_on_a_page_are_valid(path: Path) -> None:
    for block in blocks(path, "yaml") if path.name != "extending.md" else []:
        state = yaml.safe_load(block)
        if isinstance(state, dict) and "modalities" in state:
            assert load(state).modalities.keys() == state["modalities"].keys()
        elif isinstance(state, dict) and set(state) <= RECIPE_KEYS:
            part = {"name": "x", "modalities": {"a": {"type": "text"}}, "objectives": {"masked": {}}, **state}
            assert load(part).name == part["name"]


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "findings" / "README.md"])
def test_links_to_files_exist(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


def test_the_readme_is_short_and_names_every_folder() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    output = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in output.splitlines() if "/" in line and not line.startswith(".")}
    assert {line.split("/")[0] for line in lines if re.match(r"\w+/ ", line)} == folders


def test_the_glossary_has_25_to_40_words_each_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)[1:]
    assert 25 <= len(words) <= 40
    assert len(set(words)) == len(words)


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for name in ("docs", "examples", "findings"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("zensical.toml", "CONTRIBUTING.md", "CHANGELOG.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    words = [sys.executable, "-m", "zensical", "build", "--strict"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    for path in SITE:
        page = tmp_path / "site" / path.relative_to(ROOT / "docs").with_suffix(".html")
        text = html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
        assert not re.search(r"--8\s*<", text), "a file is not included"
        script = ROOT / "examples" / f"{path.stem}.py"
        assert not script.exists() or script.read_text(encoding="utf-8") in text
