"""Folders of images: the class is the folder's name, or what file names or a table say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from modalities.image import Image
from shards.sources.base import register
from shards.sources.folder import Folder


@register
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Folder):
    """Images of any kind that the modality `image` reads, as `Folder` describes.

    Every image below a folder has the field `class`, that folder's name, which is the label where the recipe names
    neither labels nor pattern nor table.
    """

    type: ClassVar[str] = "images"
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".{extension}" for extension in Image.extensions)
    noun: ClassVar[str] = "image"

    modality: str = "image"

    @property
    def given(self) -> tuple[str, ...]:
        return ("class",)

    def fields(self, name: str) -> dict[str, Any]:
        return {"class": PurePosixPath(name).parent.name or None, **super().fields(name)}

    def default_labels(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        if self.pattern or self.table or fields["class"] is None:
            return super().default_labels(fields)
        return ("class",)
