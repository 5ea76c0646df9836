from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import from_json
from modalities.files.reading import ContentError, counted_changes
from modalities.files.recording import (
    Recording,
    _largest_part,
    filter_band,
    find_fault,
    from_members,
    normalize,
    resample,
    to_members,
    unit_factor,
)
from modalities.layers.patches import log_amplitudes, restore_values
from modalities.lightcurve import LightCurve
from modalities.masks.draw import draw_mask
from modalities.masks.masking import Masking, MaskRules
from modalities.signal import Signal
from pipeline.recipe.load import load

ECG: dict[str, Any] = {"montage": "ecg", "unit": "mV", "sample_rate_hz": 100, "patch_s": 0.2}


def noise(
    channels: tuple[str, ...] = ("I", "II"), seconds: float = 2, rate_hz: float = 100, **description: Any
) -> Recording:
    """Random traces, a unit high."""
    samples = np.random.default_rng(len(channels)).standard_normal((len(channels), round(seconds * rate_hz)))
    recording = Recording(samples.astype(np.float32), channels, ("mV",) * len(channels), rate_hz)
    return recording._replace(**description)


def members(raw: Recording, **description: Any) -> dict[str, bytes]:
    """The members of a recording, with other words on it."""
    recording = to_members(raw)
    return recording | {"json": json.dumps({**json.loads(recording["json"]), **description}).encode()}


def array(samples: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(samples))
    return buffer.getvalue()


def reason(modality: Signal, parts: dict[str, bytes]) -> str:
    """Why a recording is refused."""
    with pytest.raises(ContentError) as caught:
        modality.decode(parts)
    return caught.value.reason


# Reading


@given(st.integers(1, 4), st.integers(1, 40), st.sampled_from([1.0, 128.0, 499.9]), st.booleans())
def test_members_contain_a_recording(channels: int, count: int, rate_hz: float, timed: bool) -> None:
    samples = np.random.default_rng(count).standard_normal((channels, count)).astype(np.float32)
    names, units = tuple(f"c{i}" for i in range(channels)), ("mV", "uV", "", "%")[:channels]
    times = np.cumsum(np.ones(count)) if timed else None
    raw = Recording(samples, names, units, 0.0 if timed else rate_hz, 1.5, times)
    back = from_members(to_members(raw))
    assert back[1:5] == raw[1:5]
    np.testing.assert_array_equal(back.samples, samples)
    if times is not None:
        np.testing.assert_array_equal(back.times, times)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"npy": b""}, "unreadable npy signal"),
        ({"npy": array(np.ones((2, 200)))[:-8]}, "unreadable npy signal"),
        ({"npy": array(np.array([{}, None]))}, "unreadable npy signal"),
        ({"npy": b"PK\x03\x04 not an array"}, "unreadable npy signal"),
        ({"npy": array(np.zeros((2, 0)))}, "empty signal"),
        ({"npy": array(np.ones(200))}, "signal that is not numbers of (channels, time)"),
        ({"npy": array([["a", "b"]])}, "signal that is not numbers of (channels, time)"),
        ({"npy": array([[1.0, np.nan] * 50] * 2)}, "signal with samples that are not numbers"),
        ({"npy": array([[1.0, 1e300] * 50] * 2)}, "signal with samples that are not numbers"),
        ({"npy": array(np.ones((3, 200)))}, "signal whose names or units do not match its channels"),
        ({"json": b"{"}, "description of a signal is not JSON"),
        ({"json": b" " * (2**26 + 1)}, "description of a signal of more than 67,108,864 bytes of JSON"),
        ({"json": b"[1]"}, "signal whose description is not a JSON object"),
    ],
)
def test_bytes_without_a_recording_are_refused_with_a_reason(wrong: dict[str, bytes], why: str) -> None:
    assert reason(Signal(**ECG), {**members(noise()), **wrong}) == why


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ({"sample_rate_hz": 0}, "signal with a sample rate of 0 or less"),
        ({"sample_rate_hz": -5}, "signal with a sample rate of 0 or less"),
        ({"sample_rate_hz": None}, "signal whose sample rate is not a number"),
        ({"sample_rate_hz": "100"}, "signal whose sample rate is not a number"),
        ({"sample_rate_hz": float("inf")}, "signal whose sample rate is not a number"),
        ({"start_s": float("nan")}, "signal whose start is not a number"),
        ({"channels": None}, "signal without a list of channel names"),
        ({"channels": ["I", 2]}, "signal without a list of channel names"),
        ({"channels": ["I"]}, "signal whose names or units do not match its channels"),
        ({"unit": ["mV"]}, "signal whose names or units do not match its channels"),
        ({"unit": ""}, "signal without a unit"),
        ({"unit": "mmHg"}, "signal in a unit that cannot become the recipe's"),
        ({"channels": ["II", "MLII"]}, "signal with a channel twice"),
        ({"channels": ["I", "PLETH"]}, "signal with an unknown channel"),
        ({"times": [0.0, 1.0]}, "signal whose times do not match its samples"),
        ({"times": "now"}, "signal whose times are not numbers"),
        ({"times": list(range(200, 0, -1))}, "signal whose times run backwards"),
        ({"times": [float(i * i) for i in range(200)]}, "signal with uneven times"),
        ({"times": [1.0] * 200}, "signal with uneven times"),
        ({"sample_rate_hz": 2000}, "signal shorter than a patch"),
        ({"sample_rate_hz": 10**400}, "signal whose sample rate is not a number"),
        ({"start_s": -(10**400)}, "signal whose start is not a number"),
        ({"times": [10**400] * 200}, "signal whose times are not numbers"),
        ({"unit": 5}, "signal whose names or units do not match its channels"),
        ({"sample_rate_hz": 1e-4}, "signal of more than 100,000,000 numbers at the recipe's rate"),
        ({"sample_rate_hz": 5e-324}, "signal of a sample rate of nearly 0"),
    ],
)
def test_unusable_descriptions_are_refused_with_a_reason(description: dict[str, Any], why: str) -> None:
    with pytest.raises(ContentError) as caught:
        Signal(**ECG).decode(members(noise(), **description))
    assert caught.value.reason == why


