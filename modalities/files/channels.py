"""Names of channels: electrodes of the 10-05 system, ECG leads, and what files call them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from modalities.files.reading import lazy_import

Montage = Literal["eeg", "ecg", "any"]
Position = tuple[float, float, float]

_ELECTRODES = """
Fp1 Fpz Fp2 AF9 AF7 AF5 AF3 AF1 AFz AF2 AF4 AF6 AF8 AF10 F9 F7 F5 F3 F1 Fz F2 F4 F6 F8 F10 FT9 FT7 FC5 FC3 FC1 FCz FC2
FC4 FC6 FT8 FT10 T9 T7 C5 C3 C1 Cz C2 C4 C6 T8 T10 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P9 P7 P5 P3 P1 Pz P2 P4
P6 P8 P10 PO9 PO7 PO5 PO3 PO1 POz PO2 PO4 PO6 PO8 PO10 O1 Oz O2 I1 Iz I2 AFp9h AFp7h AFp5h AFp3h AFp1h AFp2h AFp4h AFp6h
AFp8h AFp10h AFF9h AFF7h AFF5h AFF3h AFF1h AFF2h AFF4h AFF6h AFF8h AFF10h FFT9h FFT7h FFC5h FFC3h FFC1h FFC2h FFC4h
FFC6h FFT8h FFT10h FTT9h FTT7h FCC5h FCC3h FCC1h FCC2h FCC4h FCC6h FTT8h FTT10h TTP9h TTP7h CCP5h CCP3h CCP1h CCP2h
CCP4h CCP6h TTP8h TTP10h TPP9h TPP7h CPP5h CPP3h CPP1h CPP2h CPP4h CPP6h TPP8h TPP10h PPO9h PPO7h PPO5h PPO3h PPO1h
PPO2h PPO4h PPO6h PPO8h PPO10h POO9h POO7h POO5h POO3h POO1h POO2h POO4h POO6h POO8h POO10h OI1h OI2h Fp1h Fp2h AF9h
AF7h AF5h AF3h AF1h AF2h AF4h AF6h AF8h AF10h F9h F7h F5h F3h F1h F2h F4h F6h F8h F10h FT9h FT7h FC5h FC3h FC1h FC2h
FC4h FC6h FT8h FT10h T9h T7h C5h C3h C1h C2h C4h C6h T8h T10h TP9h TP7h CP5h CP3h CP1h CP2h CP4h CP6h TP8h TP10h P9h P7h
P5h P3h P1h P2h P4h P6h P8h P10h PO9h PO7h PO5h PO3h PO1h PO2h PO4h PO6h PO8h PO10h O1h O2h I1h I2h AFp9 AFp7 AFp5 AFp3
AFp1 AFpz AFp2 AFp4 AFp6 AFp8 AFp10 AFF9 AFF7 AFF5 AFF3 AFF1 AFFz AFF2 AFF4 AFF6 AFF8 AFF10 FFT9 FFT7 FFC5 FFC3 FFC1
FFCz FFC2 FFC4 FFC6 FFT8 FFT10 FTT9 FTT7 FCC5 FCC3 FCC1 FCCz FCC2 FCC4 FCC6 FTT8 FTT10 TTP9 TTP7 CCP5 CCP3 CCP1 CCPz
CCP2 CCP4 CCP6 TTP8 TTP10 TPP9 TPP7 CPP5 CPP3 CPP1 CPPz CPP2 CPP4 CPP6 TPP8 TPP10 PPO9 PPO7 PPO5 PPO3 PPO1 PPOz PPO2
PPO4 PPO6 PPO8 PPO10 POO9 POO7 POO5 POO3 POO1 POOz POO2 POO4 POO6 POO8 POO10 OI1 OIz OI2 A1 A2 M1 M2
"""
ELECTRODES = tuple(_ELECTRODES.split())
"""The 10-05 system (Oostenveld & Praamstra 2001), earlobes and mastoids."""
LEADS = (
    *("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"),
    *("V7", "V8", "V9", "V3R", "V4R", "VX", "VY", "VZ", "V", "MCL1", "CM5", "ECG", "ECG1", "ECG2", "ECG3"),
)
"""Twelve leads, posterior and right leads, Frank's three, an unnamed chest lead, and leads without a position."""
_OLD = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
"""Electrodes that the 10-20 system calls by other names than the 10-10 system."""
_ELECTRODE_OF = {name.lower(): name for name in ELECTRODES} | {old.lower(): new for old, new in _OLD.items()}
_LEAD_OF = {name.lower(): name for name in LEADS} | {
    **{"di": "I", "dii": "II", "diii": "III", "mli": "I", "mlii": "II", "mliii": "III", "ekg": "ECG"},
    **{"ekg1": "ECG1", "ekg2": "ECG2", "ekg3": "ECG3", "frankx": "VX", "franky": "VY", "frankz": "VZ"},
}
"""Modified limb leads (Holter, `MLII`) have the same axes as the limb leads."""
_EEG_PREFIX = re.compile(r"^(eeg|pol|seeg)[\s:_-]+", re.IGNORECASE)
_ECG_PREFIX = re.compile(r"^(ecg|ekg|lead|channel)[\s:_-]+", re.IGNORECASE)
_REFERENCE = re.compile(r"[\s_-]+(ref\d?|le|cle|avg?|ave|average|car|ar|g\d?|gnd)$", re.IGNORECASE)
_INACTIVE = frozenset({"A1", "A2", "M1", "M2"})


