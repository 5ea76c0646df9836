"""Runs: what stands in them, that they go on exactly, and that nothing on the way is lost."""

from __future__ import annotations

import itertools
import json
import os
import shutil
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
from safetensors.torch import load_file

from modalities.table import Table
from pipeline.commands.build import build_shards
from pipeline.recipe.load import load
from pipeline.run import Run
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.module import build_module
from pipeline.training.step import Engine, StepStats
from runs import pretrained as pretrain

TIMING = ("samples_per_s", "tokens_per_s", "data_wait")
FLAT = "train.schedule.kind=constant"


def rows(run: Path) -> list[dict[str, Any]]:
    """Metrics without what the clock says."""
    return [{name: value for name, value in row.items() if name not in TIMING} for row in Run(run).metrics()]


def same_checkpoints(ours: Path, theirs: Path) -> None:
    """The last checkpoints agree to the bit: parameters, moments (zero where there is none), buffers, position."""
    ours, theirs = (Run(run).checkpoints()[-1] for run in (ours, theirs))
    assert ours.name == theirs.name
    a, b = read_checkpoint(ours), read_checkpoint(theirs)
    for name in a.keys() | b.keys():
        x, y = (tensors[name] if name in tensors else torch.zeros_like({**a, **b}[name]) for tensors in (a, b))
        assert torch.equal(x, y), name
    assert (ours / "state.json").read_text() == (theirs / "state.json").read_text()


def command(recipe: dict[str, Any], out: Path, *overrides: str) -> dict[str, Any]:
    """Arguments to start a run in a process of its own, beside its recipe."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    words = [sys.executable, "-m", "pipeline", "pretrain", str(path), *overrides, "--out", str(out)]
    return {"args": words, "env": environment, "cwd": out.parent, "text": True}


def start(recipe: dict[str, Any], out: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A whole run in a process of its own."""
    started = command(recipe, out, *overrides)
    started["env"] |= environment
    done = subprocess.run(**started, capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_files_of_a_run(run: Path, recipe: dict[str, Any]) -> None:
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    expected = {"recipe.yaml", "modalities.json", "environment.json", "metrics.jsonl", "trained_on.json"}
    assert expected | {"model/config.json", "model/model.safetensors", "checkpoints/step-4/state.json"} <= names
    assert [path.name for path in Run(run).checkpoints()] == ["step-2", "step-4"]
    assert not list(run.rglob("*.writing"))
    assert load(yaml.safe_load((run / "recipe.yaml").read_text())) == load(recipe)
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] == torch.__version__
    fitted = Run(run).modalities()
    assert fitted is not None
    assert list(fitted) == ["smiles", "image", "table"]
    assert Run(run).load_model().modalities == fitted


def test_metrics_contain_losses_speed_and_faults(run: Path) -> None:
    metrics = Run(run).metrics()
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    for row in metrics:
        assert row["samples_per_s"] > 0
        assert row["tokens_per_s"] > row["samples_per_s"]
        assert 0 <= row["data_wait"] <= 1
        assert row["skipped"] == 0
        assert row["applied"] is True
        terms = [value for name, value in row.items() if "/" in name]
        assert len(terms) == 6
        assert row["loss"] == pytest.approx(sum(terms), rel=1e-6)


def test_the_model_equals_the_last_checkpoint(run: Path) -> None:
    state = read_checkpoint(Run(run).checkpoints()[-1])
    for name, value in load_file(run / "model" / "model.safetensors").items():
        assert torch.equal(value, state[f"parameter:model.{name}"]), name


def test_training_lowers_the_loss(recipe: dict[str, Any], tmp_path: Path) -> None:
    metrics = rows(pretrain(recipe, ["train.steps=25", "train.checkpoint_every=25"], tmp_path / "run"))
    assert metrics[-1]["loss"] < 0.9 * metrics[0]["loss"]


