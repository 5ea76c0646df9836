"""Keys, values and options of earlier versions: each is one line that names the new one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.recipe import renamed
from pipeline.recipe.load import load
from pipeline.recipe.renamed import RENAMED, Renamed, RenamedKeyError, refuse_renamed
from pipeline.recipe.schema import Recipe
from pipeline.run import Run


def nest(path: list[str], value: Any) -> dict[str, Any]:
    """A mapping with one value at a path."""
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("row", RENAMED, ids=[row.old for row in RENAMED])
@pytest.mark.parametrize("size", [None, "sizes"])
def test_each_row_refuses_its_old_key_and_names_the_new_one(row: Renamed, size: str | None) -> None:
    old, _, value = row.old.partition("=")
    path = old.replace("*", "x").split(".")
    types = {"type": row.types[0], "kind": row.types[0]} if row.types else {}
    recipe = nest(path[:-1], {**types, path[-1]: value or 1})
    with_size = {"name": "x", "size": "s", "sizes": {"s": recipe}} if size else recipe
    with pytest.raises(RenamedKeyError, match=re.escape(f"'{'.'.join(path)}")) as caught:
        load(with_size)
    assert "\n" not in str(caught.value)
    if row.new is None:
        assert str(caught.value).endswith(f"is gone: {row.instead or 'leave it out'}")
    else:
        key, _, new_value = row.new.partition("=")
        assert f"is now '{'.'.join([*path[:-1], key])}" in str(caught.value)
        assert new_value in str(caught.value)


@pytest.mark.parametrize("row", RENAMED, ids=[row.old for row in RENAMED])
def test_no_row_refuses_a_current_key(row: Renamed) -> None:
    part, _, key = row.old.partition("=")[0].rpartition(".")
    if part in ("train", "data", "evaluate", "model"):
        assert key not in Recipe.model_fields[part].annotation.model_fields  # type: ignore[union-attr]
        assert (row.new or "").partition("=")[0] in Recipe.model_fields[part].annotation.model_fields  # type: ignore[union-attr]


def test_a_recipe_and_an_override_with_an_old_key(recipe: dict[str, Any]) -> None:
    line = "'train.pass_size' is now 'train.micro_batch_size'"
    with pytest.raises(ValueError, match=f"^{line}$"):
        load(recipe, ["train.pass_size=4"])
    recipe["train"]["pass_size"] = 4
    with pytest.raises(ValueError, match=f"^{line}$"):
        load(recipe)


def test_rows_match_type_and_value_and_apply_to_joined_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        renamed,
        "RENAMED",
        (
            Renamed("modalities.*.target=normalised", "target=normalized", ("image",)),
            Renamed("data.source.rate_hz", "sample_rate_hz", ("ptbxl",)),
            Renamed("modalities.*.uneven", None),
        ),
    )

    def refusal(recipe: dict[str, Any]) -> str | None:
        try:
            refuse_renamed(recipe)
        except RenamedKeyError as error:
            return str(error)
        return None

    image = {"type": "image", "target": "normalised"}
    line = "'modalities.photo.target: normalised' is now 'modalities.photo.target: normalized'"
    assert refusal({"modalities": {"photo": image}}) == line
    assert refusal({"modalities": {"photo": {**image, "target": "normalized"}}}) is None
    assert refusal({"modalities": {"photo": {**image, "type": "audio"}}}) is None
    assert refusal({"modalities": {"target": {"type": "image", "missing": {"target": "normalised"}}}}) is None
    source = {"type": "ptbxl", "rate_hz": 100}
    line = "'data.source.rate_hz' is now 'data.source.sample_rate_hz'"
    assert refusal({"data": {"source": source}}) == line
    joined = {"type": "join", "sources": [{"type": "wfdb", "rate_hz": 100}, source]}
    assert refusal({"data": {"source": joined}}) == line.replace("source.", "source.sources.1.")
    assert refusal({"modalities": {"a": {"uneven": True}}}) == "'modalities.a.uneven' is gone: leave it out"


def test_a_run_of_an_earlier_version_is_read_or_refused_with_instructions(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    state = yaml.safe_load((old / "recipe.yaml").read_text())
    state["train"]["pass_size"] = state["train"].pop("micro_batch_size")
    (old / "recipe.yaml").write_text(yaml.safe_dump(state))
    assert Run(old).recipe() == Run(run).recipe()
    state["train"]["passes"] = 2
    (old / "recipe.yaml").write_text(yaml.safe_dump(state))
    with pytest.raises(ValueError, match="an earlier version of sensorium made the run") as caught:
        Run(old).recipe()
    assert "train.passes" in str(caught.value)
    assert str(caught.value).endswith("use it with that version, or pretrain again")
    assert "\n" not in str(caught.value)
