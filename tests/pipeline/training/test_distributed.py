"""Two real ranks over gloo under DeepSpeed: the same losses, gradients and checkpoints as one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from pipeline.run import Run
from pipeline.training.checkpoint import read_checkpoint
from runs import pretrained as pretrain


def torchrun(ranks: int, recipe: Path, out: Path, *overrides: str) -> list[str]:
    """`torchrun -m pipeline pretrain` on this machine."""
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*started, "-m", "pipeline", "pretrain", str(recipe), *overrides, "--out", str(out)]


def start(ranks: int, recipe: Path, out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A whole run of several ranks."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = torchrun(ranks, recipe, out, *overrides)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def losses(run: Path, *names: str) -> list[list[float]]:
    """Columns of a run's metrics."""
    rows = Run(run).metrics()
    return [[row[name] for row in rows] for name in names]


@pytest.fixture
def recipe_file(recipe: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def alone(recipe: dict[str, Any], tmp_path: Path) -> Path:
    """The same recipe in one process."""
    return pretrain(recipe, out=tmp_path / "alone")


def same_run(ours: Path, theirs: Path) -> None:
    """Losses, gradient norms, parameters and moments agree."""
    terms = [name for name in Run(theirs).metrics()[0] if "/" in name]
    for name, a, b in zip(
        ["loss", "gradient_norm", *terms],
        losses(ours, "loss", "gradient_norm", *terms),
        losses(theirs, "loss", "gradient_norm", *terms),
        strict=True,
    ):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5), name
    a, b = (read_checkpoint(Run(run).checkpoints()[-1]) for run in (ours, theirs))
    assert set(a) == set(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5, msg=name)


def test_two_ranks_under_zero_2_train_as_one_process(recipe_file: Path, alone: Path, tmp_path: Path) -> None:
    done = start(2, recipe_file, tmp_path / "two", "train.zero=2")
    assert done.returncode == 0, done.stderr[-3000:]
    same_run(tmp_path / "two", alone)
    assert len(list(Run(tmp_path / "two").checkpoints()[-1].glob("*.safetensors"))) == 2
    assert Run.existing(tmp_path / "two").load_model().config.dim == 32


