"""What sources make of raw files, for the tests of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modalities.base import Modality
from modalities.files.reading import ContentError
from shards.sources.base import Sample, Source


def outcomes(source: Source, raw: Path, modalities: Mapping[str, Modality]) -> list[Sample | str]:
    """A sample of each item of a source, or the reason for which it has none."""
    outcomes: list[Sample | str] = []
    for item in source.items(raw):
        try:
            outcomes.append(source.make(item, modalities))
        except ContentError as error:
            outcomes.append(error.reason)
    return outcomes
