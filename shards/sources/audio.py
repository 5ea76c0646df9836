"""Folders of recordings, their labels from file names or from a table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from modalities.base import ContentError, Modality
from shards.sources.base import Sample, Source, register
from shards.sources.rows import need_columns, read_frame

SUFFIXES = (".wav", ".flac", ".ogg")
MAX_BYTES = 1 << 30
"""Larger files are left out unread."""
_FIELD = re.compile(r"\{(\w*)\}")


class Recording(NamedTuple):
    """One item: where it lies, its path below the raw folder, its row of the table, or why it cannot be used."""

    path: Path
    name: str
    row: dict[str, Any]
    fault: str = ""


@register
@dataclass(frozen=True, kw_only=True)
class AudioFolder(Source):
    """WAV, FLAC and Ogg files become samples `{modality}.wav`, ... with `labels.json`, each its own bytes.

    files: glob below the raw folder, of which recordings are taken. modality: the recipe's name of what holds them.
    pattern: what paths are made of, its fields in braces, as `{digit}_{speaker}_{i}.wav` or, over folders,
    `{species}/{recorder}_{date}.flac`; it describes as many last parts of a path as it has itself, a pattern without
    suffix all kinds of recordings, and a field is the shortest text that fits. table: a CSV, TSV or Parquet file below
    the raw folder with one row a recording, found by the `filename` column, which holds a path below the raw folder
    or a name, with or without suffix. Both give fields: text from the pattern, typed cells from the table.

    labels: fields that become labels, by default those of the pattern. columns: fields of each table modality. A
    split can be made by any field. The identity is the path below the raw folder. Recordings are decoded once here,
    so that what cannot be used is left out and counted.
    """

    type: ClassVar[str] = "audio"

    files: str = "**/*"
    modality: str = "audio"
    pattern: str | None = None
    table: str | None = None
    filename: str = "filename"
    labels: tuple[str, ...] | None = None
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = _FIELD.findall(self.pattern or "")
        if not all(name.isidentifier() for name in named) or (self.pattern is not None and not named):
            raise ValueError(f"data.source.pattern {self.pattern!r} needs named fields such as {{speaker}}")
        if self.table is None:
            wanted = [*(self.labels or ()), *(name for names in self.columns.values() for name in names)]
            if unknown := [name for name in wanted if name not in named]:
                raise ValueError(f"data.source: field {unknown[0]!r} is not in the pattern, and there is no table")

    @cached_property
    def _form(self) -> re.Pattern[str]:
        """The pattern as a regular expression; a field that stands twice must say the same twice."""
        seen: set[str] = set()
        parts = []
        for number, part in enumerate(_FIELD.split(self.pattern or "")):
            if number % 2 == 0:
                parts.append(re.escape(part))
            else:
                parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>[^/]+?)")
                seen.add(part)
        return re.compile("".join(parts))

    def items(self, raw: Path) -> Iterator[Recording]:
        root = raw.parent if raw.is_file() else raw
        paths = [raw] if raw.is_file() else sorted(path for path in raw.glob(self.files) if path.is_file())
        paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise ValueError(f"no {', '.join(SUFFIXES)} file {self.files} in {raw}")
        names = [path.relative_to(root).as_posix() for path in paths]
        if self.table is None:
            yield from (Recording(path, name, {}) for path, name in zip(paths, names, strict=True))
            return
        rows = self._rows(root / self.table)
        shared = Counter(alias for name in names for alias in _aliases(name))
        for path, name in zip(paths, names, strict=True):
            found = [alias for alias in _aliases(name) if alias in rows]
            if not found:
                yield Recording(path, name, {}, "recording without a row in the table")
            elif shared[found[0]] > 1:
                yield Recording(path, name, {}, "recording whose name in the table stands for several files")
            else:
                yield Recording(path, name, rows[found[0]])
        for name in rows:
            if name not in shared:
                yield Recording(root / name, name, rows[name], "row of the table without its recording")

    def _rows(self, path: Path) -> dict[str, dict[str, Any]]:
        """Rows of the table by what their `filename` holds."""
        frame = read_frame(path)
        fields = [*(self.labels or ()), *(name for names in self.columns.values() for name in names)]
        need_columns(path, frame, [self.filename, *(name for name in fields if name not in self._form.groupindex)])
        rows: dict[str, dict[str, Any]] = {}
        for row in frame.iter_rows(named=True):
            name = PurePosixPath(str(row[self.filename])).as_posix()
            if name in rows:
                raise ValueError(f"{path} has several rows for {name!r}: one row a recording is wanted")
            rows[name] = row
        return rows

    def make(self, item: Recording, modalities: Mapping[str, Modality]) -> Sample:
        for name in (self.modality, *self.columns):
            if name not in modalities:
                raise ValueError(f"data.source names the modality {name!r}, which the recipe has not")
        if item.fault:
            raise ContentError(item.fault, item.name)
        fields = {**item.row, **self._fields(item.name)}
        if item.path.stat().st_size > MAX_BYTES:
            raise ContentError(f"recording of more than {MAX_BYTES:,} bytes", item.name)
        extension = item.path.suffix.lower().lstrip(".")
        data = item.path.read_bytes()
        modalities[self.modality].decode({extension: data})
        members = {f"{self.modality}.{extension}": data}
        for name, columns in self.columns.items():
            members[f"{name}.json"] = _json(fields, columns)
        labels = tuple(self._form.groupindex) if self.labels is None else self.labels
        if labels:
            members["labels.json"] = _json(fields, labels)
        return Sample(item.name, members, {name: str(value) for name, value in fields.items()})

    def _fields(self, name: str) -> dict[str, str]:
        """The pattern's fields in a path below the raw folder.

        Raises:
            ContentError: the path is made otherwise.
        """
        if self.pattern is None:
            return {}
        path = PurePosixPath(name)
        if PurePosixPath(self.pattern).suffix.lower() not in SUFFIXES:
            path = path.with_suffix("")
        match = self._form.fullmatch("/".join(path.parts[-self.pattern.count("/") - 1 :]))
        if match is None:
            raise ContentError(f"file name that is not {self.pattern}", name)
        return match.groupdict()


def _aliases(name: str) -> list[str]:
    """What a table may call a recording, the most exact first."""
    path = PurePosixPath(name)
    return list(dict.fromkeys((name, path.with_suffix("").as_posix(), path.name, path.stem)))


def _json(fields: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
    """Fields by name; dates and other types that JSON has not become text."""
    return json.dumps({name: fields[name] for name in names}, default=str).encode()
