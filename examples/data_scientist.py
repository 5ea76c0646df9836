"""Quick start for data scientists: a CSV file of one's own, from a drafted recipe to predictions.

The table is the wine data set that comes with scikit-learn: 178 rows, 13 measurements, 3 cultivars.
Run `python examples/data_scientist.py [FOLDER]`; it takes about a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sklearn.datasets import load_wine

import sensorium as sm

SMALL = [
    "model={dim: 64, depth: 2, heads: 4, embedding: 32, decoder: {dim: 32, depth: 1, heads: 4}}",
    "train={steps: 50, batch_size: 32, schedule: {warmup: 5}, checkpoint_every: 50}",
]
"""Sizes for a minute on two cores; leave them out for the sizes of the recipe."""


def write_table(raw: Path) -> None:
    """Write `wine.csv` with the cultivar as text in its last column."""
    raw.mkdir(parents=True)
    wine = load_wine(as_frame=True)
    table = wine.data.assign(cultivar=[f"cultivar {number}" for number in wine.target])
    table.to_csv(raw / "wine.csv", index=False)


def main(folder: Path) -> None:
    """Run the pipeline in a new folder."""
    write_table(folder / "raw")
    recipe, shards, run, tuned = (folder / name for name in ("wine.yaml", "shards", "run", "cultivar"))
    draft = sm.draft_recipe(folder / "raw", recipe)
    print(*draft.lines(), sep="\n")
    # `init` cannot know which column is to be predicted: take it out of the content and store it as a label.
    columns = list(load_wine().feature_names)
    overrides = [
        f"data.source={{columns: {{table: {columns}}}, labels: [cultivar]}}",
        f"data.shards=[{{path: {shards}}}]",
        "data.split.test=0.3",
        *SMALL,
    ]
    sm.build_shards(recipe, folder / "raw", shards, overrides)
    sm.pretrain(recipe, overrides, run)
    print(*sm.evaluate(run, label="cultivar").lines(), sep="\n")
    tuning = sm.finetune(run, str(shards), "cultivar", out=tuned, settings=sm.Settings(epochs=10))
    print(*tuning.lines(), sep="\n")
    sm.predict(tuned, folder / "raw" / "wine.csv", folder / "predictions.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/data_scientist"))
