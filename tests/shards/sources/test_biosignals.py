"""Channels of recordings go to the modalities that take them."""

from __future__ import annotations

from typing import Any

import pytest

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.signal import Signal
from shards.sources.biosignals import assign_channels


def build_spikes() -> Any:
    """A modality of another package, for channels of its own."""
    members: dict[str, Any] = dict.fromkeys(Modality.__abstractmethods__)
    members |= {"is_recording": True, "takes": lambda self, label: label.startswith("unit")}
    return type("Spikes", (Modality,), members)()


def test_recordings_of_any_class_take_their_channels() -> None:
    modalities = {"spikes": build_spikes(), "ecg": Signal(montage="ecg", channels=("II",))}
    assert assign_channels(["unit 1", "II", "V1", "unit 2"], modalities) == {"spikes": [0, 3], "ecg": [1]}
    assert assign_channels(["unit 1", "II"], modalities, exclude=("unit*",)) == {"ecg": [1]}
    with pytest.raises(ContentError, match="recording without a channel"):
        assign_channels(["V1"], modalities)


def test_a_modality_that_must_know_all_channels_refuses_others() -> None:
    modalities = {"spikes": build_spikes(), "ecg": Signal(montage="ecg")}
    assert assign_channels(["unit 1", "II"], modalities) == {"spikes": [0], "ecg": [1]}
    with pytest.raises(ContentError, match=r"unknown channel .*'V99'; nearest in the ecg montage: "):
        assign_channels(["II", "V99"], modalities)
    assert assign_channels(["V99"], {"any": Signal(channels="any")}) == {"any": [0]}
