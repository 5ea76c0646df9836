"""Folders of recordings, their labels from file names or from a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shards.sources.base import register
from shards.sources.folder import Folder


@register
@dataclass(frozen=True, kw_only=True)
class AudioFolder(Folder):
    """WAV, FLAC and Ogg files, as `Folder` describes."""

    type: ClassVar[str] = "audio"
    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".ogg")
    noun: ClassVar[str] = "recording"

    modality: str = "audio"
