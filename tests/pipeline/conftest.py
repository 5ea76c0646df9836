"""Fitted modalities and small samples of them, made without files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from modalities.base import Modality
from modalities.image import Image, Picture
from modalities.smiles import Smiles
from modalities.table import Table
from modalities.tokens import Tokens

Sample = dict[str, Tokens]
Draw = Callable[[int], list[Sample]]


@pytest.fixture(scope="session")
def kinds() -> dict[str, Modality]:
    """SMILES, images and tables, fitted."""
    rng = np.random.default_rng(0)
    pictures = [Picture(rng.random((32, 32, 1), np.float32), ("grey",)) for _ in range(4)]
    rows = [{"weight": float(w), "rings": float(w % 3), "colour": "red" if w % 2 else "blue"} for w in range(8)]
    return {
        "smiles": Smiles(window=3).fit(["CCO"]),
        "image": Image(size=32, patch=8, target="values", window=3).fit(pictures),
        "table": Table().fit(rows),
    }


@pytest.fixture(scope="session")
def draw(kinds: dict[str, Modality]) -> Draw:
    """Samples of all three modalities and varied lengths, the same at every call; the first ones are shared."""

    def samples(count: int) -> list[Sample]:
        samples_of_call = []
        for number in range(count):
            rng = np.random.default_rng([1, number])
            smiles = "".join(rng.choice(list("CNOF=#"), 3 + number % 5))
            height, width = ((32, 32), (32, 16), (8, 32))[number % 3]
            picture = Picture(rng.random((height, width, 1), np.float32), ("grey",))
            row = {"weight": float(rng.normal(4, 2)), "rings": float(number % 3), "colour": ("red", "blue")[number % 2]}
            raws = {"smiles": smiles, "image": picture, "table": row}
            samples_of_call.append({name: modality.tokenize(raws[name]) for name, modality in kinds.items()})
        return samples_of_call

    return samples
