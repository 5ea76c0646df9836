"""What all sources share."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.sources.audio import AudioFolder
from shards.sources.base import Source
from shards.sources.bioscan import Bioscan
from shards.sources.edf import Edf
from shards.sources.fasta import Fasta
from shards.sources.hub import Hub
from shards.sources.images import ImageFolder
from shards.sources.molecules import Molecules
from shards.sources.paths import find_files, walk
from shards.sources.rows import Rows
from shards.sources.wfdb import Wfdb


@pytest.mark.parametrize(
    "source",
    [
        AudioFolder(files="/raw/*"),
        Bioscan(file="/raw/*"),
        Edf(files="/raw/*"),
        Fasta(files="/raw/*"),
        Hub(dataset="csv", files="/raw/*", columns={"text": "a"}),
        ImageFolder(files="/raw/*"),
        Molecules(files="/raw/*"),
        Rows(file="/raw/*"),
        Wfdb(files="/raw/*"),
    ],
    ids=lambda source: source.type,
)
def test_an_absolute_glob_is_refused_in_one_line(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.source gives the absolute path /raw/\*: give a path relative to "):
        list(source.items(tmp_path))


def test_files_match_in_order(tmp_path: Path) -> None:
    for name in ("b/x.TXT", "a.txt", "c.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.txt").mkdir()
    assert find_files(tmp_path, "*.txt") == [tmp_path / "a.txt"]
    assert find_files(tmp_path, "*.[tT]*", recursive=True) == [tmp_path / "a.txt", tmp_path / "b" / "x.TXT"]
    assert find_files(tmp_path, "**/*", (".txt",)) == [tmp_path / "a.txt", tmp_path / "b" / "x.TXT"]
    assert find_files(tmp_path / "c.dat", "*.txt") == [tmp_path / "c.dat"]
    with pytest.raises(ValueError, match=r"^no file \*\.csv in"):
        find_files(tmp_path, "*.csv")
    with pytest.raises(ValueError, match=r"^no \.wav, \.ogg file \* in"):
        find_files(tmp_path, "*", (".wav", ".ogg"))


def test_globs_follow_the_usual_rules(tmp_path: Path) -> None:
    for name in ("a.txt", "b/x.txt", "b/c/y.txt", "b/c/.z.txt", "[d]/x.txt", "e f/é.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = ("*.txt", "**/*.txt", "b/*.txt", "b/**/*.txt", "*/*/*", "**/c/*", "[[]d]/*", "?/x.txt", "**/[!a].txt")
    for pattern in patterns:
        expected = sorted(path for path in tmp_path.glob(pattern) if path.is_file())
        assert find_files(tmp_path, pattern) == expected, pattern
        expected = sorted(path for path in tmp_path.rglob(pattern) if path.is_file())
        assert find_files(tmp_path, pattern, recursive=True) == expected, pattern


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    raw, other = tmp_path / "raw", tmp_path / "other"
    for folder in (raw / "own", other):
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.txt").touch()
    (raw / "a link").symlink_to(other)
    (raw / "again").symlink_to(other)
    (raw / "an early name").symlink_to(raw / "own")
    (raw / "loop").symlink_to(raw)
    assert find_files(raw, "*.txt", recursive=True) == [raw / "a link" / "other.txt", raw / "own" / "own.txt"]
    assert list(walk(raw, exclude=[other])) == [
        (raw, []),
        (raw / "own", ["own.txt"]),
    ]
