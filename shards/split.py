"""Which split a group of samples belongs to: related samples never stand on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

SPLITS = ("train", "validation", "test")


def assign(
    groups: Mapping[str, int], validation: float, test: float, large: float = 0.05, seed: int = 0
) -> dict[str, str]:
    """The split of each group, given its number of samples.

    Groups are taken in the order of their seeded sha256, so the result depends on nothing else. Test is filled
    first, then validation, each as near to its share as whole groups allow and never empty while there are groups.
    The largest group goes to train, and so do groups of more than `large` of all samples and twice an even share.
    """
    total = sum(groups.values())
    ranked = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    largest = max(reversed(ranked), key=groups.__getitem__, default=None)
    limit = max(large, 2 / max(len(groups), 1)) * total
    wanted = {"test": test * total, "validation": validation * total}
    held = dict.fromkeys(wanted, 0)
    splits = {}
    for group in ranked:
        size = groups[group]
        open_ = (s for s in wanted if wanted[s] and (not held[s] or held[s] + size / 2 <= wanted[s]))
        splits[group] = next(open_, "train") if size <= limit and group != largest else "train"
        if splits[group] != "train":
            held[splits[group]] += size
    return splits


def key_of(identity: str) -> str:
    """A sample's key: the first 32 hexadecimal digits of its identity's sha256, so that keys hold no dot."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
