"""Images to test with, and the bytes of their files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import tifffile

from modalities.image import Picture

RGB = ("red", "green", "blue")


def picture(height: int, width: int, bands: int | tuple[str, ...] = RGB, seed: int = 0) -> Picture:
    """Random pixels between 0 and 1."""
    names = bands if isinstance(bands, tuple) else tuple(f"band{i + 1}" for i in range(bands))
    pixels = np.random.default_rng(seed).random((height, width, len(names)), np.float32)
    return Picture(pixels, names)


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """File bytes of an image array."""
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, pixels, **options)
    elif kind == "tif":
        tifffile.imwrite(buffer, pixels, **options)
    else:
        picture = PIL.Image.fromarray(pixels)
        (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """All values of a type, evenly spread."""
    return np.linspace(0, np.iinfo(dtype).max, int(np.prod(shape))).astype(dtype).reshape(shape)


def packed_png(samples: np.ndarray, bits: int, transparent: bytes = b"") -> bytes:
    """A PNG of integers `(H, W, B)` of any depth, rows without gaps; Pillow writes none of 2, 4 or 3 times 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = samples.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in samples]
    data = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))]
    parts += [chunk(b"tRNS", transparent)] if transparent else []
    parts += [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
