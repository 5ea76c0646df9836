"""Load recipes: find them by name, resolve what they extend, sizes and overrides, and check the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic

import recipes
from modalities.names import did_you_mean
from pipeline.recipe.renamed import refuse_renamed
from pipeline.recipe.schema import Recipe
from pipeline.recipe.yaml import merge, parse, read_mapping
from shards.parsing import explain_error, refuse_bools

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 192, "depth": 4, "heads": 3, "decoder": {"dim": 96, "depth": 1, "heads": 3}},
    "small": {"dim": 384, "depth": 12, "heads": 6, "decoder": {"dim": 256, "depth": 2, "heads": 4}},
    "base": {"dim": 768, "depth": 12, "heads": 12, "embedding": 512, "decoder": {"dim": 512, "depth": 4, "heads": 8}},
    "large": {"dim": 1024, "depth": 24, "heads": 16, "embedding": 768, "decoder": {"dim": 512, "depth": 8, "heads": 8}},
}
"""Model sizes by name: widths and depths of ViT-Ti (4 blocks), -S, -B and -L."""


def load(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from a file, a name or a mapping, with overrides `key.key=value`.

    `size` selects an entry of the recipe's own `sizes`, or tiny, small, base or large. Keys that the recipe sets under
    `model` take precedence over those four, unless the size is an override.

    Raises:
        ValueError: any mistake, in one line that names the key.
    """
    state = dict(recipe) if isinstance(recipe, Mapping) else read(recipes.find(recipe))
    changes = parse_overrides(overrides)
    state = merge(state, {"size": changes["size"]} if "size" in changes else {})
    sizes = state.pop("sizes", {}) or {}
    size = state.pop("size", None)
    refuse_bools(size, "size")
    if size in sizes:
        state = merge(state, sizes[size])
    elif size in SIZES:
        model = state.get("model") or {}
        state["model"] = merge(model, SIZES[size]) if "size" in changes else merge(SIZES[size], model)
    elif size is not None:
        raise ValueError(f"size is {size!r}{did_you_mean(str(size), [*sizes, *SIZES])}")
    state = merge(state, {key: value for key, value in changes.items() if key != "size"})
    refuse_renamed(state)
    try:
        return Recipe.model_validate(state)
    except pydantic.ValidationError as error:
        raise ValueError(explain_error(error, keys_at=_keys_at)) from error


def read(path: Path) -> dict[str, Any]:
    """A recipe file merged into the recipes that it extends, unchecked.

    Raises:
        ValueError: not a mapping, or recipes that extend each other in a circle.
    """
    state, visited = read_mapping(path), {path.resolve()}
    while "extends" in state:
        parent = state.pop("extends")
        sibling = path.parent / str(parent)
        path = sibling if sibling.suffix in (".yaml", ".yml") else recipes.find(parent)
        if path.resolve() in visited:
            raise ValueError(f"recipe {path} extends itself")
        visited.add(path.resolve())
        state = merge(read_mapping(path), state)
    return state


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse `["train.steps=100"]` to a nested mapping; values are YAML.

    Raises:
        ValueError: an override without `=`.
    """
    result: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ValueError(f"override {override!r} is not of the form key.key=value")
        nested: Any = parse(text, f"override {override!r}")
        for key in reversed(path.split(".")):
            nested = {key: nested}
        result = merge(result, nested)
    return result


def _keys_at(path: Sequence[Any]) -> list[str]:
    """Valid keys of the part of a recipe at `path`."""
    part: Any = Recipe
    for name in path:
        part = get_args(part)[0] if isinstance(name, int) else part.model_fields[name].annotation
    return list(part.model_fields)
