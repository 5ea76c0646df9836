"""Quick start for biologists: DNA barcodes with a table of specimens.

The barcodes are simulated by mutating one ancestor for each genus, in the layout of GenBank's FASTA files and source
qualifiers. Run `python examples/biologist.py [FOLDER]`; it takes about a minute.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

import sensorium as sm

SMALL = [
    "model={dim: 64, depth: 2, heads: 2, embedding: 32, decoder: {dim: 32, depth: 1, heads: 2}}",
    "train={steps: 30, batch_size: 16, schedule: {warmup: 5}, checkpoint_every: 30}",
    "evaluate.gallery=20",
]
"""Sizes for a minute on two cores; leave them out for the sizes of the recipe."""
GENERA = ("Parus", "Turdus", "Corvus", "Larus", "Falco", "Strix", "Anas", "Picus")
COUNTRIES = ("Norway", "Canada", "Kenya", "Peru")


def mutate(letters: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Replace a share of the nucleotides of a sequence `(L,)` by random ones."""
    return np.where(rng.random(len(letters)) < share, rng.choice(list("ACGT"), len(letters)), letters)


def write_specimens(raw: Path, per_genus: int) -> None:
    """Write `barcodes.fasta` and `specimens.tsv`, which are matched by accession."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ancestor = rng.choice(list("ACGT"), 300)
    header = ["accession", "scientific_name", "geo_loc_name", "lat_lon", "collection_date"]
    with (raw / "barcodes.fasta").open("w") as fasta, (raw / "specimens.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(header)
        for genus in GENERA:
            country = str(rng.choice(COUNTRIES))
            common = mutate(ancestor, 0.3, rng)
            for index in range(per_genus):
                accession = f"{genus[:2].upper()}{index:06}"
                fasta.write(f">{accession} {genus} COI\n{''.join(mutate(common, 0.05, rng))}\n")
                place = f"{rng.integers(1, 60)}.5 N {rng.integers(1, 90)}.5 E"
                date = f"{rng.integers(1, 28):02}-May-{rng.integers(2001, 2020)}"
                table.writerow([accession, f"{genus} sp{index % 3}", country, place, date])


def main(folder: Path) -> None:
    """Run the pipeline in a new folder."""
    write_specimens(folder / "raw", 30)
    shards, run = folder / "shards", folder / "run"
    # The recipe holds out whole genera. A classifier of genera needs every genus in training, so hold out species.
    overrides = [
        f"data.shards=[{{path: {shards}}}]",
        "data.split={by: scientific_name, test: 0.25, large: 0.3}",
        *SMALL,
    ]
    sm.build_shards("birds", folder / "raw", shards, overrides)
    sm.pretrain("birds", overrides, run)
    print(*sm.evaluate(run, label="genus").lines(), sep="\n")
    settings = sm.Settings(epochs=5)
    tuning = sm.finetune(run, str(shards), "genus", out=folder / "genus", modalities=["dna"], settings=settings)
    print(*tuning.lines(), sep="\n")
    sm.embed(run, str(shards), folder / "embeddings.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/biologist"))
