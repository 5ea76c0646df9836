"""Survey a folder, ask every source for drafts, and choose one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import recipes
import shards.sources  # noqa: F401  (registers the sources)
from pipeline.recipe.load import read
from pipeline.recipe.schema import can_name
from shards.sources.base import SOURCE_TYPES
from shards.sources.drafting import survey as surveys
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft
from shards.sources.drafting.survey import MAX_OPENED, Survey

TABLES = "rows"
"""Type of the source whose files are tables."""


@dataclass(frozen=True)
class Choice:
    """The chosen draft, complete, and lines that count the files of the folder."""

    draft: Draft
    counts: tuple[str, ...]


def choose_draft(folder: Path) -> Choice:
    """Choose a draft for the files below a folder; a bounded number of them is opened.

    A published data set that its names identify wins; then a table that joins several kinds of data, by the number of
    modalities; then the number of samples. Of equal drafts that of the source registered first wins.

    Raises:
        ValueError: the path is not a folder, or no source can use its files.
    """
    survey = surveys.survey_folder(folder, can_name)
    tables, faults = _read_tables(survey)
    drafts = [draft for source in SOURCE_TYPES.values() for draft in source.draft(survey, tables)]
    drafts = [draft for draft in drafts if draft.is_exact] or drafts
    tars = any(name.endswith(".tar") for name in survey.other_names)
    if not drafts and tars:
        raise ValueError(
            f"{folder} contains tars and no raw files: if they are webdataset shards, index them with "
            f"`sensorium shards index {shlex.quote(str(folder))}`"
        )
    if not drafts:
        raise ValueError("; ".join([f"nothing usable in {folder}: looked for {_looked_for()}", *faults[:1]]))
    best = max(drafts, key=lambda draft: (draft.is_linked, draft.is_linked and len(draft.modalities), draft.samples))
    counts = [_count(name, paths) for name, paths in survey.files.items()]
    if not survey.is_complete:
        counts.append(f"only the first {surveys.MAX_FILES:,} files were surveyed")
    guesses = [*best.guesses, *_cell_notes(best, tables), *(f"not used: {fault}" for fault in faults)]
    if unused := _unused_files(best, survey):
        guesses.append(f"not used, because nothing links it to the rest: {', '.join(unused)}")
    if tars:
        guesses.append("tars that are webdataset shards need no source: `sensorium shards index` reads them")
    return Choice(_complete(replace(best, guesses=tuple(guesses))), tuple(counts))


def _read_tables(survey: Survey) -> tuple[list[TableFile], list[str]]:
    """The tables nearest to the top of a folder, and the faults of those that are unreadable."""
    tables, faults = [], []
    paths = sorted(survey.files.get(TABLES, []), key=lambda path: (len(path.parts), path))
    for path in paths[:MAX_OPENED]:
        try:
            tables.append(TableFile.read(path))
        except ValueError as error:
            faults.append(str(error))
    return tables, faults


def _looked_for() -> str:
    sources = [source for source in SOURCE_TYPES.values() if source.suffixes]
    return ", ".join(f"{source.nouns[1]} ({' '.join(source.suffixes)})" for source in sources)


def _count(source_type: str, paths: Sequence[Path]) -> str:
    return f"{len(paths):,} {SOURCE_TYPES[source_type].nouns[len(paths) != 1]}"


def _unused_files(draft: Draft, survey: Survey) -> list[str]:
    """The files that a draft does not read: their number by source, and the names of tables."""
    unused = [
        _count(source_type, paths)
        for source_type, paths in survey.files.items()
        if source_type not in draft.source_types and source_type != TABLES
    ]
    tables = [survey.name(path) for path in survey.files.get(TABLES, []) if path not in draft.tables]
    return unused + tables[:5] + ([f"{len(tables) - 5} other tables"] if len(tables) > 5 else [])


def _cell_notes(draft: Draft, tables: Sequence[TableFile]) -> list[str]:
    """Lines on the cells of the columns that a draft reads, each once."""
    columns = draft.source.get("columns", {})
    names = {name for listed in columns.values() for name in ([listed] if isinstance(listed, str) else listed)}
    names |= {*draft.labels, *draft.source.get("properties", ())}
    lines: dict[str, None] = {}
    for table in tables:
        used = [name for name in table.frame.columns if name in names]
        if used and table.path in draft.tables:
            lines.update(dict.fromkeys(table.notes(used)))
    return list(lines)


def _complete(draft: Draft) -> Draft:
    """The draft with the modalities, objectives and source keys of its template."""
    if draft.template is None:
        return draft
    template = read(recipes.find(draft.template.recipe))
    keys = {key: template["data"]["source"][key] for key in draft.template.source_keys}
    return replace(
        draft,
        source={**draft.source, **keys},
        modalities={**template["modalities"], **draft.modalities},
        objectives=draft.objectives or template["objectives"],
    )
