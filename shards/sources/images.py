"""Folders of images, labelled by folder names, file names or a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any, ClassVar

from modalities.base import MODALITY_TYPES
from modalities.files.reading import ContentError
from shards.sources.base import register
from shards.sources.drafting.settings import MASKS
from shards.sources.drafting.survey import spread
from shards.sources.media import MediaFolder


@register
@dataclass(frozen=True, kw_only=True)
class ImageFolder(MediaFolder):
    """Images of any file type that the modality `image` reads.

    Every image below a folder has the field `class`, the name of that folder. It is the label if the recipe gives
    neither labels nor pattern nor table.

    Attributes:
        modality: Name of the modality that reads the files.
    """

    type: ClassVar[str] = "images"
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".{extension}" for extension in MODALITY_TYPES["image"].extensions)
    nouns: ClassVar[tuple[str, str]] = ("image", "images")
    file_modality: ClassVar[str | None] = "image"
    folder_field: ClassVar[str | None] = "class"

    modality: str = "image"

    @classmethod
    def draft_modality(cls, paths: Sequence[Path]) -> dict[str, Any] | None:
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

    def fields(self, name: str) -> dict[str, Any]:
        return {"class": PurePosixPath(name).parent.name or None, **super().fields(name)}

    def default_labels(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        if self.pattern or self.table or fields["class"] is None:
            return super().default_labels(fields)
        return ("class",)
