"""Settings of modalities, by a look into some of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from modalities.base import MODALITY_TYPES
from modalities.files.channels import Montage, resolve_channel, sort_channels
from modalities.files.reading import ContentError, lazy_import
from modalities.files.recording import unit_factor
from pipeline.draft.survey import spread

State = dict[str, Any]
MASKS: dict[str, State] = {
    "image": {"kind": "random", "ratio": 0.75, "mode": "drop"},
    "audio": {"kind": "random", "ratio": 0.6, "mode": "drop"},
    "eeg": {"kind": "random", "ratio": 0.5, "mode": "mask"},
    "ecg": {"kind": "span", "span": 3, "ratio": 0.5, "mode": "mask"},
    "signal": {"kind": "span", "span": 3, "ratio": 0.5, "mode": "mask"},
    "smiles": {"kind": "random", "ratio": 0.15, "mode": "mask"},
    "dna": {"kind": "random", "ratio": 0.5, "mode": "mask"},
    "text": {"kind": "span", "ratio": 0.3, "mode": "mask"},
    "table": {"kind": "random", "ratio": 0.3, "mode": "mask"},
}
TABLE = {"type": "table", "mask": MASKS["table"]}
SMILES = {"type": "smiles", "mask": MASKS["smiles"]}
WINDOW_S = 5


def image(paths: Sequence[Path]) -> State | None:
    """Size and bands of images; None where none can be read."""
    sides, bands = [], set()
    for path in spread(paths):
        try:
            picture = MODALITY_TYPES["image"]().decode({path.suffix.lower().lstrip("."): path.read_bytes()})
        except (ContentError, OSError):
            continue
        sides.append(max(picture.pixels.shape[:2]))
        bands.add(len(picture.bands))
    if not sides:
        return None
    patch = 12 if median(sides) >= 48 else max(int(median(sides)) // 6, 1)
    size = max(int(min(median(sides), 144)) // patch, 1) * patch
    mixed = {"bands": "rgb"} if bands == {1, 3} else {}
    return {"type": "image", "size": size, "patch": patch, **mixed, "mask": MASKS["image"]}


def sound(paths: Sequence[Path]) -> State | None:
    """Rate and bands of recordings; None where none can be read."""
    soundfile = lazy_import("soundfile", "soundfile")
    heard = []
    for path in spread(paths):
        try:
            info = soundfile.info(str(path))
        except (soundfile.SoundFileError, OSError):
            continue
        if info.samplerate:  # the number of frames may be unknown
            heard.append(info.samplerate)
    if not heard:
        return None
    rate_hz = min(int(median(heard)), 16_000)
    bands = 128 if rate_hz >= 16_000 else 64 if rate_hz >= 8000 else 32 if rate_hz >= 4000 else 16
    return {
        "type": "spectrogram",
        "sample_rate_hz": rate_hz,
        "mel_bands": bands,
        "patch": [16, 8],
        "mask": MASKS["audio"],
    }


OF_FILES: dict[str, Callable[[Sequence[Path]], State | None]] = {"image": image, "audio": sound}


def dna(sequences: Sequence[str]) -> State | None:
    """Length of DNA; None where most are none, such as proteins."""
    lengths = []
    for sequence in sequences:
        try:
            lengths.append(len(MODALITY_TYPES["dna"]().parse(sequence)))
        except ContentError:
            continue
    if len(lengths) < len(sequences) / 2 or not lengths:
        return None
    longest = sorted(lengths)[int(0.95 * (len(lengths) - 1))]
    return {"type": "dna", "kmer": 4, "length": max(4, min(2000, -(-longest // 20) * 20)), "mask": MASKS["dna"]}


MONTAGES: tuple[Montage, ...] = ("eeg", "ecg")


class Heard(NamedTuple):
    """Channels of a recording, (name, unit, rate in Hz) each, and its length in s."""

    channels: tuple[tuple[str, str, float], ...]
    length_s: float


class Signals(NamedTuple):
    """Signal modalities of recordings, the channels that none of them takes, and what a source cuts windows to."""

    modalities: dict[str, State]
    leave_out: list[str]
    window_s: float | None
    windows: float
    """Windows a recording, on average."""
    guesses: list[str]


def signals(heard: Sequence[Heard]) -> Signals:
    """EEG and ECG by the names of channels, or whatever there is where no name is known."""
    takers: dict[Montage | None, list[str]] = {}
    for label in sorted({label for each in heard for label, _, _ in each.channels}):
        known = next((montage for montage in MONTAGES if resolve_channel(label, montage)), None)
        takers.setdefault(known, []).append(label)
    leave_out = takers.pop(None, [])
    guesses = []
    if not takers:
        takers, leave_out = {"any": leave_out}, []
        guesses.append("no channel is named like EEG or ECG, so all are taken by name, without a place")
    elif leave_out:
        guesses.append(f"channels left out, known to neither EEG nor ECG: {', '.join(leave_out)}")
    length_s = median(each.length_s for each in heard)
    modalities: dict[str, State] = {}
    for montage, labels in takers.items():
        assert montage is not None
        taken = [held for each in heard if (held := [channel for channel in each.channels if channel[0] in labels])]
        rates = [Counter(rate_hz for _, _, rate_hz in held).most_common(1)[0][0] for held in taken]
        pairs = [(channel, rate_hz) for held, rate_hz in zip(taken, rates, strict=True) for channel in held]
        if slow := sorted({channel[0] for channel, rate_hz in pairs if channel[2] != rate_hz}):
            leave_out = [*leave_out, *slow]
            guesses.append(f"channels left out, for the others of a file have another sample rate: {', '.join(slow)}")
        sets = {
            frozenset(resolve_channel(label, montage) or "" for label, _, _ in held if label not in slow)
            for held in taken
        }
        channels = sort_channels(next(iter(sets)), montage) if len(sets) == 1 and montage != "any" else ()
        units = {unit for (label, unit, _), _ in pairs if label not in slow}
        modalities["signal" if montage == "any" else montage] = signal(
            montage, median(rates), units, channels, length_s
        )
    cut = length_s > 2 * WINDOW_S
    windows = sum(max(1, int(each.length_s / WINDOW_S)) if cut else 1 for each in heard) / len(heard)
    if cut:
        guesses.append(f"recordings of about {length_s:.0f} s are cut to windows of {WINDOW_S} s")
    return Signals(modalities, leave_out, WINDOW_S if cut else None, windows, guesses)


def signal(montage: Montage, rate_hz: float, units: Iterable[str], channels: Sequence[str], length_s: float) -> State:
    """A signal modality: below 100 Hz for EEG and ECG, at the recording's own rate for what is not known."""
    if montage == "any":
        patch_s = min(50 / rate_hz, length_s)
        window = {"window_s": round(min(length_s, 40 * patch_s), 6)}
        return {
            "type": "signal",
            "sample_rate_hz": rate_hz,
            "patch_s": round(patch_s, 6),
            **window,
            "mask": MASKS["signal"],
        }
    unit = {"eeg": "uV", "ecg": "mV"}[montage]
    try:
        for each in units:
            unit_factor(each, unit)
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
