"""Short hashes by which contents and groups of samples are compared, so that a leaked test sample is recognized."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from shards.read import Split


def content_hash(data: bytes) -> str:
    """Short hash of a member's content, as in the indexes of shards."""
    return hashlib.sha256(data).hexdigest()[:16]


def group_hash(by: str | None, group: str) -> set[str]:
    """Short hash of a group of the kind `by`; empty if `by` is None, because each sample is then its own group."""
    return set() if by is None else {"group:" + content_hash(json.dumps([by, group]).encode())}


def short_hashes(members: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """Short hashes of a sample's members, by modality and extension, in the form of `Split.contents`."""
    return {
        modality: {extension: bytes.fromhex(content_hash(data)) for extension, data in parts.items()}
        for modality, parts in members.items()
    }


def joint_hash(hashes: Mapping[str, bytes]) -> str:
    """Short hash of one modality of a sample, from the short hashes of its members by extension.

    Samples may share a single member, such as the channel names of signals, so all members count.
    """
    digests = [digest for _, digest in sorted(hashes.items())]
    return digests[0].hex() if len(digests) == 1 else content_hash(b"".join(digests))


def training_hashes(sets: Iterable[Split]) -> set[str]:
    """Hashes of all groups and contents of the samples in these splits, labels aside, from the indexes alone."""
    hashes = set()
    for split in sets:
        for _, group, contents in split.contents():
            hashes |= group_hash(split.manifest.split.get("by"), group)
            hashes |= {
                f"{modality}:{joint_hash(parts)}" for modality, parts in contents.items() if modality != "labels"
            }
    return hashes
