"""The blocks of docs/extending.md are a package that builds shards, trains and exports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def install(folder: Path) -> None:
    """Write the blocks as an installed package with entry points."""
    for text in blocks("python"):
        path = folder / re.match(r"# (\S+)\n", text)[1]  # type: ignore[index]
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    groups = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {cls}\n" for name, cls in rows.items()) for group, rows in groups.items()
    ]
    info = folder / "my_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_examples_take_about_thirty_lines() -> None:
    assert len(blocks("python")) == 4
    assert all(text.count("\n") <= 42 for text in blocks("python"))


@pytest.mark.slow
def test_the_examples_build_train_and_export(tmp_path: Path) -> None:
    packages, work = tmp_path / "packages", tmp_path / "work"
    packages.mkdir()
    (work / "raw").mkdir(parents=True)
    install(packages)
    rng = np.random.default_rng(0)
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    lines = [f"{''.join(rng.choice(letters, rng.integers(20, 40)))}\ts{i % 8}" for i in range(64)]
    (work / "raw" / "a.seq").write_text("\n".join([*lines, "12345\ts1"]))
    (work / "proteins.yaml").write_text(blocks("yaml")[0])
    path = os.pathsep.join([str(packages), str(ROOT)])
    for command in blocks("bash")[0].splitlines():
        arguments = [sys.executable, "-m", "pipeline", *command.split()[1:]]
        result = subprocess.run(
            arguments, cwd=work, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr[-3000:]
    drafted = yaml.safe_load((work / "drafted.yaml").read_text())
    assert drafted["data"]["source"] == {"type": "one_per_line"}
    assert drafted["data"]["split"]["by"] == "species"
    manifest = json.loads((work / "shards" / "proteins" / "manifest.json").read_text())
    assert manifest["skipped"] == {"not a protein sequence": 1}
    rows = [json.loads(line) for line in (work / "runs" / "proteins" / "metrics.jsonl").read_text().splitlines()]
    assert {"masked/protein", "masked/table", "alignment/distance"} <= set(rows[-1])
    assert any("protein" in file.name for file in (work / "proteins-model").glob("*.py"))
