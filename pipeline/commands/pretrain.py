"""Pretrain a model: a recipe in, a run directory out. The same command resumes an interrupted run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.commands.result import Result
from pipeline.data.fit import fit_modalities
from pipeline.data.hashes import training_hashes
from pipeline.data.loader import Cursor
from pipeline.data.sets import TrainingData, open_training_data
from pipeline.recipe.load import load
from pipeline.recipe.schema import Recipe
from pipeline.run import Run
from pipeline.training.checkpoint import gather_parameters, load_checkpoint
from pipeline.training.launch import create_accelerator, finish, on_main_process
from pipeline.training.module import build_module, save_model
from pipeline.training.step import Engine
from pipeline.training.trainer import Trainer
from pipeline.training.warm_start import load_source
from shards.versions import installed_versions


@dataclass(frozen=True, kw_only=True)
class PretrainResult(Result):
    """A run directory, and the metrics of the last logged step, empty on ranks other than the main process.

    It is also a path, so that `sm.evaluate(sm.pretrain(recipe))` works.
    """

    path: str
    metrics: dict[str, Any]

    def __fspath__(self) -> str:
        return self.path

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, **self.metrics}

    def lines(self) -> list[str]:
        last = self.metrics
        return [
            f"step {last['step']}: loss {last['loss']:.4f}, {last['samples_per_s']:.0f} samples/s",
            f"run: {self.path}",
        ]


def pretrain(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), out: str | Path | None = None
) -> PretrainResult:
    """Pretrain a model.

    recipe: file, name or mapping. overrides: `key.key=value`. out: run directory, `runs/NAME` by default. A run that is
    already there resumes exactly where it stopped, also on another number of ranks.

    Raises:
        ValueError: a wrong recipe, wrong or missing shards, a directory of another run, or too many unusable samples.
        SystemExit: SIGTERM or Ctrl-C arrived during training; a checkpoint was saved after the current step.
    """
    checked = load(recipe, overrides)
    run = Run(Path(out) if out is not None else Path("runs") / checked.name)
    accelerator = create_accelerator(checked.train, run.folder)
    # A checkpoint has all weights, so a run that resumes ignores `init`.
    new = checked if not run.checkpoints() else checked.model_copy(update={"init": None})
    data = on_main_process(accelerator, lambda: _prepare(checked, new.init, run))
    data = data or open_training_data(checked, verify=False)
    modalities = run.modalities()
    assert modalities is not None
    torch.manual_seed(checked.train.seed)
    engine = Engine(build_module(new, modalities), checked.train, accelerator)
    cursor, faults = _resume(engine, run, data)
    if accelerator.is_main_process:
        accelerator.init_trackers(checked.name, config={"recipe": json.dumps(checked.to_dict())})
    trainer = Trainer(checked, run, engine, data, modalities, cursor, faults)
    if (signal := trainer.train()) is not None:
        finish(accelerator)
        if accelerator.is_main_process:
            print(f"{signal.name} at step {trainer.step:,}: the same command resumes from there", file=sys.stderr)
        sys.exit(128 + signal)
    if (parameters := gather_parameters(engine)) is not None:
        save_model(run.model, parameters, checked, modalities)
        run.add_result(pretrain={"skipped": trainer.faults})
    finish(accelerator)
    metrics = run.metrics()[-1] if accelerator.is_main_process else {}
    return PretrainResult(path=str(run.folder), metrics=metrics)


def _prepare(recipe: Recipe, init: str | None, run: Run) -> TrainingData:
    """Check the data, claim the run directory and fit the modalities; one rank does this for all.

    Mistakes are found before anything is written.
    """
    data = open_training_data(recipe, verify=recipe.data.verify)
    pretrained = load_source(init).modalities if init is not None else {}
    run.claim(recipe)
    if run.modalities() is None:
        for split in data.sets:
            for note in split.manifest.notes:
                print(f"{split.folder}: {note}", file=sys.stderr)
        run.save_modalities(fit_modalities(recipe, data.sets, pretrained))
        run.save_trained_on(training_hashes(data.sets))
        run.save_versions([split.manifest for split in data.sets], recipe.modalities)
    for split in data.sets:
        run.compare_versions(split.folder, split.manifest.versions, installed_versions(run.versions()))
    data.close()
    return data


def _resume(engine: Engine, run: Run, data: TrainingData) -> tuple[Cursor, dict[str, dict[str, int]]]:
    """Load the last checkpoint, if there is one; returns the cursor and the faults so far.

    Raises:
        ValueError: the checkpoint is broken, or belongs to other samples.
    """
    if not run.checkpoints():
        return Cursor(), {}
    folder = run.checkpoints()[-1]
    state = load_checkpoint(engine, folder)
    if state.get("order") != data.fingerprint:
        raise ValueError(
            f"{run.folder} began on other samples or shares of sets (with epochs these depend on train.steps): "
            "restore shards, keep-lists and epochs, or give another --out"
        )
    if engine.rank == 0:
        print(f"resuming from {folder}", file=sys.stderr)
    return Cursor.from_json(state), state["faults"]
