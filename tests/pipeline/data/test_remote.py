"""Every verb that reads shards reads them from a URL too: a run on them is the run on the folder they came from."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.commands.embed import embed_file
from pipeline.commands.evaluate import evaluate
from pipeline.commands.finetune import finetune
from pipeline.commands.plan import plan
from pipeline.data.loader import RawBatches
from pipeline.evaluation.predictor import Settings
from pipeline.recipe.load import load
from pipeline.run import Run
from runs import pretrained as pretrain
from shards.order import Mixture
from shards.read import Split
from shards.remote import Cache
from shards.tars import index_tars

TIMING = ("samples_per_s", "tokens_per_s", "data_wait")


@pytest.fixture
def web(shards: Path, serve: Callable[[Path], Any]) -> Any:
    return serve(shards)


@pytest.fixture
def remote(recipe: dict[str, Any], web: Any, tmp_path: Path) -> dict[str, Any]:
    """The small recipe on the same shards behind a server."""
    cache = {"folder": str(tmp_path / "cache"), "timeout_s": 5, "give_up_s": 5}
    return {**recipe, "data": {**recipe["data"], "shards": [{"path": web.url}], "cache": cache}}


def test_a_run_on_a_url_equals_the_run_on_the_folder(
    remote: dict[str, Any], run: Path, web: Any, tmp_path: Path
) -> None:
    assert plan(remote).data.training_samples > 100
    web.faults["train-00000.tar"] = ["cut", "503", "wrong"]
    ours = pretrain(remote, ["train.workers=1"], tmp_path / "run")

    def rows(folder: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in Run(folder).metrics()]

    assert rows(ours) == rows(run)
    assert web.requests["train-00001.tar"] == 1
    assert evaluate(ours).retrieval == evaluate(ours, web.url).retrieval
    settings = Settings(epochs=1, labels=20)
    figures = finetune(ours, web.url, "qed", out=tmp_path / "tuned", compare=False, settings=settings)
    assert figures.pretrained
    assert figures.pretrained["seeds"] == 1
    assert embed_file(ours, web.url, tmp_path / "e.parquet").rows > 100
    assert load(Run(ours).recipe().to_dict()) == load({**remote, "train": {**remote["train"], "workers": 1}})


def test_shards_are_inspected_and_verified_by_url(
    web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["sensorium", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capfd.readouterr()

    code, out, _ = call("shards", "inspect", web.url, "--json")
    assert (code or 0, json.loads(out)["splits"]["train"] > 100) == (0, True)
    assert set(web.requests) == {"manifest.json", "train-00000.tar", "train-00000.index.parquet"}
    code, out, _ = call("shards", "verify", web.url)
    assert (code or 0, "all correct" in out) == (0, True)
    assert (tmp_path / ".cache" / "sensorium" / "shards").is_dir()
    web.faults["manifest.json"] = ["403", "*"]
    code, out, message = call("shards", "verify", web.url)
    assert (code, out) == (2, "")
    assert message.startswith(f"sensorium: cannot fetch {web.url}/manifest.json: 403")
    assert message.count("\n") == 1


def test_a_dead_link_in_a_worker_stops_the_run_in_one_line(remote: dict[str, Any], web: Any, tmp_path: Path) -> None:
    ours = pretrain(remote, ["train.steps=2"], tmp_path / "run")
    remote["data"]["cache"]["folder"] = str(tmp_path / "elsewhere")
    for name in ("train-00000.tar", "train-00001.tar", "train-00002.tar"):
        web.faults[name] = ["403", "*"]
    with pytest.raises(ValueError, match=r"cannot fetch http.*tar: 403") as caught:
        pretrain(remote, ["train.workers=1"], ours)
    assert "\n" not in str(caught.value)


@pytest.fixture
def many_shards(shards: Path, serve: Callable[[Path], Any], tmp_path: Path) -> Any:
    """The training tars behind a server, each under ten names: thirty shards of other keys and groups."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number, tar in enumerate(sorted(shards.glob("train-*.tar")) * 10):
        with tarfile.open(tar) as old, tarfile.open(folder / f"train-{number:05}.tar", "w") as new:
            for entry in old:
                content = old.extractfile(entry)
                entry.name = f"{number}-{entry.name}"
                new.addfile(entry, content)
    index_tars(folder, {})
    return serve(folder)


def test_a_run_fetches_only_the_shards_it_reads(remote: dict[str, Any], many_shards: Any, tmp_path: Path) -> None:
    """What a run notes of its training data comes from the indexes: a step of few samples needs few of the tars."""
    data = {
        **remote["data"],
        "shards": [{"path": many_shards.url}],
        "split": None,
        "shuffle_block": 1,
        "fit_samples": 1,
    }
    pretrain({**remote, "data": data}, ["train.steps=1", "train.batch_size=2"], tmp_path / "run")
    assert 1 <= sum(name.endswith(".tar") for name in many_shards.requests) <= 3
    assert len(Run(tmp_path / "run").trained_on()) > 300


def test_four_nodes_fetch_only_their_own_shards(many_shards: Any, tmp_path: Path) -> None:
    """Two ranks on each of four nodes, with a cache a node: no tar is fetched by two of them, and all are by one."""
    sizes = Split(many_shards.url, "train", cache=Cache(str(tmp_path / "first"))).sizes
    order = Mixture([sizes], 0, 16, nodes=4, length=4)
    many_shards.requests.clear()
    fetched = []
    for node in range(4):
        split = Split(many_shards.url, "train", cache=Cache(str(tmp_path / str(node))))
        for rank in (2 * node, 2 * node + 1):
            ours = RawBatches(
                sets=(split,), decode=lambda members: members["smiles"]["txt"], batch_size=2, mixture=order
            )
            positions = range(rank, sum(sizes) // 2 + 4 * max(sizes), 8)  # slices of 2 of a batch of 16
            assert all(len(ours[number]) == 2 for number in positions)
        fetched.append({name for name in many_shards.requests if name.endswith(".tar")})
        many_shards.requests.clear()
    assert sum(map(len, fetched)) == len(set.union(*fetched)) == len(sizes)
    assert {len(names) for names in fetched} <= {len(sizes) // 4, len(sizes) // 4 + 1}
