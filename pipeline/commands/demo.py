"""The whole way on real data that comes with the packages: the same verbs that a user calls, in a row."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalities.files.reading import lazy_import
from pipeline.commands.build import build_shards
from pipeline.commands.evaluate import evaluate
from pipeline.commands.export import export
from pipeline.commands.finetune import Settings, finetune
from pipeline.commands.pretrain import pretrain
from pipeline.commands.report import report
from pipeline.run import Run
from shards.files import write_json

RECIPE = "molecules"


def demo(out: str | Path = "runs/demo") -> dict[str, Any]:
    """Build shards, pretrain, evaluate, fine-tune, export and report; writes `result.json` in `out`.

    An earlier demo in `out` is removed first.
    """
    folder = Path(out)
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "shards").is_dir():
            raise ValueError(f"{folder} is not empty and not an earlier demo: give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    config = lazy_import("rdkit.RDConfig", "rdkit")
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        print(f"== {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        value = work()
        seconds[name] = round(time.perf_counter() - started, 1)
        return value

    shards, run, tuned = folder / "shards", folder / "pretrain", folder / "finetune"
    here = [f"data.shards=[{{path: {json.dumps(str(shards))}}}]"]
    manifest = stage("shards", lambda: build_shards(RECIPE, Path(config.RDDataDir) / "NCI", shards, workers=2))
    stage("pretrain", lambda: pretrain(RECIPE, here, run))
    evaluated = stage("evaluate", lambda: evaluate(run))
    activity = stage("activity", lambda: join_activity(Path(config.RDContribDir), folder / "activity.csv"))
    finetuned = stage(
        "finetune",
        lambda: finetune(
            run,
            activity,
            "activity",
            out=tuned,
            modalities=["smiles"],
            split="scaffold",
            seeds=5,
            settings=Settings(labels=100, epochs=10),
        ),
    )
    Run(run).add_result(finetune=finetuned)
    exported = stage("export", lambda: export(run, folder / "export"))
    page = stage("report", lambda: report(run, tuned))
    shutil.copy(page, folder / "report.html")
    metrics = [row for row in Run(run).metrics() if "loss" in row]
    terms = [name for name in metrics[0] if "/" in name]
    result = {
        "molecules": sum(manifest.counts().values()),
        "skipped": manifest.skipped,
        "splits": manifest.counts(),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "parameters": sum(p.numel() for p in Run(run).load_model().parameters()),
        "loss": {
            "first": metrics[0]["loss"],
            "last": metrics[-1]["loss"],
            "by_objective": {name: {"first": metrics[0][name], "last": metrics[-1][name]} for name in terms},
        },
        "retrieval": evaluated["retrieval"],
        "probe": evaluated["probe"],
        "rankme": evaluated["rankme"],
        "finetune": {key: value for key, value in finetuned.items() if key != "path"},
        "export": exported,
        "report": str(folder / "report.html"),
    }
    write_json(folder / "result.json", result)
    return result


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
