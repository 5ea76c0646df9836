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
    first, then validation, until each holds its share; groups of more than `large` of all samples go to train.
    """
    total = sum(groups.values())
    ranked = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    wanted = {"test": test * total, "validation": validation * total}
    held = dict.fromkeys(wanted, 0)
    splits = {}
    for group in ranked:
        split = next((s for s in wanted if held[s] < wanted[s]), "train") if groups[group] <= large * total else "train"
        splits[group] = split
        if split != "train":
            held[split] += groups[group]
    return splits


def key_of(identity: str) -> str:
    """A sample's key: the first 32 hexadecimal digits of its identity's sha256, so that keys hold no dot."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
