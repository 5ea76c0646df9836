"""Image files to pixels: PNG, JPEG, WebP, BMP, GIF and PPM, TIFF of any bands, NumPy arrays."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from modalities.base import ContentError, parser
from modalities.kinds import is_kind

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""
MAX_NUMBERS = 4 * MAX_PIXELS
"""An image may hold over all bands: 800 MB of float32."""
RGB = ("red", "green", "blue")
FORMATS = ("png", "jpg", "webp", "tif", "npy", "bmp", "gif", "ppm")
"""Extensions of what `read` reads, beside other spellings of the same."""
_PILLOW = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
"""What Pillow may read; its other readers are old, rare, or start other programs."""
_ORIENTATION = 0x0112
_PNG_DEPTH = 24
"""Where a PNG's header says its bits a band; the next byte is 0 where it is grey."""
_TIFF_INVERTED, _TIFF_PALETTE = 0, 3

Pixels = tuple[np.ndarray, tuple[str, ...]]
"""`(H, W, B)` float32, 0 to 1 where the file holds 8 or 16 bit, and the name of each band."""


def read(members: Mapping[str, bytes]) -> Pixels:
    """The first of a sample's image files, by extension; the EXIF or TIFF orientation is applied.

    Raises:
        ContentError: no file, more than `MAX_PIXELS` or `MAX_NUMBERS`, a TIFF of several pages, bytes that are not
            what the extension says, or bands that are all constant.
    """
    if not members:
        raise ContentError("image without a file")
    extension, data = next(iter(members.items()))
    if not is_kind(data, extension):
        raise ContentError(f"image file is not {extension}" if data else "empty image file")
    try:
        pixels, bands = _decoded(data, extension)
    except ContentError:
        raise
    except Exception as error:  # parsers raise anything from SyntaxError to struct.error on hostile bytes
        if isinstance(error, ValueError) and "pip install" in str(error):
            raise
        raise ContentError(f"unreadable {extension} image", f"{type(error).__name__}: {error}") from error
    if (pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():  # the first row tells of nearly all
        raise ContentError("constant image")
    return pixels, bands


def _decoded(data: bytes, extension: str) -> Pixels:
    if extension == "npy":
        return from_array(np.load(io.BytesIO(data), allow_pickle=False))
    if extension in ("tif", "tiff"):
        return _tiff(data)
    return _jpeg(data) if extension in ("jpg", "jpeg") else _pillow(data)


def from_array(pixels: np.ndarray) -> Pixels:
    """An array `(H, W)` or `(H, W, B)`: unsigned numbers of 8 and 16 bit are scaled to 1, others stay as they are.

    Raises:
        ContentError: another shape or type, too many pixels or none, or a pixel that is not finite.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3:
        raise ContentError("image array that is not (height, width) or (height, width, bands)", f"{pixels.shape}")
    _bounded(*pixels.shape)
    if not pixels.shape[2]:
        raise ContentError("image without bands")
    names = {1: ("grey",), 3: RGB}
    return _scaled(pixels), names.get(pixels.shape[2], tuple(f"band{i + 1}" for i in range(pixels.shape[2])))


def from_pillow(picture: Any) -> Pixels:
    """A Pillow image, upright; what is transparent becomes white, palettes become colours.

    Pixels of 16 bit are scaled to 1, those of 32 bit (modes I and F) stay as they are, as in an array.
    """
    orientation = _orientation(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        paper = parser("PIL.Image", "pillow").new("RGBA", layers.size, "white")
        grey = picture.mode in ("1", "L", "LA")
        picture = parser("PIL.Image", "pillow").alpha_composite(paper, layers).convert("L" if grey else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "I", "F") and not picture.mode.startswith("I;16"):
        picture = picture.convert("RGB")
    return from_array(_upright(np.asarray(picture), orientation))


def _scaled(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:  # of either byte order
        return np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32)
    if pixels.dtype.kind not in "fiub":
        raise ContentError(f"image of {pixels.dtype} pixels")
    scaled = pixels.astype(np.float32)
    if pixels.dtype.kind == "f" and not np.isfinite(scaled).all():
        raise ContentError("image with pixels that are not numbers")
    return scaled


def _bounded(height: int, width: int, bands: int = 1) -> None:
    if height * width > MAX_PIXELS:
        raise ContentError(f"image of more than {MAX_PIXELS:,} pixels", f"{width} x {height}")
    if height * width * bands > MAX_NUMBERS:
        raise ContentError(f"image of more than {MAX_NUMBERS:,} numbers", f"{width} x {height} x {bands}")
    if height < 1 or width < 1:
        raise ContentError("image without pixels")


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels `(H, W, ...)` turned and mirrored as the EXIF orientation 1 to 8 says; other values say nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _orientation(picture: Any) -> int:
    """EXIF orientation of a Pillow image; EXIF data that cannot be read says nothing, as in viewers of images."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises anything here, and the pixels do not depend on it
        return 1


def _pillow(data: bytes) -> Pixels:
    with parser("PIL.Image", "pillow").open(io.BytesIO(data), formats=_PILLOW) as picture:
        _bounded(picture.height, picture.width)
        wide = data[_PNG_DEPTH] == 16 and (data[_PNG_DEPTH + 1] or "transparency" in picture.info)
        if picture.format == "PNG" and wide:
            raise ContentError("PNG of 16 bit that is not plain grey", "Pillow reads 8 bit of it: save it as TIFF")
        return from_pillow(picture)


def _jpeg(data: bytes) -> Pixels:
    """By simplejpeg, which gives the very pixels of Pillow in less time.

    Pillow takes what simplejpeg does not decode to grey or RGB: CMYK, and files with faults, of which it reads those
    that lack no pixels.
    """
    jpeg = parser("simplejpeg", "simplejpeg")
    try:
        height, width, colours, _ = jpeg.decode_jpeg_header(data)
        _bounded(height, width)
        if colours not in ("Gray", "YCbCr", "RGB"):
            return _pillow(data)
        pixels = jpeg.decode_jpeg(data, "GRAY" if colours == "Gray" else "RGB")
    except ContentError:
        raise
    except ValueError:
        return _pillow(data)
    if b"Exif\0\0" in data:
        with parser("PIL.Image", "pillow").open(io.BytesIO(data), formats=_PILLOW) as picture:
            pixels = _upright(pixels, _orientation(picture))
    return from_array(pixels)


def _tiff(data: bytes) -> Pixels:
    """A TIFF of one image. Pages that its metadata calls channels are bands; previews and masks are passed over."""
    with parser("tifffile", "tifffile").TiffFile(io.BytesIO(data)) as file:
        images = [s for s in file.series if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
        if not images:
            raise ContentError("TIFF without an image")
        image = images[0]
        axes = {axis: size for axis, size in zip(image.axes, image.shape, strict=True) if size > 1 or axis in "YX"}
        if len(images) > 1 or set(axes) - set("YXSC"):
            raise ContentError("TIFF of several pages")
        _bounded(axes["Y"], axes["X"], math.prod(axes.values()) // max(axes["Y"] * axes["X"], 1))
        pixels = image.asarray().reshape(tuple(axes.values()))
        if len(axes) == 3 and next(iter(axes)) in "SC":  # planes first
            pixels = np.moveaxis(pixels, 0, 2)
        page = image.keyframe
        if page.photometric == _TIFF_INVERTED and pixels.dtype.kind in "ub":
            pixels = np.invert(pixels)
        elif page.photometric == _TIFF_PALETTE and page.colormap is not None:
            pixels = np.moveaxis(page.colormap[:, pixels], 0, -1)
        return from_array(_upright(pixels, page.tags.valueof(_ORIENTATION, default=1)))
