"""A user's own samples with their labels, from a table file or from shards."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.names import did_you_mean
from modalities.strings.columns import survey_labels
from modalities.tokens import Tokens
from pipeline.data.columns import ColumnChoice
from pipeline.data.hashes import group_hash, joint_hash, short_hashes
from pipeline.data.loader import tokenize, tokens_at
from pipeline.data.task import finite
from pipeline.recipe.schema import Recipe
from shards.manifest import NAME, Manifest
from shards.read import Members, Split
from shards.remote import open_store
from shards.sources.tables import SUFFIXES, read_table
from shards.store import Store
from shards.versions import installed_versions, required_packages

CACHED_SAMPLES = 1024
"""Samples of shards whose tokens stay in memory, because every epoch and every seed reads them."""


@dataclass(frozen=True, kw_only=True)
class Labelled(ABC):
    """N samples with labels.

    types: the modalities that a run was fitted with, by name. modalities: names of those that samples may have.
    keys: row numbers of files, keys of shards. labels: None if a sample has none. groups: the group of each sample, of
    the kind `by`, which a split must keep together. split: the split of each sample in its shards, empty for files.
    skipped: why samples were left out, by row or key. versions: of the parsers that wrote the content, and of those
    that read it.
    """

    types: Mapping[str, Modality]
    modalities: tuple[str, ...]
    keys: tuple[str, ...]
    labels: tuple[Any, ...]
    groups: tuple[str, ...]
    by: str | None
    split: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    versions: tuple[dict[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def tokens(self, index: int) -> dict[str, Tokens]:
        """Tokens of a sample by modality.

        Raises:
            ContentError: the sample cannot be used.
        """

    @abstractmethod
    def members(self, index: int) -> Members:
        """Bytes of a sample by modality and extension."""

    @abstractmethod
    def hashes(self, index: int) -> frozenset[str]:
        """Hashes of a sample's content and group, see `hashes_of`."""

    def usable(self, index: int) -> bool:
        """Whether a sample becomes tokens; if it does not, print it once and count it in `skipped`."""
        try:
            self.tokens(index)
        except ContentError as error:
            if self.keys[index] not in self.skipped:
                print(f"skipped a sample: {error.reason} ({self.keys[index]})", file=sys.stderr)
            self.skipped[self.keys[index]] = error.reason
            return False
        return True


class FileSample(NamedTuple):
    """One row of a table file."""

    tokens: dict[str, Tokens]
    members: Members


@dataclass(frozen=True, kw_only=True)
class LabelledFile(Labelled):
    """Samples of a table file, all in memory."""

    samples: tuple[FileSample, ...]

    def tokens(self, index: int) -> dict[str, Tokens]:
        return self.samples[index].tokens

    def members(self, index: int) -> Members:
        return self.samples[index].members

    def hashes(self, index: int) -> frozenset[str]:
        return hashes_of(short_hashes(self.members(index)), self.by, self.groups[index], self.types)


class Location(NamedTuple):
    """Where a sample of shards is stored: its split, the number of its shard and its number within the shard."""

    split: Split
    shard: int
    number: int


@dataclass(frozen=True, kw_only=True)
class LabelledShards(Labelled):
    """Samples of shards, read when they are needed."""

    locations: tuple[Location, ...]

    def tokens(self, index: int) -> dict[str, Tokens]:
        return self._cached_tokens(index)

    def members(self, index: int) -> Members:
        split, shard, number = self.locations[index]
        return split.read(shard, number)

    def hashes(self, index: int) -> frozenset[str]:
        split, shard, number = self.locations[index]
        return self._all_hashes[split.split, (shard, number)]

    @cached_property
    def _cached_tokens(self) -> Callable[[int], dict[str, Tokens]]:
        return lru_cache(CACHED_SAMPLES)(lambda index: tokens_at(*self.locations[index], self.types))

    @cached_property
    def _all_hashes(self) -> dict[tuple[str, tuple[int, int]], frozenset[str]]:
        splits = {location.split.split: location.split for location in self.locations}
        return {
            (name, place): hashes for name, split in splits.items() for place, hashes in hashes_in(split, self.types)
        }


def load(
    data: str | Path,
    modalities: Mapping[str, Modality],
    *,
    label: str | None = None,
    excluded: str | None = None,
    by: str | None = None,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
    recipe: Recipe | None = None,
) -> Labelled:
    """Samples from a CSV, TSV or Parquet file, or from a folder or URL of shards.

    label: column or label to read; no modality reads it. excluded: a further column that no modality reads. by: column,
    or `scaffold`, whose groups a split keeps together. columns: column of each modality, for tables and texts several
    as `a+b`, which may be new numeric ones; by default the columns that the recipe's source reads, or those of the
    modality's name. `by` and `columns` apply to files only. skip_invalid: leave out unusable rows of a file; unusable
    samples of shards are found when they are read, see `Labelled.usable`. recipe: of the run; without one, remote
    shards are cached as recipes do by default.

    Raises:
        ValueError: no such file, column or label; an unusable row without `skip_invalid`; `by` or `columns` for shards.
    """
    store = open_store(data, recipe.data.cache if recipe else None)
    path = store.location
    if isinstance(path, str) or (path / NAME).is_file():
        for option, value in (("--split", by), ("--columns", columns)):
            if value:
                raise ValueError(f"{option} is for table files: the shards at {path} have their own, leave it out")
        return _load_shards(store, modalities, label)
    if path.is_dir():
        raise ValueError(f"{path} is a folder without {NAME}: give a table file or a folder of shards")
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path} is neither a folder of shards nor a file of {', '.join(SUFFIXES)}")
    choice = ColumnChoice(
        path=path,
        modalities=modalities,
        requested=dict(columns or {}),
        source=recipe.data.source if recipe else None,
        label=label,
        excluded=excluded,
    )
    with printed_changes(path):
        return _load_file(choice, by, skip_invalid)


