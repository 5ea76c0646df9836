"""Drafts of recipes: a look at a folder of raw files, and a recipe that builds and trains on them unchanged."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.draft import survey
from pipeline.draft.base import Draft, Sheet
from pipeline.draft.columns import columns_of, head
from pipeline.draft.files import images, sounds
from pipeline.draft.known import bioscan, ptbxl
from pipeline.draft.molecules import molecules
from pipeline.draft.recordings import edf, wfdb
from pipeline.draft.sequences import fasta
from pipeline.draft.settings import State
from pipeline.draft.survey import OPENED, ROWS, Survey
from pipeline.draft.tables import tables
from pipeline.recipe.load import load
from pipeline.recipe.yaml import dump

NOUNS = {
    "image": ("image", "images"),
    "audio": ("recording of sound", "recordings of sound"),
    "wfdb": ("WFDB header", "WFDB headers"),
    "edf": ("EDF or BDF file", "EDF or BDF files"),
    "fasta": ("FASTA file", "FASTA files"),
    "molecules": ("file of molecules", "files of molecules"),
    "table": ("table", "tables"),
    "tar": ("tar", "tars"),
}
LOOKED_FOR = (
    "images, WAV, FLAC, Ogg and MP3, WFDB records (.hea), EDF and BDF, FASTA, molecules (.smi, .sdf), "
    "tables (CSV, TSV, Parquet), PTB-XL and BIOSCAN-5M"
)
KINDS = (images, sounds, edf, wfdb, fasta, molecules, tables)
"""What looks for each kind of data; of two drafts that are equal otherwise the first is taken."""


def draft(folder: Path) -> Draft:
    """A draft for the files below a folder, of which a bounded number is looked at.

    Where a table joins several kinds of data they make one recipe, else the most plentiful kind does.

    Raises:
        ValueError: not a folder, or nothing in it that a source reads.
    """
    seen = survey.look(folder)
    paths = sorted(seen.kinds.get("table", []), key=lambda path: (len(path.parts), path))[:OPENED]
    sheets, faults = [], []
    for path in paths:
        try:
            frame = head(path)
        except ValueError as error:
            faults.append(str(error))
        else:
            sheets.append(Sheet(path, frame, columns_of(frame, path.parent)))
    known = ptbxl(seen, sheets) or bioscan(seen, sheets)
    made = [known] if known else [each for kind in KINDS for each in kind(seen, sheets)]
    if not made:
        if "tar" in seen.kinds:
            raise ValueError(
                f"{folder} holds tars and no raw files: if they are webdataset shards, give them an index with "
                f"`sensorium shards index {shlex.quote(str(folder))}`"
            )
        raise ValueError("; ".join([f"nothing usable in {folder}: looked for {LOOKED_FOR}", *faults[:1]]))
    best = max(made, key=lambda each: (each.linked, len(each.modalities) if each.linked else 0, each.samples))
    return _told(best, seen, sheets, faults)


def _told(best: Draft, seen: Survey, sheets: Sequence[Sheet], faults: Sequence[str]) -> Draft:
    """The draft with what was found, and what of it was left aside."""
    found = [_counted(kind, paths) for kind, paths in seen.kinds.items()]
    if not seen.whole:
        found.append(f"only the first {survey.FILES:,} files were looked at")
    aside = [_counted(kind, paths) for kind, paths in seen.kinds.items() if kind not in {*best.used, "table"}]
    others = [seen.name(path) for path in seen.kinds.get("table", []) if path not in best.used]
    aside += others[:5] + ([f"{len(others) - 5} other tables"] if len(others) > 5 else [])
    guesses = [*best.guesses, *_notes(best, sheets), *(f"not used: {fault}" for fault in faults)]
    if aside:
        guesses.append(f"left aside, as nothing links it to the rest: {', '.join(aside)}")
    if "tar" in seen.kinds:
        guesses.append("tars that are webdataset shards need no recipe's source: `sensorium shards index` reads them")
    return replace(best, found=tuple(found), guesses=tuple(guesses))


def _notes(best: Draft, sheets: Sequence[Sheet]) -> list[str]:
    """What a scientist has to know of the cells that the draft reads, each line once."""
    columns = best.source.get("columns", {})
    names = {name for listed in columns.values() for name in ([listed] if isinstance(listed, str) else listed)}
    names |= {*best.labels, *best.source.get("properties", ())}
    read = ((sheet, [name for name in sheet.frame.columns if name in names]) for sheet in sheets)
    lines = (line for sheet, some in read if some and sheet.path in best.used for line in sheet.notes(some))
    return list(dict.fromkeys(lines))


def _counted(kind: str, paths: Sequence[Path]) -> str:
    return f"{len(paths):,} {NOUNS[kind][len(paths) != 1]}"


def recipe(made: Draft, name: str) -> State:
    """The recipe of a draft as plain data, sized by the number of its samples."""
    samples = made.samples
    batch = next(size for size in (64, 32, 16, 8, 4) if size <= samples / 4 or size == 4)
    steps = max(200, min(5000, 30 * samples // batch // 100 * 100))
    few = made.by is not None and made.groups is not None and made.groups < 5
    small = samples < 5000
    shares = {"validation": 0 if few else 0.1 if small else 0.05, "test": 0.25 if few else 0.2 if small else 0.1}
    objectives: State = {"masked": {}}
    if len(made.modalities) > 1:
        objectives["contrastive"] = {}
    return {
        "name": name,
        **_size(samples),
        "data": {
            "source": made.source,
            "split": {**({"by": made.by} if made.by else {}), **shares},
            "shards": [{"path": f"shards/{name}"}],
        },
        "modalities": made.modalities,
        "objectives": made.objectives or objectives,
        "train": {
            "steps": steps,
            "batch_size": batch,
            "learning_rate": 0.001,
            "schedule": {"warmup": steps // 10},
            "checkpoint_every": steps // 2,
        },
        "evaluate": {
            "gallery": max(2, min(400, int(samples * shares["test"] / 2))),
            **({"probe": made.labels[0]} if made.labels else {}),
        },
    }


def _size(samples: int) -> State:
    """A model in proportion to the data: the smallest two are those of the recipes' size demo."""
    if samples >= 50_000:
        return {"size": "tiny"}
    dim, depth, decoder = (
        (64, 2, {"dim": 64, "depth": 1, "heads": 4}) if samples < 500 else (128, 4, {"dim": 96, "depth": 1, "heads": 3})
    )
    return {"model": {"dim": dim, "depth": depth, "heads": 4, "mlp_ratio": 2, "embedding": dim, "decoder": decoder}}


