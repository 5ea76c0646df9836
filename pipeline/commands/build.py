"""Build shards from raw files, as a recipe says."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.recipe.load import load
from shards.build import SplitBy, build
from shards.manifest import Manifest


def build_shards(
    recipe: str | Path | Mapping[str, Any],
    raw: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    engine: str = "local",
) -> Manifest:
    """Build shards from raw files as a recipe's `data.source`, `data.split` and `data.dedupe` say.

    A build that was killed goes on when it is called again. workers: parts at a time, by default one a core. engine:
    `local`, or `ray` for the cluster that `RAY_ADDRESS` names or a new one on this machine.

    Raises:
        ValueError: a recipe without a source, raw files that are not there, or nothing usable in them.
        ChildProcessError: a worker process was killed.
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
        dedupe=checked.data.dedupe,
        workers=workers,
        engine=engine,
        progress=lambda items, unit: tqdm(items, unit=unit, file=sys.stderr),
        report=lambda line: print(line, file=sys.stderr),
    )
