"""Recipes, modalities, heads and results that earlier versions saved in runs, read under the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.recipe.renamed import RENAMED, Renamed, RenamedKeyError, renaming_error

SAVED_KEYS: tuple[Renamed, ...] = (
    *RENAMED,
    Renamed("modalities.*.deviation", "std", ("image", "spectrogram")),
    *(
        Renamed(f"modalities.*.{key}", None, ("signal",))
        for key in ("window_points", "patch_points", "step_s", "errors")
    ),
)
"""Renamed keys of recipes, and those of fitted modalities, which recipes cannot set."""


def upgrade_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that any version saved in a run, with the keys and values of today.

    Raises:
        RenamedKeyError: it has a key that no longer exists.
    """
    return _upgrade(recipe, ())


def upgrade_modalities(states: Mapping[str, Any]) -> dict[str, Any]:
    """Fitted modalities that any version saved, as JSON by name, with the keys and values of today.

    Raises:
        RenamedKeyError: one has a key that no longer exists.
    """
    return _upgrade(states, ("modalities",))


def upgrade_head(state: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a fine-tuned head that any version saved, with the keys of today."""
    return {**state, "task": upgrade_task(state["task"])}


def upgrade_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a fine-tuned model that any version saved, with the keys of today."""
    return {"std" if key == "deviation" else key: value for key, value in task.items()}


def upgrade_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results by command that any version saved in a run, with the keys of today."""
    upgraded = dict(results)
    if probe := upgraded.get("evaluate", {}).get("probe"):
        upgraded["evaluate"] = {**upgraded["evaluate"], "probe": _upgrade_probe(probe)}
    if finetuned := upgraded.get("finetune"):
        names = {"seen": "left_out"}
        upgraded["finetune"] = {names.get(key, key): _upgrade_scores(value) for key, value in finetuned.items()}
    return upgraded


def _upgrade_probe(probe: Mapping[str, Any]) -> dict[str, Any]:
    """The results of probes; earlier versions had the modalities beside the other keys."""
    if "modalities" in probe:
        return dict(probe)
    keys = ("label", "task", "unseen", "unseen_classes")
    modalities = {name: value for name, value in probe.items() if name not in keys}
    return {**{key: probe[key] for key in keys if key in probe}, "modalities": modalities}


def _upgrade_scores(value: Any) -> Any:
    """The metrics of a start, with standard deviations named `std`; other values unchanged."""
    if not isinstance(value, Mapping):
        return value
    return {f"{key.removesuffix('_sd')}_std" if key.endswith("_sd") else key: number for key, number in value.items()}


def _upgrade(part: Any, path: tuple[str, ...]) -> Any:
    """A part of a recipe at a path, with the keys and values of today."""
    if isinstance(part, list | tuple):
        return [_upgrade(value, (*path, str(i))) for i, value in enumerate(part)]
    if not isinstance(part, Mapping):
        return part
    upgraded: dict[str, Any] = {}
    for key, value in part.items():
        row = next((row for row in SAVED_KEYS if renaming_error(row, (*path, str(key)), part, value)), None)
        if row is None:
            upgraded[key] = _upgrade(value, (*path, str(key)))
        elif row.new is None:
            if row.instead is not None:
                raise RenamedKeyError(renaming_error(row, (*path, str(key)), part, value))
        else:
            name, _, new_value = row.new.partition("=")
            upgraded[name] = new_value or _upgrade(value, (*path, str(key)))
    return upgraded
