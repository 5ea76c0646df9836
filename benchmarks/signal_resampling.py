"""What does resampling a signal cost, and how much aliasing does it prevent?

    python benchmarks/signal_resampling.py [--repeats 31]

Resamples recordings by three methods, alternately: as the modality `signal` does (`ours`), by scipy's polyphase
filter with the same weights (`polyphase`), and by scipy's polyphase filter with its default weights (`default`).
Prints one JSON line with a row for each recording: median CPU time in ms (`ms`), the median ratio of ours to both
others (`ratio`), and the level of the alias of a tone 6% above the highest frequency of the new rate, in dB relative
to the tone (`alias_db`, null if the old rate is too low for such a tone).
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

from modalities.files.recording import rate_ratio, resample

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
    """Level of the alias of a tone above half of the new rate."""
    tone_hz = new_hz / 2 * 1.06
    if tone_hz >= old_hz / 2:
        return None
    tone = np.sin(2 * np.pi * tone_hz * np.arange(20 * old_hz) / old_hz).astype(np.float32)[None]
    inner = resampled(tone)[0, 2 * new_hz : -2 * new_hz]
    return round(20 * float(np.log10(np.sqrt(2 * np.square(inner, dtype=np.float64).mean()))), 1)


def measure(channels: int, count: int, old_hz: int, new_hz: int, repeats: int) -> dict[str, Any]:
    up, down = rate_ratio(old_hz, new_hz).as_integer_ratio()
    factor = max(up, down)
    weights = firwin(64 * factor + 1, 0.911 / factor, window=("kaiser", 9.0))
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": lambda samples: resample(samples, old_hz, new_hz),
        "polyphase": lambda samples: resample_poly(samples, up, down, axis=1, padtype="line", window=weights),
        "default": lambda samples: resample_poly(samples, up, down, axis=1, padtype="line"),
    }
    recording = np.random.default_rng(0).standard_normal((channels, count)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):
        for name, method in methods.items():
            spent = timed(lambda method=method: method(recording))  # type: ignore[misc]
            if repeat:  # the first computes the filter
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
        "alias_db": {name: alias_db(method, old_hz, new_hz) for name, method in methods.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    arguments = parser.parse_args()
    print(json.dumps({"rows": [measure(*recording, arguments.repeats) for recording in RECORDINGS]}))


if __name__ == "__main__":
    main()