@contextmanager
def printed_changes(data: Path | str) -> Iterator[None]:
    """Print the changes counted in this context (`counted_changes`) to standard error."""
    with counted_changes() as changes:
        yield
    for reason, times in changes.items():
        print(f"{data}: {reason} ({times:,})", file=sys.stderr)


def _load_file(choice: ColumnChoice, by: str | None, skip_invalid: bool) -> LabelledFile:
    data, label, modalities = choice.path, choice.label, choice.modalities
    frame = read_table(data)
    source, types = choice.rows(frame)
    keys, samples, labels, groups = [], [], [], []
    skipped: dict[str, str] = {}
    for item in source.read(data, frame, types, count(1)):
        row = f"row {item[1]}"
        try:
            sample = source.make(item, modalities)
            members: Members = {}
            for name, content in sample.members.items():
                modality, _, extension = name.partition(".")
                members.setdefault(modality, {})[extension] = content
            tokens = tokenize(members, modalities)
        except ContentError as error:
            if not skip_invalid:
                raise ValueError(f"{data}, {row}: {error}; correct it or pass --skip-invalid") from error
            skipped[row] = error.reason
            continue
        if by is not None and by not in sample.groups:
            raise ValueError(f"cannot split by {by!r}{did_you_mean(by, sample.groups)}")
        keys.append(str(item[1]))
        samples.append(FileSample(tokens, members))
        labels.append(finite(json.loads(members["labels"]["json"])[label]) if label else None)
        groups.append(sample.groups[by] if by else row)
    if not samples:
        raise ValueError(f"no usable row in {data}" + first_skipped(skipped))
    if label:
        for line in survey_labels(({label: value} for value in labels), source.missing):
            print(f"{data}: label {line}", file=sys.stderr)
    return LabelledFile(
        types=modalities,
        modalities=tuple(source.columns),
        keys=tuple(keys),
        labels=tuple(labels),
        groups=tuple(groups),
        by=by,
        split=("",) * len(samples),
        skipped=skipped,
        versions=(installed_versions(required_packages(modalities, source)),),
        samples=tuple(samples),
    )


def first_skipped(skipped: Mapping[str, str]) -> str:
    """The first sample left out and the reason, for the end of a message."""
    return next((f" ({key}: {reason})" for key, reason in skipped.items()), "")


def _load_shards(store: Store, modalities: Mapping[str, Modality], label: str | None) -> LabelledShards:
    """Samples of shards; only the labels are read now, if one is requested."""
    manifest = Manifest.read(store)
    names = tuple(name for name in modalities if name in manifest.modalities)
    if not names:
        fields = ", ".join(manifest.fields)
        raise ValueError(f"{store.location} has no members of {', '.join(modalities)}; it has {fields}")
    keys, groups, locations, labels = [], [], [], []
    label_names, skipped = set[str](), dict[str, str]()
    for split in [Split(store, name) for name, samples in manifest.counts().items() if samples]:
        for key, group, shard, number in split.locations():
            value = None
            if label is not None:
                try:
                    row = json.loads(split.read(shard, number).get("labels", {}).get("json", b"{}"))
                except ContentError as error:
                    skipped[key] = error.reason
                    continue
                label_names |= row.keys()
                value = finite(row.get(label))
            keys.append(key)
            groups.append(group)
            locations.append(Location(split, shard, number))
            labels.append(value)
    if label is not None and label not in label_names:
        raise ValueError(f"{store.location} has no label {label!r}{did_you_mean(label, label_names)}")
    return LabelledShards(
        types=modalities,
        modalities=names,
        keys=tuple(keys),
        labels=tuple(labels),
        groups=tuple(groups),
        by=manifest.split.get("by"),
        split=tuple(location.split.split for location in locations),
        skipped=skipped,
        versions=(manifest.versions, installed_versions(required_packages(modalities))),
        locations=tuple(locations),
    )


def hashes_of(
    contents: Mapping[str, Mapping[str, bytes]], by: str | None, group: str, modalities: Mapping[str, Modality]
) -> frozenset[str]:
    """Hashes of a sample's content and group, comparable with those that a run stores of its training data.

    contents: short hashes of its members, by modality and extension. Modalities that do not identify samples are left
    out if the sample has others, because many samples share a row of place and date or a taxonomy.
    """
    names = [name for name in modalities if name in contents]
    identifying = [name for name in names if modalities[name].identifies] or names
    return frozenset({f"{name}:{joint_hash(contents[name])}" for name in identifying} | group_hash(by, group))


def hashes_in(split: Split, modalities: Mapping[str, Modality]) -> Iterator[tuple[tuple[int, int], frozenset[str]]]:
    """(shard, number) of every sample of a split that has not been skipped, and its hashes, from the indexes alone."""
    by = split.manifest.split.get("by")
    for place, group, contents in split.contents():
        yield place, hashes_of(contents, by, group, modalities)
