"""Which split a group of samples belongs to: related samples never stand on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitBy:
    """How samples are divided into training, validation and test.

    Attributes:
        by: Field whose values are never divided between splits, such as a patient or a scaffold; by default every
            sample is a group of its own.
        validation: Share of the samples for validation.
        test: Share of the samples for the test.
        large: Share of all samples above which a group goes to training, if it is also twice as large as an even
            share.
        seed: Seed of the division.
    """

    by: str | None = None
    validation: float = 0.05
    test: float = 0.05
    large: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError("data.split: validation and test are shares, together below 1")


def assign(
    groups: Mapping[str, int], validation: float, test: float, large: float = 0.05, seed: int = 0
) -> dict[str, str]:
    """The split of each group, given its number of samples.

    Groups are taken in the order of their seeded sha256, so the result depends on nothing else. Test is filled
    first, then validation, each as near to its share as whole groups allow and never empty while there are groups.
    The largest group goes to train, and so do groups of more than `large` of all samples and twice an even share.
    """
    ranked = sorted(groups, key=lambda group: rank(group, seed))
    largest = max(reversed(ranked), key=groups.__getitem__, default="")
    total = sum(groups.values())
    return dict(divide(((g, groups[g]) for g in ranked), largest, len(groups), total, validation, test, large))


def rank(group: str, seed: int) -> bytes:
    """What groups are ordered by."""
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
    """(group, split) as `assign` has it, for any number of groups.

    ranked: (group, number of samples), ordered by `rank`. largest: the largest group, of several the last. groups,
    total: numbers of groups and of all samples.
    """
    limit = max(large, 2 / max(groups, 1)) * total
    target_sizes = {"test": test * total, "validation": validation * total}
    sizes = dict.fromkeys(target_sizes, 0)
    for group, size in ranked:
        open_ = (
            s for s in target_sizes if target_sizes[s] and (not sizes[s] or sizes[s] + size / 2 <= target_sizes[s])
        )
        split = next(open_, "train") if size <= limit and group != largest else "train"
        if split != "train":
            sizes[split] += size
        yield group, split


def sample_key(identity: str) -> str:
    """A sample's key: the first 32 hexadecimal digits of its identity's sha256, so that keys hold no dot."""
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]
