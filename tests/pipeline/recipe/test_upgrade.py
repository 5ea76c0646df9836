"""Runs of earlier versions are read under the names of today."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.recipe.load import load
from pipeline.recipe.renamed import RenamedKeyError
from pipeline.recipe.upgrade import upgrade_modalities, upgrade_recipe

OLD: dict[str, Any] = {
    "name": "old",
    "data": {"block": 64},
    "modalities": {
        "image": {"type": "image", "size": 32, "patch": 8, "normalise": "fixed", "target": "pixels", "paper": True},
        "table": {"type": "table", "odd": "missing"},
    },
    "masking": {"kind": "independent", "share": 0.25},
    "objectives": {"masked": {}},
    "train": {"batch_size": 8, "pass_size": 4, "clip": 2.0, "max_bad_steps": 3},
    "evaluate": {"samples": 50},
}


def test_a_recipe_of_an_earlier_version_keeps_its_values() -> None:
    upgraded = upgrade_recipe(OLD)
    assert upgraded["data"] == {"shuffle_block": 64}
    assert upgraded["train"] == {"batch_size": 8, "micro_batch_size": 4, "gradient_clip": 2.0, "max_nonfinite_steps": 3}
    assert upgraded["evaluate"] == {"probe_samples": 50}
    assert upgraded["modalities"]["image"] == {
        "type": "image", "size": 32, "patch": 8, "normalize": "fixed", "target": "values", "background": True
    }  # fmt: skip
    assert upgraded["modalities"]["table"] == {"type": "table", "invalid_cells": "missing"}
    assert upgraded["masking"]["probability"] == 0.25


def test_a_recipe_of_today_stays_as_it_is(recipe: dict[str, Any]) -> None:
    state = load(recipe).to_dict()
    assert upgrade_recipe(state) == load(state).to_dict()


def test_fitted_modalities_of_an_earlier_version_keep_their_values() -> None:
    states = {
        "image": {"type": "image", "mean": [0.5], "deviation": [0.25]},
        "ecg": {"type": "signal", "uneven": False, "window_points": None, "step_s": None, "faulty": "refuse"},
    }
    assert upgrade_modalities(states) == {
        "image": {"type": "image", "mean": [0.5], "std": [0.25]},
        "ecg": {"type": "signal", "faulty_channels": "refuse"},
    }


def test_a_key_that_no_longer_exists_is_named() -> None:
    with pytest.raises(RenamedKeyError, match=r"modalities\.star\.uneven"):
        upgrade_modalities({"star": {"type": "signal", "uneven": True}})
