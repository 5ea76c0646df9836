"""What does a sharp resampling filter cost, and how much aliasing does it prevent?

    python benchmarks/resampling.py [--seconds 10] [--repeats 31]

Resamples a clip to 16 kHz as the modality `spectrogram` does (`ours`) and with torchaudio's default filter
(`default`), alternately. Prints one JSON line with a row for each rate: median CPU time per clip in ms
(`resample_ms`) and of the kaldi features that follow (`features_ms`), the median ratio of ours to the default without
and with the features (`ratio`, `ratio_with_features`), and the alias of a tone at 8.5 kHz in dB relative to the tone
(`alias_db`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import torchaudio

from modalities.files.sound import Audio, resample
from modalities.spectrogram import Spectrogram

RATE_HZ = 16_000
RATES_HZ = (8_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)


def timed(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def alias_db(resampled: Callable[[torch.Tensor], torch.Tensor], rate_hz: int) -> float | None:
    """Level of the alias of a tone above half of 16 kHz; None if the clip's rate is too low for such a tone."""
    tone_hz = RATE_HZ / 2 * 17 / 16
    if tone_hz >= rate_hz / 2:
        return None
    tone = torch.from_numpy(np.sin(2 * np.pi * tone_hz * np.arange(2 * rate_hz) / rate_hz).astype(np.float32))[None]
    inner = resampled(tone)[0, RATE_HZ // 2 : -RATE_HZ // 2]
    return round(20 * float(torch.log10(inner.square().mean().sqrt() * 2**0.5)), 1)


def measure(rate_hz: int, seconds: float, repeats: int) -> dict[str, Any]:
    default = torchaudio.transforms.Resample(rate_hz, RATE_HZ)
    methods: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ours": lambda samples: resample(samples, rate_hz, RATE_HZ),
        "default": default,
    }
    clip = torch.from_numpy(np.random.default_rng(0).standard_normal((1, round(seconds * rate_hz))).astype(np.float32))
    modality = Spectrogram(sample_rate_hz=RATE_HZ)
    lower = Audio(default(clip).numpy(), RATE_HZ)
    times: dict[str, list[float]] = {name: [] for name in (*methods, "features")}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            times[name].append(timed(lambda method=method: method(clip)))  # type: ignore[misc]
        times["features"].append(timed(lambda: modality.log_mel(lower)))
    ours, theirs, features = (series[1:] for series in times.values())  # the first computes the filter
    return {
        "rate_hz": rate_hz,
        "resample_ms": {"ours": round(1000 * median(ours), 2), "default": round(1000 * median(theirs), 2)},
        "features_ms": round(1000 * median(features), 2),
        "ratio": round(median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
        "ratio_with_features": round(
            median((a + f) / (b + f) for a, b, f in zip(ours, theirs, features, strict=True)), 2
        ),
        "alias_db": {name: alias_db(method, rate_hz) for name, method in methods.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(rate_hz, arguments.seconds, arguments.repeats) for rate_hz in RATES_HZ]
    print(json.dumps({"seconds": arguments.seconds, "rows": rows}))


if __name__ == "__main__":
    main()
