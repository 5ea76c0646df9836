"""Tables: rows whose cells are content, or name files that hold it."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Container, Sequence

from pipeline.draft import settings
from pipeline.draft.base import ALONE, Draft, Group, Sheet, grouped, labelled
from pipeline.draft.columns import Columns
from pipeline.draft.molecules import SCAFFOLD, drawn
from pipeline.draft.settings import MASKS, OF_FILES, SMILES, TABLE, State
from pipeline.draft.survey import Survey, spread
from pipeline.recipe.schema import can_name


def tables(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """Each table by itself, tables of the same columns in one folder together."""
    made = []
    for _, group in itertools.groupby(
        sorted(sheets, key=lambda s: (s.path.parent, s.path.suffix, s.frame.columns)),
        key=lambda s: (s.path.parent, s.path.suffix, s.frame.columns),
    ):
        alike = list(group)
        first = alike[0].path
        beside = [p for p in seen.kinds["table"] if p.parent == first.parent and p.suffix == first.suffix]
        if len(beside) == len(alike) > 1:
            made.append(_rows(seen, alike))
        else:
            made += [_rows(seen, [sheet]) for sheet in alike]
    return [each for each in made if each]


def _rows(seen: Survey, alike: Sequence[Sheet]) -> Draft | None:
    """A draft for rows of tables; None where no column has content."""
    sheet = max(alike, key=lambda each: len(each.frame))
    columns, frame = sheet.columns, sheet.frame
    samples = sum(len(each.frame) for each in alike)
    modalities: dict[str, State] = {}
    content: dict[str, str | list[str]] = {}

    def add(kind: str, column: str, state: State | None, several: bool) -> None:
        if state:
            name = _word(column, kind, modalities) if several else kind
            modalities[name], content[name] = state, column

    for column, kind in columns.files.items():
        named = [sheet.path.parent / cell for cell in spread(frame[column].drop_nulls().to_list())]
        add(kind, column, OF_FILES[kind](named), list(columns.files.values()).count(kind) > 1)
    for column in columns.smiles:
        add("smiles", column, SMILES, len(columns.smiles) > 1)
    for column in columns.dna:
        add("dna", column, settings.dna(spread(frame[column].drop_nulls().to_list(), 500)), len(columns.dna) > 1)
    for column in columns.text:
        state = {"type": "text", "vocabulary": 2000, "length": 128, "mask": MASKS["text"]}
        add("text", column, state, len(columns.text) > 1)
    cells, labels = list(columns.content), columns.labels
    if not cells and not modalities:  # a table of nothing but labels is content
        cells, labels = list(labels), ()
    if columns.smiles and not columns.files and len(cells) < 3 and sheet.path.suffix != ".parquet":
        return _molecule_table(seen, alike, columns)
    if cells:
        modalities["table"], content["table"] = TABLE, cells
    if list(modalities) == ["table"]:
        modalities["table"] = {"type": "table", "mask": {"kind": "random", "ratio": 0.4, "mode": "drop"}}
    if not modalities or (list(modalities) == ["table"] and len(cells) < 2):
        return None
    groups = [(name, sheet.distinct(name)) for name in columns.groups]
    split = Group("scaffold", None, SCAFFOLD) if columns.smiles and not groups else grouped(groups, ALONE)
    guesses = [split.guess, *labelled(columns, labels)]
    if len(modalities) > 1 and cells and frame.select(cells).n_unique() < 0.5 * len(frame):
        guesses.append(
            f"the table has only {frame.select(cells).n_unique():,} different rows for {len(frame):,} samples: "
            "contrast cannot tell samples of one row apart, so take it out if retrieval stays low"
        )
    return Draft(
        source={
            "type": "rows",
            "file": table_glob(seen, alike),
            "columns": content,
            **({"key": columns.key} if columns.key and len(alike) == 1 else {}),
            **({"labels": list(labels)} if labels else {}),
        },
        modalities=modalities,
        samples=samples,
        used=frozenset({*columns.files.values(), *(each.path for each in alike)}),
        labels=labels,
        by=split.by,
        groups=split.groups,
        guesses=tuple(guesses),
        linked=bool(columns.files),
    )


def table_glob(seen: Survey, alike: Sequence[Sheet]) -> str:
    """The glob of one table or of all in its folder."""
    path = alike[0].path
    if len(alike) == 1:
        return glob.escape(seen.name(path))
    return glob.escape(seen.name(path.parent) + "/").removeprefix("./") + f"*{path.suffix}"


def _word(name: str, otherwise: str, taken: Container[str]) -> str:
    """A column's name as a modality's, other than those taken."""
    word = re.sub(r"\W+", "_", name).strip("_").lower()
    word = word if can_name(word) and word != "table" else f"{otherwise}_{word}"
    numbered = (f"{word}_{number}" for number in itertools.count(2))
    return word if word not in taken else next(each for each in numbered if each not in taken)


def _molecule_table(seen: Survey, alike: Sequence[Sheet], columns: Columns) -> Draft:
    """A table of SMILES with little else: what else there is becomes labels."""
    labels = (*columns.labels, *columns.content)
    return drawn(
        {"files": table_glob(seen, alike), "smiles": columns.smiles[0]},
        sum(len(each.frame) for each in alike),
        frozenset(each.path for each in alike),
        labels,
        labelled(columns, labels),
    )
