"""What a recipe's sets mean as an order: shares over steps, keep-lists, streams."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from pipeline.recipe.schema import DataSet, Recipe
from shards.order import Mixture
from shards.read import Split

IMBALANCE = 0.1
"""How much more often samples of one node's stream may come than those of another, at most: one pass in ten. Equal
shards keep to it, whatever their number, from ten a node on."""


def mixture(recipe: Recipe, sets: Sequence[Split]) -> Mixture:
    """The order of a recipe's training samples.

    Raises:
        ValueError: epochs that do not fit into the run, fewer shards than `data.canonical_nodes`, or shards that
            cannot be dealt to these within `IMBALANCE`.
    """
    data, train = recipe.data, recipe.train
    for held in sets:
        if (filled := sum(map(bool, held.epoch_sizes))) < data.canonical_nodes:
            raise ValueError(
                f"{held.folder} has {filled} shards with samples, fewer than data.canonical_nodes "
                f"{data.canonical_nodes}: build it with smaller data.samples_per_shard or lower the nodes"
            )
    stages = [
        (step * train.batch_size, parts) for step, parts in shares(recipe, [sum(held.epoch_sizes) for held in sets])
    ]
    length = train.micro_batch // data.canonical_nodes
    order = Mixture(
        [held.epoch_sizes for held in sets], train.seed, data.shuffle_block, stages, data.canonical_nodes, length
    )
    for held, imbalance in zip(sets, order.imbalance, strict=True):
        if imbalance > IMBALANCE:
            raise ValueError(
                f"{held.folder}: on data.canonical_nodes {data.canonical_nodes} some samples would come "
                f"{imbalance:.0%} more often than others, more than {IMBALANCE:.0%}: build it with smaller "
                "data.samples_per_shard or lower the nodes"
            )
    return order


def fingerprint(order: Mixture, sets: Sequence[Split]) -> str:
    """Tells orders apart: a run that goes on must have the samples and shares it began with."""
    held = [
        [[shard.sha256 for shard in split.shards], split.selection.digest() if split.selection is not None else None]
        for split in sets
    ]
    stages = [[start, [str(share) for share in parts]] for start, parts in order.stages]
    return hashlib.sha256(json.dumps([held, stages]).encode()).hexdigest()[:16]


def shares(recipe: Recipe, sizes: Sequence[int]) -> list[tuple[int, list[Fraction]]]:
    """Each set's share of the samples from a step on, for every step at which shares change.

    sizes: samples a pass of each set, in the order of `data.leaf_sets`. A set with `epochs` has its share of the whole
    run; what is left is shared by the others, by weight or as their size to the power of 1 / temperature.

    Raises:
        ValueError: epochs that ask for other numbers of samples than the run has.
    """
    data, train = recipe.data, recipe.train
    samples = train.steps * train.batch_size
    passed = [Fraction(str(leaf.epochs or 0)) * size for leaf, size in zip(data.leaf_sets, sizes, strict=True)]
    asked = sum(passed, Fraction(0))
    alone = all(shards.epochs is not None for shards in data.shards)
    fits = abs(asked - samples) < train.batch_size if alone else asked < samples
    if not fits:
        steps = math.ceil(asked / train.batch_size)
        raise ValueError(
            f"data.shards asks for {math.ceil(asked):,} samples by epochs, the run has {samples:,}: "
            f"set train.steps to {'' if alone else 'more than '}{steps} or change the epochs"
        )
    changes = sorted({step for shards in _all(data.shards) for step, _ in shards.weight or ()} | {0})
    return [(step, _divide(data.shards, data.temperature, step, iter(sizes), samples)[1]) for step in changes]


def _divide(
    group: Sequence[DataSet], temperature: float, step: int, sizes: Iterator[int], samples: int = 1
) -> tuple[int, list[Fraction]]:
    """Samples of a group and the share that each single set in it has, together 1."""
    inner = [
        _divide(member.sets, member.temperature, step, sizes) if member.sets else (next(sizes), [Fraction(1)])
        for member in group
    ]
    fixed = [Fraction(str(member.epochs or 0)) * size / samples for member, (size, _) in zip(group, inner, strict=True)]
    weights = [
        Fraction(0) if member.epochs is not None else _weight(member, size, temperature, step)
        for member, (size, _) in zip(group, inner, strict=True)
    ]
    left = (1 - sum(fixed, Fraction(0))) / sum(weights) if any(weights) else Fraction(0)
    parts = [share + left * weight for share, weight in zip(fixed, weights, strict=True)]
    total = sum(parts, Fraction(0))  # 1, but where all have epochs, which may end within the last step
    return sum(size for size, _ in inner), [
        part / total * share for part, (_, shares) in zip(parts, inner, strict=True) for share in shares
    ]


def _weight(member: DataSet, size: int, temperature: float, step: int) -> Fraction:
    """Weight of a set or group among its siblings from a step on."""
    if member.weight is not None:
        return Fraction(str(max(point for point in member.weight if point[0] <= step)[1]))
    return Fraction(size) if temperature == 1 else Fraction(size ** (1 / temperature))


def _all(group: Sequence[DataSet]) -> Iterator[DataSet]:
    """All sets and groups of sets."""
    for member in group:
        yield member
        yield from _all(member.sets)
