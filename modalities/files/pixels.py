"""Pixels of an image, whatever file they come from: upright floats on white, NaN where there is no data."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from modalities.files.reading import ContentError, count_change

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""
MAX_NUMBERS = 4 * MAX_PIXELS
"""An image may hold over all bands: 800 MB of float32."""
RGB = ("red", "green", "blue")

Nodata = float | Literal["file", "refuse"]
"""Which pixels hold no data: those that the file marks (`file`), those of a number too; `refuse` refuses the image."""


class Picture(NamedTuple):
    """Raw image.

    pixels: `(H, W, B)` float32, 0 to 1 if the file holds unsigned integers, NaN where there is no data.
    bands: one name a band. incomplete: whether any pixel is NaN.
    """

    pixels: np.ndarray
    bands: tuple[str, ...]
    incomplete: bool = False


def from_array(pixels: np.ndarray, nodata: Nodata = "file", samples: np.ndarray | None = None) -> Picture:
    """An array `(H, W)` or `(H, W, B)`: unsigned integers are scaled to 1 by their depth, others stay as they are.

    samples: `(H, W)` or `(H, W, C)` as the file has them, which `nodata` is compared with, where `pixels` are colors
    or a scale made of these.

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
    written = pixels if samples is None else samples.reshape(*pixels.shape[:2], -1)
    missing = None if isinstance(nodata, str) else equals_number(written, nodata)
    if missing is not None and (samples is not None or bands == RGB):
        # a color may have no red, a measurement lack one of its bands
        missing = np.asarray(missing.all(2, keepdims=True))
    return make_picture(values, bands, missing, nodata, floating=pixels.dtype.kind == "f")


def name_bands(count: int) -> tuple[str, ...]:
    """Names of the bands of an image that does not name them itself."""
    names = {1: ("grey",), 3: RGB}
    return names.get(count, tuple(f"band{i + 1}" for i in range(count)))


def check_size(height: int, width: int, bands: int = 1) -> None:
    """Refuse an image of no pixels, more than `MAX_PIXELS`, or more than `MAX_NUMBERS` over all bands.

    Raises:
        ContentError: it is one of these.
    """
    if height * width > MAX_PIXELS:
        raise ContentError(f"image of more than {MAX_PIXELS:,} pixels", f"{width} x {height}")
    if height * width * bands > MAX_NUMBERS:
        raise ContentError(f"image of more than {MAX_NUMBERS:,} numbers", f"{width} x {height} x {bands}")
    if height < 1 or width < 1:
        raise ContentError("image without pixels")


def scale_samples(pixels: np.ndarray, top: int = 0) -> np.ndarray:
    """Samples as float32: unsigned integers over `top`, their type's largest by default; others as they are.

    Raises:
        ContentError: samples that are no numbers, or complex ones.
    """
    if pixels.dtype.kind == "u":  # of either byte order
        return np.divide(pixels, np.float32(top or np.iinfo(pixels.dtype).max), dtype=np.float32)
    if pixels.dtype.kind not in "fib":
        raise ContentError(f"image of {pixels.dtype} pixels")
    with np.errstate(over="ignore"):  # infinite numbers are refused later
        return pixels.astype(np.float32)


def equals_number(samples: np.ndarray, number: float) -> np.ndarray | None:
    """Which samples equal a number within the rounding of their type (GDAL's ARE_REAL_EQUAL); None if none can."""
    if samples.dtype.kind == "f":
        if not np.isfinite(number):
            return samples == number
        limit, rounding = float(np.finfo(samples.dtype).max), 4 * np.finfo(samples.dtype).eps
        if abs(number) > limit * (1 + float(rounding)):
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            value = samples.dtype.type(np.clip(number, -limit, limit))  # the text of the largest float may exceed it
            tolerance = rounding * np.abs(value)
            return (samples == value) | (np.abs(samples - value) <= tolerance)
    if samples.dtype.kind not in "iub":
        return None
    low, high = (0, 1) if samples.dtype.kind == "b" else (np.iinfo(samples.dtype).min, np.iinfo(samples.dtype).max)
    if not (float(number).is_integer() and low <= number <= high):
        return None
    return samples == samples.dtype.type(int(number))


def blend_on_white(colors: np.ndarray, top: int, alpha: np.ndarray, *, associated: bool = False) -> np.ndarray:
    """Colors `(H, W, B)` up to `top` over white, integers rounded as Pillow does.

    alpha: opacity `(H, W, 1)`, 0 to 1. associated: colors are multiplied by it already.
    """
    if (alpha < 1).any():
        count_change("image with transparent pixels, set on white")
    mixed = np.minimum((colors if associated else colors * alpha) + top * (1 - alpha), top)
    return np.rint(mixed).astype(colors.dtype) if colors.dtype.kind == "u" else mixed.astype(np.float32)


def make_picture(
    values: np.ndarray, bands: tuple[str, ...], missing: np.ndarray | None, nodata: Nodata, *, floating: bool
) -> Picture:
    """The picture of float32 values `(H, W, B)`, which become NaN where `missing` `(H, W, B or 1)` says so.

    floating: whether the file holds floats, in which NaN means no data.

    Raises:
        ContentError: infinite values, no pixel with data, or one without if `nodata` is `refuse`.
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
    """Pixels `(H, W, ...)` turned and mirrored as the EXIF orientation 1 to 8 says; other values say nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
