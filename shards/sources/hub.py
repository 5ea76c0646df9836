"""Data sets on the Hugging Face Hub, or in files that the library `datasets` reads, streamed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from modalities.base import CellContent, Modality
from modalities.files.magic import detect_type
from modalities.files.reading import MAX_BYTES, ContentError, count_change, lazy_import, read_file
from modalities.strings.cells import is_missing
from shards.columns import require_columns
from shards.remote import Cache, Remote
from shards.sources.base import Sample, Source, register
from shards.sources.checks import require_cells, require_modality
from shards.sources.members import cell_members, dump_cells, group_values
from shards.sources.paths import find_files
from shards.sources.signal_columns import SignalColumns
from shards.store import TooLargeError


class Row(NamedTuple):
    """A row of the data set and its number, from 1."""

    number: int
    cells: dict[str, Any]


@register
@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """One sample per row of a data set on the Hugging Face Hub, streamed.

    Images and sounds are kept as the bytes that the data set holds; lists of numbers become arrays; numbered classes
    become their names. A split can be made by any column of text or numbers that is used or named in `groups`, or by
    the `scaffold` of a SMILES. No code of a data set is run.

    Attributes:
        dataset: `user/name` on the Hub, or a format that `datasets` knows (`parquet`, `json`, `csv`, `imagefolder`,
            ...).
        files: Glob of the files below the raw folder, if `dataset` is a format.
        config: Configuration of the data set.
        split: Split of the data set to read.
        revision: Version of the data set: a commit, branch or tag.
        columns: By modality, its column, or a list of columns that become the cells of a table or the words of one
            text.
        signals: By signal modality, the properties of its columns of lists, such as `ecg: {sample_rate_hz: 500,
            unit: mV, channels: {column: leads}}`; a list of columns has one column per channel.
        key: Column that identifies a row; by default the row's number.
        labels: Columns stored as labels, apart from the content.
        groups: Further columns that a split can be made by.
        limit (rows): Largest number of rows to read; all by default.
    """

    type: ClassVar[str] = "hub"
    requires: ClassVar[tuple[str, ...]] = ("datasets", "pyarrow")

    dataset: str
    files: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    signals: dict[str, SignalColumns] = field(default_factory=dict)
    key: str | None = None
    labels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.columns:
            raise ValueError("data.source.columns is empty: give the column of each modality")
        for name in self.signals:
            if name not in self.columns:
                raise ValueError(f"data.source.signals.{name} is not a modality of data.source.columns")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"data.source.limit is {self.limit}, but must be at least 1")

    @property
    def _used(self) -> list[str]:
        columns_read = [c for names in self.columns.values() for c in ([names] if isinstance(names, str) else names)]
        columns_read += [column for signal in self.signals.values() for column in signal.columns]
        return list(dict.fromkeys([*columns_read, *self.labels, *self.groups, *([self.key] if self.key else [])]))

    def check(self, modalities: Mapping[str, Modality]) -> None:
        for name in self.columns:
            modality = require_modality(name, modalities, "columns")
            if modality.is_recording and name not in self.signals:
                raise ValueError(f"data.source.signals.{name} is missing: give the sample_rate_hz, unit and channels")
            if name in self.signals and not modality.is_recording:
                raise ValueError(f"data.source.signals.{name}: {name!r} is of type {modality.type}, not signal")
        lists = {
            n: columns for n, columns in self.columns.items() if not isinstance(columns, str) and n not in self.signals
        }
        require_cells(lists, modalities, "columns, which lists several columns")

    def items(self, raw: Path) -> Iterator[Row]:
        rows = self._open(raw)
        faults = (OSError, EOFError, ValueError, lazy_import("datasets.exceptions", "datasets").DatasetsError)
        try:
            for number, row in enumerate(rows, 1):
                yield Row(number, row)
                if number == self.limit:
                    return
        except faults as error:
            raise ValueError(f"data set {self.dataset} cannot be read: {_line(error)}") from error

    def _open(self, raw: Path) -> Iterable[dict[str, Any]]:
        """The rows, with the used columns only, media not decoded and classes as names.

        Raises:
            ValueError: the data set, split, file or column does not exist.
        """
        library = lazy_import("datasets", "datasets")
        files = None
        if self.files is not None:
            files = [str(path) for path in find_files(raw, self.files)]
        try:
            rows = library.load_dataset(
                self.dataset, self.config, split=self.split, revision=self.revision, data_files=files, streaming=True
            )
            features = rows.features or rows.take(1)._resolve_features().features or {}
        except (OSError, ValueError) as error:
            raise ValueError(f"data set {self.dataset} cannot be opened: {_line(error)}") from error
        require_columns(f"data set {self.dataset}", features, self._used)
        rows = rows.select_columns(self._used)
        classes = {}
        for name in self._used:
            if isinstance(features[name], (library.Image, library.Audio)):
                rows = rows.cast_column(name, type(features[name])(decode=False))
            elif isinstance(features[name], library.ClassLabel):
                classes[name] = features[name].names
        return (_named(row, classes) for row in rows)

    def make(self, item: Row, modalities: Mapping[str, Modality]) -> Sample:
        row = item.cells
        if self.key and row[self.key] is None:
            raise ContentError(f"row without {self.key}")
        row = {name: self._cell(name, value) for name, value in row.items()}
        groups = group_values(row)
        members: dict[str, bytes] = {}
        canonical: dict[str, str] = {}
        for name, column in self.columns.items():
            modality = modalities[name]
            cell = row[column] if isinstance(column, str) else None
            if name in self.signals:
                parts = self.signals[name].members(name, column, row)
                members |= {f"{name}.{extension}": data for extension, data in parts.items()}
            elif not isinstance(column, str) or (modality.cells == "typed" and not isinstance(cell, dict)):
                members |= cell_members(row, {name: column}, modalities)
            elif cell is None:
                continue
            else:
                content = _content(cell, modality, name)
                members |= {f"{name}.{extension}": data for extension, data in content.members.items()}
                groups |= content.groups
                if content.canonical is not None:
                    canonical[name] = content.canonical
        for group in (group for name in self.columns for group in modalities[name].group_names):
            groups.setdefault(group, "")
        if self.labels:
            members["labels.json"] = dump_cells(row, self.labels)
        if not members:
            raise ContentError("row without content")  # one with labels may be a partner in a join
        return Sample(
            identity=str(row[self.key]) if self.key else f"{item.number}",
            members=members,
            groups=groups,
            canonical=canonical,
        )

    def _cell(self, name: str, value: Any) -> Any:
        """A cell, None if it means missing; text stays text, because the data set states its types."""
        if isinstance(value, (dict, list, bytes)) or not is_missing(value, name, self.missing):
            return value
        if value is not None and value == value and str(value).strip():
            count_change(f"{name}: {str(value).strip()!r} is missing")
        return None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _named(row: dict[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """The row with classes as names; `datasets` uses -1 for a missing class."""
    for name, names in classes.items():
        number = row[name]
        row[name] = None if number is None or number < 0 else names[number]
    return row


def _content(cell: Any, modality: Modality, name: str) -> CellContent:
    """Content of a cell: a file, an array as lists, or a value that the modality parses.

    Raises:
        ContentError: the modality cannot be made from it.
    """
    if isinstance(cell, dict) and cell.keys() >= {"bytes", "path"}:
        data = cell["bytes"] if cell["bytes"] is not None else _contents(str(cell["path"]), f"{name} file")
        return _file(_extension(data, cell["path"], modality, name), data, modality)
    if isinstance(cell, bytes):
        return _file(_extension(cell, None, modality, name), cell, modality)
    if isinstance(cell, list) and "npy" in modality.extensions:
        try:
            array = np.asarray(cell, np.float32)
        except ValueError as error:
            raise ContentError(f"{name} of lists that are not an array") from error
        buffer = io.BytesIO()
        np.save(buffer, array)
        return CellContent({"npy": buffer.getvalue()})
    return modality.from_cell(cell)


def _file(extension: str, data: bytes, modality: Modality) -> CellContent:
    """A file of one extension as content."""
    return CellContent({extension: modality.stored_bytes(extension, data)})


def _contents(path: str, noun: str) -> bytes:
    """The bytes of a file by its path or, if rows are streamed, its URL.

    Raises:
        ContentError: the file is missing or too large; the reason calls it `noun`.
        ShardError: the connection failed.
    """
    if "://" not in path:
        return read_file(Path(path), noun)
    folder, _, name = path.rpartition("/")
    try:
        return Remote(folder, Cache()).read(name, MAX_BYTES)
    except FileNotFoundError as error:
        raise ContentError(f"{noun} is missing", path) from error
    except TooLargeError as error:
        raise ContentError(f"{noun} of more than {MAX_BYTES:,} bytes", path) from error


def _extension(data: bytes, path: str | None, modality: Modality, name: str) -> str:
    """The extension of a file's bytes: the suffix of its path, else by its magic number."""
    suffix = Path(path or "").suffix.lower().lstrip(".")
    if suffix in modality.extensions:
        return suffix
    if (file_type := detect_type(data, modality.extensions)) is None:
        raise ContentError(f"{name} bytes of no known kind")
    return file_type