@pytest.mark.parametrize("absent", ["npy", "json"])
def test_a_missing_member_is_named(absent: str) -> None:
    parts = members(noise())
    del parts[absent]
    assert reason(Signal(**ECG), parts) == f"signal without its {absent} member"
    assert "member" in reason(Signal(**ECG), {})


def test_recordings_too_large_for_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalities.files.recording.MAX_SAMPLES", 100)
    assert "more than 100 numbers" in reason(Signal(**ECG), members(noise()))
    monkeypatch.setattr("modalities.multichannel.MAX_TOKENS", 19)
    with pytest.raises(ContentError, match=r"more than 19 tokens \(cut it with window_s\)"):
        Signal(**ECG).prepare(noise())
    assert Signal(**ECG, window_s=1).prepare(noise()).samples.shape == noise().samples.shape


def test_constant_signals_are_refused_before_tokenization() -> None:
    rng, spiky = np.random.default_rng(0), noise()
    spiky.samples[0] = np.where(rng.random(spiky.samples.shape[1]) < 0.04, spiky.samples[0], 0)
    for how in ("mad", "percentile"):
        assert reason(Signal(**ECG, normalize=how), members(spiky)) == "signal with a channel that has no spread"  # type: ignore[arg-type]
    assert Signal(**ECG).prepare(spiky).channels == spiky.channels


def test_constant_and_clipped_channels_refuse_the_recording_or_are_excluded() -> None:
    flat, clipped = noise(("I", "II", "V1")), noise(("I", "II", "V1"))
    flat.samples[1] = 0.25
    clipped.samples[2] = clipped.samples[2].clip(-0.5, 0.5)
    assert reason(Signal(**ECG), members(flat)) == "signal with a constant channel"
    assert reason(Signal(**ECG), members(clipped)) == "signal with a clipped channel"
    lenient = Signal(**ECG, faulty_channels="exclude")
    assert lenient.decode(members(flat)).channels == ("I", "V1")
    assert lenient.decode(members(clipped)).channels == ("I", "II")
    assert Signal(**ECG, max_clipped=1).decode(members(clipped)).channels == ("I", "II", "V1")
    flat.samples[:] = 1
    assert reason(lenient, members(flat)) == "signal with a constant channel"


def test_a_channel_with_a_missing_sample_is_excluded_and_counted() -> None:
    raw = noise(("I", "II", "V1"))
    raw.samples[1, 70] = np.nan
    assert reason(Signal(**ECG), members(raw)) == "signal with samples that are not numbers"
    lenient = Signal(**ECG, faulty_channels="exclude")
    with counted_changes() as changes:
        decoded = lenient.decode(members(raw))
    np.testing.assert_array_equal(decoded.samples, raw.samples[[0, 2]])
    assert decoded.channels == ("I", "V1")
    assert changes == {"channel II left out: missing samples": 1}
    raw.samples[0], raw.samples[1, 70] = 0.5, 0
    with counted_changes() as changes:
        assert lenient.decode(members(raw)).channels == ("II", "V1")
    assert changes == {"channel I left out: constant": 1}


