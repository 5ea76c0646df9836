"""Folders of images, labelled by folder names, file names or a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from modalities.base import MODALITY_TYPES
from shards.sources.base import register
from shards.sources.media import MediaFolder


@register
@dataclass(frozen=True, kw_only=True)
class ImageFolder(MediaFolder):
    """Images of any file type that the modality `image` reads; see `MediaFolder` for the keys.

    Every image below a folder has the field `class`, the name of that folder. It is the label if the recipe gives
    neither labels nor pattern nor table.

    Attributes:
        modality: Name of the modality that reads the files.
    """

    type: ClassVar[str] = "images"
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".{extension}" for extension in MODALITY_TYPES["image"].extensions)
    noun: ClassVar[str] = "image"

    modality: str = "image"

    @property
    def builtin_fields(self) -> tuple[str, ...]:
        return ("class",)

    def fields(self, name: str) -> dict[str, Any]:
        return {"class": PurePosixPath(name).parent.name or None, **super().fields(name)}

    def default_labels(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        if self.pattern or self.table or fields["class"] is None:
            return super().default_labels(fields)
        return ("class",)
