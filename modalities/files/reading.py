"""Read files: errors of content, counts of changed content, parsers imported when needed."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from modalities.extras import install_command

T = TypeVar("T")

MAX_JSON_BYTES = 1 << 26
"""Largest JSON accepted; parsed, it takes about ten times as much memory."""
MAX_BYTES = 1 << 30
"""Largest file accepted."""


class ContentError(ValueError):
    """One sample's content cannot be used: the sample is skipped and counted by `reason`, which quotes no content."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


_changes: ContextVar[Counter[str] | None] = ContextVar("changes", default=None)


def count_change(reason: str, times: int = 1) -> None:
    """Count content that was lost, or that was read differently from how it is written.

    `counted_changes` collects the counts of the code it encloses; outside of it they are dropped.
    reason: what happened to which part (`lead V3 left out: missing samples`), the same text for all such samples.
    """
    changes = _changes.get()
    if changes is not None:
        changes[reason] += times


@contextmanager
def counted_changes() -> Iterator[Counter[str]]:
    """Collect the counts of `count_change` by reason while the context is open."""
    changes = Counter[str]()
    token = _changes.set(changes)
    try:
        yield changes
    finally:
        _changes.reset(token)


class MissingPackageError(ValueError):
    """A package is not installed or cannot be loaded; the message says how to install it."""


def lazy_import(module: str, package: str) -> Any:
    """Import a module of an optional package when it is first needed.

    Modalities never import a parser at the top, because a model that runs on Tokens must load without any.

    Raises:
        MissingPackageError: the package is not installed or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(f"this needs the package '{package}': {install_command(package)}") from error
    except OSError as error:  # compiled parts of an incompatible wheel, such as torchaudio for CUDA beside a CPU torch
        raise MissingPackageError(f"the package '{package}' cannot be loaded: {error}") from error


def read_file(path: Path, noun: str) -> bytes:
    """Read a file of at most `MAX_BYTES`; error messages call it `noun`.

    Raises:
        ContentError: the file is missing, too large or unreadable.
    """
    try:
        if not path.is_file():
            raise ContentError(f"{noun} is missing", str(path))
        if path.stat().st_size > MAX_BYTES:
            raise ContentError(f"{noun} of more than {MAX_BYTES:,} bytes", str(path))
        return path.read_bytes()
    except OSError as error:
        raise ContentError(f"{noun} that cannot be read", error.strerror or "") from error


def parse_json(data: bytes, noun: str) -> Any:
    """Parse JSON of at most `MAX_JSON_BYTES`; error messages call it `noun`.

    Raises:
        ContentError: the text is too long or not JSON.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ContentError(f"{noun} of more than {MAX_JSON_BYTES:,} bytes of JSON")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{noun} is not JSON") from error


def cache_by_mtime(size: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Cache a file reader's last `size` results until the file's size or modification time changes."""

    def decorate(read: Callable[[Path], T]) -> Callable[[Path], T]:
        @lru_cache(maxsize=size)
        def read_version(path: Path, n_bytes: int, time_ns: int) -> T:
            return read(path)

        @wraps(read)
        def read_cached(path: Path) -> T:
            if not path.is_file():
                return read(path)
            state = path.stat()
            return read_version(path, state.st_size, state.st_mtime_ns)

        return read_cached

    return decorate
