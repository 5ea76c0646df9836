"""Atomic writes: everything is written under a temporary name and renamed once it is complete."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

TEMPORARY_SUFFIX = ".writing"
"""Ending of temporary names."""
NOT_A_WRITE = (ChildProcessError, ConnectionError, TimeoutError, InterruptedError)
"""OSErrors that no write to disk raises."""


def temporary_path(path: Path) -> Path:
    """The temporary name of a file or folder, in the same folder so that it can be renamed."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` at the end.

    If writing fails, the temporary file is removed and `path` is left as it was.
    temporary: a path on the same file system, by default `temporary_path(path)`.

    Raises:
        OSError: writing failed, for example because the disk is full, whichever library reports it.
    """
    temporary = temporary or temporary_path(path)
    try:
        yield temporary
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, SafetensorError)) and (failure := write_error(error, path)) is not error:
            raise failure from error
        raise
    temporary.replace(path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Create `temporary_path(folder)` and yield it to be filled; it replaces `folder` at the end.

    If filling fails, the temporary folder is removed and `folder` is left as it was.

    Raises:
        OSError: writing failed, for example because the disk is full, whichever library reports it.
    """
    temporary = temporary_path(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)) and (failure := write_error(error, folder)) is not error:
            raise failure from error
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def write_error(error: OSError | SafetensorError, path: Path) -> OSError:
    """A failed write as an OSError with an error number and a path, so that a full disk can be recognized.

    Other errors are returned as they are: a killed worker, a lost connection, or a subclass with only a message, such
    as an unreadable image.
    """
    if number := re.search(r"\(os error (\d+)\)", str(error)):  # errors of safetensors and polars
        return OSError(int(number[1]), str(error), str(path))
    if not isinstance(error, OSError):
        return OSError(errno.EIO, str(error), str(path))
    if error.filename or isinstance(error, NOT_A_WRITE) or (error.errno is None and type(error) is not OSError):
        return error
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
