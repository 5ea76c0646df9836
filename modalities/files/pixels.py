"""Pixels of images from any file: upright floats on white, NaN for pixels without data."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from modalities.files.reading import ContentError, count_change

MAX_PIXELS = 50_000_000
"""Largest number of pixels; larger images are refused before they are decoded."""
MAX_NUMBERS = 4 * MAX_PIXELS
"""Largest number of values over all bands: 800 MB of float32."""
RGB = ("red", "green", "blue")

Nodata = float | Literal["file", "refuse"]
"""Pixels without data: those that the file marks (`file`), also those of a number; `refuse` refuses such images."""


class Picture(NamedTuple):
    """Raw image.

    pixels: `(H, W, B)` float32, 0 to 1 if the file has unsigned integers, NaN without data. bands: names. incomplete:
    whether any pixel is NaN.
    """

    pixels: np.ndarray
    bands: tuple[str, ...]
    incomplete: bool = False


def from_array(pixels: np.ndarray, nodata: Nodata = "file", samples: np.ndarray | None = None) -> Picture:
    """Convert an array `(H, W)` or `(H, W, B)`: unsigned integers are scaled to 1 by their depth, others are not.

    samples: `(H, W)` or `(H, W, C)` as in the file, compared with `nodata` if `pixels` are converted from them.

    Raises:
        ContentError: another shape or type, too many pixels or none, infinite pixels, or none with data.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3:
        raise ContentError("image array that is not (height, width) or (height, width, bands)", f"{pixels.shape}")
    check_size(*pixels.shape)
    if not pixels.shape[2]:
        raise ContentError("image without bands")
    values, bands = scale_samples(pixels), name_bands(pixels.shape[2])
    raw = pixels if samples is None else samples.reshape(*pixels.shape[:2], -1)
    missing = None if isinstance(nodata, str) else equals_number(raw, nodata)
    if missing is not None and (samples is not None or bands == RGB):
        # 0 in one band of a color is a value, one band of a measurement may be missing
        missing = np.asarray(missing.all(2, keepdims=True))
    return make_picture(values, bands, missing, nodata, floating=pixels.dtype.kind == "f")


def name_bands(count: int) -> tuple[str, ...]:
    """Names for the bands of an image without names."""
    names = {1: ("grey",), 3: RGB}
    return names.get(count, tuple(f"band{i + 1}" for i in range(count)))


def check_size(height: int, width: int, bands: int = 1) -> None:
    """Check the size of an image.

    Raises:
        ContentError: no pixels, more than `MAX_PIXELS`, or more than `MAX_NUMBERS` over all bands.
    """
    if height * width > MAX_PIXELS:
        raise ContentError(f"image of more than {MAX_PIXELS:,} pixels", f"{width} x {height}")
    if height * width * bands > MAX_NUMBERS:
        raise ContentError(f"image of more than {MAX_NUMBERS:,} numbers", f"{width} x {height} x {bands}")
    if height < 1 or width < 1:
        raise ContentError("image without pixels")


def scale_samples(pixels: np.ndarray, top: int = 0) -> np.ndarray:
    """Convert samples to float32: unsigned integers over `top`, by default their type's maximum; others unscaled.

    Raises:
        ContentError: samples that are not real numbers.
    """
    if pixels.dtype.kind == "u":  # of either byte order
        return np.divide(pixels, np.float32(top or np.iinfo(pixels.dtype).max), dtype=np.float32)
    if pixels.dtype.kind not in "fib":
        raise ContentError(f"image of {pixels.dtype} pixels")
    with np.errstate(over="ignore"):  # infinite numbers are refused later
        return pixels.astype(np.float32)


def equals_number(samples: np.ndarray, number: float) -> np.ndarray | None:
    """Which samples equal a number up to rounding of their type (GDAL's ARE_REAL_EQUAL); None if the type cannot."""
    if samples.dtype.kind == "f":
        if not np.isfinite(number):
            return samples == number
        limit, rounding = float(np.finfo(samples.dtype).max), 4 * np.finfo(samples.dtype).eps
        if abs(number) > limit * (1 + float(rounding)):
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            # the largest float, written as text, may exceed the limit
            value = samples.dtype.type(np.clip(number, -limit, limit))
            tolerance = rounding * np.abs(value)
            return (samples == value) | (np.abs(samples - value) <= tolerance)
    if samples.dtype.kind not in "iub":
        return None
    low, high = (0, 1) if samples.dtype.kind == "b" else (np.iinfo(samples.dtype).min, np.iinfo(samples.dtype).max)
    if not (float(number).is_integer() and low <= number <= high):
        return None
    return samples == samples.dtype.type(int(number))


def blend_on_white(colors: np.ndarray, top: int, alpha: np.ndarray, *, associated: bool = False) -> np.ndarray:
    """Blend colors `(H, W, B)` of full scale `top` on white; integers are rounded as in Pillow.

    alpha: opacity `(H, W, 1)`, 0 to 1. associated: whether colors are multiplied by it.
    """
    if (alpha < 1).any():
        count_change("image with transparent pixels, set on white")
    mixed = np.minimum((colors if associated else colors * alpha) + top * (1 - alpha), top)
    return np.rint(mixed).astype(colors.dtype) if colors.dtype.kind == "u" else mixed.astype(np.float32)


def make_picture(
    values: np.ndarray, bands: tuple[str, ...], missing: np.ndarray | None, nodata: Nodata, *, floating: bool
) -> Picture:
    """Build a picture from float32 values `(H, W, B)`, which become NaN at `missing` `(H, W, B or 1)`.

    floating: whether the file has floats, in which NaN means no data.

    Raises:
        ContentError: infinite values, no pixel with data, or one without data if `nodata` is `refuse`.
    """
    incomplete = missing is not None and bool(missing.any())
    if incomplete:
        values[np.broadcast_to(missing, values.shape)] = np.nan  # type: ignore[arg-type]
    if floating and not np.isfinite(values).all():
        if np.isinf(values).any():
            raise ContentError("image with infinite pixels")
        incomplete = True
    if incomplete:
        if nodata == "refuse":
            raise ContentError("image with pixels without data")
        absent = np.isnan(values)
        if absent.all():
            raise ContentError("image without data")
        count_change("image pixels without data", int(absent.any(2).sum()))
    return Picture(values, bands, incomplete)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels `(H, W, ...)` by the EXIF orientation 1 to 8; other values are ignored."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
