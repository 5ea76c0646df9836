"""Find samples that repeat the content of an earlier one."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Mapping
from typing import Any

from modalities.base import Modality

KINDS = ("exact", "perceptual", "sequence")
"""How content can be compared. exact: the bytes of all members. perceptual: images, equal if their 64-bit hashes differ
by at most `NEAR_BITS`; not line drawings, because different ones have hashes as similar. sequence: the meaning of a
sequence in any spelling: DNA of either strand, canonical SMILES, text without case and spacing."""

_DRAWING = (
    "but different line drawings look alike: compare their content instead, "
    "for example the SMILES of molecules by `data.dedupe: {smiles: sequence}`"
)

NEAR_BITS = 3
"""Largest number of bits by which the 64-bit hashes of duplicate images differ. Photographs that were saved again,
smaller, gray or with lossy compression, differed by 0 to 2; different photographs of a series by 6 and more."""


def resolve_dedupe(
    dedupe: str | Mapping[str, str] | None, modalities: Mapping[str, Modality], drawings: Collection[str] | None = None
) -> dict[str, str]:
    """The kind of comparison of each modality that is compared.

    dedupe: kinds by modality, or one kind for all modalities that can be compared by it. drawings: modalities whose
    images the source draws. If given, as in a build, perceptual hashes of these and of images declared as drawings are
    refused.

    Raises:
        ValueError: a kind or modality is unknown, or the modality cannot be compared by the kind.
    """
    if dedupe is None:
        return {}
    kinds = [dedupe] if isinstance(dedupe, str) else list(dedupe.values())
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"data.dedupe is {unknown[0]!r}; known: {', '.join(KINDS)}")
    drawing_names = {
        name
        for name, modality in modalities.items()
        if drawings is not None and (name in drawings or modality.is_drawing)
    }
    if isinstance(dedupe, str):
        kinds_by_name = {name: dedupe for name, modality in modalities.items() if dedupe in modality.comparisons}
        if (
            dedupe == "perceptual"
            and kinds_by_name
            and not (kinds_by_name := {n: kind for n, kind in kinds_by_name.items() if n not in drawing_names})
        ):
            raise ValueError(f"data.dedupe is 'perceptual', {_DRAWING}")
        if not kinds_by_name:
            raise ValueError(f"data.dedupe is {dedupe!r}, but no modality of the recipe can be compared by it")
        return kinds_by_name
    for name, kind in dedupe.items():
        if name not in modalities:
            raise ValueError(f"data.dedupe names the modality {name!r}, but the recipe defines none by that name")
        if kind not in modalities[name].comparisons:
            comparisons = ", ".join(modalities[name].comparisons)
            raise ValueError(
                f"data.dedupe.{name} is {kind!r}, but a modality of type {modalities[name].type} "
                f"can be compared by {comparisons}"
            )
        if kind == "perceptual" and name in drawing_names:
            raise ValueError(f"data.dedupe.{name} is 'perceptual', {_DRAWING}")
    return dict(dedupe)


def fingerprint(
    kind: str, modality: Modality, members: Mapping[str, bytes], raw: Any, canonical: str | None = None
) -> str:
    """The fingerprint of the content of a modality, in hexadecimal digits.

    members: bytes by extension. raw: the decoded members. canonical: the canonical form of a sequence, if the source
    gives it.
    """
    if kind == "exact":
        return _digest(*(part for extension in sorted(members) for part in (extension.encode(), members[extension])))
    compared = modality.perceptual_hash(raw) if kind == "perceptual" else canonical or modality.canonical(raw)
    assert compared is not None, f"{modality.type} cannot be compared by {kind}"
    return compared if kind == "perceptual" else _digest(compared.encode())


def _digest(*parts: bytes) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


class DuplicateIndex:
    """Fingerprints of all samples so far, on disk. A duplicate equals an earlier sample in every compared modality.

    Image hashes that differ by at most `NEAR_BITS` agree in at least one of `NEAR_BITS` + 1 equal bands, which serve as
    keys of the lookup (Manku, Jain & Das Sarma 2007): one of n images is compared with about n / 16,384 others.
    """

    def __init__(self, database: sqlite3.Connection, kinds: Mapping[str, str]):
        self.database = database
        self.exact = sorted(name for name, kind in kinds.items() if kind != "perceptual")
        self.near = sorted(name for name, kind in kinds.items() if kind == "perceptual")
        database.execute("CREATE TABLE content (band BLOB, hashes TEXT)")
        database.execute("CREATE INDEX content_by_band ON content (band)")

    def add(self, fingerprints: Mapping[str, str]) -> bool:
        """Add a sample if it is new; return whether it is. A sample without any compared modality is always new."""
        if not any(name in fingerprints for name in (*self.exact, *self.near)):
            return True
        near = [fingerprints[name] for name in self.near if name in fingerprints]
        parts = [fingerprints.get(name, "") for name in self.exact] + [
            name for name in self.near if name in fingerprints
        ]
        same = bytes.fromhex(_digest(*(part.encode() for part in parts)))
        digits = 16 // (NEAR_BITS + 1)
        bands = [same + f"{i}{near[0][i : i + digits]}".encode() for i in range(0, 16, digits)] if near else [same]
        for band in bands:
            for (hashes_text,) in self.database.execute("SELECT hashes FROM content WHERE band = ?", (band,)):
                if all(hamming(a, b) <= NEAR_BITS for a, b in zip(near, json.loads(hashes_text), strict=True)):
                    return False
        hashes = json.dumps(near)
        self.database.executemany("INSERT INTO content VALUES (?, ?)", [(band, hashes) for band in bands])
        return True


def hamming(one: str, other: str) -> int:
    """Number of bits in which two hexadecimal hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()