def test_if_all_channels_have_gaps_the_longest_stretch_is_used() -> None:
    raw = noise(("I", "II", "V1"), start_s=3.0)
    raw.samples[:, :30] = np.nan
    raw.samples[0, [120, 199]] = np.nan
    raw.samples[2] = np.nan
    lenient = Signal(**ECG, faulty_channels="exclude")
    with counted_changes() as changes:
        decoded = lenient.decode(members(raw))
    assert (decoded.channels, decoded.start_s) == (("I", "II"), pytest.approx(3.3))
    np.testing.assert_array_equal(decoded.samples, raw.samples[:2, 30:120])
    assert changes == {
        "recording cut to its longest stretch without missing samples": 1,
        "channel V1 left out: missing samples": 1,
    }
    np.testing.assert_allclose(lenient.fit([decoded]).tokenize(decoded).coords[:4, 3], [3.3, 3.5, 3.7, 3.9], atol=0.101)
    raw.samples[:2, ::10] = np.nan
    assert reason(lenient, members(raw)) == "signal shorter than a patch"
    raw.samples[:] = np.nan
    assert reason(lenient, members(raw)) == "signal with samples that are not numbers"
    raw.samples[:] = np.inf
    assert reason(lenient, members(raw)) == "signal with samples that are not numbers"


def lenient_of(raw: Recording) -> tuple[tuple[str, ...], float, int, dict[str, int]]:
    """The channels left, the start in s, the samples of each, and what is counted."""
    with counted_changes() as changes:
        decoded = Signal(**ECG, faulty_channels="exclude").decode(members(raw))
    assert not np.isnan(decoded.samples).any()
    return decoded.channels, decoded.start_s, decoded.samples.shape[1], dict(changes)


@pytest.mark.parametrize("since", [100, 5])
def test_a_detached_lead_does_not_affect_the_others(since: int) -> None:
    raw = noise(("I", "II", "V1"), seconds=60)
    raw.samples[:, 0] = np.nan
    raw.samples[2, since:] = np.nan
    cut = "recording cut to its longest stretch without missing samples"
    off = "channel V1 left out: missing samples"
    assert lenient_of(raw) == (("I", "II"), pytest.approx(0.01), 5999, {cut: 1, off: 1})
    raw = noise(("I", "II", "III", "V1", "V2"), seconds=60)
    raw.samples[:, 0] = np.nan
    raw.samples[3:, since:] = np.nan
    assert lenient_of(raw)[:3] == (("I", "II", "III"), pytest.approx(0.01), 5999), "two at the same time"


def test_most_channels_and_time_are_retained() -> None:
    raw = noise(("I", "II", "III", "V1"), seconds=10)
    raw.samples[:3, 0] = np.nan
    channels, _, count, _ = lenient_of(raw)
    assert (channels, count) == (("I", "II", "III", "V1"), 999), "one sample of three leads, not three leads"
    raw.samples[3, 500] = np.nan
    assert lenient_of(raw)[:3] == (("I", "II", "III"), pytest.approx(0.01), 999)
    raw.samples[:3, 0] = 0.1
    raw.samples[3, [400, 500]] = np.nan
    assert lenient_of(raw) == (("I", "II", "III"), 0.0, 1000, {"channel V1 left out: missing samples": 1})


@given(st.integers(0, 10_000))
def test_gap_removal_is_close_to_optimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    missing = rng.random((4, 30)) < rng.choice([0.02, 0.1, 0.3])
    rows, stretch = _largest_part(missing)
    assert not missing[rows, stretch].any()
    size_of_stretch = len(rows) * (stretch.stop - stretch.start)
    sizes = [int((~missing[:, a:b].any(1)).sum()) * (b - a) for a in range(30) for b in range(a + 1, 31)]
    assert 0.6 * max(sizes) <= size_of_stretch <= max(sizes)


def test_a_flat_lead_is_excluded_before_gaps_are_evaluated() -> None:
    raw = noise(("I", "II"))
    raw.samples[0, 40] = np.nan
    raw.samples[1] = 0.25
    flat = "channel II left out: constant"
    cut = "recording cut to its longest stretch without missing samples"
    assert lenient_of(raw) == (("I",), pytest.approx(0.41), 159, {cut: 1, flat: 1})
    raw.samples[1, 3] = np.nan
    assert lenient_of(raw) == (("I",), pytest.approx(0.41), 159, {cut: 1, flat: 1}), "flat as far as it is there"
    raw = noise(("I", "II", "V1"))
    raw.samples[:, 150] = np.nan
    raw.samples[2, :150] = 0.5
    assert lenient_of(raw)[0] == ("I", "II"), "flat where the others are cut to"
    raw.samples[:2, :150] = 0.5
    assert reason(Signal(**ECG, faulty_channels="exclude"), members(raw)) == "signal with a constant channel"


