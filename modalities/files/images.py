"""Read image files: PNG, JPEG, WebP, BMP, GIF, PPM, TIFF of any bands, and NumPy arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from modalities.files.magic import extensions_of, find_type, has_magic
from modalities.files.pixels import Nodata, Picture, blend_on_white, check_size, from_array, turn_upright
from modalities.files.reading import ContentError, MissingPackageError, count_change, lazy_import
from modalities.files.tiff import read_tiff

EXTENSIONS = (*extensions_of("image"), "npy")
"""Extensions of the files that `read` reads."""
_PILLOW = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
"""Formats that Pillow may read; its other readers are old, rare, or start other programs."""
_ORIENTATION = 0x0112
_PNG_DEPTH = 24
"""Offset of the bits per band in a PNG; the next byte is 0 for gray images."""
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_PADDED = ("RGBA", "LA", "PA", "RGBX")
"""Modes whose last band is not a color."""


def read_image(members: Mapping[str, bytes], nodata: Nodata = "file") -> Picture:
    """Read the first of a sample's image files, which are given by extension, and turn it upright.

    Raises:
        ContentError: no file, more than `MAX_PIXELS` or `MAX_NUMBERS`, a TIFF of several pages, bytes of another type
            than the extension, constant bands, or no data.
    """
    if not members:
        raise ContentError("image without a file")
    extension, data = next(iter(members.items()))
    if not data:
        raise ContentError("empty image file")
    if extension not in EXTENSIONS:
        raise ContentError(f"image file of type {extension or 'unknown'} is not read", f"read: {', '.join(EXTENSIONS)}")
    if not has_magic(data, extension):
        raise ContentError(f"image file is not {extension}")
    try:
        picture = _decode(data, extension, nodata)
    except (ContentError, MissingPackageError):
        raise
    except Exception as error:  # parsers raise anything from SyntaxError to struct.error on corrupt bytes
        raise ContentError(f"unreadable {extension} image", f"{type(error).__name__}: {error}") from error
    if _is_constant(picture):
        raise ContentError("constant image")
    return picture


def _decode(data: bytes, extension: str, nodata: Nodata) -> Picture:
    file_type = find_type(extension)
    assert file_type is not None
    match file_type.extension:
        case "npy":
            return from_array(np.load(io.BytesIO(data), allow_pickle=False), nodata)
        case "tif":
            return read_tiff(data, nodata)
        case "jpg":
            return _jpeg(data, nodata)
    return _pillow(data, nodata)


def _is_constant(picture: Picture) -> bool:
    """Whether each band has one value at most."""
    pixels = picture.pixels
    if picture.incomplete:
        low, high = (extreme.reduce(pixels, axis=(0, 1)) for extreme in (np.fmin, np.fmax))
        return bool(((low == high) | np.isnan(low)).all())
    first = (pixels[0] == pixels[0, 0]).all()  # the first row settles nearly all cases
    return bool(first and (pixels == pixels[0, 0]).all())


def from_pillow(picture: Any, nodata: Nodata = "file", samples: np.ndarray | None = None) -> Picture:
    """Convert a Pillow image, upright, on white, palettes as colors.

    Pixels of 16 bits are scaled to 1, those of 32 bits (modes I and F) are not, as in arrays. A number `nodata` is
    compared with `samples` `(H, W)` or `(H, W, B)`, by default the samples of the image's mode without alpha: indices
    of palettes, and colors before they are blended on white.

    Raises:
        ContentError: a mode that Pillow cannot convert to RGB (LAB), or see `from_array`.
    """
    orientation = _orientation(picture)
    if picture.mode in _PREMULTIPLIED:
        picture = picture.convert(_PREMULTIPLIED[picture.mode])
    if not isinstance(nodata, str):
        if samples is None:
            samples = np.asarray(picture)[..., :-1] if picture.mode in _PADDED else np.asarray(picture)
        samples = turn_upright(samples, orientation)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        if layers.getextrema()[3][0] < 255:
            count_change("image with transparent pixels, set on white")
        white = lazy_import("PIL.Image", "pillow").new("RGBA", layers.size, "white")
        is_gray = picture.mode in ("1", "L", "LA")
        picture = lazy_import("PIL.Image", "pillow").alpha_composite(white, layers).convert("L" if is_gray else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "I", "F") and not picture.mode.startswith("I;16"):
        if picture.mode == "LAB":
            raise ContentError("image in CIELab color: convert it to RGB")
        if picture.mode == "CMYK":
            count_change("CMYK image converted to RGB without its color profile")
        picture = picture.convert("RGB")
    return from_array(turn_upright(np.asarray(picture), orientation), nodata, samples)


def _orientation(picture: Any) -> int:
    """EXIF orientation of a Pillow image; unreadable EXIF data are ignored, as image viewers do."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises anything here, and the pixels do not depend on it
        return 1


