"""A user's own samples, from a table file or from shards, with labels where there are any."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.names import did_you_mean, format_names
from modalities.strings.cells import Kind, is_identifier, to_number, to_quantity
from modalities.strings.columns import survey_labels
from modalities.tokens import Tokens
from pipeline.data.hashes import group_hash, joint_hash, short_hashes
from pipeline.data.loader import tokenize, tokens_at
from pipeline.recipe.schema import Recipe
from shards.manifest import NAME, Manifest
from shards.names import need_columns
from shards.read import Members, Split
from shards.remote import Store, open_store
from shards.sources.base import Source
from shards.sources.rows import Rows
from shards.sources.tables import SUFFIXES, CellTypes, infer_types, is_typed, read_table
from shards.versions import installed_versions, required_packages

KEPT = 1024
"""Samples of shards whose tokens stay in memory, for they are read in every epoch and by every seed."""
FEW = 20
"""Whole numbers of at most so many kinds are classes."""

Columns = Mapping[str, str | tuple[str, ...]]
"""A modality's column, or several of them."""


@dataclass(frozen=True)
class Labelled:
    """N samples. `tokens(i)`, `members(i)` and `hashes(i)` read one; labels are None where a sample has none.

    groups: what a split must not tear apart, of the kind `by`. hashes: of a sample's contents and group. split: the
    shard split each came from, empty for files. skipped: reasons of what was left out, by row or key. modalities: those
    that samples may have. versions: of the parsers that made the content, and of those that read it here.
    """

    keys: tuple[str, ...]
    tokens: Callable[[int], dict[str, Tokens]]
    members: Callable[[int], Members]
    labels: tuple[Any, ...]
    groups: tuple[str, ...]
    hashes: Callable[[int], frozenset[str]]
    split: tuple[str, ...]
    by: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    versions: tuple[dict[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def usable(self, number: int) -> bool:
        """Whether a sample becomes tokens; one that does not is told of and counted in `skipped`."""
        try:
            self.tokens(number)
        except ContentError as error:
            if self.keys[number] not in self.skipped:
                print(f"skipped a sample: {error.reason} ({self.keys[number]})", file=sys.stderr)
            self.skipped[self.keys[number]] = error.reason
            return False
        return True


def load(
    data: str | Path,
    modalities: Mapping[str, Modality],
    *,
    label: str | None = None,
    leave: str | None = None,
    by: str | None = None,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
    recipe: Recipe | None = None,
) -> Labelled:
    """Samples from a CSV, TSV or Parquet file, or from a folder of shards, which may be a URL.

    columns: column of each modality, of a table all of its columns as `a+b`, new ones of numbers too; without it those
    that the recipe's source reads, or that bear the modality's name. leave: a column that none reads, as none reads the
    label. by: a column, or `scaffold`. Both are for files alone. Unusable samples of shards are met where they are
    read: see `Labelled.usable`. recipe: of the run that reads them; without one, shards at a URL are cached as recipes
    do by default.

    Raises:
        ValueError: no such file, column or label; an unusable row, unless `skip_invalid` leaves it out; `by` or
            `columns` for shards, which have their own.
    """
    store = open_store(data, recipe.data.cache if recipe else None)
    where = store.location
    if isinstance(where, str) or (where / NAME).is_file():
        for option, given in (("--split", by), ("--columns", columns)):
            if given:
                raise ValueError(f"{option} is for table files: the shards at {where} have their own, leave it out")
        return _from_shards(store, modalities, label)
    if where.is_dir():
        raise ValueError(f"{where} is a folder without {NAME}: give a table file or a folder of shards")
    if not where.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{where} is neither a folder of shards nor a file of {', '.join(SUFFIXES)}")
    source = recipe.data.source if recipe else None
    with printed_changes(where):
        return _from_rows(where, modalities, label, leave, by, dict(columns or {}), source, skip_invalid)


@contextmanager
def printed_changes(data: Path | str) -> Iterator[None]:
    """Print what samples lose while the context is open, or what is read otherwise than it is written."""
    with counted_changes() as changes:
        yield
    for reason, times in changes.items():
        print(f"{data}: {reason} ({times:,})", file=sys.stderr)


def _from_rows(
    data: Path,
    modalities: Mapping[str, Modality],
    label: str | None,
    leave: str | None,
    by: str | None,
    columns: dict[str, str],
    usual: Source | None,
    skip_invalid: bool,
) -> Labelled:
    frame = read_table(data)
    source, types = _source(data, frame, modalities, label, leave, columns, usual)
    rows = []
    skipped: dict[str, str] = {}
    for item in source.read(data, frame, types, count(1)):
        try:
            sample = source.make(item, modalities)
            members: Members = {}
            for name, content in sample.members.items():
                modality, _, extension = name.partition(".")
                members.setdefault(modality, {})[extension] = content
            tokens = tokenize(members, modalities)
        except ContentError as error:
            if not skip_invalid:
                raise ValueError(f"{data}, row {item[1]}: {error}; mend it or pass --skip-invalid") from error
            skipped[f"row {item[1]}"] = error.reason
            continue
        if by is not None and by not in sample.groups:
            raise ValueError(f"cannot split by {by!r}{did_you_mean(by, sample.groups)}")
        value = finite(json.loads(members["labels"]["json"])[label]) if label else None
        rows.append((str(item[1]), tokens, members, value, sample.groups[by] if by else f"row {item[1]}"))
    if not rows:
        raise ValueError(f"no usable row in {data}" + first_of(skipped))
    if label:
        for line in survey_labels(({label: row[3]} for row in rows), source.missing):
            print(f"{data}: label {line}", file=sys.stderr)
    return Labelled(
        tuple(row[0] for row in rows),
        lambda i: rows[i][1],
        lambda i: rows[i][2],
        tuple(row[3] for row in rows),
        tuple(row[4] for row in rows),
        cache(lambda i: hashes_of(short_hashes(rows[i][2]), by, rows[i][4], modalities)),
        ("",) * len(rows),
        by,
        skipped,
        tuple(source.columns),
        (installed_versions(required_packages(modalities, source)),),
    )


def _source(
    data: Path,
    frame: pl.DataFrame,
    modalities: Mapping[str, Modality],
    label: str | None,
    leave: str | None,
    columns: dict[str, str],
    usual: Source | None,
) -> tuple[Rows, CellTypes]:
    """What reads a table file, and the types of its columns: those that the modalities' tables were fitted on."""
    if label is not None:
        need_columns(data, frame.columns, [label])
    codes = _codes(frame.columns, modalities, usual)
    kinds: dict[str, Kind] = {
        column: kind
        for modality in modalities.values()
        for column, kind in modality.column_kinds().items()
        if column != label
    }
    types = infer_types([frame], codes, kinds=kinds, typed=is_typed(data))
    read = _columns(data, frame, types, modalities, columns, usual.reads if usual else {}, (label, leave))
    source = Rows(columns=read, labels=(label,) if label else (), missing=codes)
    types.count(source.used)
    return source, types


def _codes(
    columns: Sequence[str], modalities: Mapping[str, Modality], source: Source | None
) -> dict[str, tuple[str | int | float, ...]]:
    """What means missing, by column of a file, as the recipe's source and its tables have it."""
    codes = dict(source.missing) if source else {}
    for modality in modalities.values():
        codes |= modality.missing_codes
    return {name: tuple(values) for name, values in codes.items() if name in columns}


def first_of(skipped: Mapping[str, str]) -> str:
    """The first of what was left out, to stand at the end of a message."""
    return next((f" ({where}: {reason})" for where, reason in skipped.items()), "")


def _columns(
    data: Path,
    frame: pl.DataFrame,
    types: CellTypes,
    modalities: Mapping[str, Modality],
    given: dict[str, str],
    usual: Columns,
    labels: Sequence[str | None],
) -> dict[str, str | tuple[str, ...]]:
    """The columns of each modality: as given, as usual, by the modality's name, or a table's known columns.

    Modalities without any are told of. New columns of a table are taken where they are given by name, as `a+b`, and
    told of where they are not: they may be other labels, or numbers that only count the rows.
    """
    for name in given:
        if name not in modalities:
            raise ValueError(f"--columns names {name!r}, which is not a modality here{did_you_mean(name, modalities)}")
    free = [column for column in frame.columns if column not in labels]
    lower = {column.lower(): column for column in free}
    found: dict[str, str | tuple[str, ...]] = {}
    for name, modality in modalities.items():
        named = _named(given[name], frame) if name in given else []
        need_columns(data, frame.columns, named)
        if taken := [column for column in named if column in labels]:
            raise ValueError(f"--columns gives the label {taken[0]!r} to {name!r}: leave it out")
        if modality.cells == "typed":
            chosen = named or [column for column in free if modality.knows(column)]
            for column in chosen:
                if not (modality.knows(column) or _is_numeric(frame, types, column)):
                    raise ValueError(f"{name!r} takes new columns of numbers alone, {column!r} is none: leave it out")
            if chosen:
                found[name] = tuple(chosen)
        elif len(named) > 1 and modality.cells == "none":
            raise ValueError(f"--columns gives {name!r} {len(named)} columns, but tables and texts alone take several")
        elif named:
            found[name] = named[0] if len(named) == 1 else tuple(named)
        elif name in usual and set(_listed(usual[name])) <= set(free):
            found[name] = usual[name]
        elif name.lower() in lower:
            found[name] = lower[name.lower()]
    if not found:
        raise ValueError(
            f"{data} has no column for {', '.join(modalities)}; it has {format_names(frame.columns)}: "
            "name them with --columns modality=column"
        )
    if lacking := [name for name in modalities if name not in found]:
        print(f"no column for {', '.join(lacking)}: if there is one, pass --columns modality=column", file=sys.stderr)
    _tell_left([column for column in free if _is_numeric(frame, types, column)], modalities, found, given)
    return found


def _is_numeric(frame: pl.DataFrame, types: CellTypes, column: str) -> bool:
    return types.numeric(column) or frame.schema[column].is_numeric()


def _listed(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _named(text: str, frame: pl.DataFrame) -> list[str]:
    """Columns given as `a+b`, or one whose name holds a plus."""
    return [text] if text in frame.columns else text.split("+")


def _tell_left(
    numbers: Sequence[str],
    modalities: Mapping[str, Modality],
    found: Mapping[str, str | tuple[str, ...]],
    given: Mapping[str, str],
) -> None:
    """Name the columns of numbers that no modality reads but a table could."""
    taken = {column for columns in found.values() for column in _listed(columns)}
    left = [column for column in numbers if column not in taken]
    for name in (name for name, modality in modalities.items() if modality.cells == "typed" and name not in given):
        if left:
            columns = "+".join([*found.get(name, ()), *left])
            told = f"--columns {name}={columns}" if len(columns) < 300 else f"them as --columns {name}=a+b"
            print(f"left out as new to {name!r}: {format_names(left)}; to use them pass {told}", file=sys.stderr)


def _from_shards(store: Store, modalities: Mapping[str, Modality], label: str | None) -> Labelled:
    """Labels alone are read here, where one is asked for; everything else when it is needed."""
    manifest = Manifest.read(store)
    found = tuple(name for name in modalities if name in manifest.modalities)
    if not found:
        fields = ", ".join(manifest.fields)
        raise ValueError(f"{store.location} has no members of {', '.join(modalities)}; it has {fields}")
    by = manifest.split.get("by")
    rows: list[tuple[str, str, Split, tuple[int, int], Any]] = []
    known, skipped = set[str](), dict[str, str]()
    for name in (name for name, samples in manifest.counts().items() if samples):
        split = Split(store, name)
        for key, group, shard, number in split.locations():
            value = None
            if label is not None:
                try:
                    held = json.loads(split.read(shard, number).get("labels", {}).get("json", b"{}"))
                except ContentError as error:
                    skipped[key] = error.reason
                    continue
                known |= held.keys()
                value = finite(held.get(label))
            rows.append((key, group, split, (shard, number), value))
    if label is not None and label not in known:
        raise ValueError(f"{store.location} has no label {label!r}{did_you_mean(label, known)}")

    @cache
    def hashes() -> dict[tuple[str, tuple[int, int]], frozenset[str]]:
        splits = {row[2].split: row[2] for row in rows}
        return {(name, place): found for name in splits for place, found in hashes_in(splits[name], modalities)}

    return Labelled(
        tuple(row[0] for row in rows),
        lru_cache(KEPT)(lambda i: tokens_at(rows[i][2], *rows[i][3], modalities)),
        lambda i: rows[i][2].read(*rows[i][3]),
        tuple(row[4] for row in rows),
        tuple(row[1] for row in rows),
        lambda i: hashes()[rows[i][2].split, rows[i][3]],
        tuple(row[2].split for row in rows),
        by,
        skipped,
        found,
        (manifest.versions, installed_versions(required_packages(modalities))),
    )


def hashes_of(
    contents: Mapping[str, Mapping[str, bytes]], by: str | None, group: str, modalities: Mapping[str, Modality]
) -> frozenset[str]:
    """Hashes of a sample's contents and group, comparable with those a run carries of its training data.

    contents: short hashes of its members, by modality and extension. Many things share a row of where and when they
    were found, or a taxonomy: where a sample has other modalities, its tables and texts do not tell it from others and
    are left out.
    """
    here = [name for name in modalities if name in contents]
    telling = [name for name in here if modalities[name].identifies] or here
    return frozenset({f"{name}:{joint_hash(contents[name])}" for name in telling} | group_hash(by, group))


def hashes_in(split: Split, modalities: Mapping[str, Modality]) -> Iterator[tuple[tuple[int, int], frozenset[str]]]:
    """(shard, number) of every sample of a split that is kept, and its hashes, from the indexes alone."""
    by = split.manifest.split.get("by")
    for place, group, contents in split.contents():
        yield place, hashes_of(contents, by, group, modalities)


def finite(label: Any) -> Any:
    """A label; None where it is a number that is not finite, for nothing can be learned from it."""
    return None if isinstance(label, float) and not math.isfinite(label) else label


@dataclass(frozen=True)
class Task:
    """What is predicted: a number, standardised by the training labels, or one of `classes`."""

    label: str
    kind: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return len(self.classes) if self.kind == "classification" else 1

    def fitted(self, labels: Sequence[Any]) -> Task:
        """The same task, its mean and std those of training labels."""
        if self.kind == "classification":
            return self
        numbers = np.array(labels, np.float64)
        return replace(self, mean=float(numbers.mean()), std=float(numbers.std()) or 1.0)

    def encode(self, labels: Sequence[Any]) -> np.ndarray:
        """Labels as class numbers int64 or standardised float32."""
        if self.kind == "classification":
            known = {name: number for number, name in enumerate(self.classes)}
            return np.array([known[str(label)] for label in labels], np.int64)
        return ((np.array(labels, np.float64) - self.mean) / self.std).astype(np.float32)

    def decode(self, predicted: np.ndarray) -> np.ndarray:
        """Standardised numbers `(N,)` in the label's own unit; probabilities `(N, classes)` as they are."""
        if self.kind == "classification":
            return predicted
        return predicted.astype(np.float64) * self.std + self.mean


def _refuse_mixed(label: str, values: Sequence[Any], numbers: int) -> None:
    """Refuse labels that are numbers save some, also where the others are so many that their column is text.

    Raises:
        ValueError: more than half are numbers, others are not or all have a unit; the message names these.
    """
    texts = Counter(value for value in values if isinstance(value, str))
    plain = {text for text in texts if to_number(text) is not None and not is_identifier(text.strip())}
    units = {text for text in texts if to_quantity(text) is not None}
    kinds = len(plain) + len(units) + len({value for value in values if not isinstance(value, str)})
    alike = numbers + sum(texts[text] for text in plain | units)
    if numbers < len(values) < 2 * numbers or (kinds > FEW and len(values) < 2 * alike and plain != texts.keys()):
        odd = [str(value) for value in dict.fromkeys(values) if isinstance(value, bool)]
        odd += [text for text in texts if text not in plain]
        cells = ", ".join(odd) if len(odd) <= 5 else f"{', '.join(odd[:5])} and {len(odd) - 5:,} more"
        fits = numbers + sum(texts[text] for text in plain)
        raise ValueError(
            f"label {label!r}: {fits:,} of {len(values):,} cells are numbers, {len(values) - fits:,} are not "
            f"({cells}): give these numbers, leave them empty, or use --task classification"
        )


def _question_unique(label: str, values: Sequence[Any], numeric: bool) -> None:
    """Refuse classes of which most have a single sample.

    Raises:
        ValueError: more than half the samples have a value of their own, and there are many.
    """
    once = sum(count == 1 for count in Counter(map(str, values)).values())
    if not numeric and once > max(len(values) / 2, FEW):
        raise ValueError(
            f"label {label!r}: {once:,} of {len(values):,} samples have a class of their own: is it a key, a text, or "
            "a number that cannot be read? If it is a class, use --task classification"
        )


def task_of(label: str, values: Sequence[Any], kind: str = "auto") -> Task:
    """The task a label poses: regression where its values are numbers, not whole numbers of few kinds.

    Raises:
        ValueError: the label does not vary, or is not a number where regression was asked for.
    """
    distinct = set(values)
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    numeric = len(numbers) == len(values)
    if kind == "auto":
        _refuse_mixed(label, values, len(numbers))
        _question_unique(label, values, numeric)
        few = len(distinct) <= FEW and numeric and all(float(value).is_integer() for value in distinct)
        kind = "regression" if numeric and not few else "classification"
    if kind == "regression" and not numeric:
        _refuse_mixed(label, values, len(numbers))
        raise ValueError(f"label {label!r} is not a number: use --task classification")
    if len(distinct) < 2:
        raise ValueError(f"label {label!r} has one value only: there is nothing to learn")
    if kind == "classification":
        return Task(label, kind, tuple(sorted(map(str, distinct))))
    return Task(label, kind).fitted(values)
