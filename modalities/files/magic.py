"""The file types that are known by content: extensions, magic numbers, and what the files hold."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

Content = Literal["image", "sound", "array"]


class FileType(NamedTuple):
    """A file type.

    extension: without a dot, lower case. magic: regular expression that the first bytes match. aliases: other
    extensions of the same type. is_stored: whether shards hold files of this type as they are. mime: media type of
    images that web browsers and Pillow display. packages: parsers that are needed for this type alone.
    """

    extension: str
    content: Content
    magic: bytes
    aliases: tuple[str, ...] = ()
    is_stored: bool = True
    mime: str | None = None
    packages: tuple[str, ...] = ()

    @property
    def extensions(self) -> tuple[str, ...]:
        """All extensions, the main one first."""
        return (self.extension, *self.aliases)


FILE_TYPES = (
    FileType("png", "image", rb"\x89PNG", mime="image/png", packages=("imagecodecs",)),
    FileType("jpg", "image", rb"\xff\xd8\xff", ("jpeg",), mime="image/jpeg", packages=("simplejpeg",)),
    FileType("webp", "image", rb"RIFF.{4}WEBP", mime="image/webp"),
    FileType("tif", "image", rb"II[*+]\0|MM\0[*+]", ("tiff",), packages=("imagecodecs", "tifffile")),  # + in BigTIFF
    FileType("bmp", "image", rb"BM", is_stored=False, mime="image/bmp"),
    FileType("gif", "image", rb"GIF8", is_stored=False, mime="image/gif"),
    FileType("ppm", "image", rb"P[1-6]\s", ("pbm", "pgm", "pnm"), is_stored=False),
    FileType("wav", "sound", rb"(RIFF|RIFX|RF64).{4}WAVE"),
    FileType("mp3", "sound", rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),  # MPEG 2.5, 2, 1
    FileType("flac", "sound", rb"fLaC|ID3"),
    FileType("ogg", "sound", rb"OggS"),
    FileType("npy", "array", rb"\x93NUMPY"),
)
"""All file types; `detect_type` tries them in this order, because MP3 and FLAC files may begin with the same tag."""
_BY_EXTENSION = {extension: file_type for file_type in FILE_TYPES for extension in file_type.extensions}
_MAGIC = {file_type.extension: re.compile(file_type.magic, re.DOTALL) for file_type in FILE_TYPES}


def find_type(extension: str) -> FileType | None:
    """Find the file type of an extension (lower case, without a dot); None if it is unknown."""
    return _BY_EXTENSION.get(extension)


def extensions_of(content: Content, *, is_stored: bool | None = None, has_mime: bool | None = None) -> tuple[str, ...]:
    """List the extensions of all types of a content, by default whether stored or displayed or not."""

    def matching_types() -> Iterator[FileType]:
        for file_type in FILE_TYPES:
            is_match = is_stored in (None, file_type.is_stored) and has_mime in (None, file_type.mime is not None)
            if file_type.content == content and is_match:
                yield file_type

    return tuple(extension for file_type in matching_types() for extension in file_type.extensions)


def has_magic(data: bytes | mmap.mmap, extension: str) -> bool:
    """Whether `data` starts with the magic number for `extension`; False if the extension is unknown."""
    file_type = _BY_EXTENSION.get(extension)
    return file_type is not None and _MAGIC[file_type.extension].match(data) is not None


def detect_type(data: bytes, extensions: Collection[str]) -> str | None:
    """Detect which of `extensions` the magic number of `data` stands for; None if it is none of them."""
    return next((name for name in _MAGIC if name in extensions and has_magic(data, name)), None)