def _pillow(data: bytes, nodata: Nodata) -> Picture:
    with lazy_import("PIL.Image", "pillow").open(io.BytesIO(data), formats=_PILLOW) as picture:
        check_size(picture.height, picture.width)
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format not in ("JPEG", "MPO"):  # their further frames are previews
            count_change("image frames after the first, left out", frames - 1)
        if picture.format == "PPM" and picture.mode == "RGB" and _ppm_top(picture) > 255:
            raise ContentError("PPM of more than 8 bits", "Pillow reads 8 bits of it: save it as PNG or TIFF")
        samples = None if isinstance(nodata, str) else _read_samples(data, picture)
        if picture.format == "PNG" and _is_beyond_pillow(data, picture):
            return _wide_png(data, _orientation(picture), nodata, samples)
        if picture.format == "PPM" and picture.mode == "I":  # gray of more than 8 bits, which Pillow scales to 16
            return from_array(np.asarray(picture).astype(np.uint16), nodata, samples)
        return from_pillow(picture, nodata, samples)


def _read_samples(data: bytes, picture: Any) -> np.ndarray | None:
    """Samples `(H, W)` or `(H, W, B)` as in the file; None if Pillow returns them unchanged."""
    if picture.format == "PPM":
        scale = _ppm_top(picture) / (65535 if picture.mode == "I" else 255)
        return np.rint(np.asarray(picture) * scale).astype(np.uint16)
    if picture.mode == "CMYK":  # from JPEG, which Pillow inverts
        return 255 - np.asarray(picture)
    if picture.format == "PNG" and data[_PNG_DEPTH] in (2, 4) and not data[_PNG_DEPTH + 1]:
        return np.asarray(picture) // (255 // (2 ** data[_PNG_DEPTH] - 1))
    return None


def _is_beyond_pillow(data: bytes, picture: Any) -> bool:
    """Whether Pillow would lose a PNG's depth, or its transparency, which it compares with scaled gray."""
    depth, transparent = data[_PNG_DEPTH], "transparency" in picture.info
    if depth == 16:
        return bool(data[_PNG_DEPTH + 1] or transparent)
    return transparent and depth in (2, 4) and not data[_PNG_DEPTH + 1]


def _ppm_top(picture: Any) -> int:
    """Full scale of a PPM, from the arguments of Pillow's decoder."""
    arguments = picture.tile[0].args
    return int(arguments[-1]) if isinstance(arguments, tuple) else 65535 if picture.mode == "I" else 255


def _wide_png(data: bytes, orientation: int, nodata: Nodata, samples: np.ndarray | None) -> Picture:
    """Decode by libpng, which keeps all bits and turns transparent colors into alpha.

    samples: those of fewer than 8 bits.
    """
    pixels = turn_upright(lazy_import("imagecodecs", "imagecodecs").png_decode(data), orientation)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        top = int(np.iinfo(pixels.dtype).max)
        samples = pixels[..., :-1] if samples is None else turn_upright(samples, orientation)
        pixels = blend_on_white(pixels[..., :-1], top, pixels[..., -1:] / top)
    return from_array(pixels, nodata, samples)


def _jpeg(data: bytes, nodata: Nodata) -> Picture:
    """Decode by simplejpeg, which returns the same pixels as Pillow in less time.

    Pillow decodes the files that simplejpeg cannot decode to gray or RGB: CMYK, and damaged files without missing
    pixels.
    """
    jpeg = lazy_import("simplejpeg", "simplejpeg")
    try:
        height, width, colors, _ = jpeg.decode_jpeg_header(data)
        check_size(height, width)
        if colors not in ("Gray", "YCbCr", "RGB"):
            return _pillow(data, nodata)
        pixels = jpeg.decode_jpeg(data, "GRAY" if colors == "Gray" else "RGB")
    except ContentError:
        raise
    except ValueError:
        return _pillow(data, nodata)
    if b"Exif\0\0" in data:
        with lazy_import("PIL.Image", "pillow").open(io.BytesIO(data), formats=_PILLOW) as picture:
            pixels = turn_upright(pixels, _orientation(picture))
    return from_array(pixels, nodata)
