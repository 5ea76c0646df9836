"""Images to test with, and the bytes of their files."""

from __future__ import annotations

import io
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
        made = PIL.Image.fromarray(pixels)
        (made.convert(mode) if mode else made).save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """All values of a type, evenly spread."""
    return np.linspace(0, np.iinfo(dtype).max, int(np.prod(shape))).astype(dtype).reshape(shape)
