"""Choose samples of a split for evaluation, always the same ones, and read their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from modalities.base import Modality
from modalities.names import format_names
from pipeline.data.labelled import finite, hashes_in
from pipeline.recipe.schema import Recipe
from shards.manifest import Manifest
from shards.read import Split
from shards.remote import open_store
from shards.split import SPLITS, sample_key


def example_split(recipe: Recipe) -> Split:
    """The test split of a recipe's first shard set, or the last split that has samples."""
    cache = recipe.data.cache
    counts = Manifest.read(open_store(recipe.data.paths[0], cache)).counts()
    return Split(recipe.data.paths[0], next(name for name in reversed(SPLITS) if counts[name]), cache=cache)


def by_key_hash(split: Split) -> list[tuple[int, int]]:
    """(shard, number) of all samples, sorted by the sha256 of their identity, which is the key that `build` writes."""

    def key_hash(key: str) -> str:
        return key if re.fullmatch(r"[0-9a-f]{32}", key) else sample_key(key)

    return [(shard, number) for _, shard, number in sorted((key_hash(k), s, n) for k, _, s, n in split.locations())]


def draw_gallery(
    split: Split, count: int, trained_on: set[str], modalities: Mapping[str, Modality], keep_trained: bool
) -> tuple[list[tuple[int, int]], int]:
    """The first `count` samples by `by_key_hash`, and how many of those visited the run was trained on.

    keep_trained: keep samples that the run was trained on; otherwise they are skipped.

    Raises:
        ValueError: no sample remains.
    """
    trained = {location for location, hashes in hashes_in(split, modalities) if not hashes.isdisjoint(trained_on)}
    locations: list[tuple[int, int]] = []
    overlap = 0
    for location in by_key_hash(split):
        if len(locations) == count:
            break
        overlap += location in trained
        if keep_trained or location not in trained:
            locations.append(location)
    if not locations:
        raise ValueError(
            f"the run was trained on all {overlap:,} samples of the {split.split} split of {split.folder}: "
            "evaluate on another split or other shards"
        )
    return locations, overlap


def labels_of(split: Split, locations: Sequence[tuple[int, int]], name: str) -> list[Any]:
    """One label of samples, None if it is missing or not finite.

    Raises:
        ValueError: no sample has it.
    """
    rows = [json.loads(split.read(*location).get("labels", {}).get("json", b"{}")) for location in locations]
    if not any(name in row for row in rows):
        names = sorted({key for row in rows for key in row})
        raise ValueError(f"{split.folder} has no label {name!r}; it has {format_names(names, name)}")
    return [finite(row.get(name)) for row in rows]
