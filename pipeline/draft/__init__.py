"""Draft a recipe for a folder of raw files, one that builds and trains on them unchanged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.result import Result
from pipeline.draft.choose import choose_draft
from pipeline.draft.write import recipe_of, recipe_text


@dataclass(frozen=True, kw_only=True)
class DraftedRecipe(Result):
    """A recipe file that was drafted.

    samples: their approximate number. files: counts of the files in the folder. guesses: what the reader must check.
    recipe: the recipe as plain data.
    """

    path: str
    name: str
    samples: int
    files: list[str]
    guesses: list[str]
    recipe: dict[str, Any]

    def lines(self) -> list[str]:
        return [
            f"found: {', '.join(self.files)}",
            f"recipe of {', '.join(self.recipe['modalities'])}; about {self.samples:,} samples",
            *(f"check: {guess}" for guess in self.guesses),
            f"recipe: {self.path} (its comments list the next commands)",
        ]


def draft_recipe(folder: str | Path, out: str | Path | None = None) -> DraftedRecipe:
    """Draft a recipe for the raw files in a folder and write it to a new file.

    Args:
        folder: The folder of the raw files.
        out: The file to write, by default `NAME.yaml` in the working directory, after the folder.

    Raises:
        ValueError: nothing in the folder is usable, or `out` exists.
    """
    raw = Path(folder)
    path = Path(f"{recipe_name(raw)}.yaml" if out is None else out)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"the name of a recipe file ends in .yaml, not {path.name}")
    if path.exists():
        raise ValueError(_exists(path))
    name = recipe_name(path.with_suffix(""))
    choice = choose_draft(raw)
    text = recipe_text(choice, name, raw, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ValueError(_exists(path)) from error
    return DraftedRecipe(
        path=str(path),
        name=name,
        samples=choice.draft.samples,
        files=list(choice.counts),
        guesses=list(choice.draft.guesses),
        recipe=recipe_of(choice.draft, name),
    )


def _exists(path: Path) -> str:
    return f"{path} exists: choose another name with --out"


def recipe_name(folder: Path) -> str:
    """The name of a recipe after that of a folder."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_") or "draft"
