from __future__ import annotations

import numpy as np
import pytest

from modalities.files.channels import (
    ELECTRODES,
    LEADS,
    Montage,
    channel_position,
    electrode_positions,
    resolve_channel,
    sort_channels,
    suggest_channels,
)


@pytest.fixture(scope="module")
def head() -> dict[str, tuple[float, float, float]]:
    return electrode_positions()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Fp1", "Fp1"),
        ("EEG Fp1", "Fp1"),
        ("EEG FP1-REF", "Fp1"),
        ("EEG Fp1-LE", "Fp1"),
        ("fp1", "Fp1"),
        ("Fc5.", "FC5"),
        ("POL  Cz", "Cz"),
        ("T3", "T7"),
        ("EEG T6-Ref", "P8"),
        ("CPPZ", "CPPz"),
        ("EEG A2-A1", "A2-A1"),
        ("FP1-F7", "Fp1-F7"),
        ("T3-C3", "T7-C3"),
        ("C3-M2", "C3-M2"),
        ("ECG ECG", None),
        ("EEG", None),
        ("Fp1-Fp1", None),
        ("T3-T7", None),
        ("Fp1-F7-REF", "Fp1-F7"),
        ("Fp1-F7-T7", None),
        ("EOG", None),
        ("", None),
        ("-", None),
    ],
)
def test_electrode_names_found_in_files(label: str, name: str | None) -> None:
    assert resolve_channel(label, "eeg") == name


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("I", "I"),
        ("avr", "aVR"),
        ("AVL", "aVL"),
        ("MLII", "II"),
        ("ECG II", "II"),
        ("ECG ECG", "ECG"),
        ("EKG", "ECG"),
        ("v5", "V5"),
        ("Lead V1", "V1"),
        ("vx", "VX"),
        ("V", "V"),
        ("PLETH", None),
        ("EEG Fp1", None),
        ("IV", None),
        ("", None),
    ],
)
def test_lead_names_found_in_files(label: str, name: str | None) -> None:
    assert resolve_channel(label, "ecg") == name


def test_the_montage_any_keeps_names_unchanged() -> None:
    assert resolve_channel(" flux  (g) ", "any") == "flux (g)"
    assert resolve_channel(" ", "any") is None


@pytest.mark.parametrize(("names", "montage"), [(ELECTRODES, "eeg"), (LEADS, "ecg")])
def test_canonical_names_are_unchanged_and_belong_to_one_montage(names: tuple[str, ...], montage: Montage) -> None:
    assert len(set(names)) == len(names)
    for name in names:
        assert resolve_channel(name, montage) == name
        assert resolve_channel(name, "ecg" if montage == "eeg" else "eeg") is None


def test_unknown_names_get_the_nearest_known_names() -> None:
    assert "Fp1" in suggest_channels("EEG Fp11", "eeg")
    assert suggest_channels("EEG Fp11", "eeg").startswith("'EEG Fp11'; nearest in the eeg montage: ")
    assert "aVR" in suggest_channels("aVRR", "ecg")
    assert "nearest" in suggest_channels("", "ecg")


def test_channels_follow_the_order_of_the_montage() -> None:
    assert sort_channels(["V1", "II", "I", "odd", "aVF"], "ecg") == ("I", "II", "aVF", "V1", "odd")
    assert sort_channels(["Oz", "F3-C3", "Fp1"], "eeg") == ("Fp1", "Oz", "F3-C3")
    assert sort_channels("ba", "any") == ("a", "b")


def test_electrode_positions_are_correct(head: dict[str, tuple[float, float, float]]) -> None:
    assert set(head) == set(ELECTRODES)
    radius = np.linalg.norm(list(head.values()), axis=1)
    assert ((radius > 6) & (radius < 13)).all(), "in cm"
    assert head["C3"][0] < 0 < head["C4"][0], "x to the right"
    assert head["Oz"][1] < 0 < head["Fpz"][1], "y to the front"
    assert max(head, key=lambda name: head[name][2]) in ("Cz", "CCPz", "FCCz", "C1h", "C2h", "CPz")


def test_derivations_are_placed_between_their_electrodes_or_at_the_active_one(
    head: dict[str, tuple[float, float, float]],
) -> None:
    assert channel_position("F3-C3", head) == pytest.approx(np.mean([head["F3"], head["C3"]], axis=0))
    assert channel_position("C3-A2", head) == head["C3"]
    assert channel_position("A2-A1", head) == pytest.approx(np.mean([head["A2"], head["A1"]], axis=0))
    assert channel_position("Cz", head) == head["Cz"]
    assert channel_position("odd", head) is None
    assert channel_position("Cz-odd", head) is None
    assert channel_position("Cz", {}) is None
