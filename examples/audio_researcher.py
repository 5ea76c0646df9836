"""Quick start for audio researchers: spectrograms of short recordings, and a label of unseen speakers.

The recordings are simulated: a chord for each class and a timbre for each speaker, in files named as those of the Free
Spoken Digit Dataset. Run `python examples/audio_researcher.py [FOLDER]`; it takes about a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile

import sensorium as sm

SMALL = [
    "model={dim: 64, depth: 2, heads: 2, decoder: {dim: 32, depth: 1, heads: 2}}",
    "train={steps: 30, batch_size: 16, schedule: {warmup: 5}, checkpoint_every: 30}",
]
"""Sizes for a minute on two cores; leave them out for the sizes of the recipe."""
RATE_HZ = 8000
SPEAKERS = ("ann", "bo", "cy", "di")


def sound(digit: int, speaker: int, rng: np.random.Generator) -> np.ndarray:
    """Between 0.4 and 0.6 seconds of sound `(T,)` within [-1, 1]."""
    time_s = np.arange(int(rng.uniform(0.4, 0.6) * RATE_HZ)) / RATE_HZ
    pitch_hz = (200 + 60 * digit) * rng.uniform(0.98, 1.02)
    overtones = sum(np.sin(2 * np.pi * pitch_hz * n * time_s) / n ** (1 + speaker / 2) for n in range(1, 6))
    return 0.2 * overtones * np.hanning(len(time_s)) + rng.normal(0, 0.01, len(time_s))


def write_recordings(raw: Path, takes: int) -> None:
    """Write files such as `3_ann_7.wav`: digit, speaker, take."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for digit in range(5):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(takes):
                soundfile.write(raw / f"{digit}_{speaker}_{take}.wav", sound(digit, number, rng), RATE_HZ)


def main(folder: Path) -> None:
    """Run the pipeline in a new folder."""
    write_recordings(folder / "raw", 10)
    shards, run = folder / "shards", folder / "run"
    overrides = [f"data.shards=[{{path: {shards}}}]", *SMALL]
    sm.build_shards("audio", folder / "raw", shards, overrides)
    sm.pretrain("audio", overrides, run)
    print(*sm.evaluate(run).lines(), sep="\n")
    tuning = sm.finetune(run, str(shards), "digit", out=folder / "digit", settings=sm.Settings(epochs=5))
    print(*tuning.lines(), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/audio_researcher"))
