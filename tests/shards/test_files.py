"""Files and folders appear complete or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from PIL import UnidentifiedImageError
from requests import HTTPError
from safetensors import SafetensorError

from shards.files import atomic_file, atomic_folder, temporary_path, write_json, write_text


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_json(path, {"é": 1})
    assert path.read_text() == '{\n "é": 1\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_unchanged_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text(f"half {1 / 0}" if temporary.write_text("half") else "")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_file_may_be_written_elsewhere_first(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt", tmp_path / "b.txt") as temporary:
        assert temporary == tmp_path / "b.txt"
        temporary.write_text("text")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "text")]


def test_a_folder_is_replaced_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").touch()
    temporary_path(folder).mkdir()
    (temporary_path(folder) / "left by a killed process").touch()
    with atomic_folder(folder) as temporary:
        (temporary / "new").touch()
        assert [file.name for file in folder.iterdir()] == ["old"]
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == ["run", "run/new"]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (OSError("No space left on device (os error 28)"), errno.ENOSPC),
        (SafetensorError("invalid header"), errno.EIO),
        (OSError("12 requested and 0 written"), errno.EIO),
        (PermissionError("Permission denied (os error 13)"), errno.EACCES),
        (PermissionError(errno.EACCES, "Permission denied"), errno.EACCES),
    ],
)
def test_a_full_disk_is_an_oserror_that_names_the_path(error: Exception, number: int, tmp_path: Path) -> None:
    """Whichever library reports it."""
    (tmp_path / "folder").mkdir()
    for write, path in ((atomic_file, tmp_path / "file"), (atomic_folder, tmp_path / "folder")):
        with pytest.raises(OSError) as caught, write(path):  # noqa: PT011  (its number is compared)
            raise error
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    "error",
    [
        ChildProcessError("a worker process was killed"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("no data for 30 s"),
        HTTPError("401 Client Error"),
        UnidentifiedImageError("cannot identify image file"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "raw.csv"),
    ],
)
def test_errors_that_are_not_failed_writes_are_unchanged(error: OSError, tmp_path: Path) -> None:
    for write, path in ((atomic_file, tmp_path / "file"), (atomic_folder, tmp_path / "folder")):
        with pytest.raises(type(error)) as caught, write(path):
            raise error
        assert caught.value is error
        assert caught.value.__cause__ is None
    assert not list(tmp_path.iterdir())
