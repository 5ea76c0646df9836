"""Assign groups of samples to splits, so that related samples are never in different splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitBy:
    """How samples are divided into training, validation and test.

    Attributes:
        by: Field that defines the groups, such as a patient or a scaffold; by default every sample is a separate
            group.
        validation: Share of the samples for validation.
        test: Share of the samples for testing.
        large: Share of all samples above which a group goes to training, if it is also more than twice the mean group
            size.
        seed: Seed of the split.
    """

    by: str | None = None
    validation: float = 0.05
    test: float = 0.05
    large: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError("data.split: validation and test must be shares of at least 0, together below 1")


def assign(
    groups: Mapping[str, int], validation: float, test: float, large: float = 0.05, seed: int = 0
) -> dict[str, str]:
    """The split of each group.

    groups: number of samples by group. Groups are assigned in the order of their seeded sha256, so the result depends
    on nothing else. Test is filled first, then validation, each as close to its share as complete groups allow, and
    never empty while there are groups. The largest group goes to training, and so does any group that has more than
    `large` of all samples and more than twice the mean group size.
    """
    ranked = sorted(groups, key=lambda group: rank(group, seed))
    largest = max(reversed(ranked), key=groups.__getitem__, default="")
    total = sum(groups.values())
    return dict(divide(((g, groups[g]) for g in ranked), largest, len(groups), total, validation, test, large))


def rank(group: str, seed: int) -> bytes:
    """Sort key of a group: its seeded sha256."""
    return hashlib.sha256(f"{seed}:{group}".encode(errors="surrogateescape")).digest()


def divide(
    ranked: Iterable[tuple[str, int]],
    largest: str,
    groups: int,
    total: int,
    validation: float,
    test: float,
    large: float,
) -> Iterator[tuple[str, str]]:
    """Yield (group, split) as `assign` does, for any number of groups.

    ranked: (group, number of samples), ordered by `rank`. largest: the largest group, the last if there are several.
    groups: number of groups. total: number of all samples.
    """
    limit = max(large, 2 / max(groups, 1)) * total
    target_sizes = {"test": test * total, "validation": validation * total}
    sizes = dict.fromkeys(target_sizes, 0)
    for group, size in ranked:
        unfilled = (
            s for s in target_sizes if target_sizes[s] and (not sizes[s] or sizes[s] + size / 2 <= target_sizes[s])
        )
        split = next(unfilled, "train") if size <= limit and group != largest else "train"
        if split != "train":
            sizes[split] += size
        yield group, split


def sample_key(identity: str) -> str:
    """A sample's key: the first 32 hexadecimal digits of its identity's sha256, so that keys contain no dot."""
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]
