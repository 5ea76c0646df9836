"""Tars in the format of webdataset, with any names and the common encodings of members."""

from __future__ import annotations

import io
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from modalities.base import CellContent, Modality
from modalities.files.reading import MAX_BYTES, ContentError, parse_json
from modalities.strings.cells import is_missing
from shards.sources.base import Sample, Source, register
from shards.sources.checks import require_cells, require_extension, require_modality
from shards.sources.members import cell_members, dump_cells, group_values
from shards.sources.paths import find_files
from shards.tars import iter_files

Encoding = Literal["json", "number", "text"]
PICKLES = ("pkl", "pickle", "pyd", "pth", "pt")
"""Extensions of Python pickles, which run code when they are read."""
ENCODINGS: dict[str, Encoding] = {
    **dict.fromkeys(("json", "jsn"), "json"),
    **dict.fromkeys(("cls", "cls2", "class", "count", "index", "inx", "id"), "number"),
    **dict.fromkeys(("txt", "text", "transcript"), "text"),
}
"""Encoding of fields by extension, as webdataset writes and decodes them by default."""
STORED_EXTENSIONS = {"text": "txt", "transcript": "txt", "jsn": "json", "npz": "npy"}
"""Extensions of members in our shards, if they differ from those of webdataset."""
MAX_TEXT_BYTES = 2**20
"""Largest text that is read as a field."""


class TarSample(NamedTuple):
    """One sample: path of the tar and its name relative to the raw folder, key, (offset, size) by extension."""

    path: Path
    tar: str
    key: str
    files: dict[str, tuple[int, int]]


