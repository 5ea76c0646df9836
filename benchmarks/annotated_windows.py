"""How does the time for one window grow with the number of annotations in its recording?

    python benchmarks/annotated_windows.py [--windows 200] [--annotations 16000]

Writes one EDF+ file with a sixteenth of the annotations and one with all, and makes windows in the middle of both by
three methods: the source `edf` without annotations (`source`) and with `overlap`, and a comparison of all annotations
with each window (`walk`). Prints one JSON line: median CPU time per window in ms for both files, and its growth (1 if
it does not depend on the annotations, 16 if all are compared).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyedflib

from modalities.files.edf import read_edf_annotations
from modalities.signal import Signal
from shards.sources.edf import Edf, Excerpt

MODALITIES = {"eeg": Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=0.1)}
WINDOW_S = 0.6


def write(path: Path, annotations: int) -> None:
    """Write a recording at 100 Hz with one annotation per second."""
    header = {"label": "Fp1", "dimension": "uV", "sample_frequency": 100, "transducer": "", "prefilter": ""}
    limits = {"physical_max": 100.0, "physical_min": -100.0, "digital_max": 2000, "digital_min": -2000}
    with pyedflib.EdfWriter(str(path), 1, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setSignalHeader(0, header | limits)
        for second in range(annotations):
            file.writeAnnotation(second + 0.5, 0.1, "event")
        file.writeSamples([np.random.default_rng(0).normal(0, 10, 100 * annotations)])


def walk(path: Path, item: Excerpt) -> list[Any]:
    start_s, stop_s = float(item.start_s), float(item.stop_s)
    return [note for note in read_edf_annotations(path) if note[0] < stop_s and note[0] + note[1] > start_s]


def timed(make: Callable[[Excerpt], Any], items: list[Excerpt]) -> float:
    """Median CPU time per item in ms, without the first item, which reads the file."""
    times = []
    for item in items:
        started = time.process_time()
        make(item)
        times.append(time.process_time() - started)
    return 1000 * median(times[1:])


def measure(folder: Path, annotations: int, count: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {}
    for number in (annotations // 16, annotations):
        path = folder / f"{number}.edf"
        write(path, number)
        plain, overlap = Edf(window_s=WINDOW_S), Edf(window_s=WINDOW_S, annotations="overlap")
        items = list(plain.items(path))
        items = items[len(items) // 2 :][: count + 1]
        methods: dict[str, Callable[[Excerpt], Any]] = {
            "source": lambda item, source=plain: source.make(item, MODALITIES),  # type: ignore[misc]
            "overlap": lambda item, source=overlap: source.make(item, MODALITIES),  # type: ignore[misc]
            "walk": lambda item, path=path: walk(path, item),  # type: ignore[misc]
        }
        for name, method in methods.items():
            times.setdefault(name, []).append(timed(method, items))
    return {
        "annotations": [annotations // 16, annotations],
        "windows": len(items) - 1,
        "ms": {name: [round(time_ms, 3) for time_ms in pair] for name, pair in times.items()},
        "growth": {name: round(pair[1] / pair[0], 1) for name, pair in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--annotations", type=int, default=16_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.annotations, arguments.windows)))


if __name__ == "__main__":
    main()
