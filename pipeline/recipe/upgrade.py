"""Recipes and fitted modalities that earlier versions of sensorium saved in runs, read under the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.recipe.renamed import RENAMED, Renamed, RenamedKeyError, renaming_error

DROPPED = " is gone: leave it out"
SAVED_KEYS: tuple[Renamed, ...] = (
    *RENAMED,
    Renamed("modalities.*.deviation", "std", ("image", "spectrogram")),
    *(
        Renamed(f"modalities.*.{key}", DROPPED, ("signal",))
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
        elif row.new.startswith(" "):
            if row.new != DROPPED:
                raise RenamedKeyError(renaming_error(row, (*path, str(key)), part, value))
        else:
            name, _, new_value = row.new.partition("=")
            upgraded[name] = new_value or _upgrade(value, (*path, str(key)))
    return upgraded