def resolve_channel(name: str, montage: Montage) -> str | None:
    """Convert a channel's name to the montage's spelling; None if the montage has no such channel.

    eeg: `EEG FP1-REF`, `Fp1.` and `fp1` are `Fp1`, `T3` is `T7`; a derivation of two electrodes is `F3-C3`, by any
    of their names. ecg: `ECG ECG` is `ECG`, `avr` is `aVR`, `MLII` is `II`, `vx` is Frank's `VX`. any: the name itself.
    """
    text = " ".join(name.split())
    if montage == "any":
        return text or None
    if montage == "ecg":
        return _LEAD_OF.get(_ECG_PREFIX.sub("", text).lower())
    text = _REFERENCE.sub("", _EEG_PREFIX.sub("", text.rstrip(".")))
    parts = [_ELECTRODE_OF.get(part.strip(" .").lower()) for part in text.split("-")]
    if None in parts or len(parts) > 2 or len(set(parts)) < len(parts):
        return None
    return "-".join(part for part in parts if part)


def suggest_channels(name: str, montage: Montage) -> str:
    """Suggest the montage's names that are nearest to an unknown one."""
    names = _ELECTRODE_OF if montage == "eeg" else _LEAD_OF
    text = _REFERENCE.sub("", _ECG_PREFIX.sub("", _EEG_PREFIX.sub("", " ".join(name.split()))))
    close = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.0)
    return f"{name!r}; nearest in the {montage} montage: {', '.join(dict.fromkeys(names[near] for near in close))}"


def sort_channels(names: Iterable[str], montage: Montage) -> tuple[str, ...]:
    """Sort names in the montage's order, other names after them alphabetically."""
    rank = {name: i for i, name in enumerate({"eeg": ELECTRODES, "ecg": LEADS, "any": ()}[montage])}
    return tuple(sorted(names, key=lambda name: (rank.get(name, len(rank)), name)))


def electrode_positions() -> dict[str, Position]:
    """Positions of electrodes on the head of the Colin 27 template: x to the right, y to the front, z up, in cm.

    They come from mne; modalities keep them from `fit` on.
    """
    montage = lazy_import("mne.channels", "mne").make_standard_montage("colin27_1005")
    in_meters = montage.get_positions()["ch_pos"]
    return {name: tuple(round(100 * float(meters), 2) for meters in in_meters[name]) for name in ELECTRODES}  # type: ignore[misc]


def channel_position(name: str, electrodes: Mapping[str, Position]) -> Position | None:
    """Position of a channel by the positions of electrodes; None if it is unknown.

    A derivation is halfway between its electrodes, or at the first one if the second is an ear or mastoid, because
    those record little activity.
    """
    first, _, second = name.partition("-")
    if first not in electrodes or (second and second not in electrodes):
        return None
    a, b = electrodes[first], electrodes[second or first]
    if second in _INACTIVE and first not in _INACTIVE:
        return a
    return ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2)
