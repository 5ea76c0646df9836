"""The wheel and the source archive hold what an installation needs, and nothing of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"modalities", "pipeline", "recipes", "sensorium", "shards"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the wheel and the source archive, built from a copy of the files under version control."""
    folder = tmp_path_factory.mktemp("dist")
    output = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in output.splitlines():
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "tree")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return folder


def package_files() -> set[str]:
    """Every file under version control in the packages: code, recipes, templates, `py.typed`."""
    command = ["git", "ls-files", *sorted(PACKAGES)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in output.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_contains_only_the_packages(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {name for name in names if ".dist-info/" not in name}
    assert files == package_files()
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    assert {"recipes/tables.yaml", "pipeline/commands/templates/report.html.j2"} <= files


def test_the_wheel_has_the_command_the_license_and_the_extras(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        information = {Path(name).name: name for name in file.namelist() if ".dist-info/" in name}
        metadata = message_from_bytes(file.read(information["METADATA"]))
        assert b"sensorium = pipeline.__main__:main" in file.read(information["entry_points.txt"])
        assert "LICENSE" in information
    assert {"molecules", "audio", "biosignals", "all"} <= set(metadata.get_all("Provides-Extra"))
    assert 'deepspeed<0.20,>=0.19.8; sys_platform == "linux"' in metadata.get_all("Requires-Dist")


def test_the_source_archive_contains_the_packages(archives: Path) -> None:
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert package_files() <= names  # and `build` makes the wheel from it
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
