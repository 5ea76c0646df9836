"""Molecules from .smi and SDF files, with drawings and descriptors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import polars as pl

import recipes
from modalities.files.reading import ContentError
from modalities.strings.chemistry import canonical, smiles_of
from pipeline.draft.base import Draft, Sheet, glob_of, labelled
from pipeline.draft.columns import Columns, columns_of, typed
from pipeline.draft.settings import State
from pipeline.draft.survey import ROWS, Survey, spread
from pipeline.recipe.load import read
from shards.sources.molecules import FIELD, Molecules, Record, as_text, sdf

PROPERTIES = 20
"""Data fields of an SDF that become labels at most."""
SCAFFOLD = "split by scaffold, so that no molecule of the test split is a variant of one in training"


def drawn(
    source: State, samples: int, used: frozenset[str | Path], labels: Sequence[str], guesses: Sequence[str]
) -> Draft:
    """Molecules with drawings and descriptors, as the recipe `molecules` has them."""
    known = read(recipes.find("molecules"))
    given = known["data"]["source"]
    return Draft(
        source={
            "type": "molecules",
            **source,
            **({"properties": list(labels)} if labels else {}),
            "bond_px": given["bond_px"],
            "descriptors": given["descriptors"],
        },
        modalities=known["modalities"],
        samples=samples,
        used=used,
        labels=tuple(labels),
        by="scaffold",
        guesses=(SCAFFOLD, *guesses, "drawings and descriptors are computed by RDKit, as in the recipe molecules"),
        objectives=known["objectives"],
    )


def molecules(seen: Survey, sheets: Sequence[Sheet]) -> list[Draft]:
    """Files of SMILES, and SDF with the data fields that are worth predicting."""
    made = []
    for suffixes in ((".smi", ".smi.gz"), (".sdf", ".sdf.gz", ".sd", ".sd.gz")):
        paths = [path for path in seen.kinds.get("molecules", []) if path.name.lower().endswith(suffixes)]
        if not paths:
            continue
        files = glob_of(seen, paths)
        held = list(itertools.islice(Molecules(files=files).items(seen.root), ROWS))
        some = spread(held, 100)
        if sum(map(_is_molecule, some)) < len(some) / 2 or not some:
            continue
        labels, columns = _properties(seen, paths[0]) if suffixes[0] == ".sdf" else ((), Columns())
        made.append(drawn({"files": files}, len(held), frozenset({"molecules"}), labels, labelled(columns, labels)))
    return made


def _is_molecule(record: str | Record) -> bool:
    try:
        if isinstance(record, str):
            return bool(canonical(record))
        return not record.fault and bool(smiles_of(record.block))
    except ContentError:
        return False


def _properties(seen: Survey, path: Path) -> tuple[tuple[str, ...], Columns]:
    """Data fields of an SDF that are worth predicting, by its first records."""
    with as_text(path) as lines:
        found = (match[1] for line in itertools.islice(lines, ROWS) if (match := FIELD.match(line)))
        names = tuple(dict.fromkeys(found))[:PROPERTIES]
    rows = [dict(record.properties) for record in itertools.islice(sdf(path, names), 500)]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))
    frame = frame.with_columns(pl.all().replace("", None)) if names else frame
    columns = columns_of(typed(frame), seen.root)
    return (*columns.labels, *columns.content), columns
