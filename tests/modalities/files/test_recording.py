"""Signals at another rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import firwin, resample_poly

from modalities.files.recording import rate_ratio, resample


@pytest.mark.parametrize(("old", "new"), [(500, 250), (360, 250), (1000, 250), (512, 200)])
def test_frequencies_above_nyquist_are_removed(old: int, new: int) -> None:
    time_s = np.arange(20 * old) / old
    for share, level in ((0.8, 1.0), (1.01, 0.0), (17 / 16, 0.0), (1.25, 0.0)):
        tone = np.sin(2 * np.pi * share * new / 2 * time_s)[None].astype(np.float32)
        inner = resample(tone, old, new)[0, 2 * new : -2 * new]
        assert np.sqrt(2 * (inner**2).mean()) == pytest.approx(level, abs=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [(500, 100, 5000), (500, 200, 2503), (360, 250, 3600), (100, 250, 1000), (499.9, 200, 5000), (997, 200, 100)],
)
def test_resampling_equals_a_polyphase_filter_of_the_same_weights(old: float, new: float, count: int) -> None:
    """Spectra of the whole, not samples one after the other, are the same sum; ends go on in a line in both."""
    samples = np.random.default_rng(0).standard_normal((3, count)).astype(np.float32)
    samples = np.cumsum(samples, axis=1) * 0.1 + np.float32([[0], [5], [-20]])
    up, down = rate_ratio(old, new).as_integer_ratio()
    longer_period = max(up, down)
    weights = firwin(64 * longer_period + 1, 0.911 / longer_period, window=("kaiser", 9.0))
    expected = resample_poly(samples.astype(np.float64), up, down, axis=1, padtype="line", window=weights)
    resampled = resample(samples, old, new)
    assert (resampled.dtype, resampled.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(resampled, expected, atol=2e-4)


def test_resampling_does_not_wrap_around() -> None:
    samples = np.zeros((2, 2000), np.float32)
    samples[1] = np.linspace(3, 90, 2000)
    samples[0, 1990] = 1
    resampled = resample(samples, 500, 100)
    assert np.abs(resampled[0, :300]).max() < 1e-6
    np.testing.assert_allclose(resampled[1], np.linspace(3, 90, 2000)[::5], rtol=1e-5)
    assert resample(samples[:, :1], 500, 100).tolist() == [[0.0], [3.0]]
