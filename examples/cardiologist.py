"""Quick start for cardiologists: ECG recordings in WFDB format with age, sex and diagnosis codes.

The recordings are simulated: two leads with a regular or an irregular rhythm, in the layout that PhysioNet uses.
Run `python examples/cardiologist.py [FOLDER]`; it takes about a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import wfdb

import sensorium as sm

SMALL = [
    "model={dim: 48, depth: 2, heads: 2, embedding: 32, decoder: {dim: 32, depth: 1, heads: 2}}",
    "modalities.ecg={channels: [I, II], sample_rate_hz: 100, patch_s: 0.25, low_hz: 0.5, stem: mlp}",
    "train={steps: 30, batch_size: 16, schedule: {warmup: 5}, checkpoint_every: 30}",
    "evaluate={gallery: 8, probe: sinus_rhythm}",
]
"""Sizes for a minute on two cores, and the two leads that the simulation writes."""
RATE_HZ = 100
SINUS, FIBRILLATION = "426783006", "164889003"
"""SNOMED CT codes of sinus rhythm and of atrial fibrillation, as in the PhysioNet challenges."""


def simulate(regular: bool, rng: np.random.Generator) -> np.ndarray:
    """Ten seconds of two leads in mV `(1000, 2)`: a peak for every heartbeat, noise, and a drifting baseline."""
    time_s = np.arange(10 * RATE_HZ) / RATE_HZ
    gaps_s = np.full(30, 0.8) if regular else rng.uniform(0.4, 1.2, 30)
    beats_s = np.cumsum(gaps_s) + rng.uniform(-0.4, 0)
    peaks = np.exp(-(((time_s[:, None] - beats_s) / 0.02) ** 2)).sum(1)
    waves = 0 if not regular else 0.15 * np.exp(-(((time_s[:, None] - beats_s + 0.16) / 0.04) ** 2)).sum(1)
    lead = peaks + waves + 0.1 * np.sin(2 * np.pi * 0.2 * time_s)
    return np.stack([lead, 1.4 * lead], 1) + rng.normal(0, 0.03, (len(time_s), 2))


def write_records(raw: Path, number: int) -> None:
    """Write records `r000.hea` and `r000.dat` with comments such as `Age: 61`."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(number):
        regular = index % 2 == 0
        comments = [
            f"Age: {rng.integers(30, 60) if regular else rng.integers(50, 90)}",
            f"Sex: {('Female', 'Male')[int(rng.integers(2))]}",
            f"Dx: {SINUS if regular else FIBRILLATION}",
        ]
        wfdb.wrsamp(
            f"r{index:03}",
            fs=RATE_HZ,
            units=["mV", "mV"],
            sig_name=["I", "II"],
            p_signal=simulate(regular, rng),
            fmt=["16", "16"],
            comments=comments,
            write_dir=str(raw),
        )


def main(folder: Path) -> None:
    """Run the pipeline in a new folder."""
    write_records(folder / "raw", 80)
    shards, run, tuned = (folder / name for name in ("shards", "run", "rhythm"))
    overrides = [f"data.shards=[{{path: {shards}}}]", *SMALL]
    sm.build_shards("ecg", folder / "raw", shards, overrides)
    sm.pretrain("ecg", overrides, run)
    print(*sm.evaluate(run).lines(), sep="\n")
    settings = sm.Settings(epochs=5)
    tuning = sm.finetune(run, str(shards), "sinus_rhythm", out=tuned, modalities=["ecg"], settings=settings)
    print(*tuning.lines(), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/cardiologist"))
