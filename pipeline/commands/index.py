"""Write indexes and a manifest for existing tars."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.commands.shard_set import ShardSetResult
from shards.tars import index_tars


def index_shards(
    folder: str | Path, names: Mapping[str, str] | None = None, workers: int | None = None
) -> ShardSetResult:
    """Index the tars of a folder in place.

    names: modality (or `labels`) of each extension, such as `{"jpg": "image"}`. workers: number of processes, by
    default one per core.

    Raises:
        ValueError: no tars, or tars that are not webdataset shards.
    """
    manifest = index_tars(Path(folder), dict(names or {}), lambda line: print(line, file=sys.stderr), workers)
    return ShardSetResult(path=str(folder), manifest=manifest)
