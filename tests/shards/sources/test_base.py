"""What all sources share."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.sources.audio import AudioFolder
from shards.sources.base import Source, matching
from shards.sources.bioscan import Bioscan
from shards.sources.edf import Edf
from shards.sources.fasta import Fasta
from shards.sources.hub import Hub
from shards.sources.images import ImageFolder
from shards.sources.molecules import Molecules
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
def test_an_absolute_glob_is_one_line(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.source names files by the absolute path /raw/\*: name them below "):
        list(source.items(tmp_path))


def test_files_match_in_order(tmp_path: Path) -> None:
    for name in ("b/x.TXT", "a.txt", "c.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.txt").mkdir()
    assert matching(tmp_path, "*.txt") == [tmp_path / "a.txt"]
    assert matching(tmp_path, "*.[tT]*", anywhere=True) == [tmp_path / "a.txt", tmp_path / "b" / "x.TXT"]
    assert matching(tmp_path, "**/*", (".txt",)) == [tmp_path / "a.txt", tmp_path / "b" / "x.TXT"]
    assert matching(tmp_path / "c.dat", "*.txt") == [tmp_path / "c.dat"]
    with pytest.raises(ValueError, match=r"^no file \*\.csv in"):
        matching(tmp_path, "*.csv")
    with pytest.raises(ValueError, match=r"^no \.wav, \.ogg file \* in"):
        matching(tmp_path, "*", (".wav", ".ogg"))
