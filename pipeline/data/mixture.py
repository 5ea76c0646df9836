"""The order over a recipe's shard sets: their shares over steps and the streams of nodes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from pipeline.recipe.data import DataSet
from pipeline.recipe.schema import Recipe
from shards.order import Mixture
from shards.read import Split

IMBALANCE = 0.1
"""How much more often a sample of one node's stream may occur than a sample of another's, at most. Sets of equal shards
stay below it from ten shards per node on."""


def mixture(recipe: Recipe, sets: Sequence[Split]) -> Mixture:
    """The order of a recipe's training samples.

    Raises:
        ValueError: epochs that do not fit the run's length, fewer shards than `data.canonical_nodes`, or shards that
            cannot be dealt to the nodes within `IMBALANCE`.
    """
    data, train = recipe.data, recipe.train
    for split in sets:
        if (count := sum(map(bool, split.epoch_sizes))) < data.canonical_nodes:
            raise ValueError(
                f"{split.folder} has {count} shards with samples, fewer than data.canonical_nodes "
                f"{data.canonical_nodes}: build it with smaller data.samples_per_shard or lower the nodes"
            )
    sizes = [split.epoch_sizes for split in sets]
    stages = [(step * train.batch_size, parts) for step, parts in shares(recipe, [sum(shards) for shards in sizes])]
    length = train.micro_batch // data.canonical_nodes
    order = Mixture(sizes, train.seed, data.shuffle_block, stages, data.canonical_nodes, length)
    for split, imbalance in zip(sets, order.imbalance, strict=True):
        if imbalance > IMBALANCE:
            raise ValueError(
                f"{split.folder}: with data.canonical_nodes {data.canonical_nodes} some samples would occur "
                f"{imbalance:.0%} more often than others, more than {IMBALANCE:.0%}: build it with smaller "
                "data.samples_per_shard or lower the nodes"
            )
    return order


def fingerprint(order: Mixture, sets: Sequence[Split]) -> str:
    """Short hash of the samples and shares of an order; a run can only resume if it is unchanged."""
    samples = [
        [[shard.sha256 for shard in split.shards], split.selection.digest() if split.selection is not None else None]
        for split in sets
    ]
    stages = [[start, [str(share) for share in parts]] for start, parts in order.stages]
    return hashlib.sha256(json.dumps([samples, stages]).encode()).hexdigest()[:16]


def shares(recipe: Recipe, sizes: Sequence[int]) -> list[tuple[int, list[Fraction]]]:
    """Each set's share of the samples, for every step at which shares change.

    A set with `epochs` has its share of the whole run. The other sets divide the rest by weight, or by size to the
    power of 1 / temperature.

    sizes: samples per epoch of each set, in the order of `data.leaf_sets`.

    Raises:
        ValueError: epochs that ask for more or fewer samples than the run has.
    """
    data, train = recipe.data, recipe.train
    samples = train.steps * train.batch_size
    requests = [Fraction(str(leaf.epochs or 0)) * size for leaf, size in zip(data.leaf_sets, sizes, strict=True)]
    requested = sum(requests, Fraction(0))
    all_fixed = all(config.epochs is not None for config in data.shards)
    if abs(requested - samples) >= train.batch_size if all_fixed else requested >= samples:
        steps = math.ceil(requested / train.batch_size)
        raise ValueError(
            f"data.shards asks for {math.ceil(requested):,} samples by epochs, the run has {samples:,}: "
            f"set train.steps to {'' if all_fixed else 'more than '}{steps} or change the epochs"
        )
    changes = sorted({step for config in _sets_and_groups(data.shards) for step, _ in config.weight or ()} | {0})
    return [(step, _divide(data.shards, data.temperature, step, iter(sizes), samples)[1]) for step in changes]


def _divide(
    group: Sequence[DataSet], temperature: float, step: int, sizes: Iterator[int], samples: int = 1
) -> tuple[int, list[Fraction]]:
    """Number of samples of a group, and the share in it of each of its leaf sets; shares add up to 1."""
    inner = [
        _divide(member.sets, member.temperature, step, sizes) if member.sets else (next(sizes), [Fraction(1)])
        for member in group
    ]
    fixed = [Fraction(str(member.epochs or 0)) * size / samples for member, (size, _) in zip(group, inner, strict=True)]
    weights = [
        Fraction(0) if member.epochs is not None else _weight(member, size, temperature, step)
        for member, (size, _) in zip(group, inner, strict=True)
    ]
    scale = (1 - sum(fixed, Fraction(0))) / sum(weights) if any(weights) else Fraction(0)
    parts = [share + scale * weight for share, weight in zip(fixed, weights, strict=True)]
    total = sum(parts, Fraction(0))  # 1, unless all sets have epochs, which may end within the last step
    return sum(size for size, _ in inner), [
        part / total * share for part, (_, shares) in zip(parts, inner, strict=True) for share in shares
    ]


def _weight(member: DataSet, size: int, temperature: float, step: int) -> Fraction:
    """Weight of a set or group among its siblings from a step on."""
    if member.weight is not None:
        return Fraction(str(max(point for point in member.weight if point[0] <= step)[1]))
    return Fraction(size) if temperature == 1 else Fraction(size ** (1 / temperature))


def _sets_and_groups(group: Sequence[DataSet]) -> Iterator[DataSet]:
    """All sets and groups of sets within a group."""
    for member in group:
        yield member
        yield from _sets_and_groups(member.sets)
