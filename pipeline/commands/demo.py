"""The full pipeline on real molecules that come with RDKit: the commands that a user runs, one after the other."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modalities.files.reading import lazy_import
from pipeline.commands.build import build_shards
from pipeline.commands.evaluate import evaluate, retrieval_lines
from pipeline.commands.export import ExportResult, export
from pipeline.commands.finetune import FinetuneResult, finetune
from pipeline.commands.pretrain import pretrain
from pipeline.commands.report import report
from pipeline.commands.result import Result
from pipeline.evaluation.predictor import Settings
from pipeline.evaluation.probe import Probe
from pipeline.run import Run
from shards.files import write_json

RECIPE = "molecules"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DemoResult(Result):
    """Figures of all stages. loss: first and last value, in total and by objective. seconds: by stage."""

    path: str
    molecules: int
    skipped: dict[str, int]
    splits: dict[str, int]
    seconds: dict[str, float]
    parameters: int
    loss: dict[str, Any]
    retrieval: dict[str, dict[str, int | float]]
    probe: Probe | None
    rankme: dict[str, float]
    finetune: FinetuneResult
    export: ExportResult
    report: str

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "finetune": self.finetune.figures()}

    def lines(self) -> list[str]:
        return [
            *retrieval_lines(self.retrieval),
            *(self.probe.lines() if self.probe else []),
            *self.finetune.metric_lines(),
            *self.export.lines(),
            f"seconds: {', '.join(f'{name} {seconds}' for name, seconds in self.seconds.items())}",
            f"report: {self.report}",
            f"figures: {self.path}/result.json",
        ]


class Stages:
    """Runs the stages of the demo and measures their time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Run one stage and print its name."""
        print(f"== {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        value = work()
        self.seconds[name] = round(time.perf_counter() - start, 1)
        return value


def demo(out: str | Path = "runs/demo") -> DemoResult:
    """Build shards, pretrain, evaluate, fine-tune, export and report; write `result.json` in `out`.

    An earlier demo in `out` is removed first.

    Raises:
        ValueError: `out` is neither empty nor an earlier demo.
    """
    folder = _empty_folder(Path(out))
    rdkit = lazy_import("rdkit.RDConfig", "rdkit")
    shards, run, tuned, stages = folder / "shards", folder / "pretrain", folder / "finetune", Stages()
    overrides = [f"data.shards=[{{path: {json.dumps(str(shards))}}}]"]
    raw = Path(rdkit.RDDataDir) / "NCI"
    manifest = stages.run("shards", lambda: build_shards(RECIPE, raw, shards, workers=2)).manifest
    stages.run("pretrain", lambda: pretrain(RECIPE, overrides, run))
    evaluated = stages.run("evaluate", lambda: evaluate(run))
    table = stages.run("activity", lambda: join_activity(Path(rdkit.RDContribDir), folder / "activity.csv"))
    finetuned = stages.run("finetune", lambda: _finetune(run, table, tuned))
    Run(run).add_result(finetune=finetuned.figures())
    exported = stages.run("export", lambda: export(run, folder / "export"))
    page = stages.run("report", lambda: report(run, tuned))
    shutil.copy(page.path, folder / "report.html")
    result = DemoResult(
        path=str(folder),
        molecules=sum(manifest.counts().values()),
        skipped=manifest.skipped,
        splits=manifest.counts(),
        seconds={**stages.seconds, "total": round(sum(stages.seconds.values()), 1)},
        parameters=sum(p.numel() for p in Run(run).load_model().parameters()),
        loss=_losses(Run(run)),
        retrieval=evaluated.retrieval,
        probe=evaluated.probe,
        rankme=evaluated.rankme,
        finetune=finetuned,
        export=exported,
        report=str(folder / "report.html"),
    )
    write_json(folder / "result.json", result.figures())
    return result


def _empty_folder(folder: Path) -> Path:
    """An empty folder, from which an earlier demo was removed.

    Raises:
        ValueError: it holds other files.
    """
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "shards").is_dir():
            raise ValueError(f"{folder} is not empty and not an earlier demo: give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _finetune(run: Path, table: Path, out: Path) -> FinetuneResult:
    """Fine-tune on 100 labels, split by scaffold, with five seeds."""
    settings = Settings(labels=100, epochs=10)
    return finetune(
        run, table, "activity", out=out, modalities=["smiles"], split="scaffold", seeds=5, settings=settings
    )


def _losses(run: Run) -> dict[str, Any]:
    """The first and last loss of a run, in total and by objective."""
    metrics = [row for row in run.metrics() if "loss" in row]
    first, last = metrics[0], metrics[-1]
    terms = [name for name in first if "/" in name]
    return {
        "first": first["loss"],
        "last": last["loss"],
        "by_objective": {name: {"first": first[name], "last": last[name]} for name in terms},
    }


def join_activity(contrib: Path, out: Path) -> Path:
    """Join the measured activities (CHEMBL2321810, in RDKit's FreeWilson folder) with their SMILES as one CSV."""
    folder = contrib / "FreeWilson" / "data"
    with (folder / "CHEMBL2321810.smi").open() as lines:
        smiles = {name: text for text, name in (line.split() for line in lines if line.strip())}
    with (folder / "CHEMBL2321810_act.csv").open(newline="") as file, out.open("w", newline="") as joined:
        writer = csv.writer(joined)
        writer.writerow(["smiles", "activity"])
        for row in csv.DictReader(file):
            if row["Name"] in smiles:
                writer.writerow([smiles[row["Name"]], row["Act"]])
    return out
