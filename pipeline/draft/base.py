"""What drafts of all kinds share: the draft itself, tables, what a split is made by, what to check."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import polars as pl

from modalities.base import MODALITY_TYPES
from pipeline.draft.columns import Columns
from pipeline.draft.names import Names
from pipeline.draft.settings import State
from pipeline.draft.survey import ROWS, Survey
from shards.sources.tables import infer_types, is_typed, read_table

ALONE = (
    "split by single samples, for no field says what belongs together: if several are of one subject, site or "
    "recording, name that field in data.split.by"
)


@dataclass(frozen=True)
class Draft:
    """What a recipe needs to know, and what its reader should.

    samples: about how many there are. used: kinds and tables that the recipe reads. linked: whether a table joins
    several modalities. objectives: other than masked modelling, and contrast where there are several modalities.
    """

    source: State
    modalities: dict[str, State]
    samples: int
    used: frozenset[str | Path]
    labels: tuple[str, ...] = ()
    by: str | None = None
    groups: int | None = None
    guesses: tuple[str, ...] = ()
    linked: bool = False
    objectives: State | None = None
    found: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        split: Group,
        columns: Columns,
        *,
        source: State,
        modalities: dict[str, State],
        samples: int,
        used: Iterable[str | Path],
        labels: Sequence[str],
        guesses: Sequence[str],
        linked: bool,
        objectives: State | None = None,
    ) -> Draft:
        """A draft that is split as said; what to check of the split and of a table's columns comes after `guesses`."""
        return cls(
            source=source,
            modalities=modalities,
            samples=samples,
            used=frozenset(used),
            labels=tuple(labels),
            by=split.by,
            groups=split.groups,
            guesses=(*guesses, split.guess, *labelled(columns, labels)),
            linked=linked,
            objectives=objectives,
        )


@dataclass(frozen=True)
class Sheet:
    """A table file: the first rows and what its columns are."""

    path: Path
    frame: pl.DataFrame
    columns: Columns

    @cached_property
    def texts(self) -> pl.DataFrame:
        """The same rows, every cell as it is written."""
        return read_table(self.path, ROWS)

    def notes(self, names: Sequence[str]) -> list[str]:
        """What a scientist has to know of some columns' cells: what is no number, what is taken for missing."""
        written = self.texts.select(names)
        types = infer_types([written], typed=is_typed(self.path))
        words = [
            f"{name}: {', '.join(map(repr, counts))} is taken for missing; if it is a value: missing: {{{name}: []}}"
            for name, counts in types.words.items()
        ]
        return [*MODALITY_TYPES["table"]().survey(types.row(row) for row in written.iter_rows(named=True)), *words]

    def distinct(self, column: str) -> int:
        """Different values of a column."""
        return self.frame[column].drop_nulls().n_unique()

    def holding(self, names: Iterable[str]) -> str | None:
        """The column that holds at least half of some names as they are written, the one with most of them."""
        wanted = set(names)
        texts = {name: self.texts[name] for name in self.frame.columns if self.texts[name].dtype == pl.String}
        found = {
            name: len(wanted & set(cells.drop_nulls().str.strip_chars().to_list())) for name, cells in texts.items()
        }
        best = max(found, key=lambda name: found[name], default=None)
        return best if best is not None and found[best] >= max(len(wanted) / 2, 1) else None


class Group(NamedTuple):
    """What a split is made by, into how many groups as far as that is known, and what to say about it."""

    by: str | None
    groups: int | None
    guess: str


def grouped(candidates: Sequence[tuple[str, int]], fallback: str) -> Group:
    """What a split is made by: the first of the fields that samples of one thing share, with its number of values."""
    if candidates:
        by, count = candidates[0]
        others = f"; {', '.join(name for name, _ in candidates[1:])} would be others" if candidates[1:] else ""
        return Group(by, count, f"split by {by} ({count:,} values), so that none stands on two sides{others}")
    return Group(None, None, fallback)


def labelled(columns: Columns, labels: Sequence[str]) -> list[str]:
    """What to check about a table's columns."""
    said = []
    if labels:
        said.append(f"labels, kept apart from the content: {', '.join(labels)}")
    elif columns.candidates:
        listed = ", ".join(columns.candidates[:8])
        said.append(f"no column looks like a label; columns of few values, that could move to labels: {listed}")
    else:
        said.append("no column looks like a label")
    reasons: dict[str, list[str]] = {}
    for column, why in columns.left.items():
        reasons.setdefault(why, []).append(column)
    for why, names in reasons.items():
        more = f" and {len(names) - 8} others" if len(names) > 8 else ""
        said.append(f"columns left out, {why}: {', '.join(names[:8])}{more}")
    return said


def glob_of(seen: Survey, paths: Sequence[Path]) -> str:
    """A glob of one file, or of all with the commonest suffix."""
    if len(paths) == 1:
        return glob.escape(seen.name(paths[0]))
    suffixes = Counter("".join(path.suffixes[-2 if path.suffix == ".gz" else -1 :]) for path in paths)
    return f"**/*{suffixes.most_common(1)[0][0]}"


def some(values: Sequence[str], count: int = 4) -> str:
    """The first values, and how many there are more."""
    return ", ".join(values[:count]) + (f" and {len(values) - count} more" if len(values) > count else "")


def values_of(names: Names | None) -> str:
    """What the fields hold whose names are guesses."""
    if names is None or not names.guessed:
        return ""
    held = [f"{name} ({some(sorted(set(names.values[name])), 3)})" for name in names.guessed]
    return f", their fields named by guess: {'; '.join(held)}"
