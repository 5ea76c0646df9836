"""Small real things that many tests share: molecules as shards, a recipe of seconds, a finished run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DESCRIPTORS = ["MolWt", "MolLogP", "TPSA", "NumHDonors", "NumAromaticRings", "HeavyAtomCount"]


def smi_lines(count: int) -> list[str]:
    """The first molecules that come with RDKit, as lines of a .smi file."""
    from rdkit import RDConfig

    with (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").open() as lines:
        return [line.strip() for _, line in zip(range(count), lines, strict=False)]


def small_recipe(shards: Path, **train: Any) -> dict[str, Any]:
    """A recipe of all three modalities and both objectives, small enough for seconds."""
    return {
        "name": "small",
        "model": {"dim": 32, "depth": 1, "heads": 2, "embedding": 16, "decoder": {"dim": 16, "depth": 1, "heads": 2}},
        "data": {
            "source": {"type": "molecules", "drawing_px": 48, "descriptors": DESCRIPTORS, "labels": ["qed"]},
            "split": {"by": "scaffold", "validation": 0.1, "test": 0.2},
            "shards": [{"path": str(shards)}],
        },
        "modalities": {
            "smiles": {"type": "smiles", "mask": {"ratio": 0.3}},
            "image": {
                "type": "image",
                "size": 48,
                "patch": 16,
                "target": "pixels",
                "mask": {"ratio": 0.5, "mode": "drop"},
            },
            "table": {"type": "table", "mask": {"ratio": 0.3}},
        },
        "objectives": {"masked": {}, "contrastive": {"reads": "visible"}},
        "train": {
            "steps": 4,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "workers": 0,
            "log_every": 1,
            "checkpoint_every": 2,
            **train,
        },
        "evaluate": {"gallery": 20, "probe": "qed", "samples": 50},
    }


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the first 160 molecules."""
    from pipeline.verbs import build_shards

    folder = tmp_path_factory.mktemp("data")
    (folder / "raw").mkdir()
    (folder / "raw" / "molecules.smi").write_text("\n".join(smi_lines(160)))
    recipe = small_recipe(folder / "shards")
    recipe["data"]["samples_per_shard"] = 50
    build_shards(recipe, folder / "raw", folder / "shards", workers=1)
    return folder / "shards"


@pytest.fixture
def recipe(shards: Path) -> dict[str, Any]:
    """The small recipe on the small shards."""
    return small_recipe(shards)


@pytest.fixture(scope="session")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small recipe. Tests must not change it."""
    from pipeline.pretrain import pretrain

    return pretrain(small_recipe(shards), out=tmp_path_factory.mktemp("runs") / "small")
