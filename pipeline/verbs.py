"""The verbs, for Python users and the command line alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.draft import draft_recipe
from pipeline.evaluate import evaluate
from pipeline.export import export
from pipeline.finetune import finetune
from pipeline.plan import plan
from pipeline.predict import embed_file, predict_file
from pipeline.pretrain import pretrain
from pipeline.recipe import load
from pipeline.report import report
from shards.build import SplitBy, build
from shards.manifest import Manifest


def build_shards(
    recipe: str | Path | Mapping[str, Any],
    raw: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    workers: int | None = None,
) -> Manifest:
    """Build shards from raw files as a recipe's `data.source` and `data.split` say.

    Raises:
        ValueError: a recipe without a source, raw files that are not there, or nothing usable in them.
    """
    checked = load(recipe, overrides)
    if checked.data.source is None:
        raise ValueError(f"recipe {checked.name} has no data.source, which says how raw files become samples")
    if not Path(raw).exists():
        raise ValueError(f"no raw data at {raw}")
    return build(
        checked.data.source,
        checked.modalities,
        checked.data.split or SplitBy(),
        Path(raw),
        Path(out),
        samples_per_shard=checked.data.samples_per_shard,
        workers=workers if workers is not None else os.cpu_count() or 1,
        progress=lambda items: tqdm(items, unit="sample", file=sys.stderr),
    )


__all__ = [
    "build_shards",
    "draft_recipe",
    "embed_file",
    "evaluate",
    "export",
    "finetune",
    "plan",
    "predict_file",
    "pretrain",
    "report",
]
