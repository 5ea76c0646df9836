"""Build shards from raw files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.commands.shard_set import ShardSetResult
from pipeline.recipe.load import load
from shards.build import SplitBy, build


def build_shards(
    recipe: str | Path | Mapping[str, Any],
    raw: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    engine: str = "local",
) -> ShardSetResult:
    """Build shards from raw files by a recipe's `data.source`, `data.split` and `data.dedupe`.

    A build that was killed resumes when it is called again. workers: number of processes, by default one per core.
    engine: `local`, or `ray` for the cluster that `RAY_ADDRESS` names or a new one on this machine.

    Raises:
        ValueError: a recipe without a source, missing raw files, or no usable sample in them.
        ChildProcessError: a worker process was killed.
    """
    checked = load(recipe, overrides)
    if checked.data.source is None:
        raise ValueError(f"recipe {checked.name} has no data.source, which describes how raw files become samples")
    if not Path(raw).exists():
        raise ValueError(f"no raw data at {raw}")
    manifest = build(
        checked.data.source,
        checked.modalities,
        checked.data.split or SplitBy(),
        Path(raw),
        Path(out),
        samples_per_shard=checked.data.samples_per_shard,
        dedupe=checked.data.dedupe,
        workers=workers,
        engine=engine,
        progress=lambda items, unit: tqdm(items, unit=unit, file=sys.stderr),
        report=lambda line: print(line, file=sys.stderr),
    )
    return ShardSetResult(path=str(out), manifest=manifest)
