"""Turn a draft into a recipe file: sizes by the number of samples, and comments for the reader."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.draft.choose import Choice
from pipeline.recipe.load import load
from pipeline.recipe.yaml import dump
from shards.sources.drafting.draft import Draft
from shards.sources.drafting.survey import MAX_FILES, MAX_OPENED, MAX_ROWS


def recipe_of(draft: Draft, name: str) -> dict[str, Any]:
    """The recipe of a draft as plain data."""
    samples, by = draft.samples, draft.split.by
    batch = next(size for size in (64, 32, 16, 8, 4) if size <= samples / 4 or size == 4)
    steps = max(200, min(5000, 30 * samples // batch // 100 * 100))
    has_few_groups = by is not None and draft.split.groups is not None and draft.split.groups < 5
    is_small = samples < 5000
    test = 0.25 if has_few_groups else 0.2 if is_small else 0.1
    objectives: dict[str, Any] = {"masked": {}}
    if len(draft.modalities) > 1:
        objectives["contrastive"] = {}
    return {
        "name": name,
        **_size(samples),
        "data": {
            "source": draft.source,
            "split": {
                **({"by": by} if by else {}),
                "validation": 0 if has_few_groups else 0.1 if is_small else 0.05,
                "test": test,
            },
            "shards": [{"path": f"shards/{name}"}],
        },
        "modalities": draft.modalities,
        "objectives": draft.objectives or objectives,
        "train": {
            "steps": steps,
            "batch_size": batch,
            "learning_rate": 0.001,
            "schedule": {"warmup": steps // 10},
            "checkpoint_every": steps // 2,
        },
        "evaluate": {
            "gallery": max(2, min(400, int(samples * test / 2))),
            **({"probe": draft.labels[0]} if draft.labels else {}),
        },
    }


def _size(samples: int) -> dict[str, Any]:
    """A model in proportion to the data; the smallest two are those of the recipes' size `demo`."""
    if samples >= 50_000:
        return {"size": "tiny"}
    dim, depth, decoder = (
        (64, 2, {"dim": 64, "depth": 1, "heads": 4}) if samples < 500 else (128, 4, {"dim": 96, "depth": 1, "heads": 3})
    )
    return {"model": {"dim": dim, "depth": depth, "heads": 4, "mlp_ratio": 2, "embedding": dim, "decoder": decoder}}


def recipe_text(choice: Choice, name: str, folder: Path, out: Path) -> str:
    """The text of the recipe file `out`: comments on counts, guesses and next commands, then the recipe.

    Raises:
        ValueError: the recipe is invalid.
    """
    draft = choice.draft
    state = recipe_of(draft, name)
    load(state)
    raw, file = shlex.quote(str(folder)), shlex.quote(str(out))
    size = "size: tiny" if "size" in state else "model"
    lines = [
        f"Drafted by `sensorium init` from {folder}: {', '.join(choice.counts)}; about {draft.samples:,} samples.",
        f"It is based on at most {MAX_FILES:,} file names, {MAX_OPENED} files per source and {MAX_ROWS:,} rows per "
        "table, and on all WFDB headers.",
        "",
        "Guesses, please check:",
        *(f"- {guess}." for guess in draft.guesses),
        f"- {size} and train.steps suit a first try on {draft.samples:,} samples; small, base and large are larger.",
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
    comments = [f"# {line}".rstrip() for line in _wrap(lines)] + [f"#   {command}" for command in commands]
    return "\n".join(comments) + "\n" + dump(state)


def _wrap(lines: Sequence[str]) -> list[str]:
    """Lines of at most 110 characters; those of a list are indented."""
    wrapped = []
    for line in lines:
        indent = "  " if line.startswith("-") else ""
        wrapped += textwrap.wrap(line, 110, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return wrapped
