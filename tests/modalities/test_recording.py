"""Signals at another rate."""

from __future__ import annotations

import numpy as np
import pytest

from modalities.recording import resample


@pytest.mark.parametrize(("old", "new"), [(500, 250), (360, 250), (1000, 250), (512, 200)])
def test_what_a_rate_cannot_hold_is_kept_out(old: int, new: int) -> None:
    time_s = np.arange(20 * old) / old
    for share, level in ((0.8, 1.0), (17 / 16, 0.0), (1.25, 0.0)):
        tone = np.sin(2 * np.pi * share * new / 2 * time_s)[None].astype(np.float32)
        inner = resample(tone, old, new)[0, 2 * new : -2 * new]
        assert np.sqrt(2 * (inner**2).mean()) == pytest.approx(level, abs=1e-4)