@pytest.mark.slow
def test_one_process_runs_with_and_without_deepspeed_in_turn(recipe_file: Path, alone: Path, tmp_path: Path) -> None:
    for number, stage in enumerate(("2", "auto", "0", "2", "3")):
        run = pretrain(recipe_file, [f"train.zero={stage}"], tmp_path / str(number))
        assert losses(run, "loss")[0] == pytest.approx(losses(alone, "loss")[0], rel=1e-4), stage
        same_run(run, alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_every_zero_stage_trains_as_one_process(recipe_file: Path, alone: Path, tmp_path: Path, stage: int) -> None:
    done = start(2, recipe_file, tmp_path / "two", f"train.zero={stage}")
    assert done.returncode == 0, done.stderr[-3000:]
    same_run(tmp_path / "two", alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_resumes_with_a_different_number_of_ranks(
    recipe_file: Path, alone: Path, tmp_path: Path, stage: int
) -> None:
    """Two steps on two ranks, then two in one process without DeepSpeed, and the other way round."""
    two_ranks, one_process = tmp_path / "there", tmp_path / "back"
    flat = "train.schedule.kind=constant"
    straight = pretrain(recipe_file, [flat], tmp_path / "straight")
    assert start(2, recipe_file, two_ranks, f"train.zero={stage}", "train.steps=2", flat).returncode == 0
    pretrain(recipe_file, [flat], two_ranks)
    same_run(two_ranks, straight)
    pretrain(recipe_file, ["train.steps=2", flat], one_process)
    done = start(2, recipe_file, one_process, f"train.zero={stage}", flat)
    assert done.returncode == 0, done.stderr[-3000:]
    same_run(one_process, straight)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradient_accumulation_on_two_ranks(recipe: dict[str, Any], tmp_path: Path, stage: int) -> None:
    recipe = {**recipe, "train": {**recipe["train"], "micro_batch_size": 8}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    alone = pretrain(recipe, out=tmp_path / "alone")
    done = start(2, path, tmp_path / "two", f"train.zero={stage}")
    assert done.returncode == 0, done.stderr[-3000:]
    same_run(tmp_path / "two", alone)


@pytest.mark.slow
def test_a_mixed_run_killed_on_two_ranks_resumes_in_one_process(
    recipe: dict[str, Any], many_shards: Path, tmp_path: Path
) -> None:
    """SIGKILL between checkpoints; the rest on another number of ranks and workers trains as if nothing had been."""
    path = str(many_shards)
    recipe["data"] |= {"shards": [{"path": path, "weight": 3}, {"path": path, "weight": 1}], "canonical_nodes": 2}
    recipe["train"] |= {"steps": 40, "checkpoint_every": 4, "schedule": {"kind": "constant"}, "workers": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run = Run(tmp_path / "killed")
    process = subprocess.Popen(
        torchrun(2, tmp_path / "recipe.yaml", run.folder, "train.zero=2"),
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 240
    while not run.checkpoints() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    launcher = psutil.Process(process.pid)
    for part in (launcher, *launcher.children(recursive=True)):  # ranks lead sessions of their own
        part.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert run.checkpoints()[-1].name != "step-40"
    pretrain(recipe, ["train.workers=3"], run.folder)
    same_run(run.folder, pretrain(recipe, out=tmp_path / "straight"))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_stopped_ranks_stop_together_and_resume_exactly(
    recipe: dict[str, Any], tmp_path: Path, sent: signal.Signals
) -> None:
    """SIGTERM to the second rank alone, or Ctrl-C to what started both."""
    recipe["train"] |= {"steps": 200, "checkpoint_every": 20, "schedule": {"kind": "constant"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run = Run(tmp_path / "run")
    command = torchrun(2, tmp_path / "recipe.yaml", run.folder, "train.zero=2")
    if sent == signal.SIGINT:
        command = [sys.executable, *command[command.index("pipeline") - 1 :], "--devices", "2"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 240
    while not run.checkpoints() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    if sent == signal.SIGINT:
        process.send_signal(sent)
    else:
        ranks = psutil.Process(process.pid).children(recursive=True)
        next(rank for rank in ranks if rank.environ().get("RANK") == "1").send_signal(sent)
    _, messages = process.communicate(timeout=120)
    last = run.checkpoints()[-1]
    assert last.name != "step-200", "the run ended before it could be asked to"
    assert f"{sent.name} at step {last.name.removeprefix('step-')}: the same command resumes from there" in messages
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in messages
    pretrain(recipe, out=run.folder)
    same_run(run.folder, pretrain(recipe, out=tmp_path / "straight"))


FORGET = """
import sys, json, torch
from pathlib import Path
from pipeline.training.step import Engine
from pipeline.training.launch import create_accelerator
from pipeline.data.loader import TrainingBatches
from pipeline.data.fit import fit_modalities
from pipeline.data.sets import open_sets
from pipeline.training.module import build_module
from pipeline.recipe.load import load
recipe = load(sys.argv[1], [f"train.zero={sys.argv[2]}"])
sets = open_sets(recipe, "train", verify=False)
fitted = fit_modalities(recipe, sets)
torch.manual_seed(0)
accelerator = create_accelerator(recipe.train, Path(sys.argv[3]))
engine = Engine(build_module(recipe, fitted), recipe.train, accelerator)
stream = TrainingBatches(sets=sets, modalities=fitted, seed=0, block=recipe.data.shuffle_block, batch_size=16,
                         micro_batch_size=16, rank=engine.rank, world=engine.world)
reports = []
for number in (0, 1, 2):
    batch = stream[number]
    if number == 1 and engine.rank == 1:
        batch.packs["table"].values[0] = float("nan")
    reports.append(engine.step([batch], 1e-3))
if engine.rank == 0:
    print(json.dumps([[r.applied, r.loss] for r in reports]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nan_on_one_rank_skips_the_batch_on_all_ranks(
    recipe: dict[str, Any], recipe_file: Path, tmp_path: Path, stage: int
) -> None:
    script = tmp_path / "forget.py"
    script.write_text(FORGET)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(script),
            str(recipe_file),
            str(stage),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (first, one), (second, _), (third, three) = json.loads(done.stdout.strip().splitlines()[-1])
    assert (first, second, third) == (True, False, True)
    import torch as t

    from pipeline.data.fit import fit_modalities
    from pipeline.data.loader import TrainingBatches
    from pipeline.data.sets import open_sets
    from pipeline.recipe.load import load
    from pipeline.training.launch import create_accelerator
    from pipeline.training.module import build_module
    from pipeline.training.step import Engine

    checked = load(recipe)
    sets = open_sets(checked, "train", verify=False)
    fitted = fit_modalities(checked, sets)
    t.manual_seed(0)
    engine = Engine(build_module(checked, fitted), checked.train, create_accelerator(checked.train, tmp_path))
    stream = TrainingBatches(
        sets=sets, modalities=fitted, seed=0, block=checked.data.shuffle_block, batch_size=16, micro_batch_size=16
    )
    assert engine.step([stream[0]], 1e-3).loss == pytest.approx(one, rel=1e-5)
    assert engine.step([stream[2]], 1e-3).loss == pytest.approx(three, rel=1e-4)