def test_a_flux_with_missing_errors_is_excluded_with_them() -> None:
    raw = noise(("g", "g_error", "r", "r_error"), times=np.cumsum(np.random.default_rng(0).random(200) + 0.1))
    raw.samples[1, [60, 130]] = np.nan
    curve = LightCurve(channels="any", errors=True, faulty_channels="exclude", patch_points=4)
    assert curve.decode(members(raw._replace(rate_hz=0.0))).channels == ("r", "r_error")
    raw.samples[1, [60, 130]], raw.samples[1, 5], raw.samples[3, 150:] = 1, np.nan, np.nan
    cut = curve.decode(members(raw._replace(rate_hz=0.0)))
    assert cut.channels == ("g", "g_error", "r", "r_error")
    assert raw.times is not None
    np.testing.assert_array_equal(cut.times, raw.times[6:150])  # type: ignore[arg-type]


def test_faults_of_a_channel() -> None:
    wave = np.sin(np.arange(1000) / 7).astype(np.float32)
    assert find_fault(wave, 0.05) is None
    assert find_fault((wave * 100).round() / 100, 0.05) is None, "coarse steps are no clipping"
    assert find_fault(wave.clip(-0.9, 2), 0.05) == "clipped"
    assert find_fault(wave.clip(-0.999, 0.999), 0.05) is None
    assert find_fault(np.full(10, np.float32(0.1)), 0.05) == "constant"
    assert find_fault(np.ones(1, np.float32), 0.05) == "constant"


# Units, rate, filter_band, scale


def test_compatible_units_are_converted_to_the_recipe_unit() -> None:
    raw = noise()
    for unit, times in (("uV", 1000), ("µV", 1000), ("V", 1e-3), ("mV", 1), ("MV", 1), ("millivolts", 1)):
        assert unit_factor("mV", unit) == pytest.approx(times)
    assert unit_factor("fT", "pT") == pytest.approx(1e-3)
    assert unit_factor("%", "%") == 1
    mixed = raw._replace(units=("mV", "uV"))
    recording = Signal(**{**ECG, "unit": "uV"}).decode(to_members(mixed))
    np.testing.assert_allclose(recording.samples, raw.samples * [[1000], [1]], rtol=1e-6)
    assert recording.units == ("uV", "uV")
    volts = Signal(**{**ECG, "unit": None}).decode(to_members(mixed))
    assert volts.units == ("mV", "uV")
    for unit in ("T", "%", ""):
        with pytest.raises(ContentError):
            unit_factor(unit, "mV")


@pytest.mark.parametrize(("rate_hz", "wanted_hz"), [(500, 200), (100, 250), (360, 200), (128.5, 100), (200, 200)])
def test_resampling_keeps_waves_and_removes_frequencies_above_nyquist(rate_hz: float, wanted_hz: float) -> None:
    time = np.arange(round(4 * rate_hz)) / rate_hz
    in_band = np.sin(2 * np.pi * 7 * time) + 3.0
    high = np.sin(2 * np.pi * 0.45 * rate_hz * time)
    recording = resample(np.stack([in_band, high]).astype(np.float32), rate_hz, wanted_hz)
    assert recording.dtype == np.float32
    assert recording.shape[1] == pytest.approx(4 * wanted_hz, abs=1)
    expected = np.sin(2 * np.pi * 7 * np.arange(recording.shape[1]) / wanted_hz) + 3.0
    inside = slice(round(0.3 * wanted_hz), -round(0.3 * wanted_hz))
    np.testing.assert_allclose(recording[0, inside], expected[inside], atol=0.02)
    if wanted_hz < 0.8 * rate_hz:
        assert np.abs(recording[1, inside]).max() < 0.05
    with pytest.raises(ContentError, match="thousand"):
        resample(recording, 1e9, wanted_hz)


def test_filters_pass_only_the_band_without_delay() -> None:
    rate, time = 200.0, np.arange(4000) / 200
    for hz, gain in ((0.05, 0), (1, 1), (10, 1), (30, 1), (50, 0), (80, 0)):
        wave = np.sin(2 * np.pi * hz * time).astype(np.float32)[None]
        recording = filter_band(wave, rate, 0.5, 60, (50,))
        np.testing.assert_allclose(recording[:, 1000:-1000], gain * wave[:, 1000:-1000], atol=0.05)
    constant = np.full((1, 400), 7.0, np.float32)
    assert np.abs(filter_band(constant, rate, 0.5, None, ())).max() < 0.01, "no jump at the ends"
    assert filter_band(constant, rate, None, None, ()) is constant
    short = np.random.default_rng(0).standard_normal((1, 5)).astype(np.float32)
    assert np.isfinite(filter_band(short, rate, 0.5, 60, (50,))).all()


