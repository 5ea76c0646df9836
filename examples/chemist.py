"""Quick start for chemists: pretrain on SMILES, drawings and descriptors, then predict a measured activity.

The molecules and the activities come with RDKit. Run `python examples/chemist.py [FOLDER]`; it takes about a minute.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from rdkit import RDConfig

import sensorium as sm

SMALL = [
    "model={dim: 64, depth: 2, heads: 2, embedding: 64, decoder: {dim: 32, depth: 1, heads: 2}}",
    "train={steps: 30, batch_size: 32, schedule: {warmup: 5}, checkpoint_every: 30}",
    "evaluate.gallery=30",
]
"""Sizes for a minute on two cores; leave them out for the sizes of the recipe."""


def write_molecules(raw: Path) -> None:
    """Write 400 molecules of the NCI as `first_5K.smi`, the file that the recipe reads."""
    raw.mkdir(parents=True)
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
    (raw / "first_5K.smi").write_text("\n".join(lines[:400]) + "\n")


def write_activities(path: Path) -> None:
    """Write a table with the columns `smiles` and `activity` (CHEMBL2321810)."""
    folder = Path(RDConfig.RDContribDir) / "FreeWilson" / "data"
    lines = (line.split() for line in (folder / "CHEMBL2321810.smi").read_text().splitlines() if line)
    smiles = {name: text for text, name in lines}
    with (folder / "CHEMBL2321810_act.csv").open(newline="") as source, path.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["smiles", "activity"])
        writer.writerows([smiles[row["Name"]], row["Act"]] for row in csv.DictReader(source) if row["Name"] in smiles)


def main(folder: Path) -> None:
    """Run the pipeline in a new folder."""
    write_molecules(folder / "raw")
    write_activities(folder / "activity.csv")
    shards, run, tuned, table = (folder / name for name in ("shards", "run", "activity", "activity.csv"))
    sm.build_shards("molecules", folder / "raw", shards)
    sm.pretrain("molecules", [f"data.shards=[{{path: {shards}}}]", *SMALL], run)
    result = sm.evaluate(run)
    print(*result.lines(), sep="\n")
    settings = sm.Settings(epochs=5)
    tuning = sm.finetune(run, table, "activity", out=tuned, modalities=["smiles"], split="scaffold", settings=settings)
    print(*tuning.lines(), sep="\n")
    sm.predict(tuned, table, folder / "predictions.parquet")
    sm.export(run, folder / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/chemist"))
