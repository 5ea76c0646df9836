"""What folders of files share: fields from file names, rows from a table, one sample a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from modalities.base import Modality
from modalities.files.reading import ContentError, read_file
from shards.sources.base import Sample, Source, matching
from shards.sources.fields import fields_of, names_in, rows_by
from shards.sources.rows import as_groups, as_json, table_member


class File(NamedTuple):
    """One item: where it lies, its path below the raw folder, its row of the table, or why it cannot be used.

    part: the first and one past the last sample of a part of the file, None for the whole.
    """

    path: Path
    name: str
    row: dict[str, Any]
    fault: str = ""
    part: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """Files become samples `{modality}.{extension}` with `labels.json`, each its own bytes.

    files: glob below the raw folder, of which files of the right kind are taken. modality: the recipe's name of what
    holds them. pattern: what paths are made of, its fields in braces, as `{digit}_{speaker}_{i}.wav` or, over folders,
    `{species}/{recorder}_{date}.flac`; it describes as many last parts of a path as it has itself, a pattern without
    suffix all kinds of files. A field is the shortest text that fits, `{video:15}` is 15 characters. table: a CSV, TSV
    or Parquet file below the raw folder with one row a file, found by the `filename` column, which holds a path
    below the raw folder or a name, with or without suffix. Both give fields: text from the pattern, typed cells from
    the table.

    labels: fields that become labels, by default those of the pattern. columns: fields of each table modality. A
    split can be made by any field. The identity is the path below the raw folder.
    """

    suffixes: ClassVar[tuple[str, ...]]
    noun: ClassVar[str]
    """What reasons call a file."""

    files: str = "**/*"
    modality: str
    pattern: str | None = None
    table: str | None = None
    filename: str = "filename"
    labels: tuple[str, ...] | None = None
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = names_in(self.pattern)
        if self.table is None:
            known = (*named, *self.given)
            if unknown := [name for name in self._wanted if name not in known]:
                raise ValueError(f"data.source: field {unknown[0]!r} is not in the pattern, and there is no table")

    @property
    def given(self) -> tuple[str, ...]:
        """Fields that every file has without a pattern."""
        return ()

    @property
    def _wanted(self) -> list[str]:
        return [*(self.labels or ()), *(name for names in self.columns.values() for name in names)]

    def items(self, raw: Path) -> Iterator[File]:
        root = raw.parent if raw.is_file() else raw
        paths = matching(raw, self.files, self.suffixes)
        names = [path.relative_to(root).as_posix() for path in paths]
        if self.table is None:
            yield from (File(path, name, {}) for path, name in zip(paths, names, strict=True))
            return
        rows = self._rows(root / self.table)
        shared = Counter(alias for name in names for alias in _aliases(name))
        for path, name in zip(paths, names, strict=True):
            found = [alias for alias in _aliases(name) if alias in rows]
            if not found:
                yield File(path, name, {}, f"{self.noun} without a row in the table")
            elif shared[found[0]] > 1:
                yield File(path, name, {}, f"{self.noun} whose name in the table stands for several files")
            else:
                yield File(path, name, rows[found[0]])
        for name in rows:
            if name not in shared:
                yield File(root / name, name, rows[name], f"row of the table without its {self.noun}")

    def _rows(self, path: Path) -> dict[str, dict[str, Any]]:
        """Rows of the table by what their `filename` holds."""
        own = (*names_in(self.pattern), *self.given)
        wanted = [name for name in self._wanted if name not in own]
        return rows_by(path, self.filename, wanted, lambda name: PurePosixPath(name).as_posix(), self.missing)

    def make(self, item: File, modalities: Mapping[str, Modality]) -> Sample:
        for name in (self.modality, *self.columns):
            if name not in modalities:
                raise ValueError(f"data.source names the modality {name!r}, which the recipe has not")
        if item.fault:
            raise ContentError(item.fault, item.name)
        fields = {**item.row, **self.fields(item.name)}
        extension, data = self.content(item)
        members = {f"{self.modality}.{extension}": data}
        for name, columns in self.columns.items():
            members |= table_member(name, fields, columns)
        if labels := self.default_labels(fields) if self.labels is None else self.labels:
            members["labels.json"] = as_json(fields, labels)
        identity = item.name if item.part is None else f"{item.name}:{item.part[0]}:{item.part[1]}"
        return Sample(identity, members, as_groups(fields))

    def content(self, item: File) -> tuple[str, bytes]:
        """Extension and bytes of what a file becomes.

        Raises:
            ContentError: it is missing, too large or cannot be read.
        """
        return item.path.suffix.lower().lstrip("."), read_file(item.path, self.noun)

    def default_labels(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """The labels of a file where the recipe names none."""
        return names_in(self.pattern)

    def fields(self, name: str) -> dict[str, Any]:
        """The pattern's fields in a path below the raw folder.

        Raises:
            ContentError: the path is made otherwise.
        """
        return fields_of(self.pattern, PurePosixPath(name), self.suffixes)


def _aliases(name: str) -> list[str]:
    """What a table may call a file, the most exact first."""
    path = PurePosixPath(name)
    return list(dict.fromkeys((name, path.with_suffix("").as_posix(), path.name, path.stem)))
