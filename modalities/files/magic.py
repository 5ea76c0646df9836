"""What kind of file bytes are, by how they begin."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection

_BEGINNINGS = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        "png": rb"\x89PNG",
        "jpg": rb"\xff\xd8\xff",
        "webp": rb"RIFF.{4}WEBP",
        "tif": rb"II[*+]\0|MM\0[*+]",  # + in BigTIFF
        "bmp": rb"BM",
        "gif": rb"GIF8",
        "ppm": rb"P[1-6]\s",
        "wav": rb"(RIFF|RIFX|RF64).{4}WAVE",
        "mp3": rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]",  # MPEG 2.5, 2, 1
        "flac": rb"fLaC|ID3",
        "ogg": rb"OggS",
        "npy": rb"\x93NUMPY",
    }.items()
}
_SAME = {"jpeg": "jpg", "tiff": "tif", **dict.fromkeys(("pbm", "pgm", "pnm"), "ppm")}


def is_kind(data: bytes | mmap.mmap, extension: str) -> bool:
    """Whether bytes begin as files of an extension do; no bytes do so of an extension that is not known here."""
    beginning = _BEGINNINGS.get(_SAME.get(extension, extension))
    return beginning is not None and beginning.match(data) is not None


def kind_of(data: bytes, among: Collection[str]) -> str | None:
    """The first extension among some that bytes begin like, None where there is none."""
    return next((kind for kind in _BEGINNINGS if kind in among and is_kind(data, kind)), None)
