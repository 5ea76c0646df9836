"""How long it takes to cut a long MP3 recording to windows, and whether they hold what the recording holds.

    python benchmarks/windows.py [--minutes 30] [--window 5]

Writes recordings of a third of the length and of the whole, and cuts each in two ways: as the source `audio` does, and
by opening the file, seeking and reading for each window (`seek`). Prints one JSON line: processor `seconds` of each,
windows made FLAC alike, the larger file's over the smaller one's (`growth`, 3 where time grows with length), `ratio`
of the two ways, and how many windows differ by more than 2**-14 from the recording read whole (`wrong`).
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
    """Calls of a gliding tone with pauses, ten seconds that repeat."""
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


def wrong(parts: list[bytes], whole: np.ndarray) -> int:
    """How many windows are not what the whole recording holds there."""
    count, at = 0, 0
    for part in parts:
        samples, _ = soundfile.read(io.BytesIO(part), dtype="float32")
        count += bool(np.abs(samples - whole[at : at + len(samples)]).max() > 2**-14)
        at += len(samples)
    return count


def measure(folder: Path, minutes: float, window_s: float) -> dict[str, object]:
    ways: dict[str, Callable[[Path, float], list[bytes]]] = {"source": by_source, "seek": by_seeking}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    row: dict[str, object] = {"minutes": minutes, "window_s": window_s}
    for length in (minutes / 3, minutes):
        path = folder / f"{length}.mp3"
        write(path, length)
        whole, _ = soundfile.read(path, dtype="float32")
        faults = {}
        for name, cut in ways.items():
            started = time.process_time()
            parts = cut(path, window_s)
            seconds[name].append(time.process_time() - started)
            faults[name] = wrong(parts, whole)
        row |= {"windows": len(parts), "wrong": faults}
    row["seconds"] = {name: round(times[1], 2) for name, times in seconds.items()}
    row["growth"] = {name: round(times[1] / times[0], 1) for name, times in seconds.items()}
    row["ratio"] = round(seconds["seek"][1] / seconds["source"][1], 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--window", type=float, default=5, help="in s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.minutes, arguments.window)))


if __name__ == "__main__":
    main()
