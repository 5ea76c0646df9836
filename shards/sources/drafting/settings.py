"""Settings of modalities in drafts: masks, tables, SMILES, text and DNA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modalities.base import MODALITY_TYPES
from modalities.files.reading import ContentError

MASKS: dict[str, dict[str, Any]] = {
    "image": {"kind": "random", "ratio": 0.75, "mode": "drop"},
    "audio": {"kind": "random", "ratio": 0.6, "mode": "drop"},
    "eeg": {"kind": "random", "ratio": 0.5, "mode": "mask"},
    "ecg": {"kind": "span", "span": 3, "ratio": 0.5, "mode": "mask"},
    "signal": {"kind": "span", "span": 3, "ratio": 0.5, "mode": "mask"},
    "smiles": {"kind": "random", "ratio": 0.15, "mode": "mask"},
    "dna": {"kind": "random", "ratio": 0.5, "mode": "mask"},
    "text": {"kind": "span", "ratio": 0.3, "mode": "mask"},
    "table": {"kind": "random", "ratio": 0.3, "mode": "mask"},
}
TABLE: dict[str, Any] = {"type": "table", "mask": MASKS["table"]}
SMILES: dict[str, Any] = {"type": "smiles", "mask": MASKS["smiles"]}
TEXT: dict[str, Any] = {"type": "text", "vocabulary": 2000, "length": 128, "mask": MASKS["text"]}


def dna_settings(sequences: Sequence[str]) -> dict[str, Any] | None:
    """Settings for DNA of these lengths; None if most sequences are not DNA, such as proteins."""
    lengths = []
    for sequence in sequences:
        try:
            lengths.append(len(MODALITY_TYPES["dna"]().parse(sequence)))
        except ContentError:
            continue
    if len(lengths) < len(sequences) / 2 or not lengths:
        return None
    high = sorted(lengths)[int(0.95 * (len(lengths) - 1))]
    return {"type": "dna", "kmer": 4, "length": max(4, min(2000, -(-high // 20) * 20)), "mask": MASKS["dna"]}
