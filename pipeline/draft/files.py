"""Folders of images or of sounds, with what their names and folders, or a table, say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.draft.base import ALONE, Draft, Sheet, grouped, some, values_of
from pipeline.draft.columns import SPLITS, Columns
from pipeline.draft.names import names_of
from pipeline.draft.settings import OF_FILES, TABLE, State
from pipeline.draft.survey import ROWS, Survey, spread

_SUBJECT_FOLDER = re.compile(r"(subject|subj|sub|patient|pat|participant|p|s)[-_]?\d+", re.IGNORECASE)


def images(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """A folder of images."""
    return _folder("image", seen, sheets)


def sounds(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """A folder of sounds."""
    return _folder("audio", seen, sheets)


def _folder(kind: str, seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    paths = seen.kinds.get(kind, [])
    state = OF_FILES[kind](paths)
    if state is None:
        return []
    folders = Counter(path.parent.name for path in paths if path.parent != seen.root)
    classes = 2 <= len(folders) <= len(paths) / 2 and _kind_of(folders) != "splits"
    names = names_of([path.stem for path in paths], speech=kind == "audio")
    pattern = names.pattern if names else None
    labels = [name for name in (names.labels if names else ()) if name != "class"]
    fields: list[tuple[str, int]] = (
        [(names.group, len(set(names.values[names.group])))] if names and names.group else []
    )
    guesses = []
    if classes and kind == "image":
        own = "class"  # the source gives it
    elif classes:
        own = "folder"
        pattern = f"{{folder}}/{pattern or '{file}'}"
    if classes and _kind_of(folders) == "subjects":
        fields.insert(0, (own, len(folders)))
        guesses.append("folders are named like subjects")
    elif classes:
        labels.insert(0, own)
        guesses.append(f"folders are classes: {some(sorted(folders))}")
    if pattern:
        guesses.append(f"file names are {pattern}" + values_of(names))
    source: State = {"type": "images" if kind == "image" else "audio"}
    if pattern:
        source["pattern"] = pattern
    modalities = {kind: state}
    used: set[str | Path] = {kind}
    joined = _joined_files(seen, paths, sheets)
    columns = Columns()
    if joined:
        sheet, column = joined
        columns = sheet.columns
        own_fields = {"class", "folder", *(names.values if names else ())}
        cells = [name for name in columns.content if name != column and name not in own_fields]
        labels = [*columns.labels, *(name for name in labels if name not in columns.labels)]
        source |= {"table": seen.name(sheet.path), "filename": column}
        used.add(sheet.path)
        if cells:
            modalities["table"], source["columns"] = TABLE, {"table": cells}
        fields = [*((name, sheet.distinct(name)) for name in columns.groups if name != column), *fields]
        guesses.append(f"{seen.name(sheet.path)} names files in its column {column}")
    source["labels"] = labels
    split = grouped(fields, ALONE)
    return [
        Draft.of(
            split,
            columns,
            source=source,
            modalities=modalities,
            samples=len(paths),
            used=used,
            labels=labels,
            guesses=guesses,
            linked=joined is not None,
        )
    ]


def _kind_of(folders: Iterable[str]) -> str:
    """Whether names of folders are those of splits, of subjects, or of classes."""
    names = [name.lower() for name in folders]
    if set(names) <= SPLITS:
        return "splits"
    return "subjects" if all(_SUBJECT_FOLDER.fullmatch(name) for name in names) else "classes"


def _joined_files(seen: Survey, paths: Sequence[Path], sheets: Sequence[Sheet]) -> tuple[Sheet, str] | None:
    """The table whose rows are about files, one row a file, that `rows` could not find by their paths."""
    for sheet in sheets:
        if sheet.columns.files or len(sheet.frame) >= ROWS:
            continue
        for spelled in (
            lambda path: path.name,
            lambda path: path.stem,
            seen.name,
            lambda path: seen.name(path.with_suffix("")),
        ):
            column = sheet.holding(spelled(path) for path in spread(paths, 1000))
            if column is not None and sheet.texts[column].drop_nulls().is_unique().all():
                return sheet, column
    return None