@given(st.floats(0.01, 1e4), st.floats(-1e3, 1e3))
def test_scales_do_not_depend_on_gain_and_offset(gain: float, offset: float) -> None:
    raw = noise().samples.astype(np.float64)
    for how in ("channel", "recording", "mad"):
        recording = normalize((raw * gain + offset * gain).astype(np.float32), how, 1.0)  # type: ignore[arg-type]
        np.testing.assert_allclose(recording, normalize(raw.astype(np.float32), how, 1.0), atol=2e-3)  # type: ignore[arg-type]


def test_scales() -> None:
    samples = np.stack([np.arange(101), 10 * np.arange(101)]).astype(np.float32)
    by_channel = normalize(samples, "channel", 1)
    np.testing.assert_allclose(by_channel.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(by_channel.std(1), 1, rtol=1e-6)
    reference = normalize(samples, "recording", 1)
    assert reference[1].std() / reference[0].std() == pytest.approx(10)
    np.testing.assert_allclose(normalize(samples, "fixed", 100), samples / 100)
    np.testing.assert_allclose(normalize(samples, "percentile", 1)[:, 95], 1)
    mad = normalize(samples, "mad", 1)
    assert mad[0, 50] == 0
    assert mad[0, 75] == pytest.approx(1 / 1.4826)
    spiky = np.zeros((1, 100), np.float32)
    spiky[0, 0] = 1
    with pytest.raises(ContentError, match="no spread"):
        normalize(spiky, "mad", 1)


# Channels


def test_montages_may_differ_and_missing_channels_have_no_tokens() -> None:
    modality = Signal(**ECG).fit([noise(("I", "II", "V1")), noise(("I", "V2"))])
    assert modality.names == ("I", "II", "V1", "V2")
    for channels in (("I", "II", "V1"), ("I", "V2"), ("V1",)):
        tokens = modality.tokenize(modality.decode(to_members(noise(channels))))
        assert tokens.size == 10 * len(channels)
        assert [modality.vocabulary.entries[i] for i in np.unique(tokens.ids[:, 1])] == list(channels)
        assert tokens.values.any(1).all(), "no zeros stand in for a channel"
    with pytest.raises(ContentError, match="training data lack"):
        modality.tokenize(modality.decode(to_members(noise(("V6",)))))


def test_channels_select_and_order_and_skip_the_rest() -> None:
    modality = Signal(**{**ECG, "channels": ("avr", "MLII")})
    assert modality.selected_channels == ("aVR", "II")
    raw = modality.decode(to_members(noise(("II", "PLETH", "aVR", "V1"))))
    assert raw.channels == ("aVR", "II")
    assert modality.decode(to_members(noise(("V1", "II")))).channels == ("II",)
    assert reason(modality, to_members(noise(("V1", "V2")))) == "signal without any of the recipe's channels"
    assert reason(modality, to_members(noise(("II", "ii")))) == "signal with a channel twice"
    assert modality.decode(to_members(noise(("V1", "v1", "II")))).channels == ("II",)
    assert [modality.takes(name) for name in ("II", "aVR", "V1", "PLETH")] == [True, True, False, False]


def test_derivations_are_computed_from_their_electrodes() -> None:
    modality = Signal(montage="eeg", channels=("F3-C3", "P3-O1"), sample_rate_hz=100, patch_s=0.2)
    raw = noise(("EEG F3", "EEG C3", "P3-O1", "Cz"))
    recording = modality.decode(to_members(raw))
    assert recording.channels == ("F3-C3", "P3-O1")
    np.testing.assert_allclose(recording.samples, [raw.samples[0] - raw.samples[1], raw.samples[2]])
    assert modality.decode(to_members(noise(("F3", "P3-O1")))).channels == ("P3-O1",)
    assert all(modality.takes(name) for name in ("F3", "EEG C3-REF", "F3-C3"))
    assert not modality.takes("Cz")


def test_electrodes_unseen_in_training_have_positions() -> None:
    modality = Signal(montage="eeg", sample_rate_hz=100, patch_s=0.5)
    fitted = from_json(json.loads(json.dumps(modality.fit([noise(("Fp1", "Cz"))]).to_json())))
    assert isinstance(fitted, Signal)
    raw = fitted.decode(to_members(noise(("EEG Cz", "EEG Oz", "Fp1-F7"))))
    tokens = fitted.tokenize(raw)
    assert tokens.ids[:, 1].tolist() == [fitted.vocabulary.id("Cz")] * 4 + [1] * 8
    cz, oz, between = tokens.coords[::4, :3]
    assert cz[2] > 9
    assert oz[1] < -9
    assert between[0] < -4
    assert tokens.coords[:4, 3].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_custom_names_are_accepted_if_the_recipe_allows_them() -> None:
    eeg = {"montage": "eeg", "sample_rate_hz": 100, "patch_s": 0.5}
    assert reason(Signal(**eeg), to_members(noise(("Cz", "EOG")))) == "signal with an unknown channel"
    with pytest.raises(ContentError, match=r"'Fp11'; nearest in the eeg montage: Fp1"):
        Signal(**eeg).decode(to_members(noise(("Fp11",))))
    modality = Signal(**eeg, channels="any").fit([noise(("Cz", "EOG"))])
    tokens = modality.tokenize(modality.decode(to_members(noise(("EOG", "Cz")))))
    assert tokens.coords[0, :3].any()
    assert not tokens.coords[-1, :3].any(), "a free name has no position"
    anything = Signal(sample_rate_hz=100, patch_s=0.5).fit([noise(("flux", "PLETH"))])
    assert anything.names == ("PLETH", "flux")
    assert anything.electrodes == ()


# Tokens


@given(st.floats(0.3, 4), st.sampled_from([100.0, 250.0, 128.0]), st.integers(1, 3), st.sampled_from([None, 1.0]))
def test_tokens_have_the_shapes_in_the_contract(
    seconds: float, rate_hz: float, channels: int, window_s: float | None
) -> None:
    modality = Signal(**ECG, window_s=window_s).fit([noise(("I", "II", "III"))])
    tokens = modality.tokenize(noise(("I", "II", "III")[:channels], seconds, rate_hz))
    assert tuple(part.shape[1] for part in tokens) == modality.widths == (20, 2, 4)
    assert [part.dtype for part in tokens] == [np.float32, np.int64, np.float32]
    patches, rest = divmod(tokens.size, channels)
    assert rest == 0
    assert patches == pytest.approx(min(seconds, window_s or seconds) / 0.2, abs=1.1)
    assert (tokens.ids[:, 0] == 2).all()


def test_patches_are_consecutive_samples_of_one_channel() -> None:
    modality = Signal(**{**ECG, "normalize": "fixed", "scale": 2}).fit([noise()])
    raw = noise(seconds=1.19)
    tokens = modality.tokenize(raw)
    np.testing.assert_allclose(tokens.values[:5].ravel(), raw.samples[0, 9:109] / 2)
    np.testing.assert_allclose(tokens.values[5:].ravel(), raw.samples[1, 9:109] / 2)
    np.testing.assert_allclose(tokens.coords[:5, 3], 0.09 + 0.2 * np.arange(5), rtol=1e-5)
    later = modality.tokenize(raw._replace(start_s=7.0))
    np.testing.assert_allclose(later.coords[:, 3], tokens.coords[:, 3] + 7, rtol=1e-5)


def test_windows_are_random_in_training_and_centered_otherwise() -> None:
    modality = Signal(**ECG, window_s=1).fit([noise()])
    raw = noise(seconds=3)
    assert modality.tokenize(raw).coords[0, 3] == 1
    starts = {float(modality.tokenize(raw, np.random.default_rng(seed)).coords[0, 3]) for seed in range(30)}
    assert len(starts) > 20
    assert min(starts) >= 0
    assert max(starts) <= 2
    again = modality.tokenize(raw, np.random.default_rng(3)), modality.tokenize(raw, np.random.default_rng(3))
    assert all((a == b).all() for a, b in zip(*again, strict=True))


def test_uneven_times_are_not_interpolated() -> None:
    times = np.cumsum(np.random.default_rng(0).random(50)) + 5e9
    samples = np.abs(noise(("flux", "flux_error"), 0.5).samples)
    raw = Recording(samples, ("flux", "flux_error"), ("Jy", "Jy"), 0.0, 0.0, times)
    modality = LightCurve(errors=True, patch_points=8, normalize="mad", window_points=40)
    modality = modality.fit([modality.decode(to_members(raw))])
    assert modality.names == ("flux",)
    assert modality.widths == (16, 2, 12)
    assert modality.step_s == pytest.approx(np.median(np.diff(times)))
    tokens = modality.tokenize(modality.decode(to_members(raw)))
    assert tokens.size == 5
    span_ends = tokens.coords[:, 3:4] + tokens.coords[:, 4:]
    np.testing.assert_allclose(span_ends.ravel(), times[5:45] - times[0], atol=1e-4)
    flux, error = raw.samples
    spread = 1.4826 * np.median(np.abs(flux - np.median(flux)))
    np.testing.assert_allclose(tokens.values[:, :8].ravel(), (flux[5:45] - np.median(flux)) / spread, rtol=1e-4)
    np.testing.assert_allclose(tokens.values[:, 8:].ravel(), error[5:45] / spread, rtol=1e-4)
    assert modality.head(8).out_features == 8
    lone = raw.only([0])
    with pytest.raises(ContentError, match="without the errors of a channel"):
        modality.tokenize(modality.decode(to_members(lone)))
    assert reason(modality, to_members(Recording(raw.samples[:, :5], *raw[1:5], times[:5]))) == (
        "signal shorter than a patch"
    )


def test_even_times_equal_a_rate() -> None:
    raw = noise()
    timed = raw._replace(rate_hz=0.0, times=3 + np.arange(200) / 100)
    assert Signal(**ECG).decode(to_members(timed)).rate_hz == pytest.approx(100)
    uneven = LightCurve(montage="ecg").decode(to_members(raw))
    assert uneven.rate_hz == 0
    np.testing.assert_allclose(uneven.times, np.arange(200) / 100)  # type: ignore[arg-type]


# What users hand over


def test_parse_accepts_files_arrays_and_recordings(tmp_path: Path) -> None:
    raw, modality = noise(), Signal(**ECG)
    for name, data in to_members(raw).items():
        (tmp_path / f"a.{name}").write_bytes(data)
    description = {"samples": raw.samples.tolist(), "sample_rate_hz": 100, "unit": "mV", "channels": ["I", "II"]}
    for value in (raw, description, tmp_path / "a.npy", str(tmp_path / "a.npy")):
        recording = modality.parse(value)
        assert recording.channels == ("I", "II")
        np.testing.assert_allclose(recording.samples, raw.samples, rtol=1e-6)
    for wrong in (3, None, [1], {}, {"samples": [[1], [1, 2]]}, tmp_path / "none.npy"):
        with pytest.raises(ContentError):
            modality.parse(wrong)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sample_rate_hz": 0}, "sample_rate_hz is 0"),
        ({"patch_s": 0.001}, "a patch at least one sample"),
        ({"window_s": 0.1}, "at least one patch"),
        ({"high_hz": 50}, "half of sample_rate_hz"),
        ({"notch_hz": (60,)}, "half of sample_rate_hz"),
        ({"low_hz": 20, "high_hz": 10}, "low_hz 20 must be below"),
        ({"normalize": "fixed", "unit": None}, "needs a unit"),
        ({"channels": ("I", "V77")}, r"'V77'; nearest in the ecg montage: V7"),
        ({"channels": ("II", "MLII")}, "twice"),
        ({"mask": Masking(kind="block")}, "no grid"),
        ({"mask": (Masking(), Masking(kind="block"))}, "no grid"),
    ],
)
def test_invalid_recipes_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Signal(**{**ECG, **fields})


