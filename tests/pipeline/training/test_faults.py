"""Corrupt samples: counted by shard and reason, logged with their keys, stopped beyond a share, resumed exactly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.run import Run
from runs import pretrained as pretrain
from shards.index import index_path
from shards.manifest import Manifest, hash_file
from shards.read import Split

TIMING = ("samples_per_s", "tokens_per_s", "data_wait")
REASON = "image file is not png"


@pytest.fixture
def harmed(shards: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Shards of which every tenth training image is no image, and the tar of each such key."""
    folder, bad = Path(shutil.copytree(shards, tmp_path / "harmed")), {}
    manifest, entries = Manifest.read(folder), []
    for shard in manifest.shards:
        tar = folder / shard.name
        if shard.split == "train":
            rows = pl.read_parquet(index_path(tar)).filter(pl.col("member") == "image.png").gather_every(10)
            data = bytearray(tar.read_bytes())
            for key, offset, size in rows.select("key", "offset", "size").iter_rows():
                data[offset : offset + size] = bytes(size)
                bad[key] = str(tar)
            tar.write_bytes(data)
        entries.append(replace(shard, sha256=hash_file(tar)))
    replace(manifest, shards=tuple(entries)).write(folder)
    return folder, bad


@pytest.fixture
def faulty(recipe: dict[str, Any], harmed: tuple[Path, dict[str, str]]) -> dict[str, Any]:
    """A recipe that passes once over them."""
    samples = Manifest.read(harmed[0]).counts()["train"]
    train = {**recipe["train"], "steps": -(-samples // 16)}
    data = {**recipe["data"], "shards": [{"path": str(harmed[0])}], "max_skipped": 0.3}
    return {**recipe, "data": data, "train": train}


def state(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((Run(run).checkpoints()[-1] / "state.json").read_text())
    return values


def rows(run: Path) -> list[dict[str, Any]]:
    """Losses and counts of every step; what the clock says is left out."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in Run(run).metrics()]


def counted(run: Path) -> dict[str, dict[str, int]]:
    """What the log of a run adds up to."""
    counts: dict[str, Counter[str]] = {}
    for row in Run(run).skipped():
        counts.setdefault(row["shard"], Counter())[row["reason"]] += 1
    return {shard: dict(reasons) for shard, reasons in counts.items()}


def test_faults_are_counted_by_shard_and_reason_and_logged_with_their_keys(
    faulty: dict[str, Any], harmed: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (_, bad) = pretrain(faulty, out=tmp_path / "run"), harmed
    logged = Run(run).skipped()
    assert {row["key"]: row["shard"] for row in logged} == bad
    assert all(row["reason"].startswith(REASON) for row in logged)
    assert state(run)["faults"] == Run(run).result()["pretrain"]["skipped"] == counted(run)
    assert Run(run).metrics()[-1]["skipped"] == len(logged) >= len(bad)
    messages = capsys.readouterr().err
    assert all(f"({key} in {tar})" in messages for key, tar in bad.items())


def test_a_run_with_faults_resumes_exactly_and_counts_them_once(faulty: dict[str, Any], tmp_path: Path) -> None:
    faulty["train"]["schedule"] = {"kind": "constant"}
    straight = pretrain(faulty, out=tmp_path / "straight")
    steps = faulty["train"]["steps"]
    cut = pretrain(faulty, [f"train.steps={steps - 2}"], tmp_path / "cut")
    log = (cut / "skipped.jsonl").read_text()
    (cut / "skipped.jsonl").write_text(log + log.splitlines()[-1] + "\n" + '{"step": 4, "sha')  # as a kill leaves it
    pretrain(faulty, out=cut)
    assert state(cut) == state(straight)
    assert Run(cut).skipped() == Run(straight).skipped()
    assert counted(cut) == state(straight)["faults"]
    assert rows(cut) == rows(straight)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (cut, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_sample_that_occurs_three_times_in_a_step_counts_three_times(
    faulty: dict[str, Any], harmed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    keep, (folder, bad) = tmp_path / "keep.csv", harmed
    good = next(key for key, *_ in Split(folder, "train").locations() if key not in bad)
    keep.write_text(f"key,times\n{next(iter(bad))},3\n{good},13\n")
    faulty["data"]["shards"] = [{"path": str(folder), "keep": str(keep), "weights": "times"}]
    run = pretrain(faulty, ["train.steps=2"], tmp_path / "run")
    assert [row["time"] for row in Run(run).skipped()] == [0, 1, 2] * 2
    assert counted(run) == state(run)["faults"]
    Run(run).add_skipped(row for row in Run(run).skipped() if row["step"] == 2)  # as a run that goes on from step 1
    assert counted(run) == state(run)["faults"]


@pytest.mark.parametrize("share", ["0.02", "0"])
def test_too_many_faults_stop_the_run_and_name_the_worst_shard(
    faulty: dict[str, Any], tmp_path: Path, share: str
) -> None:
    with pytest.raises(ValueError, match="could not be used, more than data") as caught:
        pretrain(faulty, [f"data.max_skipped={share}"], tmp_path / "run")
    assert REASON in str(caught.value)
    assert "train-0000" in str(caught.value)
    assert "skipped.jsonl" in str(caught.value)
    assert Run(tmp_path / "run").skipped()


@pytest.mark.slow
def test_two_ranks_count_and_stop_equally(faulty: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(faulty))
    alone = pretrain(faulty, out=tmp_path / "alone")
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pipeline"]

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*ranks, "pretrain", str(path), *words],
            capture_output=True, text=True, timeout=300, check=False, env=environment,
        )  # fmt: skip

    done = start("--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert state(tmp_path / "two")["faults"] == state(alone)["faults"]
    assert Run(tmp_path / "two").skipped() == Run(alone).skipped()
    done = start("--out", str(tmp_path / "stopped"), "data.max_skipped=0.02")
    assert done.returncode != 0
    assert done.stderr.count("could not be used, more than data.max_skipped 2%") == 2, "each rank stops by itself"
