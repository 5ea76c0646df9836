"""Settings of signal modalities in drafts, by the channels, units and rates of recordings."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from modalities.files.channels import Montage, resolve_channel, sort_channels
from modalities.files.reading import ContentError
from modalities.files.recording import unit_factor
from shards.sources.drafting.settings import MASKS

WINDOW_S = 5
"""Length of the windows that long recordings are cut into."""
MONTAGES: tuple[Montage, ...] = ("eeg", "ecg")


class Channel(NamedTuple):
    """A channel of a recording, as its header describes it."""

    name: str
    unit: str
    rate_hz: float


class SignalInfo(NamedTuple):
    """The channels of a recording and its length in s."""

    channels: tuple[Channel, ...]
    length_s: float


class SignalSettings(NamedTuple):
    """Signal modalities for recordings.

    modalities: settings by name. source: keys of `data.source`: `window_s` and `exclude`. windows: windows per
    recording, on average. guesses: lines for the reader of the draft.
    """

    modalities: dict[str, dict[str, Any]]
    source: dict[str, Any]
    windows: float
    guesses: list[str]


def signal_settings(recordings: Sequence[SignalInfo]) -> SignalSettings:
    """EEG and ECG by the names of the channels, or one modality of all channels if no name is known."""
    by_montage: dict[Montage | None, list[str]] = {}
    for name in sorted({channel.name for recording in recordings for channel in recording.channels}):
        montage = next((montage for montage in MONTAGES if resolve_channel(name, montage)), None)
        by_montage.setdefault(montage, []).append(name)
    exclude = by_montage.pop(None, [])
    guesses = []
    if not by_montage:
        by_montage, exclude = {"any": exclude}, []
        guesses.append("no channel is named like EEG or ECG, so all are taken by name, without a place")
    elif exclude:
        guesses.append(f"channels left out, known to neither EEG nor ECG: {', '.join(exclude)}")
    length_s = median(recording.length_s for recording in recordings)
    modalities: dict[str, dict[str, Any]] = {}
    for montage, names in by_montage.items():
        assert montage is not None
        listed = [[channel for channel in recording.channels if channel.name in names] for recording in recordings]
        settings, slow = _montage_settings(montage, [channels for channels in listed if channels], length_s)
        modalities["signal" if montage == "any" else montage] = settings
        if slow:
            exclude = [*exclude, *slow]
            guesses.append(f"channels left out, because others of a file have another sample rate: {', '.join(slow)}")
    source: dict[str, Any] = {}
    windows = 1.0
    if length_s > 2 * WINDOW_S:
        source["window_s"] = WINDOW_S
        windows = sum(max(1, int(recording.length_s / WINDOW_S)) for recording in recordings) / len(recordings)
        guesses.append(f"recordings of about {length_s:.0f} s are cut into windows of {WINDOW_S} s")
    if exclude:
        source["exclude"] = [glob.escape(name) for name in exclude]
    return SignalSettings(modalities, source, windows, guesses)


def _montage_settings(
    montage: Montage, recordings: Sequence[Sequence[Channel]], length_s: float
) -> tuple[dict[str, Any], list[str]]:
    """Settings for the channels of a montage, by recording, and the channels at another rate than most of a file."""
    rates = [Counter(channel.rate_hz for channel in channels).most_common(1)[0][0] for channels in recordings]
    pairs = [(channel, rate_hz) for channels, rate_hz in zip(recordings, rates, strict=True) for channel in channels]
    slow = sorted({channel.name for channel, rate_hz in pairs if channel.rate_hz != rate_hz})
    sets = {
        frozenset(resolve_channel(channel.name, montage) or "" for channel in channels if channel.name not in slow)
        for channels in recordings
    }
    names = sort_channels(next(iter(sets)), montage) if len(sets) == 1 and montage != "any" else ()
    units = {channel.unit for channel, _ in pairs if channel.name not in slow}
    return montage_settings(montage, median(rates), units, names, length_s), slow


def montage_settings(
    montage: Montage, rate_hz: float, units: Iterable[str], channels: Sequence[str], length_s: float
) -> dict[str, Any]:
    """Settings of a signal modality: at most 100 Hz for EEG and ECG, the recordings' own rate for other signals."""
    if montage == "any":
        patch_s = min(50 / rate_hz, length_s)
        return {
            "type": "signal",
            "sample_rate_hz": rate_hz,
            "patch_s": round(patch_s, 6),
            "window_s": round(min(length_s, 40 * patch_s), 6),
            "mask": MASKS["signal"],
        }
    unit = {"eeg": "uV", "ecg": "mV"}[montage]
    try:
        for name in units:
            unit_factor(name, unit)
    except ContentError:
        unit = ""
    target_hz = min(rate_hz, 100)
    return {
        "type": "signal",
        "montage": montage,
        **({"channels": list(channels)} if channels else {}),
        **({"unit": unit} if unit else {}),
        "sample_rate_hz": target_hz,
        **({"low_hz": 0.5} if target_hz > 1 else {}),
        **({"high_hz": 40} if montage == "eeg" and target_hz > 80 else {}),
        "patch_s": 0.5 if montage == "eeg" else 0.25,
        "faulty_channels": "exclude",
        "stem": "mlp",
        "mask": MASKS[montage],
    }
