"""Recipes: what is read comes out again, and what is wrong is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

import recipes
from modalities.image import Image
from modalities.smiles import Smiles
from pipeline.recipe.load import SIZES, load, parse_overrides, read
from pipeline.recipe.schema import Recipe
from pipeline.recipe.yaml import merge
from pipeline.run import flatten


def sizes_of(name: str) -> list[str]:
    """Every size a shipped recipe can be asked for."""
    return [*(read(recipes.find(name)).get("sizes") or {}), *SIZES]


SHIPPED = [(name, size) for name in recipes.names() for size in sizes_of(name)]


def refused(recipe: dict[str, Any], *overrides: str) -> str:
    """What is said of a wrong recipe: one line."""
    with pytest.raises(ValueError, match=r".") as caught:
        load(recipe, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "size"), SHIPPED)
def test_every_shipped_recipe_round_trips(name: str, size: str) -> None:
    loaded = load(name, [f"size={size}"])
    assert loaded.name == name
    assert load(yaml.safe_load(yaml.safe_dump(loaded.to_dict()))) == loaded


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_has_a_default_size_and_a_data_source(name: str) -> None:
    loaded = load(name)
    assert loaded.data.source is not None
    assert loaded.model.dim % loaded.model.heads == 0


def test_a_resolved_recipe_is_explicit(recipe: dict[str, Any]) -> None:
    resolved = flatten(load(recipe).to_dict())
    assert resolved["train.betas"] == [0.9, 0.98]
    assert resolved["train.schedule.kind"] == "cosine"
    assert resolved["modalities.image.mask.mode"] == "drop"
    assert resolved["objectives.contrastive.pairs"] == "all"
    assert resolved["data.source.drawing_px"] == 48
    assert not any(key.startswith(("modalities.image.mean", "modalities.smiles.brackets")) for key in resolved)


@pytest.mark.parametrize(
    ("override", "wrong", "meant"),
    [
        ("trian.steps=1", "trian", "train"),
        ("train.step=1", "train.step", "steps"),
        ("train.schedule.warmpu=1", "train.schedule.warmpu", "warmup"),
        ("model.dept=1", "model.dept", "depth"),
        ("model.decoder.head=1", "model.decoder.head", "heads"),
        ("data.shard=[]", "data.shard", "shards"),
        ("data.shards=[{pth: x}]", "data.shards.0.pth", "path"),
        ("data.shards=[{path: x}, {path: y, paths: z}]", "data.shards.1.paths", "path"),
        ("data.source.drawing=1", "data.source.drawing", "drawing_px"),
        ("data.split.tets=0.1", "data.split.tets", "test"),
        ("evaluate.galery=1", "evaluate.galery", "gallery"),
        ("modalities.image.patches=8", "modalities.image.patches", "patch"),
        ("modalities.image.mask.ration=0.5", "modalities.image.mask.ration", "ratio"),
        ("objectives.contrastive.pair=all", "objectives.contrastive.pair", "pairs"),
        ("objectives.contrastiv={}", "contrastiv", "contrastive"),
        ("modalities.image.type=imgae", "modalities.image.type", "image"),
        ("data.source.type=molecule", "data.source.type", "molecules"),
        ("size=smal", "size", "small"),
    ],
)
def test_unknown_keys_name_the_nearest(recipe: dict[str, Any], override: str, wrong: str, meant: str) -> None:
    message = refused(recipe, override)
    assert wrong in message
    assert message.endswith(f"did you mean '{meant}'?")


def test_unknown_keys_without_a_near_match_list_all_keys(recipe: dict[str, Any]) -> None:
    message = refused(recipe, "modalities.image.type=zzz")
    assert all(kind in message for kind in ("image", "smiles", "table"))


@pytest.mark.parametrize(
    "override",
    ["modalities.image.mean=[0.5]", "modalities.image.separate=true", "modalities.smiles.brackets=[C]",
     "modalities.table.numbers=[]"],
)  # fmt: skip
def test_fitted_values_cannot_be_set(recipe: dict[str, Any], override: str) -> None:
    assert f"unknown key '{override.partition('=')[0]}'" in refused(recipe, override)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("model.heads=5", "model.dim 32 is not divisible by model.heads 5"),
        ("model.decoder.heads=3", "model.decoder.dim 16 is not divisible by model.decoder.heads 3"),
        ("modalities.image.mask.ratio=1.5", "ratio is 1.5"),
        ("modalities.table.mask.ratio=-0.1", "ratio is -0.1"),
        ("modalities.table.mask.final_ratio=0.9", "ratio_steps"),
        ("modalities.image.mask.mode=hide", "modalities.image.mask.mode"),
        ("modalities.image.size=8", "at least the patch"),
        ("modalities.image=null", "modalities.image"),
        ("data.dedupe=fuzzy", "data.dedupe is 'fuzzy'; known: exact, perceptual, sequence"),
        ("data.dedupe={table: sequence}", "data.dedupe.table is 'sequence'"),
        ("data.dedupe={sound: exact}", "data.dedupe names the modality 'sound'"),
        ("train.steps=0", "'train.steps' is 0"),
        ("train.steps=many", "'train.steps' is 'many'"),
        ("train.learning_rate=0", "'train.learning_rate' is 0"),
        ("train.micro_batch_size=5", "not a multiple of micro_batch_size 5"),
        ("train.precision=fp8", "'train.precision' is 'fp8'"),
        ("train.trackers=[tb]", "train.trackers"),
        ("train=3", "'train'"),
        ("objectives.contrastive.scale=1000", "objectives.contrastive.scale is 1000"),
        ("objectives.contrastive.pairs=[[image, sound]]", "'sound'"),
        ("objectives.contrastive.pairs=[[image, image]]", "'image' with itself"),
        ("objectives.masked.weight=-1", "weight is -1.0: it must be at least 0"),
        ("objectives.masked.weight=.nan", "weight is nan"),
        ("train.betas=[1.5, 2]", "train.betas"),
        ("masking={kind: complementary, axis: tiem}", "masking.axis is 'tiem'"),
        ("modalities.smiles.mask.kind=block", "'block' needs tokens on a grid"),
        ("modalities.type={type: text}", "a modality cannot be named 'type'"),
        ("modalities.class={type: text}", "a modality cannot be named 'class'"),
        ("modalities.key={type: text}", "a modality cannot be named 'key': files of embeddings"),
        ("objectives.masked.weights={sound: 1}", "'sound'"),
        ("objectives.masked=3", "objectives.masked must be a mapping"),
        ("data.split.test=1.5", "data.split"),
        ("name=../up", "'name'"),
    ],
)
def test_wrong_values_are_named(recipe: dict[str, Any], override: str, error: str) -> None:
    assert error in refused(recipe, override)


def test_missing_keys_are_named(recipe: dict[str, Any]) -> None:
    for key in ("name", "modalities", "objectives"):
        assert key in refused({k: v for k, v in recipe.items() if k != key})
    assert "at least one modality" in refused({**recipe, "modalities": {}})
    assert "at least one objective" in refused({**recipe, "objectives": {}})
    assert "two modalities or more" in refused({**recipe, "modalities": {"smiles": {"type": "smiles"}}})
    for name in ("labels", "two words"):
        assert repr(name) in refused({**recipe, "modalities": {name: {"type": "smiles"}}})


def test_numbers_that_yaml_reads_as_strings(tmp_path: Path, recipe: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    text = yaml.safe_dump(recipe).replace("learning_rate: 0.001", "learning_rate: 1e-4")
    path.write_text(text)
    assert "1e-4" in text
    assert load(path).train.learning_rate == 1e-4
    assert load(recipe, ["train.learning_rate=2E-3"]).train.learning_rate == 2e-3


def test_a_duplicate_key_is_an_error(tmp_path: Path, recipe: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe) + "train: {steps: 1}\n")
    with pytest.raises(ValueError, match="key 'train' is given twice"):
        load(path)


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "a: b: c"])
def test_files_that_are_not_recipes(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml"):
        load(tmp_path / "recipe.yaml")


def test_names_of_recipes() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'nothing'.*molecules"):
        load("nothing")
    with pytest.raises(ValueError, match=r"no recipe file nothing\.yaml"):
        load("nothing.yaml")


def test_extends_merges_key_by_key(tmp_path: Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\ntrain: {steps: 7}\n")
    (tmp_path / "top.yaml").write_text("extends: middle.yaml\nname: top\nmodalities: {image: {mask: {ratio: 0.25}}}\n")
    loaded = load(tmp_path / "top.yaml")
    expected = copy.deepcopy(recipe)
    expected["name"], expected["train"]["steps"] = "top", 7
    expected["modalities"]["image"]["mask"]["ratio"] = 0.25
    assert loaded == load(expected)


def test_extends_a_shipped_recipe_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: molecules\nname: mine\ntrain: {steps: 3}\n")
    mine = load(tmp_path / "mine.yaml")
    assert (mine.name, mine.train.steps) == ("mine", 3)
    assert mine.modalities == load("molecules").modalities


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_has_its_own_base(path: Path) -> None:
    base_model = yaml.safe_load(path.read_text())["sizes"]["base"]["model"]
    base, demo = (load(path.stem, [f"size={size}"]) for size in ("base", "demo"))
    assert (base.model.dim, base.model.depth, base.model.heads) == (
        base_model["dim"],
        base_model["depth"],
        base_model["heads"],
    )
    assert base.model.dim * base.model.depth > demo.model.dim * demo.model.depth


def test_circular_extends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ValueError, match="extends itself"):
        load(tmp_path / "a.yaml")


def test_overrides_take_precedence_over_sizes_and_recipe(recipe: dict[str, Any]) -> None:
    plain = {key: value for key, value in recipe.items() if key != "model"}
    assert load(plain, ["size=tiny"]).model.dim == SIZES["tiny"]["dim"]
    assert load(plain, ["size=tiny", "model.dim=96"]).model.dim == 96
    assert load({**recipe, "size": "tiny"}).model.dim == 32, "what a recipe says under model wins over a common size"
    assert load(recipe, ["size=tiny"]).model.dim == SIZES["tiny"]["dim"]
    assert load(recipe, ["size=tiny", "model.dim=96"]).model.dim == 96
    with_size = {**recipe, "sizes": {"wide": {"model": {"dim": 64}, "train": {"steps": 9}}}, "size": "wide"}
    assert (load(with_size).model.dim, load(with_size).train.steps) == (64, 9)
    assert load(with_size, ["train.steps=2"]).train.steps == 2


def test_overrides_are_yaml() -> None:
    assert parse_overrides(["a.b=1", "a.c=[x, y]", "d=null", "e=a=b"]) == {
        "a": {"b": 1, "c": ["x", "y"]}, "d": None, "e": "a=b"
    }  # fmt: skip
    for wrong in ("train.steps", "=3"):
        with pytest.raises(ValueError, match=r"key\.key=value"):
            parse_overrides([wrong])
    with pytest.raises(ValueError, match="not valid YAML"):
        parse_overrides(["a=["])


def test_merge_does_not_change_its_inputs() -> None:
    base: dict[str, Any] = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"b": 5}, "d": {"e": 1}}) == {"a": {"b": 5, "c": 2}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_a_recipe_builds_typed_parts(recipe: dict[str, Any]) -> None:
    loaded = load(recipe)
    assert isinstance(loaded, Recipe)
    assert isinstance(loaded.modalities["smiles"], Smiles)
    masked = loaded.modalities["image"].mask
    assert loaded.modalities["image"] == Image(size=48, patch=16, target="values", window=3, mask=masked)
    assert list(loaded.modalities) == ["smiles", "image", "table"]


def without_source(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "data": {key: value for key, value in recipe["data"].items() if key != "source"}}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("name=NO", "'name'"),
        ("size=off", "'size'"),
        ("evaluate.probe=NO", "'evaluate.probe'"),
        ("data.dedupe=no", "'data.dedupe'"),
        ("data.dedupe={NO: exact}", "a key of 'data.dedupe'"),
        ("data.shards=[{path: a, keep: off}]", "'data.shards.0.keep'"),
        ("data.split.by=NO", "'data.split.by'"),
        ("data.source.type=NO", "'data.source.type'"),
        ("data.source={type: rows, columns: {table: [CO, NO]}}", "'data.source.columns.table.1'"),
        ("data.source={type: rows, columns: {table: NO}}", "'data.source.columns.table'"),
        ("data.source={type: rows, columns: {NO: a}}", "a key of 'data.source.columns'"),
        ("data.source={type: rows, labels: [CO, NO]}", "'data.source.labels.1'"),
        ("data.source={type: rows, key: NO}", "'data.source.key'"),
        ("data.source={type: rows, NO: a}", "a key of 'data.source'"),
        ("data.source={type: join, by: a, sources: [{type: rows, key: NO}, {type: rows}]}", "sources.0.key'"),
        ("data.source={type: fasta, table: a, derive: {g: {column: NO, word: 1}}}", "'data.source.derive.g.column'"),
        ("data.source={type: fasta, table: a, derive: {NO: {column: a, word: 1}}}", "a key of 'data.source.derive'"),
        ("modalities.table.exclude=[NO]", "'modalities.table.exclude.0'"),
        ("modalities.smiles.mask.mode=off", "'modalities.smiles.mask.mode'"),
        ("modalities={NO: {type: text}}", "a key of 'modalities'"),
        ("objectives={NO: {}}", "a key of 'objectives'"),
        ("objectives.contrastive.pairs=[[smiles, NO]]", "'objectives.contrastive.pairs.0.1'"),
        ("train.precision=off", "'train.precision'"),
        ("train.trackers=[NO]", "'train.trackers.0'"),
    ],
)
def test_words_that_yaml_reads_as_bools_must_be_quoted(recipe: dict[str, Any], override: str, what: str) -> None:
    message = refused(without_source(recipe) if "source=" in override else recipe, override)
    assert f"{what} is false: YAML reads NO, off and false without quotes as false" in message
    assert message.endswith('write "NO" if it is text')


def test_recipe_keys_that_yaml_reads_as_bools_must_be_quoted(recipe: dict[str, Any]) -> None:
    assert "a key is true: YAML reads YES, on and true without quotes" in refused({**recipe, True: {}})  # type: ignore[dict-item]


def test_quoted_words_are_text_and_bools_are_bools(recipe: dict[str, Any]) -> None:
    loaded = load(
        without_source(recipe), ["data.source={type: rows, columns: {table: ['NO', \"off\"]}, labels: ['yes']}"]
    )
    assert loaded.data.source is not None
    assert loaded.data.source.reads == {"table": ("NO", "off")}
    assert load(loaded.to_dict()) == loaded
    unique = load(without_source(recipe), ["data.source={type: fasta, unique: yes}", "modalities.dna={type: dna}"])
    assert unique.data.source.unique is True  # type: ignore[union-attr]
    assert load(recipe, ["modalities.image.flip=yes"]).modalities["image"].flip is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(("value", "read"), [("2019", "2019"), ("2019-05-21", r"datetime\.date\(2019, 5, 21\)")])
def test_numbers_and_dates_in_place_of_text_must_be_quoted(recipe: dict[str, Any], value: str, read: str) -> None:
    override = f"data.source={{type: rows, labels: [{value}]}}"
    with pytest.raises(ValueError, match=rf"'data\.source\.labels\.0' is {read}: .* so write it in quotes$"):
        load(without_source(recipe), [override])
