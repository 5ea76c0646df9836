"""Runs of earlier versions are read under the names of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.evaluate import EvaluateResult
from pipeline.commands.finetune import FinetuneResult
from pipeline.commands.report import stored_results
from pipeline.recipe.load import load
from pipeline.recipe.renamed import RenamedKeyError
from pipeline.recipe.upgrade import upgrade_head, upgrade_modalities, upgrade_recipe, upgrade_results
from pipeline.run import Run

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


def test_a_current_recipe_is_unchanged(recipe: dict[str, Any]) -> None:
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


def test_results_and_heads_of_earlier_versions_have_the_keys_of_today() -> None:
    metrics = {"linear": {"auroc": 1.0}, "knn": {"auroc": 0.5}, "n": 20}
    probe = {"label": "species", "task": "classification", "unseen": 0, "unseen_classes": []}
    evaluated = {
        "split": "test",
        "samples": 20,
        "trained_on": 0,
        "retrieval": {},
        "rankme": {"table": 5.0},
        "skipped": 0,
    }
    scores = {"seeds": 2, "auroc_mean": 0.9}
    tuned = {
        **{"metric": "balanced_accuracy", "label": "species", "task": "classification", "labels": 241, "test": 69},
        **{"split": None, "modalities": ["table"], "mode": "full", "skipped": 0, "interval95": [0.1, 0.2]},
    }
    old = {
        "pretrain": {"skipped": {}},
        "evaluate": {**evaluated, "probe": {**probe, "table": metrics}},
        "finetune": {**tuned, "seen": 3, "pretrained": {**scores, "auroc_sd": 0.1}},
    }
    new = {
        "pretrain": {"skipped": {}},
        "evaluate": {**evaluated, "probe": {**probe, "modalities": {"table": metrics}}},
        "finetune": {**tuned, "left_out": 3, "pretrained": {**scores, "auroc_std": 0.1}},
    }
    assert upgrade_results(old) == new
    assert upgrade_results(new) == new
    assert EvaluateResult.from_json(new["evaluate"]).figures() == new["evaluate"]
    assert FinetuneResult.from_json(new["finetune"]).left_out == 3
    head = {"task": {"label": "mass", "kind": "regression", "mean": 1.0, "deviation": 2.0}, "modalities": ["table"]}
    assert upgrade_head(head)["task"] == {"label": "mass", "kind": "regression", "mean": 1.0, "std": 2.0}
    assert upgrade_head(upgrade_head(head)) == upgrade_head(head)


def test_results_of_an_unknown_version_are_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add_result(evaluate={"split": "test"})
    with pytest.raises(ValueError, match="another version: run evaluate and finetune again") as caught:
        stored_results(run)
    assert "\n" not in str(caught.value)
