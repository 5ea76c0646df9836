"""Drafts of recipes, and functions that sources share to write them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shards.sources.drafting.columns import Columns
from shards.sources.drafting.filenames import NamePattern
from shards.sources.drafting.survey import Survey

Settings = dict[str, Any]
"""A part of a recipe as plain data."""
SINGLE_SAMPLES = (
    "split by single samples, because no field tells which belong together: if several are of one subject, site or "
    "recording, name that field in data.split.by"
)


class SplitField(NamedTuple):
    """The field that a split is made by: its name, number of values if known, and the line that explains it."""

    by: str | None
    groups: int | None
    guess: str


@dataclass(kw_only=True)
class Sketch:
    """A draft while a source writes it; the fields are those of `Draft`.

    groups: fields to split by with their numbers of values, the best first. columns: roles of the columns of the table
    that the draft reads.
    """

    source: Settings
    modalities: dict[str, Settings]
    samples: int
    source_types: set[str]
    tables: set[Path] = field(default_factory=set)
    labels: list[str] = field(default_factory=list)
    groups: list[tuple[str, int]] = field(default_factory=list)
    columns: Columns = field(default_factory=Columns)
    guesses: list[str] = field(default_factory=list)
    is_linked: bool = False
    objectives: Settings | None = None

    def finish(self) -> Draft:
        """The draft, with guesses on its split and its columns."""
        split = choose_split(self.groups)
        return Draft(
            source=self.source,
            modalities=self.modalities,
            samples=self.samples,
            source_types=frozenset(self.source_types),
            tables=frozenset(self.tables),
            split=split,
            labels=tuple(self.labels),
            guesses=(*self.guesses, split.guess, *column_guesses(self.columns, self.labels)),
            is_linked=self.is_linked,
            objectives=self.objectives,
        )


class Template(NamedTuple):
    """A recipe of sensorium that completes a draft: its modalities, objectives and some keys of its `data.source`."""

    recipe: str
    source_keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A recipe that a source can build from surveyed files, with the guesses that its reader must check.

    source: `data.source`. modalities: settings by name. samples: their approximate number. source_types: types of the
    sources whose surveyed files the draft reads. tables: table files that it reads. split: the field to split by.
    labels: fields that become labels; the first is probed. guesses: lines without a full stop. is_linked: whether a
    table joins several modalities; linked drafts win over others. is_exact: whether the names in the folder identify a
    published data set; no other draft is then considered. objectives: replaces masked modeling and, with several
    modalities, contrast. template: supplies the rest of the recipe.
    """

    source: Settings
    modalities: dict[str, Settings] = field(default_factory=dict)
    samples: int
    source_types: frozenset[str] = frozenset()
    tables: frozenset[Path] = frozenset()
    split: SplitField = SplitField(None, None, SINGLE_SAMPLES)
    labels: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()
    is_linked: bool = False
    is_exact: bool = False
    objectives: Settings | None = None
    template: Template | None = None


def choose_split(fields: Sequence[tuple[str, int]], fallback: str = SINGLE_SAMPLES) -> SplitField:
    """Split by the first of some fields that the samples of one subject share; each is a name and a number of values.

    fallback: the explanation if there is no such field.
    """
    if not fields:
        return SplitField(None, None, fallback)
    by, count = fields[0]
    alternatives = f"; alternatives: {', '.join(name for name, _ in fields[1:])}" if fields[1:] else ""
    return SplitField(by, count, f"split by {by} ({count:,} values), so that no value is on two sides{alternatives}")


def column_guesses(columns: Columns, labels: Sequence[str]) -> list[str]:
    """Lines on the roles that columns were given."""
    lines = []
    if labels:
        lines.append(f"labels, kept apart from the content: {', '.join(labels)}")
    elif columns.candidates:
        names = ", ".join(columns.candidates[:8])
        lines.append(f"no column looks like a label; columns of few values, which could move to labels: {names}")
    else:
        lines.append("no column looks like a label")
    by_reason: dict[str, list[str]] = {}
    for column, reason in columns.unused.items():
        by_reason.setdefault(reason, []).append(column)
    for reason, listed in by_reason.items():
        more = f" and {len(listed) - 8} others" if len(listed) > 8 else ""
        lines.append(f"columns left out, {reason}: {', '.join(listed[:8])}{more}")
    return lines


def common_glob(survey: Survey, paths: Sequence[Path]) -> str:
    """A glob of one file, or of all files with the most common suffix."""
    if len(paths) == 1:
        return glob.escape(survey.name(paths[0]))
    suffixes = Counter("".join(path.suffixes[-2 if path.suffix == ".gz" else -1 :]) for path in paths)
    return f"**/*{suffixes.most_common(1)[0][0]}"


def format_some(values: Iterable[str], count: int = 4) -> str:
    """The first values, and the number of further ones."""
    items = list(values)
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")


def guessed_fields(names: NamePattern | None) -> str:
    """The end of a line on a pattern: the fields whose names are guesses, with some of their values."""
    if names is None or not names.guessed:
        return ""
    fields = [f"{name} ({format_some(sorted(set(names.values[name])), 3)})" for name in names.guessed]
    return f", their fields named by guess: {'; '.join(fields)}"
