"""Check shards against their manifest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.shard_set import ShardSetResult
from shards import tars


@dataclass(frozen=True, kw_only=True)
class VerifyResult(ShardSetResult):
    """A shard set that is complete and correct."""

    def lines(self) -> list[str]:
        return [f"{len(self.manifest.shards)} shards, all correct: {self.path}"]


def verify_shards(path: str | Path) -> VerifyResult:
    """Check every shard and index of a folder or URL against the manifest.

    Raises:
        ValueError: a file that is missing or differs.
    """
    return VerifyResult(
        path=str(path), manifest=tars.verify_shards(str(path), lambda line: print(line, file=sys.stderr))
    )