def test_runs_are_equal_if_and_only_if_their_seeds_are(recipe: dict[str, Any], run: Path, tmp_path: Path) -> None:
    again = pretrain(recipe, out=tmp_path / "again")
    assert rows(again) == rows(run)
    same_checkpoints(again, run)
    other = pretrain(recipe, ["train.seed=1"], tmp_path / "other")
    assert rows(other)[0]["loss"] != rows(run)[0]["loss"]


def test_fewer_steps_than_already_trained_are_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = pretrain(recipe, ["train.steps=3"], tmp_path / "run")
    before = (run / "recipe.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"is at step 3, beyond train\.steps=2: ask for more steps"):
        pretrain(recipe, ["train.steps=2"], run)
    assert (run / "recipe.yaml").read_bytes() == before
    assert pretrain(recipe, ["train.steps=3"], run) == run


@pytest.mark.parametrize(
    "objectives", [{"masked": {}, "contrastive": {"reads": "full"}}, {"masked": {}}, {"contrastive": {}}], ids=list
)
def test_a_run_resumes_exactly(recipe: dict[str, Any], tmp_path: Path, objectives: dict[str, Any]) -> None:
    recipe = {**recipe, "objectives": objectives}
    straight = pretrain(recipe, [FLAT, "train.steps=5"], tmp_path / "straight")
    cut = tmp_path / "cut"
    pretrain(recipe, [FLAT, "train.steps=3"], cut)
    for leftover in (cut / "checkpoints" / "step-4.writing", cut / "model.writing"):
        leftover.mkdir()
        (leftover / "half").write_bytes(b"half")
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "los')
    pretrain(recipe, [FLAT, "train.steps=5"], cut)
    assert rows(cut) == rows(straight)
    same_checkpoints(cut, straight)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (cut, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_run_is_unchanged_if_started_again(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = pretrain(recipe, out=tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    pretrain(recipe, out=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(recipe: dict[str, Any], tmp_path: Path) -> None:
    overrides = [FLAT, "train.steps=60", "train.checkpoint_every=20", "train.log_every=5"]
    straight = pretrain(recipe, overrides, tmp_path / "straight")
    run = Run(tmp_path / "killed")
    process = subprocess.Popen(**command(recipe, run.folder, *overrides), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while not run.checkpoints() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert run.checkpoints()[-1].name in ("step-20", "step-40")
    assert not run.model.exists()
    pretrain(recipe, overrides, run.folder)
    assert rows(run.folder) == rows(straight)
    same_checkpoints(run.folder, straight)


def sends(monkeypatch: pytest.MonkeyPatch, number: int, *signals: signal.Signals) -> None:
    """Let this process get signals in a step of a number, counted from 1."""
    step, done = Engine.step, itertools.count(1)

    def sent(engine: Engine, *arguments: Any) -> StepStats:
        if next(done) == number:
            for signal_number in signals:
                os.kill(os.getpid(), signal_number)
        return step(engine, *arguments)

    monkeypatch.setattr(Engine, "step", sent)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_saves_a_checkpoint_and_resumes_exactly(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    sent: signal.Signals,
    code: int,
    workers: int,
) -> None:
    overrides = [FLAT, "train.steps=6", "train.checkpoint_every=100", f"train.workers={workers}"]
    straight = pretrain(recipe, overrides, tmp_path / "straight")
    handler, children = signal.getsignal(sent), psutil.Process().children()
    with monkeypatch.context() as patch:
        sends(patch, 3, sent)
        with pytest.raises(SystemExit) as ended:
            pretrain(recipe, overrides, tmp_path / "run")
    assert ended.value.code == code
    assert signal.getsignal(sent) == handler
    assert psutil.Process().children() == children
    messages = capfd.readouterr().err
    assert "stopping after this step and a checkpoint" in messages
    assert f"{sent.name} at step 3: the same command resumes from there" in messages
    run = Run(tmp_path / "run")
    assert [path.name for path in run.checkpoints()] == ["step-3"]
    assert not run.model.exists()
    pretrain(recipe, overrides, run.folder)
    assert rows(run.folder) == rows(straight)
    same_checkpoints(run.folder, straight)


def test_a_second_interrupt_stops_immediately(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, ["train.checkpoint_every=100"], tmp_path / "run")
    assert not Run(tmp_path / "run").checkpoints()


def test_a_run_stopped_in_its_last_step_is_complete(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends(monkeypatch, 4, signal.SIGTERM)
    run = Run(pretrain(recipe, ["train.steps=4"], tmp_path / "run"))
    assert run.checkpoints()[-1].name == "step-4"
    assert run.model.exists()


def test_only_the_last_checkpoints_are_kept(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = pretrain(recipe, ["train.checkpoint_every=1", "train.keep_checkpoints=1"], tmp_path / "run")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-4"]


def test_micro_batches_add_up_to_a_step(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**recipe, "objectives": {"masked": {}}}
    full = rows(pretrain(recipe, out=tmp_path / "whole"))
    parts = rows(pretrain(recipe, ["train.micro_batch_size=4"], tmp_path / "parts"))
    for ours, theirs in zip(parts, full, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_workers_change_nothing(recipe: dict[str, Any], run: Path, tmp_path: Path) -> None:
    assert rows(pretrain(recipe, ["train.workers=2"], tmp_path / "run")) == rows(run)


def test_the_learning_rate_follows_the_schedule(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = pretrain(recipe, ["train.schedule={kind: wsd, warmup: 2, decay: 0.5}", "train.steps=6"], tmp_path / "run")
    rates = [row["learning_rate"] for row in Run(run).metrics()]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 2e-3 / 3, 1e-3 / 3])


def test_init_loads_the_weights_of_another_run(recipe: dict[str, Any], run: Path, tmp_path: Path) -> None:
    fitted = Run(run).modalities()
    assert fitted is not None
    torch.manual_seed(1)
    fresh = build_module(load(recipe), fitted).model.state_dict()
    weights = build_module(load({**recipe, "init": str(run)}), fitted).model.state_dict()
    source = load_file(run / "model" / "model.safetensors")
    assert not all(torch.equal(fresh[name], source[name]) for name in source)
    assert all(torch.equal(weights[name], source[name]) for name in source)
    still = ["train.steps=1", "train.learning_rate=1e-12"]
    begun = pretrain({**recipe, "init": str(run)}, still, tmp_path / "begun")
    torch.testing.assert_close(load_file(begun / "model" / "model.safetensors"), source, rtol=0, atol=1e-6)


def test_init_may_add_modalities(recipe: dict[str, Any], run: Path, tmp_path: Path) -> None:
    few = {**recipe, "modalities": {name: recipe["modalities"][name] for name in ("smiles", "table")}}
    source = pretrain(few, out=tmp_path / "few")
    fitted = Run(run).modalities()
    assert fitted is not None
    larger_state = build_module(load({**recipe, "init": str(source)}), fitted).model.state_dict()
    weights = load_file(source / "model" / "model.safetensors")
    assert all(torch.equal(larger_state[name], value) for name, value in weights.items())
    assert any(name.startswith("input_embeddings.image") and name not in weights for name in larger_state)


def animals(folder: Path, rows: str, **table: Any) -> dict[str, Any]:
    """A recipe of a table alone, and shards of its rows."""
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "a.csv").write_text("\n".join([rows.split("\n")[0], *(rows.split("\n")[1:] * 10)]))
    recipe = {
        "name": "animals",
        "model": {"dim": 16, "depth": 1, "heads": 2, "embedding": 8, "decoder": {"dim": 8, "depth": 1, "heads": 2}},
        "data": {
            "source": {"type": "rows", "columns": {"table": rows.split("\n")[0].split(",")}},
            "split": {"validation": 0, "test": 0},
            "shards": [{"path": str(folder / "shards")}],
        },
        "modalities": {"table": {"type": "table", "mask": {"ratio": 0.5}, **table}},
        "objectives": {"masked": {}},
        "train": {"steps": 1, "batch_size": 4, "precision": "fp32", "workers": 0, "learning_rate": 1e-12},
    }
    build_shards(recipe, folder / "raw", folder / "shards", workers=1)
    return recipe


@pytest.mark.parametrize(
    ("rows", "options", "is_same"),
    [
        ("kind,mass\nwasp,1\nmoth,2", {}, True),
        ("kind,mass\nwasp,1\nmoth,2", {"mask": {"ratio": 0.3}}, True),
        ("kind,mass\nwasp,1\nmoth,2", {"min_count": 3}, False),
        ("part,mass_g\natrium,1\nvalve,2", {}, False),
    ],
    ids=["alike", "masks", "fields", "columns"],
)
def test_init_keeps_fitted_vocabularies_only_for_matching_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, options: dict[str, Any], is_same: bool
) -> None:
    source = pretrain(animals(tmp_path / "a", "kind,mass\nbeetle,1\nwasp,3"), out=tmp_path / "source")
    recipe = animals(tmp_path / "b", rows, **options)
    begun = pretrain({**recipe, "init": str(source)}, ["train.seed=1"], tmp_path / "begun")
    old, new = (Run(run).load_model() for run in (source, begun))
    first, second = old.modalities["table"], new.modalities["table"]
    assert isinstance(first, Table)
    assert isinstance(second, Table)
    assert (first.categories == second.categories) is is_same
    assert (first.numbers == second.numbers) is is_same
    messages = capsys.readouterr().err
    assert (", table as fitted there" in messages) is is_same
    assert ("but not the input embeddings and heads of table" in messages) is not is_same
    for name, weights in old.state_dict().items():
        loaded = new.state_dict()[name]
        same = weights.shape == loaded.shape and torch.allclose(weights, loaded, atol=1e-6)
        assert same or (not is_same and name.startswith(("input_embeddings.table", "decoder.heads.table"))), name
        assert same is is_same or name != "input_embeddings.table.embedding.category.weight"


def test_init_from_a_missing_run_is_refused_before_writing(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises((ValueError, OSError), match="nothing"):
        pretrain({**recipe, "init": str(tmp_path / "nothing")}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_without_the_run_it_was_initialized_from(
    recipe: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(run, tmp_path / "source"))
    begun = {**recipe, "init": str(source)}
    straight = pretrain(begun, [FLAT], tmp_path / "straight")
    pretrain(begun, [FLAT, "train.steps=2"], tmp_path / "cut")
    shutil.rmtree(source)
    same_checkpoints(pretrain(begun, [FLAT], tmp_path / "cut"), straight)


def test_zero_in_one_process_trains_equally(recipe: dict[str, Any], run: Path, tmp_path: Path) -> None:
    start(recipe, tmp_path / "zero", "train.zero=2")
    for ours, theirs in zip(rows(tmp_path / "zero"), rows(run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    assert Run.existing(tmp_path / "zero").load_model().config.dim == 32


def test_bf16_trains_nearly_equally_and_keeps_float32_weights(
    recipe: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    ours, theirs = pretrain(recipe, ["train.precision=bf16"], tmp_path / "bf16"), run
    assert rows(ours)[0]["loss"] == pytest.approx(rows(theirs)[0]["loss"], rel=0.02)
    assert rows(ours)[0]["loss"] != rows(theirs)[0]["loss"]
    assert {value.dtype for value in load_file(ours / "model" / "model.safetensors").values()} == {torch.float32}


def test_trackers_write_files(recipe: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "wandb"
    folder.mkdir()
    start(recipe, tmp_path / "run", "train.trackers=[tensorboard, wandb]", WANDB_MODE="offline", WANDB_DIR=str(folder),
          WANDB_CACHE_DIR=str(folder), WANDB_CONFIG_DIR=str(folder), WANDB_SILENT="true")  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "small")).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses == pytest.approx({row["step"]: row["loss"] for row in rows(tmp_path / "run")}, rel=1e-5)
    assert list(folder.rglob("run-*.wandb"))
