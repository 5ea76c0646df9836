"""Show the content of a shard set and its first sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.shard_set import ShardSetResult
from shards.manifest import Manifest
from shards.read import Split

PREVIEW_BYTES = 120


@dataclass(frozen=True, kw_only=True)
class InspectResult(ShardSetResult):
    """A shard set and its first sample: its split, key and a preview of each member."""

    split: str
    key: str
    members: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "first": {"key": self.key, **self.members}}

    def lines(self) -> list[str]:
        return [
            *self.manifest_lines(),
            f"first sample of {self.split}: {self.key}",
            *(f"  {name}: {preview}" for name, preview in self.members.items()),
        ]


def inspect_shards(path: str | Path) -> InspectResult:
    """Summarize the shards at a folder or URL and preview their first sample.

    Raises:
        ValueError: no shards, or none with a sample.
    """
    manifest = Manifest.read(path)
    name = next((name for name, count in manifest.counts().items() if count), None)
    if name is None:
        raise ValueError(f"the shards at {path} contain no samples: build or index them again")
    split = Split(path, name)
    shard = next(number for number, size in enumerate(split.sizes) if size)
    members = {
        f"{modality}.{extension}": _preview(data)
        for modality, parts in split.read(shard, 0).items()
        for extension, data in parts.items()
    }
    return InspectResult(path=str(path), manifest=manifest, split=name, key=split.key(shard, 0), members=members)


def _preview(data: bytes) -> str:
    """The beginning of a text, or the size of other content."""
    text = data[:PREVIEW_BYTES]
    return text.decode() if text.isascii() and text.decode().isprintable() else f"{len(data):,} bytes"