# Learning


def test_loss_excludes_error_channels() -> None:
    modality = LightCurve(errors=True, patch_points=4)
    values, prediction = torch.randn(3, 8), torch.randn(3, 4)
    ids = torch.full((3, 2), 2)
    expected = (prediction - values[:, :4]).square().mean(1)
    torch.testing.assert_close(modality.loss(prediction, values, ids), expected)


@pytest.mark.parametrize("target", ["values", "normalized"])
def test_a_perfect_prediction_reconstructs_the_signal(target: Any) -> None:
    modality = Signal(**ECG, target=target).fit([noise()])
    tokens = modality.tokenize(noise())
    values = torch.from_numpy(tokens.values)
    if target == "normalized":
        values = (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    assert modality.loss(values, torch.from_numpy(tokens.values), torch.from_numpy(tokens.ids)).max() < 1e-6
    np.testing.assert_allclose(modality.reconstruct(values.numpy(), tokens).values, tokens.values, atol=1e-4)


@given(st.integers(0, 99))
def test_complete_leads_and_spans_can_be_masked(seed: int) -> None:
    modality = Signal(**ECG, mask=Masking(kind="channel", ratio=0.5)).fit([noise(("I", "II", "V1", "V2"))])
    tokens = modality.tokenize(noise(("I", "II", "V1", "V2")))
    recording = draw_mask(
        tokens, np.random.default_rng(seed), 0, MaskRules((Masking(kind="channel", ratio=0.5),), axes=modality.axes)
    )
    for lead in np.unique(tokens.ids[:, 1]):
        assert len(set(recording.target[tokens.ids[:, 1] == lead].tolist())) == 1
    assert recording.target.mean() == 0.5
    full_plan = draw_mask(
        tokens, np.random.default_rng(seed), 0, MaskRules((Masking(kind="time", ratio=0.3),), axes=modality.axes)
    )
    for time in np.unique(tokens.coords[:, 3]):
        assert len(set(full_plan.target[tokens.coords[:, 3] == time].tolist())) == 1


def test_position_embeddings_use_electrode_coordinates() -> None:
    torch.manual_seed(0)
    modality = Signal(montage="eeg", sample_rate_hz=100, patch_s=1).fit([noise(("Fp1", "Oz"))])
    embedding = modality.embedding(64)
    tokens = modality.tokenize(modality.prepare(noise(("Fp2", "O2", "Fpz"))))
    parts = [torch.from_numpy(part) for part in tokens]
    place = embedding(*parts)[1].detach()
    assert (tokens.ids[:, 1] == 1).all()
    assert len(torch.unique(place, dim=0)) == len(place)


def test_traces_are_drawn_with_names_and_shaded_targets() -> None:
    modality = Signal(**ECG).fit([noise()])
    tokens = modality.tokenize(noise())
    target = np.arange(tokens.size) == 3
    html = modality.show(tokens, target, tokens._replace(values=-tokens.values))
    assert all(svg.startswith("<svg") and ">II</text>" in svg for svg in html.values())
    assert html["original"].count("<rect") == html["masked"].count("<rect") == 1
    assert html["masked"].count("M") == html["original"].count("M") + 1, "a gap where the target was"
    assert html["reconstructed"].count("#c33") == 1
    everything = modality.show(tokens, np.ones(tokens.size, bool), tokens)
    assert "nan" not in "".join(everything.values())


@pytest.mark.skipif("SENSORIUM_DATA" not in os.environ, reason="SENSORIUM_DATA names no folder of real data")
def test_real_twelve_lead_records() -> None:
    from shards.sources.wfdb import Wfdb

    modality = Signal(**{**ECG, "faulty_channels": "exclude"})
    source = Wfdb()
    raws = []
    for item in source.items(Path(os.environ["SENSORIUM_DATA"]) / "ecg" / "cinc2021"):
        stored = source.make(item, {"ecg": modality}).members
        raws.append(modality.decode({kind: stored[f"ecg.{kind}"] for kind in ("npy", "json")}))
    assert len(raws) == 38
    fitted = modality.fit(raws)
    assert len(fitted.names) == 12
    for raw in raws:
        tokens = fitted.tokenize(raw)
        assert tokens.size == 50 * len(raw.channels)
        assert np.isfinite(tokens.values).all()


def test_a_spectrum_target_ignores_phase_and_equals_the_stem_input() -> None:
    time_s = np.arange(400) / 100
    waves = np.stack([np.sin(2 * np.pi * 10 * time_s), np.cos(2 * np.pi * 10 * time_s)]).astype(np.float32)
    signal = Signal(channels="any", sample_rate_hz=100, patch_s=1, target="spectrum", stem="spectral", max_clipped=1)
    signal = signal.fit([Recording(waves, ("a", "b"), ("", ""), 100)])
    values = torch.from_numpy(waves[:, :100])
    spectra = log_amplitudes(values)
    assert spectra.shape == (2, 51)
    assert spectra.argmax(1).tolist() == [10, 10]
    torch.testing.assert_close(spectra[0], spectra[1], atol=1e-3, rtol=0)
    ids = torch.full((2, 2), 2)
    assert signal.head(8).out_features == 51
    assert signal.loss(spectra, values, ids).max() < 1e-8 < 0.01 < signal.loss(0 * spectra, values, ids).min()
    assert signal.embedding(8)(values, ids, torch.zeros(2, 4))[0].shape == (2, 8)


def test_reconstructed_spectra_use_the_original_phases() -> None:
    values = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    spectra = log_amplitudes(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(restore_values(spectra, values, "spectrum"), values, atol=1e-5)


def test_uneven_times_have_no_spectrum(recipe: dict[str, Any]) -> None:
    recipe["modalities"]["table"] = {"type": "lightcurve", "target": "spectrum"}
    with pytest.raises(ValueError, match=r"modalities.table.*target.*'values' or 'normalized'"):
        load(recipe)


def test_recipes_for_uneven_times_use_the_type_lightcurve(recipe: dict[str, Any]) -> None:
    recipe["modalities"]["table"] = {"type": "signal", "uneven": True, "patch_points": 8}
    with pytest.raises(ValueError, match=r"'modalities.table.uneven: true' is gone: use `type: lightcurve`"):
        load(recipe)


def test_signals_of_earlier_versions_are_refused_in_one_line() -> None:
    state = {**Signal().to_json(), "uneven": True, "normalise": "channel"}
    with pytest.raises(ValueError, match="modality 'signal' has no field normalise, uneven"):
        from_json(state)
