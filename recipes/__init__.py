"""Recipes: one foundation model a YAML file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        Path(entry.name).stem for entry in resources.files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def find(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        ValueError: neither a file nor a known name.
    """
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"no recipe file {path}")
        return path
    if str(recipe) not in names():
        raise ValueError(f"no recipe {str(recipe)!r}: give a .yaml file or one of {', '.join(names())}")
    return Path(str(resources.files(__name__) / f"{recipe}.yaml"))
