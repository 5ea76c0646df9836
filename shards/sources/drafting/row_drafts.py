"""Draft recipes for tables whose rows are samples: sources `rows` and, for SMILES with little else, `molecules`."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Container, Sequence
from typing import Any

from shards.sources.base import SOURCE_TYPES
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft, Settings, SplitField, Template, choose_split, column_guesses
from shards.sources.drafting.settings import SMILES, TABLE, TEXT, dna_settings
from shards.sources.drafting.survey import Survey, spread

SCAFFOLD_SPLIT = SplitField(
    "scaffold", None, "split by scaffold, so that no molecule of the test split is a variant of one in training"
)
MOLECULES = Template("molecules", ("bond_px", "descriptors"))


def draft_rows(survey: Survey, tables: Sequence[TableFile]) -> Draft | None:
    """A draft for the rows of tables with the same columns; None if no column has content."""
    table = max(tables, key=lambda table: len(table.frame))
    columns = table.columns
    modalities, content = _content_modalities(survey, table)
    cells, labels = list(columns.content), columns.labels
    if not cells and not modalities:  # in a table of nothing but labels these are the content
        cells, labels = list(labels), ()
    if columns.smiles and not columns.files and len(cells) < 3 and table.path.suffix != ".parquet":
        source = {"files": _tables_glob(survey, tables), "smiles": columns.smiles[0]}
        labels = (*columns.labels, *columns.content)
        return draft_molecules(source, _count_rows(tables), labels, column_guesses(columns, labels), tables=tables)
    if cells:
        modalities["table"], content["table"] = TABLE, cells
    if list(modalities) == ["table"]:
        modalities["table"] = {"type": "table", "mask": {"kind": "random", "ratio": 0.4, "mode": "drop"}}
    if not modalities or (list(modalities) == ["table"] and len(cells) < 2):
        return None
    groups = [(name, table.count_values(name)) for name in columns.groups]
    split = SCAFFOLD_SPLIT if columns.smiles and not groups else choose_split(groups)
    guesses = [split.guess, *column_guesses(columns, labels)]
    rows, distinct = len(table.frame), table.frame.select(cells).n_unique() if cells else 0
    if len(modalities) > 1 and cells and distinct < 0.5 * rows:
        guesses.append(
            f"the table has only {distinct:,} different rows for {rows:,} samples: contrast cannot tell samples with "
            "equal rows apart, so remove it if retrieval stays low"
        )
    return Draft(
        source={
            "type": "rows",
            "file": _tables_glob(survey, tables),
            "columns": content,
            **({"key": columns.key} if columns.key and len(tables) == 1 else {}),
            **({"labels": list(labels)} if labels else {}),
        },
        modalities=modalities,
        samples=_count_rows(tables),
        source_types=frozenset(columns.files.values()),
        tables=frozenset(table.path for table in tables),
        split=split,
        labels=labels,
        guesses=tuple(guesses),
        is_linked=bool(columns.files),
    )


def draft_molecules(
    source: Settings,
    samples: int,
    labels: Sequence[str],
    guesses: Sequence[str],
    *,
    tables: Sequence[TableFile] = (),
    source_types: Sequence[str] = (),
) -> Draft:
    """A draft of molecules with drawings and descriptors, as in the recipe `molecules`."""
    return Draft(
        source={"type": "molecules", **source, **({"properties": list(labels)} if labels else {})},
        samples=samples,
        source_types=frozenset(source_types),
        tables=frozenset(table.path for table in tables),
        split=SCAFFOLD_SPLIT,
        labels=tuple(labels),
        guesses=(
            SCAFFOLD_SPLIT.guess,
            *guesses,
            "drawings and descriptors are computed by RDKit, as in the recipe molecules",
        ),
        template=MOLECULES,
    )


def _content_modalities(survey: Survey, table: TableFile) -> tuple[dict[str, Any], dict[str, str | list[str]]]:
    """Modalities of columns that are content of their own, and the column of each modality."""
    columns, frame = table.columns, table.frame
    contents: list[tuple[str, str, Settings | None, bool]] = []  # name, column, settings, whether the name is shared
    for column, source_type in columns.files.items():
        source = SOURCE_TYPES[source_type]
        paths = [table.path.parent / cell for cell in spread(frame[column].drop_nulls().to_list())]
        is_shared = list(columns.files.values()).count(source_type) > 1
        contents.append((source.file_modality or source_type, column, source.draft_modality(paths), is_shared))
    contents += [("smiles", column, SMILES, len(columns.smiles) > 1) for column in columns.smiles]
    for column in columns.dna:
        settings = dna_settings(spread(frame[column].drop_nulls().to_list(), 500))
        contents.append(("dna", column, settings, len(columns.dna) > 1))
    contents += [("text", column, TEXT, len(columns.text) > 1) for column in columns.text]
    modalities: dict[str, Any] = {}
    content: dict[str, str | list[str]] = {}
    for kind, column, settings, is_shared in contents:
        if settings:
            name = _modality_name(survey, column, kind, modalities) if is_shared else kind
            modalities[name], content[name] = settings, column
    return modalities, content


def _modality_name(survey: Survey, column: str, kind: str, taken_names: Container[str]) -> str:
    """A modality name after that of a column, different from the taken names."""
    name = re.sub(r"\W+", "_", column).strip("_").lower()
    name = name if survey.is_modality_name(name) and name != "table" else f"{kind}_{name}"
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken_names else next(other for other in numbered if other not in taken_names)


def _count_rows(tables: Sequence[TableFile]) -> int:
    return sum(len(table.frame) for table in tables)


def _tables_glob(survey: Survey, tables: Sequence[TableFile]) -> str:
    """The glob of one table, or of all tables in its folder."""
    path = tables[0].path
    if len(tables) == 1:
        return glob.escape(survey.name(path))
    return glob.escape(survey.name(path.parent) + "/").removeprefix("./") + f"*{path.suffix}"