@register
@dataclass(frozen=True, kw_only=True)
class WebDataset(Source):
    """Tars in the format of webdataset: consecutive files with the same key are one sample.

    Members are copied as they are, without decoding: images, sounds and arrays keep their bytes. The fields of a sample
    are the keys of its JSON objects, and its numbers (`cls`, `id`, ...) and texts (`txt`, ...) by their extension.
    Tables, texts and labels can be taken from fields. A split can be made by any field, or by `tar`. Members that the
    recipe does not name are ignored. Python pickles (`pkl`, `pyd`, `pth`) are never read.

    Attributes:
        files: Glob for tars below the raw folder.
        members: By modality, its extension or list of extensions in the tars, such as `{image: [jpg, png], mask:
            seg.png}`; a sample has those that are present. An `npz` file must have one array.
        columns: By modality, its field or list of fields that become the cells of a table or the words of one text.
        labels: Fields stored as labels, apart from the content.
        key: Field that identifies a sample, such as `__key__`; by default the tar and the key.
        decode: Encoding of fields by extension, if the extension is not among the usual ones.
    """

    type: ClassVar[str] = "webdataset"

    files: str = "*.tar"
    members: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    columns: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    key: str | None = None
    decode: dict[str, Encoding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.members or self.columns):
            raise ValueError("data.source.members is empty: give the extensions of each modality")
        for name in self.members.keys() & self.columns.keys():
            raise ValueError(f"data.source.columns.{name} is also in members: remove it from one of them")
        for extension in (*itertools.chain.from_iterable(self._extensions.values()), *self.decode):
            if _last(extension) in PICKLES:
                raise ValueError(
                    f"data.source reads {extension!r}, but a Python pickle can run any code: "
                    "write these members as npy, json or txt"
                )

    @property
    def _extensions(self) -> dict[str, tuple[str, ...]]:
        """Extensions in lower case by modality."""
        listed = {name: (value,) if isinstance(value, str) else value for name, value in self.members.items()}
        return {name: tuple(extension.lower() for extension in extensions) for name, extensions in listed.items()}

    def check(self, modalities: Mapping[str, Modality]) -> None:
        for name, extensions in self._extensions.items():
            modality = require_modality(name, modalities, "members")
            for extension in extensions:
                stored = STORED_EXTENSIONS.get(_last(extension), _last(extension))
                require_extension(modality, [stored], f"data.source.members.{name}: {name!r}")
        require_cells(self.columns, modalities)

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        return frozenset({*self.members, *self.columns})

    def items(self, raw: Path) -> Iterator[TarSample]:
        root = raw.parent if raw.is_file() else raw
        for path in find_files(raw, self.files, (".tar",)):
            name = path.relative_to(root).as_posix()
            with path.open("rb") as file:
                for key, group in itertools.groupby(iter_files(file, path), lambda entry: entry[0]):
                    files: dict[str, tuple[int, int]] = {}
                    for _, extension, offset, size in group:
                        if files.setdefault(extension.lower(), (offset, size)) != (offset, size):
                            raise ValueError(f"{path} has the file {key}.{extension} twice")
                    yield TarSample(path, name, key, files)

    def make(self, item: TarSample, modalities: Mapping[str, Modality]) -> Sample:
        with item.path.open("rb") as file:
            contents = {
                extension: _read(file.fileno(), extension, *item.files[extension])
                for extension in item.files
                if self._encoding(extension) or any(extension in names for names in self._extensions.values())
            }
        fields = self._fields(item, contents)
        if self.key and fields.get(self.key) is None:
            raise ContentError(f"sample without {self.key}")
        groups = {**group_values(fields), "tar": item.tar}
        members: dict[str, bytes] = {}
        canonical: dict[str, str] = {}
        for name, extensions in self._extensions.items():
            for extension in (extension for extension in extensions if extension in contents):
                content = _content(contents[extension], extension, modalities[name])
                groups |= content.groups
                if content.canonical is not None:
                    canonical[name] = content.canonical
                for stored, data in content.members.items():
                    if members.setdefault(f"{name}.{stored}", data) is not data:
                        raise ContentError(f"{name} with several {stored} members")
        for group in (group for name in self.members for group in modalities[name].group_names):
            groups.setdefault(group, "")
        row = {name: fields.get(name) for name in self._columns}
        for name, columns in self.columns.items():
            members |= cell_members(row, {name: columns}, modalities)
        if not members:
            raise ContentError("sample without content")
        if self.labels:
            members["labels.json"] = dump_cells(row, self.labels)
        identity = str(fields[self.key]) if self.key else f"{item.tar}/{item.key}"
        return Sample(identity=identity, members=members, groups=groups, canonical=canonical)

    @property
    def _columns(self) -> list[str]:
        """Fields of tables, texts and labels."""
        columns = [name for names in self.columns.values() for name in ([names] if isinstance(names, str) else names)]
        return [*columns, *self.labels]

    def _encoding(self, extension: str) -> Encoding | None:
        """Encoding of the fields in a member, None if it has none."""
        last = _last(extension)
        return self.decode.get(extension) or self.decode.get(last) or ENCODINGS.get(last)

    def _fields(self, item: TarSample, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """The fields of a sample; missing ones are None."""
        fields: dict[str, Any] = {"__key__": item.key}
        for extension, data in contents.items():
            match self._encoding(extension):
                case "json":
                    value = parse_json(data, f"{extension} member")
                    fields |= value if isinstance(value, dict) else {extension: value}
                case "number":
                    fields[extension] = _number(data, extension)
                case "text" if len(data) <= MAX_TEXT_BYTES:
                    fields[extension] = _text(data, extension)
        return {
            name: None if not isinstance(value, (dict, list)) and is_missing(value, name, self.missing) else value
            for name, value in fields.items()
        }


def _content(data: bytes, extension: str, modality: Modality) -> CellContent:
    """Content of a member: a text as the modality reads it, an array of an npz file, any other file as it is."""
    last = _last(extension)
    stored = STORED_EXTENSIONS.get(last, last)
    if stored == "txt":
        return modality.from_cell(_text(data, extension))
    if last == "npz":
        return CellContent({stored: _single_array(data)})
    return CellContent({stored: modality.stored_bytes(stored, data)})


def _last(extension: str) -> str:
    """The last part of an extension: `png` of `seg.png`."""
    return extension.lower().rpartition(".")[2]


def _read(descriptor: int, extension: str, offset: int, size: int) -> bytes:
    """The bytes of a member."""
    if size > MAX_BYTES:
        raise ContentError(f"{extension} member of more than {MAX_BYTES:,} bytes", f"{size:,} bytes")
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise ContentError(f"{extension} member that is cut short")
    return data


def _text(data: bytes, extension: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ContentError(f"{extension} member that is not UTF-8") from error


def _number(data: bytes, extension: str) -> int | float:
    """An integer if it is written as one, else a float."""
    text = _text(data[:100], extension).strip()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ContentError(f"{extension} member that is not a number") from error
    if type(value) not in (int, float):
        raise ContentError(f"{extension} member that is not a number")
    return value


def _single_array(data: bytes) -> bytes:
    """The `npy` file of the only array in an `npz` file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) != 1:
                raise ContentError("npz member with several arrays" if entries else "npz member without an array")
            if entries[0].file_size > MAX_BYTES:
                raise ContentError(f"npz member of more than {MAX_BYTES:,} bytes")
            with archive.open(entries[0]) as file:
                return file.read(MAX_BYTES)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error) as error:
        raise ContentError("npz member that cannot be read") from error