def text(made: Draft, name: str, folder: Path, out: Path) -> str:
    """The recipe's file: comments on what was found and guessed and what to do next, then the recipe."""
    state = recipe(made, name)
    load(state)
    raw, file = shlex.quote(str(folder)), shlex.quote(str(out))
    size = "size: tiny" if "size" in state else "model"
    lines = [
        f"Drafted by `sensorium init` from {folder}: {', '.join(made.found)}; about {made.samples:,} samples.",
        f"At most {survey.FILES:,} file names, {OPENED} files of a kind and {ROWS:,} rows of a table were looked at, "
        "and all headers of WFDB.",
        "",
        "Guessed, so check:",
        *(f"- {guess}." for guess in made.guesses),
        f"- {size} and train.steps suit a first try on {made.samples:,} samples; others are small, base and large.",
        "",
        "Next:",
    ]
    commands = [
        f"sensorium shards build {file} --raw {raw} --out shards/{name}",
        f"sensorium plan {file}",
        f"sensorium pretrain {file}",
        f"sensorium evaluate runs/{name}",
        f"sensorium report runs/{name}",
        f"sensorium finetune runs/{name} --data labelled.csv --label COLUMN --seeds 5",
        f"sensorium embed runs/{name} --data new.csv --out embeddings.parquet",
        f"sensorium export runs/{name}",
    ]
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(
            line, 110, subsequent_indent="  " if line.startswith("-") else "", break_on_hyphens=False
        )
        or [""]
    ]
    comments = [f"# {line}".rstrip() for line in wrapped] + [f"#   {command}" for command in commands]
    return "\n".join(comments) + "\n" + dump(state)


def name_of(folder: Path) -> str:
    """A recipe's name after a folder's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_") or "draft"


def draft_recipe(folder: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Draft a recipe for the raw files in a folder and write it to the new file `out`, by default `NAME.yaml` here.

    Returns:
        `path`, `name`, `samples` (about how many), `found`, `guesses` and the `recipe`.

    Raises:
        ValueError: nothing usable in the folder, or `out` is there already.
    """
    raw = Path(folder)
    path = Path(f"{name_of(raw)}.yaml" if out is None else out)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"a recipe's file ends in .yaml, not {path.name}")
    taken = f"{path} is there already: choose another name with --out"
    if path.exists():
        raise ValueError(taken)
    name = name_of(path.with_suffix(""))
    made = draft(raw)
    written = text(made, name, raw, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(written)
    except FileExistsError as error:
        raise ValueError(taken) from error
    return {
        "path": str(path),
        "name": name,
        "samples": made.samples,
        "found": list(made.found),
        "guesses": list(made.guesses),
        "recipe": recipe(made, name),
    }
