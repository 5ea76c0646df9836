"""How long does it take to cut a long MP3 recording into windows, and are the samples right?

    python benchmarks/windows.py [--minutes 30] [--window 5]

Writes one recording of a third of the length and one of the full length, and cuts both by two methods: as the source
`audio` does (`source`), and by opening the file, seeking and reading for each window (`seek`). Both encode windows as
FLAC. Prints one JSON line: CPU `seconds` of both, the longer file's time over the shorter one's (`growth`, 3 if time
is proportional to length), the `ratio` of seek to source, and the number of windows that differ by more than 2**-14
from the recording read at once (`wrong`).
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from shards.sources.audio import AudioFolder

RATE_HZ = 44_100


def write(path: Path, minutes: float) -> None:
    """Write ten seconds of calls, a gliding tone with pauses, again and again."""
    time_s = np.arange(10 * RATE_HZ) / RATE_HZ
    calls = np.sin(2 * np.pi * (880 * time_s + 50 * np.sin(time_s))) * (np.sin(8 * time_s) > 0)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, format="MP3") as file:
        for _ in range(round(minutes * 6)):
            file.write(0.3 * calls)


def by_source(path: Path, window_s: float) -> list[bytes]:
    source = AudioFolder(window_s=window_s)
    return [source.content(item)[1] for item in source.items(path)]


def by_seeking(path: Path, window_s: float) -> list[bytes]:
    cut = []
    for start, stop in AudioFolder(window_s=window_s).windows(soundfile.info(path).frames, RATE_HZ):
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            samples = file.read(stop - start, dtype="float32", always_2d=True)
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE_HZ, format="FLAC", subtype="PCM_24")
        cut.append(buffer.getvalue())
    return cut


def count_wrong(parts: list[bytes], recording: np.ndarray) -> int:
    """Number of windows that differ from the recording read at once."""
    count, at = 0, 0
    for part in parts:
        samples, _ = soundfile.read(io.BytesIO(part), dtype="float32")
        count += bool(np.abs(samples - recording[at : at + len(samples)]).max() > 2**-14)
        at += len(samples)
    return count


def measure(folder: Path, minutes: float, window_s: float) -> dict[str, object]:
    methods: dict[str, Callable[[Path, float], list[bytes]]] = {"source": by_source, "seek": by_seeking}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    row: dict[str, object] = {"minutes": minutes, "window_s": window_s}
    for length in (minutes / 3, minutes):
        path = folder / f"{length}.mp3"
        write(path, length)
        recording, _ = soundfile.read(path, dtype="float32")
        faults = {}
        for name, cut in methods.items():
            started = time.process_time()
            parts = cut(path, window_s)
            seconds[name].append(time.process_time() - started)
            faults[name] = count_wrong(parts, recording)
        row |= {"windows": len(parts), "wrong": faults}
    row["seconds"] = {name: round(times[1], 2) for name, times in seconds.items()}
    row["growth"] = {name: round(times[1] / times[0], 1) for name, times in seconds.items()}
    row["ratio"] = round(seconds["seek"][1] / seconds["source"][1], 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--window", type=float, default=5, help="length of a window in s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.minutes, arguments.window)))


if __name__ == "__main__":
    main()
