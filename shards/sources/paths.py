"""Find raw files: walk folders and match globs, in a fixed order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath


def walk(
    root: Path, max_depth: int | None = None, exclude: Collection[Path] = (), include_hidden: bool = True
) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder from `root` down with the names of its files, in a fixed order.

    Links to folders are followed, and each folder is visited once, at its real path if that is below `root` as well.

    Args:
        root: Folder to start from.
        max_depth: Number of levels below `root` to visit; None visits all.
        exclude: Resolved paths of folders to skip.
        include_hidden: Whether to visit names that begin with a dot.
    """
    queue, links, visited = deque([(root, 0)]), deque[tuple[Path, int]](), set(exclude)
    while queue or links:
        folder, depth = (queue or links).popleft()
        if (target := folder.resolve()) in visited:
            continue
        visited.add(target)
        with os.scandir(folder) as listing:
            entries = sorted(
                (entry for entry in listing if include_hidden or not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
        if max_depth is None or depth < max_depth:
            for entry in entries:
                if entry.is_dir():
                    (links if entry.is_symlink() else queue).append((folder / entry.name, depth + 1))
        yield folder, [entry.name for entry in entries if entry.is_file()]


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob, in which `**` matches any number of parts."""
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def find_files(raw: Path, pattern: str, suffixes: tuple[str, ...] = (), *, recursive: bool = False) -> list[Path]:
    """Files of the folder `raw` that match a glob, sorted; `raw` itself if it is a file. Links to folders are followed.

    Args:
        raw: The raw folder, or a single file.
        pattern: Glob relative to `raw`.
        suffixes: Accepted suffixes in lower case; empty accepts all.
        recursive: Whether the glob also applies in every folder below `raw`.

    Raises:
        ValueError: no file matches, or the glob is an absolute path.
    """
    if raw.is_file():
        paths = [raw]
    elif PurePath(pattern).is_absolute():
        raise ValueError(f"data.source gives the absolute path {pattern}: give a path relative to {raw}")
    else:
        parts = (*(("**",) if recursive else ()), *PurePath(pattern).parts)
        folders = walk(raw, None if "**" in parts else len(parts) - 1)
        candidates = (folder / name for folder, names in folders for name in names)
        paths = sorted(path for path in candidates if _matches(path.relative_to(raw).parts, parts))
    paths = [path for path in paths if not suffixes or path.suffix.lower() in suffixes]
    if not paths:
        raise ValueError(f"no {', '.join(suffixes)} file {pattern} in {raw}".replace("  ", " "))
    return paths
