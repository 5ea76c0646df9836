"""Recipes that mix sets: shares, their checks, and runs that go on with them."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from pipeline.commands.plan import SetPlan, plan
from pipeline.data.loader import Cursor
from pipeline.data.mixture import mixture, shares
from pipeline.data.sets import open_sets
from pipeline.recipe.load import load
from pipeline.run import Run
from runs import pretrained as pretrain
from shards.order import deal
from shards.read import Split

MODALITIES = {"smiles": {"type": "smiles"}}


def shared(
    sets: list[dict[str, Any]], sizes: list[int], steps: int = 100, **data: Any
) -> list[tuple[int, list[float]]]:
    """Shares by step of a recipe of such sets, with batches of 10."""
    recipe = load(
        {
            "name": "mixed",
            "data": {"shards": sets, **data},
            "modalities": MODALITIES,
            "objectives": {"masked": {}},
            "train": {"steps": steps, "batch_size": 10},
        }
    )
    assert load(recipe.to_dict()) == recipe
    schedule = shares(recipe, sizes)
    assert all(sum(parts) == 1 for _, parts in schedule)
    return [(step, [float(part) for part in parts]) for step, parts in schedule]


def test_shares_are_proportional_to_sizes_and_flattened_by_temperature() -> None:
    sets = [{"path": "a"}, {"path": "b"}]
    assert shared(sets, [900, 100]) == [(0, [0.9, 0.1])]
    assert shared(sets, [900, 100], temperature=2.0) == [(0, [0.75, 0.25])]


def test_weights_are_shares_among_siblings_and_groups_count_as_one() -> None:
    sets = [
        {"path": "a", "weight": 3},
        {"weight": 1, "temperature": 2, "sets": [{"path": "b"}, {"sets": [{"path": "c"}, {"path": "d"}]}]},
    ]
    assert shared(sets, [1, 900, 60, 40]) == [(0, [0.75, 0.25 * 0.75, 0.25 * 0.25 * 0.6, 0.25 * 0.25 * 0.4])]


def test_weights_may_change_at_steps() -> None:
    sets = [{"path": "a", "weight": [[0, 1], [10, 0]]}, {"path": "b", "weight": [[0, 0], [5, 1]]}]
    assert shared(sets, [7, 7]) == [(0, [1, 0]), (5, [0.5, 0.5]), (10, [0, 1])]


def test_epochs_count_passes_in_the_complete_run() -> None:
    sets = [{"path": "a", "epochs": 2.5}, {"path": "b", "weight": 3}, {"path": "c", "weight": 1}]
    assert shared(sets, [40, 5, 5]) == [(0, [0.1, 0.675, 0.225])]
    assert shared([{"path": "a", "epochs": 2}, {"path": "b", "epochs": 0.5}], [300, 796]) == [
        (0, [pytest.approx(600 / 998), pytest.approx(398 / 998)])
    ]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            [{"path": "a", "epochs": 2}, {"path": "b"}],
            "asks for 1,000 samples by epochs, the run has 1,000: .*more than",
        ),
        ([{"path": "a", "epochs": 4}, {"path": "b", "epochs": 1}], "asks for 2,500 .* set train.steps to 250"),
        ([{"path": "a", "epochs": 1}, {"path": "b", "epochs": 0.5}], "asks for 750 .* set train.steps to 75"),
    ],
)
def test_epochs_that_do_not_fit_the_run_are_refused(sets: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared(sets, [500, 500])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{shards: [{weight: 1}]}", "either a path or a group of sets"),
        ("{shards: [{path: a, sets: [{path: b}]}]}", "either a path or a group of sets"),
        ("{shards: [{path: a, weight: 0}]}", "weight of shards is 0: give a number above 0"),
        ("{shards: [{path: a, weight: .inf}]}", "weight of shards is inf"),
        ("{shards: [{path: a, weight: true}]}", "weight of shards is True"),
        ("{shards: [{path: a, weight: heavy}]}", "weight of shards is 'heavy'"),
        ("{shards: [{path: a, weight: []}]}", "weight of shards is []"),
        ("{shards: [{path: a, weight: [[5, 1]]}]}", "rising steps from 0 on"),
        ("{shards: [{path: a, weight: [[0, 1], [9, 2], [9, 1]]}]}", "rising steps from 0 on"),
        ("{shards: [{path: a, weight: [[0, 1], [9, -1]]}]}", "weights of at least 0"),
        ("{shards: [{path: a, weight: [[0, 1], [9, 0]]}]}", "all weights are 0 from step 9 on"),
        ("{shards: [{path: a, weight: 1, epochs: 2}]}", "a has both weight and epochs"),
        ("{shards: [{path: a, epochs: 0}]}", "'data.shards.0.epochs' is 0"),
        ("{shards: [{path: a, weights: often}]}", "weights of a names a column of its keep file"),
        ("{shards: [{path: a, weight: 1}, {path: b}]}", "give a weight to every set of a group or to none"),
        ("{shards: [{sets: [{path: a, weight: 1}, {path: b}]}]}", "give a weight to every set of a group or to none"),
        ("{shards: [{sets: [{path: a, epochs: 1}]}]}", "a set within a group cannot have them"),
        ("{shards: [{sets: [{path: a}], epochs: 1}]}", "belong to a set with a path"),
        ("{shards: [{sets: [{path: a}], keep: k.csv}]}", "belong to a set with a path"),
        ("{shards: [{path: a, temperature: 2}]}", "temperature of a belongs to data or to a group"),
        ("{shards: [{path: a, weight: 1}], temperature: 2}", "it is for sets without weights"),
        ("{shards: [{path: a}], temperature: 0}", "'data.temperature' is 0"),
        ("{shards: [{path: a, wieght: 1}]}", "unknown key 'data.shards.0.wieght': did you mean 'weight'?"),
        ("{shards: [{sets: [{pth: a}]}]}", "unknown key 'data.shards.0.sets.0.pth': did you mean 'path'?"),
        ("{canonical_nodes: 0}", "'data.canonical_nodes' is 0"),
        ("{canonical_nodes: 3}", "train.batch_size 16 is not a multiple of data.canonical_nodes 3"),
    ],
)
def test_wrong_mixtures_are_refused_in_one_line(recipe: dict[str, Any], data: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        load({**recipe, "data": {}}, [f"data={data}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def drawings(many_shards: Path, tmp_path: Path) -> Path:
    """The same samples as a set whose manifest knows of drawings and tables alone."""
    folder = Path(shutil.copytree(many_shards, tmp_path / "drawings"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fields"] = {name: n for name, n in manifest["fields"].items() if not name.startswith("smiles")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_sets_may_have_different_modalities(recipe: dict[str, Any], shards: Path, drawings: Path) -> None:
    recipe["data"]["shards"] = [{"path": str(shards)}, {"path": str(drawings)}]
    assert len(open_sets(load(recipe), "train", verify=False)) == 2
    recipe["data"]["shards"] = [{"path": str(drawings)}]
    with pytest.raises(ValueError, match="has no members of modality 'smiles'"):
        open_sets(load(recipe), "train", verify=False)
    recipe["data"]["shards"] = [{"path": str(shards)}, {"path": str(drawings)}]
    recipe["modalities"] = {"smiles": recipe["modalities"]["smiles"]}
    with pytest.raises(ValueError, match="drawings has no members of any of the recipe's modalities"):
        open_sets(load({**recipe, "objectives": {"masked": {}}}), "train", verify=False)


def test_more_nodes_than_shards_are_refused(recipe: dict[str, Any]) -> None:
    checked = load(recipe, ["data.canonical_nodes=8"])
    with pytest.raises(ValueError, match=r"shards with samples, fewer than data\.canonical_nodes 8"):
        mixture(checked, open_sets(checked, "train", verify=False))


def test_a_keep_list_of_other_keys_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "keep.csv").write_text("key\nnobody\n")
    recipe["data"]["shards"][0]["keep"] = str(tmp_path / "keep.csv")
    with pytest.raises(ValueError, match=r"keep\.csv keeps nothing of the train split"):
        open_sets(load(recipe), "train", verify=False)


def test_plan_reports_epochs_of_each_set(recipe: dict[str, Any], shards: Path, drawings: Path) -> None:
    recipe["data"]["shards"] = [{"path": str(shards), "weight": 3}, {"path": str(drawings), "weight": 1}]
    samples = len(Split(shards, "train"))
    sets = plan(recipe).data.sets
    assert sets == [
        SetPlan(path=str(path), notes=[], samples_per_epoch=samples, epochs=epochs / samples, imbalance=0)
        for path, epochs in ((shards, 48), (drawings, 16))
    ]


def test_plan_reports_a_folder_that_is_used_twice(recipe: dict[str, Any], shards: Path) -> None:
    recipe["data"]["shards"] = [{"path": str(shards), "weight": 3}, {"path": str(shards), "weight": 1}]
    samples = len(Split(shards, "train"))
    assert [set_plan.epochs for set_plan in plan(recipe).data.sets] == [48 / samples, 16 / samples]


def test_nodes_with_unequal_shards_are_refused_and_reported_by_plan(recipe: dict[str, Any], many_shards: Path) -> None:
    sizes = Split(many_shards, "train").sizes
    recipe["data"] |= {"shards": [{"path": str(many_shards)}], "canonical_nodes": 2}
    totals = [sum(sizes[shard] for shard in shards) for shards in deal(sizes, 2)]
    (set_plan,) = plan(recipe).data.sets
    assert 0 < set_plan.imbalance == (max(totals) - min(totals)) / min(totals) < 0.1
    recipe["data"]["canonical_nodes"] = 8
    with pytest.raises(
        ValueError, match=rf"{many_shards}: with data.canonical_nodes 8 some samples would occur \d+% more"
    ):
        plan(recipe)


@pytest.mark.parametrize(("count", "fine"), [(1, False), (9, False), (10, True), (25, True)])
def test_ten_equal_shards_per_node_are_enough(recipe: dict[str, Any], count: int, fine: bool) -> None:
    """One shard more than can be dealt evenly to four nodes."""
    split = SimpleNamespace(epoch_sizes=(7,) * (4 * count + 1), folder="shards")
    checked = load(recipe, ["data.canonical_nodes=4"])
    with nullcontext() if fine else pytest.raises(ValueError, match=f"occur {1 / count:.0%} more often"):
        mixture(checked, [cast(Split, split)])


def test_cursors_round_trip() -> None:
    cursor = Cursor(160, ((32, 48), (64, 96)))
    assert cursor.to_json() == {"position": 160, "skipped": [[32, 48], [64, 96]]}
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor
    assert (cursor.used, cursor.advanced(16)) == (112, Cursor(176, cursor.skipped))


@pytest.fixture
def mixed(recipe: dict[str, Any], many_shards: Path, drawings: Path, tmp_path: Path) -> dict[str, Any]:
    """Two nodes' streams over a curriculum of two sets, one of them by a keep-list with weights."""
    split = Split(many_shards, "train")
    keys = [key for key, *_ in split.locations()]
    rows = {
        "key": keys[: len(keys) // 2 * 2 : 2],
        "often": [1.5, 1.0] * (len(keys) // 4) + [2.0] * (len(keys) // 2 % 2),
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "keep.parquet")
    recipe["data"]["shards"] = [
        {
            "path": str(many_shards),
            "weight": [[0, 3], [2, 1]],
            "keep": str(tmp_path / "keep.parquet"),
            "weights": "often",
        },
        {"path": str(drawings), "weight": 1},
    ]
    recipe["data"]["canonical_nodes"] = 2
    recipe["train"] = {**recipe["train"], "schedule": {"kind": "constant"}}
    return recipe


def test_a_mixed_run_logs_its_shares_and_resumes_exactly(mixed: dict[str, Any], tmp_path: Path) -> None:
    straight, cut = Run(pretrain(mixed, out=tmp_path / "straight")), tmp_path / "cut"
    logged = [row["shares"] for row in straight.metrics()]
    assert list(logged[0]) == [leaf["path"] for leaf in mixed["data"]["shards"]]
    assert [list(row.values()) for row in logged] == [[0.75, 0.25]] * 2 + [[0.5, 0.5]] * 2
    pretrain(mixed, ["train.steps=2"], cut)
    resumed = Run(pretrain(mixed, ["train.workers=2"], cut))
    timing = ("samples_per_s", "tokens_per_s", "data_wait")
    ours, theirs = (
        [{name: value for name, value in row.items() if name not in timing} for row in run.metrics()]
        for run in (resumed, straight)
    )
    assert ours == theirs
    state = json.loads((cut / "checkpoints" / "step-4" / "state.json").read_text())
    assert (state["position"], state["skipped"], state["step"]) == (64, [], 4)
    keep = Path(mixed["data"]["shards"][0]["keep"])
    pl.read_parquet(keep)[:-1].write_parquet(keep)
    with pytest.raises(ValueError, match="began on other samples or shares"):
        pretrain(mixed, ["train.steps=6"], cut)


def test_a_run_resumes_after_skipped_samples(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = Run(pretrain(recipe, ["train.steps=2"], tmp_path / "run"))
    path = run.checkpoints()[-1] / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "position": 64, "skipped": [[32, 64]]}))
    pretrain(recipe, ["train.steps=3"], run.folder)
    state = json.loads((run.checkpoints()[-1] / "state.json").read_text())
    assert (state["position"], state["skipped"], state["step"]) == (80, [[32, 64]], 3)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
