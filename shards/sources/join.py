"""Join several sources by a key into samples of all their modalities."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

from modalities.base import Modality
from shards.parsing import parse_typed
from shards.sources.base import SOURCE_TYPES, ByteRange, Sample, Source, StoredSample, register

_LABELS = "labels.json"


class Item(NamedTuple):
    """An item of a joined source, and the number of that source."""

    source: int
    item: Any


@register
@dataclass(frozen=True, kw_only=True)
class Join(Source):
    """Samples of the first source, each with the members of the other sources' samples of the same key.

    Several samples of the first source may share a partner; if several samples of another source have the same key,
    the first is used. Samples without a key or a partner are skipped and counted by reason. Labels are merged, and
    a split can be made by the fields of any source; if two have a field of the same name, the first source's counts.
    The samples of all sources except the first must fit into memory, without their members.

    Attributes:
        sources: The sources, each with the keys of `data.source`, all below one raw folder.
        by: Field to join by: one name for all sources, or a list with one per source. Any field that a split of the
            source can be made by.
        how: `inner` skips samples of the first source that lack a partner; `left` keeps them.
    """

    type: ClassVar[str] = "join"

    sources: tuple[dict[str, Any], ...] = ()
    by: str | tuple[str, ...] = ()
    how: Literal["inner", "left"] = "inner"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sources) < 2:
            raise ValueError("data.source.sources: a join needs at least two sources")
        if not self.by or (not isinstance(self.by, str) and len(self.by) != len(self.sources)):
            raise ValueError("data.source.by must be one name for all sources, or a list with one per source")
        if any(isinstance(part, Join) for part in self.parts):
            raise ValueError("data.source.sources: a join cannot contain a join: list all sources in one")

    @property
    def reads(self) -> Mapping[str, str | tuple[str, ...]]:
        return {name: columns for part in self.parts for name, columns in part.reads.items()}

    @property
    def parsers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(package for part in self.parts for package in part.parsers))

    @property
    def drawings(self) -> frozenset[str]:
        return frozenset().union(*(part.drawings for part in self.parts))

    @cached_property
    def parts(self) -> tuple[Source, ...]:
        """The joined sources.

        Raises:
            ValueError: the settings of a source are invalid; the message names the key.
        """
        return tuple(
            parse_typed(config, SOURCE_TYPES, f"data.source.sources.{i}") for i, config in enumerate(self.sources)
        )

    def check(self, modalities: Mapping[str, Modality]) -> None:
        writers: dict[str, int] = {}
        for number, part in enumerate(self.parts):
            try:
                part.check(modalities)
            except ValueError as error:
                raise ValueError(str(error).replace("data.source", f"data.source.sources.{number}", 1)) from error
            if self.how == "left":
                continue  # partners may complement each other; `combine` refuses those that collide
            for name in sorted(part.writes(modalities)):
                if (other := writers.setdefault(name, number)) != number:
                    raise ValueError(
                        f"data.source.sources {other} and {number} both make the modality {name!r}: remove it from one"
                    )

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        return frozenset().union(*(part.writes(modalities) for part in self.parts))

    def items(self, raw: Path) -> Iterator[Item]:
        """The items of all sources, those of the first source last."""
        for number in (*range(1, len(self.parts)), 0):
            for item in self.parts[number].items(raw):
                yield Item(number, item)

    def make(self, item: Item, modalities: Mapping[str, Modality]) -> Sample:
        return replace(self.parts[item.source].make(item.item, modalities), source=item.source)

    def combine(self, samples: Iterator[StoredSample | str], folder: Path) -> Iterator[StoredSample | str]:
        """Join the samples of the first source with those of the others.

        Raises:
            ValueError: a source does not have the field to join by, or two sources make the same member.
        """
        waiting: list[dict[str, StoredSample]] = [{} for _ in self.parts]
        used: list[set[str]] = [set() for _ in self.parts]
        with (folder / _LABELS).open("wb") as labels:
            for part in samples:
                if isinstance(part, str):
                    yield part
                    continue
                key = self._key(part)
                if part.source == 0:
                    yield self._joined(part, key, waiting, used, folder, labels)
                elif not key:
                    yield self._without_key(part)
                elif waiting[part.source].setdefault(key, part) is not part:
                    yield f"{self.parts[part.source].type} of a key that another has"
        first = self.parts[0].type
        for number, (samples_by_key, used_keys) in enumerate(zip(waiting, used, strict=True)):
            yield from (
                f"{self.parts[number].type} without {first} of its key"
                for _ in range(len(samples_by_key) - len(used_keys))
            )

    def _key(self, part: StoredSample) -> str:
        name = self.by if isinstance(self.by, str) else self.by[part.source]
        if name not in part.groups:
            source = self.parts[part.source].type
            raise ValueError(f"data.source.by is {name!r}, but {source} can be joined by {', '.join(part.groups)}")
        return part.groups[name]

    def _without_key(self, part: StoredSample) -> str:
        return f"{self.parts[part.source].type} without {self.by if isinstance(self.by, str) else self.by[part.source]}"

    def _joined(
        self,
        part: StoredSample,
        key: str,
        waiting: list[dict[str, StoredSample]],
        used: list[set[str]],
        folder: Path,
        labels: BinaryIO,
    ) -> StoredSample | str:
        """Join one sample of the first source, or return the reason to skip it. Appends merged labels to a file."""
        partners = {
            number: samples_by_key[key]
            for number, samples_by_key in enumerate(waiting)
            if key and key in samples_by_key
        }
        if self.how == "inner" and len(partners) + 1 < len(self.parts):
            if not key:
                return self._without_key(part)
            lacking = next(number for number in range(1, len(self.parts)) if number not in partners)
            return f"{self.parts[0].type} without {self.parts[lacking].type} of its key"
        members, groups, fingerprints, tables = dict(part.members), dict(part.groups), dict(part.fingerprints), []
        changes = Counter(part.changes)
        if _LABELS in members:
            tables.append(members.pop(_LABELS))
        for number, other in partners.items():
            used[number].add(key)
            for name, byte_range in other.members.items():
                if name == _LABELS:
                    tables.append(byte_range)
                elif name in members:
                    raise ValueError(f"two of the joined sources make the member {name}: remove it from one of them")
                else:
                    members[name] = byte_range
            groups = {**other.groups, **groups}
            changes.update(other.changes)
            fingerprints = {**other.fingerprints, **fingerprints}
        if tables:
            members[_LABELS] = tables[0] if len(tables) == 1 else _merge_labels(tables, folder, labels)
        return StoredSample(
            identity=part.identity, members=members, groups=groups, fingerprints=fingerprints, changes=dict(changes)
        )


def _merge_labels(tables: Sequence[ByteRange], folder: Path, labels: BinaryIO) -> ByteRange:
    """Merge the labels of several samples and append them to a file; the first label of each name counts."""
    merged: dict[str, Any] = {}
    for table in tables:
        merged = {**json.loads(table.read(folder)), **merged}
    data = json.dumps(merged).encode()
    byte_range = ByteRange(_LABELS, labels.tell(), len(data))
    labels.write(data)
    return byte_range
