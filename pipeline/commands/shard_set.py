"""The result of the commands on shards: the manifest of a shard set, summarized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.commands.result import Result
from shards.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ShardSetResult(Result):
    """A shard set, a folder or a URL, and its manifest."""

    path: str
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "splits": manifest.counts(),
            "shards": len(manifest.shards),
            "fields": manifest.fields,
            "skipped": manifest.skipped,
            "changed": manifest.changed,
            "notes": list(manifest.notes),
            "versions": manifest.versions,
            "bytes": sum(shard.bytes for shard in manifest.shards),
        }

    def lines(self) -> list[str]:
        return [*self.manifest_lines(), f"shards: {self.path}"]

    def manifest_lines(self) -> list[str]:
        """Counts of samples and members, and the samples skipped, changes and notes of the build."""
        manifest = self.manifest
        lines = [
            f"samples: {_counts(manifest.counts())} in {len(manifest.shards)} shards of "
            f"{sum(shard.bytes for shard in manifest.shards):,} bytes",
            f"members: {_counts(manifest.fields)}",
        ]
        if manifest.skipped:
            lines.append(f"skipped: {_counts(manifest.skipped)}")
        lines += [f"changed: {reason}: {count:,}" for reason, count in manifest.changed.items()]
        lines += [f"note: {note}" for note in manifest.notes]
        if manifest.versions:
            lines.append(f"read with: {', '.join(map(' '.join, manifest.versions.items()))}")
        return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
