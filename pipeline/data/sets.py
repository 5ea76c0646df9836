"""Shard sets of a recipe: opened and checked once, then handed down with the order over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.mixture import fingerprint, mixture
from pipeline.recipe.data import DataSet
from pipeline.recipe.schema import Recipe
from shards.order import Mixture
from shards.read import Split
from shards.select import read_weights, select


@dataclass(frozen=True)
class TrainingData:
    """The training splits of a recipe's shard sets and the order over them."""

    sets: tuple[Split, ...]
    order: Mixture

    @property
    def fingerprint(self) -> str:
        """Short hash of the samples and their shares, which must stay the same until the run ends."""
        return fingerprint(self.order, self.sets)

    def close(self) -> None:
        """Close this process's shards; reading opens them again."""
        for split in self.sets:
            split.close()


def open_training_data(recipe: Recipe, verify: bool) -> TrainingData:
    """Open the training splits of a recipe's shard sets.

    verify: also compare the sha256 of local tars with their manifests.

    Raises:
        ValueError: as `open_sets` and `mixture`.
    """
    sets = open_sets(recipe, "train", verify)
    return TrainingData(sets, mixture(recipe, sets))


def open_sets(recipe: Recipe, name: str, verify: bool) -> tuple[Split, ...]:
    """Open the split `name` of each of a recipe's shard sets, restricted to their keep-lists.

    verify: also compare the sha256 of local tars with their manifests.

    Raises:
        ValueError: no sets; a set that is incomplete, was split in another way than the recipe says, or has none of the
            recipe's modalities; a modality that no set has; a wrong keep-list.
    """
    if not recipe.data.shards:
        raise ValueError("data.shards is empty: name a folder that `sensorium shards build` made")
    sets = tuple(Split(path, name, verify, recipe.data.cache) for path in recipe.data.paths)
    for split in sets:
        _check_split_settings(recipe, split)
    _check_modalities(recipe, sets)
    for split, config in zip(sets, recipe.data.leaf_sets, strict=True):
        apply_keep_list(split, config)
    return sets


def _check_split_settings(recipe: Recipe, split: Split) -> None:
    """Check that the shards were split as the recipe says, if both say so."""
    expected, actual = recipe.to_dict()["data"].get("split"), split.manifest.split
    if expected and actual and actual != expected:
        key = next(key for key in expected if actual.get(key) != expected[key])
        raise ValueError(
            f"{split.folder} was split with {key} {actual.get(key)!r}, the recipe says {expected[key]!r}: "
            "build the shards again or change data.split"
        )


def _check_modalities(recipe: Recipe, sets: Sequence[Split]) -> None:
    """Check that each set has a modality of the recipe, and each modality a set."""
    for split in sets:
        if not recipe.modalities.keys() & split.manifest.modalities:
            fields = ", ".join(split.manifest.fields)
            raise ValueError(f"{split.folder} has no members of any of the recipe's modalities; it has {fields}")
    for name in recipe.modalities:
        if not any(name in split.manifest.modalities for split in sets):
            folders = " and ".join(str(split.folder) for split in sets)
            fields = ", ".join(sorted({field for split in sets for field in split.manifest.fields}))
            raise ValueError(f"{folders} has no members of modality {name!r}; it has {fields}")


def apply_keep_list(split: Split, config: DataSet) -> None:
    """Restrict a split to the keep-list of its set, if there is one; reads every index once.

    Raises:
        ValueError: the list is missing or wrong, or no sample remains.
    """
    if config.keep is None:
        return
    weights = read_weights(Path(config.keep), config.weights)
    keys = (split.keys(shard) for shard in range(len(split.sizes)))
    try:
        split.selection = select(keys, weights, weighted=config.weights is not None)
    except ValueError as error:
        raise ValueError(
            f"{config.keep} keeps nothing of the {split.split} split of {split.folder}: {error}"
        ) from error
