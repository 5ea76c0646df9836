"""Base of the sources `images` and `audio`: each file is a sample, described by its name and a row of a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from modalities.base import Modality
from modalities.files.reading import ContentError, read_file
from shards.sources.base import Sample
from shards.sources.checks import require_extension, require_modality, require_tables
from shards.sources.drafting.columns import SPLITS, TableFile
from shards.sources.drafting.draft import Draft, Sketch, format_some, guessed_fields
from shards.sources.drafting.filenames import NamePattern, find_pattern
from shards.sources.drafting.settings import TABLE
from shards.sources.drafting.survey import MAX_ROWS, Survey, spread
from shards.sources.fields import index_rows, pattern_fields
from shards.sources.folder import FolderSource
from shards.sources.members import dump_cells, group_values, table_member
from shards.sources.paths import find_files

_SUBJECT_FOLDER = re.compile(r"(subject|subj|sub|patient|pat|participant|p|s)[-_]?\d+", re.IGNORECASE)


class File(NamedTuple):
    """One item.

    path: path of the file. name: its path relative to the raw folder. row: its row of the table. fault: the reason why
    the file is unusable, or empty. part: (start, stop) of a range of samples of a recording, None for the whole file.
    """

    path: Path
    name: str
    row: dict[str, Any]
    fault: str = ""
    part: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class MediaFolder(FolderSource):
    """Base of sources with one content file per sample: members `{modality}.{extension}` and `labels.json`.

    Fields of the pattern are text; fields of the table are typed. A split can be made by any field. The
    identity of a sample is its path relative to the raw folder.

    Attributes:
        modality: Name of the modality that reads the files.
        table: CSV, TSV or Parquet file with one row per file, relative to the raw folder.
        filename: Column of `table` that names the file, by a path relative to the raw folder or by a name, with or
            without suffix.
        labels: Fields stored as labels; by default the fields of the pattern.
        columns: Fields of each table modality.
    """

    folder_field: ClassVar[str | None] = None
    """Field that holds the name of a file's folder."""
    may_be_speech: ClassVar[bool] = False
    """Whether drafts look for speakers in file names."""

    modality: str
    table: str | None = None
    filename: str = "filename"
    labels: tuple[str, ...] | None = None
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is None:
            fields = (*pattern_fields(self.pattern), *self.builtin_fields)
            if unknown := [name for name in self._requested if name not in fields]:
                raise ValueError(f"data.source: field {unknown[0]!r} is not in the pattern, and there is no table")

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        paths = survey.files.get(cls.type, [])
        settings = cls.draft_modality(paths)
        if settings is None or cls.file_modality is None:
            return []
        sketch = Sketch(
            source={"type": cls.type},
            modalities={cls.file_modality: settings},
            samples=len(paths),
            source_types={cls.type},
        )
        names = find_pattern([path.stem for path in paths], cls.may_be_speech)
        cls._sketch_names(sketch, names, [path.parent.name for path in paths if path.parent != survey.root])
        table = next(_file_tables(survey, paths, tables), None)
        if table is not None:
            _sketch_table(sketch, survey, *table, {"class", "folder", *(names.values if names else ())})
        sketch.source["labels"] = sketch.labels
        return [sketch.finish()]

    @classmethod
    def _sketch_names(cls, sketch: Sketch, names: NamePattern | None, folders: Sequence[str]) -> None:
        """Add the pattern, labels and groups that follow from the names of files and folders."""
        pattern = names.pattern if names else None
        if names is not None:
            sketch.labels += [name for name in names.labels if name != "class"]
            sketch.groups += names.groups
        kind = _folder_kind(set(folders))
        if 2 <= len(set(folders)) <= sketch.samples / 2 and kind != "splits":
            name = cls.folder_field or "folder"
            if cls.folder_field is None:
                pattern = f"{{folder}}/{pattern or '{file}'}"
            if kind == "subjects":
                sketch.groups.insert(0, (name, len(set(folders))))
                sketch.guesses.append("folders are named like subjects")
            else:
                sketch.labels.insert(0, name)
                sketch.guesses.append(f"folders are classes: {format_some(sorted(set(folders)))}")
        if pattern:
            sketch.source["pattern"] = pattern
            sketch.guesses.append(f"file names are {pattern}{guessed_fields(names)}")

    @property
    def builtin_fields(self) -> tuple[str, ...]:
        """Fields that every file has without a pattern."""
        return () if self.folder_field is None else (self.folder_field,)

    @property
    def _requested(self) -> list[str]:
        """Fields that the recipe uses."""
        return [*(self.labels or ()), *(name for names in self.columns.values() for name in names)]

    def check(self, modalities: Mapping[str, Modality]) -> None:
        modality = require_modality(self.modality, modalities, "modality")
        suffix = PurePosixPath(self.files).suffix.lower()
        # an array may be an image, a spectrogram or a signal, so `.npy` counts only if the glob asks for it
        suffixes = (suffix,) if suffix in self.suffixes else [name for name in self.suffixes if name != ".npy"]
        extensions = [name.removeprefix(".") for name in suffixes]
        require_extension(modality, extensions, f"data.source.modality: {self.modality!r}")
        require_tables(self.columns, modalities)

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        return frozenset({self.modality, *self.columns})

    def items(self, raw: Path) -> Iterator[File]:
        root = raw.parent if raw.is_file() else raw
        paths = find_files(raw, self.files, self.suffixes)
        names = [path.relative_to(root).as_posix() for path in paths]
        if self.table is None:
            yield from (File(path, name, {}) for path, name in zip(paths, names, strict=True))
            return
        rows = self._rows(root / self.table)
        counts = Counter(alias for name in names for alias in _aliases(name))
        for path, name in zip(paths, names, strict=True):
            matches = [alias for alias in _aliases(name) if alias in rows]
            if not matches:
                yield File(path, name, {}, f"{self.nouns[0]} without a row in the table")
            elif counts[matches[0]] > 1:
                yield File(path, name, {}, f"{self.nouns[0]} whose name in the table stands for several files")
            else:
                yield File(path, name, rows[matches[0]])
        for name in rows:
            if name not in counts:
                yield File(root / name, name, rows[name], f"row of the table without its {self.nouns[0]}")

    def _rows(self, path: Path) -> dict[str, dict[str, Any]]:
        """Rows of the table by their cell in the column `filename`."""
        other_fields = (*pattern_fields(self.pattern), *self.builtin_fields)
        columns = [name for name in self._requested if name not in other_fields]
        return index_rows(path, self.filename, columns, lambda name: PurePosixPath(name).as_posix(), self.missing)

    def make(self, item: File, modalities: Mapping[str, Modality]) -> Sample:
        if item.fault:
            raise ContentError(item.fault, item.name)
        fields = {**item.row, **self.fields(item.name)}
        extension, data = self.content(item)
        members = {f"{self.modality}.{extension}": data}
        for name, columns in self.columns.items():
            members |= table_member(name, fields, columns)
        if labels := self.default_labels(fields) if self.labels is None else self.labels:
            members["labels.json"] = dump_cells(fields, labels)
        identity = item.name if item.part is None else f"{item.name}:{item.part[0]}:{item.part[1]}"
        return Sample(identity=identity, members=members, groups=group_values(fields))

    def content(self, item: File) -> tuple[str, bytes]:
        """Extension and bytes of the member that an item becomes; by default its file, unchanged.

        Raises:
            ContentError: the file is missing, too large or unreadable.
        """
        return item.path.suffix.lower().lstrip("."), read_file(item.path, self.nouns[0])

    def default_labels(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """The labels of a file if the recipe lists none."""
        return pattern_fields(self.pattern)

    def fields(self, name: str) -> dict[str, Any]:
        """The fields of a path relative to the raw folder.

        Raises:
            ContentError: the path does not match the pattern.
        """
        return dict(self.name_fields(PurePosixPath(name)))


def _folder_kind(names: Collection[str]) -> str:
    """Whether names of folders are those of `splits`, `subjects` or `classes`."""
    lower = {name.lower() for name in names}
    if lower <= SPLITS:
        return "splits"
    return "subjects" if all(_SUBJECT_FOLDER.fullmatch(name) for name in lower) else "classes"


def _file_tables(survey: Survey, paths: Sequence[Path], tables: Sequence[TableFile]) -> Iterator[tuple[TableFile, str]]:
    """Tables with one row per file, and their columns of file names, unless the source `rows` finds files by these."""
    spellings: tuple[Callable[[Path], str], ...] = (
        lambda path: path.name,
        lambda path: path.stem,
        survey.name,
        lambda path: survey.name(path.with_suffix("")),
    )
    for table in tables:
        if table.columns.files or len(table.frame) >= MAX_ROWS:
            continue
        for spell in spellings:
            column = table.find_column(spell(path) for path in spread(paths, 1000))
            if column is not None and table.texts[column].drop_nulls().is_unique().all():
                yield table, column


def _sketch_table(sketch: Sketch, survey: Survey, table: TableFile, column: str, fields: Collection[str]) -> None:
    """Add a table with a column of file names; `fields` are the fields that files have without it."""
    columns = table.columns
    cells = [name for name in columns.content if name != column and name not in fields]
    sketch.source |= {"table": survey.name(table.path), "filename": column}
    if cells:
        sketch.modalities["table"], sketch.source["columns"] = TABLE, {"table": cells}
    sketch.labels[:] = [*columns.labels, *(name for name in sketch.labels if name not in columns.labels)]
    sketch.groups[:0] = [(name, table.count_values(name)) for name in columns.groups if name != column]
    sketch.columns = columns
    sketch.tables.add(table.path)
    sketch.is_linked = True
    sketch.guesses.append(f"{survey.name(table.path)} names files in its column {column}")


def _aliases(name: str) -> list[str]:
    """The names that a table may use for a file, the most exact first."""
    path = PurePosixPath(name)
    return list(dict.fromkeys((name, path.with_suffix("").as_posix(), path.name, path.stem)))
