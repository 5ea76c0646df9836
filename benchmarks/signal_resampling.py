"""What bringing a signal to another rate costs, and what it keeps out.

    python benchmarks/signal_resampling.py [--repeats 31]

Resamples recordings in three ways, in turns: as the modality `signal` does (`ours`), by scipy's polyphase filter of the
same weights (`polyphase`), and by scipy's polyphase filter of its own (`default`). Prints one JSON line with a row for
each recording: median processor time of one in ms (`ms`), the medians of the ratios of ours to both others (`ratio`),
and the level of a tone 6% above the highest frequency that the new rate holds, in dB of the tone (`alias_db`, null
where the old rate has no such tone).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from scipy.signal import firwin, resample_poly

from modalities.files.recording import ratio, resample

RECORDINGS = (
    (12, 5000, 500, 100),
    (12, 5000, 500, 250),
    (12, 10_000, 1000, 250),
    (20, 2500, 500, 200),
    (20, 31_000, 500, 100),
    (12, 3600, 360, 250),
    (20, 2560, 256, 200),
    (12, 1000, 100, 250),
)
"""Channels, samples, and both rates in Hz."""


def timed(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def alias_db(resampled: Callable[[np.ndarray], np.ndarray], old_hz: int, new_hz: int) -> float | None:
    """Level of what a tone above half of the new rate becomes."""
    tone_hz = new_hz / 2 * 1.06
    if tone_hz >= old_hz / 2:
        return None
    tone = np.sin(2 * np.pi * tone_hz * np.arange(20 * old_hz) / old_hz).astype(np.float32)[None]
    inner = resampled(tone)[0, 2 * new_hz : -2 * new_hz]
    return round(20 * float(np.log10(np.sqrt(2 * np.square(inner, dtype=np.float64).mean()))), 1)


def measure(channels: int, count: int, old_hz: int, new_hz: int, repeats: int) -> dict[str, Any]:
    up, down = ratio(old_hz, new_hz).as_integer_ratio()
    most = max(up, down)
    weights = firwin(64 * most + 1, 0.911 / most, window=("kaiser", 9.0))
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": lambda samples: resample(samples, old_hz, new_hz),
        "polyphase": lambda samples: resample_poly(samples, up, down, axis=1, padtype="line", window=weights),
        "default": lambda samples: resample_poly(samples, up, down, axis=1, padtype="line"),
    }
    recording = np.random.default_rng(0).standard_normal((channels, count)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            spent = timed(lambda way=way: way(recording))  # type: ignore[misc]
            if turn:  # the first computes the filter
                times[name].append(spent)
    return {
        "channels": channels,
        "samples": count,
        "rates_hz": [old_hz, new_hz],
        "ms": {name: round(1000 * median(spent), 2) for name, spent in times.items()},
        "ratio": {
            name: round(median(a / b for a, b in zip(times["ours"], times[name], strict=True)), 2)
            for name in ("polyphase", "default")
        },
        "alias_db": {name: alias_db(way, old_hz, new_hz) for name, way in ways.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    arguments = parser.parse_args()
    print(json.dumps({"rows": [measure(*recording, arguments.repeats) for recording in RECORDINGS]}))


if __name__ == "__main__":
    main()
