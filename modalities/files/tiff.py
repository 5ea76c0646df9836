"""Read TIFF files: color, depth, transparency, no-data values and masks by their tags (TIFF 6.0, GDAL)."""

from __future__ import annotations

import io
import logging
import math
import re
import struct
from functools import cache
from typing import Any

import numpy as np

from modalities.files.pixels import (
    Nodata,
    Picture,
    blend_on_white,
    check_size,
    equals_number,
    make_picture,
    name_bands,
    scale_samples,
    turn_upright,
)
from modalities.files.reading import ContentError, count_change, lazy_import

_ORIENTATION, _PHOTOMETRIC, _INK_SET = 274, 262, 332
_LUMA, _REFERENCE = 529, 532
_GDAL_NODATA = 42113
_ASSOCIATED, _UNASSOCIATED = 1, 2
_WHITE_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 2, 3, 5, 6
_PLAIN = (0, 1, 2, 4, 34892, 51177)
"""Photometric interpretations whose samples are values: gray, RGB, mask, linear raw, depth."""
_UNREAD_COLORS = {
    8: "in CIELab color",
    9: "in ICCLab color",
    10: "in ITULab color",
    32803: "of a color filter array",
    32844: "in LogL encoding",
    32845: "in LogLuv color",
}
_CCITT = (2, 3, 4)
_PACKED = {50001: "WEBP", 34933: "PNG", 34712: "JPEG2000", 33004: "JPEG2000", 33005: "JPEG2000"}
"""Compressions whose data state their own size, by Pillow's names."""
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x02-\x10](....)", re.DOTALL)
"""A frame header of JPEG, its height and width as the group."""
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions that give samples back as they are written: none, LZW, deflate, PackBits, LZMA, Zstandard."""
_JPEG = (6, 7, 33007, 34892)
"""Compressions whose YCbCr tifffile converts to RGB."""
_APERIO_YCBCR = 33003


@cache
def _tifffile() -> Any:
    """Import `tifffile` with its messages silenced, because unreadable files are refused and counted here."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return lazy_import("tifffile", "tifffile")


def read_tiff(data: bytes, nodata: Nodata = "file") -> Picture:
    """Read a TIFF of one image. Pages that its metadata call channels are bands; previews are ignored.

    YCbCr, CMYK and palettes become RGB. Gray or RGB with an alpha channel is blended on white; for other bands, and
    samples without a full scale, alpha 0 means no data. Samples of a GDAL no-data value, strips and tiles that a file
    with such a value omits, and pixels outside the image's mask page have no data.

    Raises:
        ContentError: several pages, another color space, missing other files, or see `make_picture`.
    """
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        image, masks = _find_series(file)
        page = image.keyframe
        _check_color(page)
        for series in (image, *masks):
            _check_data(data, series)
        samples = _read_samples(image)
        absent = _find_absent(image)
        outside = _read_masks(masks, samples.shape[:2])
        orientation = page.tags.valueof(_ORIENTATION, default=1)
        samples, alpha, extras, associated = _split_alpha(page, samples)
        if absent is not None:
            absent = _split_alpha(page, absent)[0]
        top = _full_scale(page, samples)
        missing = _find_missing(page, samples, absent, nodata, extras)
        values, scale = _convert(page, samples, top, extras)
    if alpha is not None and top and values.shape[2] in (1, 3) and not extras:
        values = blend_on_white(values, scale, alpha / top, associated=associated)
    elif alpha is not None:
        outside = _union(outside, _transparent_pixels(alpha, associated))
    values, missing = scale_samples(values, scale), _union(missing, outside)
    return make_picture(
        turn_upright(values, orientation),
        name_bands(values.shape[2]),
        None if missing is None else turn_upright(missing, orientation),
        nodata,
        floating=samples.dtype.kind == "f",
    )


def _find_series(file: Any) -> tuple[Any, list[Any]]:
    """Find the image of a file, and its masks.

    Raises:
        ContentError: no image, several images, or an incomplete one.
    """
    series = [s for s in file.series if not s.keyframe.is_reduced]
    images = [s for s in series if not s.keyframe.is_mask]
    if not images:
        raise ContentError("TIFF without an image")
    if len(images) > 1 or set(_axis_sizes(images[0])) - set("YXSC"):
        raise ContentError("TIFF of several pages")
    if any(page is None for page in images[0].pages):  # tifffile gives zeros for them
        raise ContentError("OME-TIFF whose other files are absent" if file.is_ome else "TIFF that lacks pages")
    return images[0], [s for s in series if s.keyframe.is_mask]


def _axis_sizes(image: Any) -> dict[str, int]:
    """Sizes of the axes of a series with more than one element, and of height and width in any case."""
    return {axis: size for axis, size in zip(image.axes, image.shape, strict=True) if size > 1 or axis in "YX"}


def _check_color(page: Any) -> None:
    """Check the color space.

    Raises:
        ContentError: the file alone does not suffice for a conversion to RGB.
    """
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric not in (*_PLAIN, _PALETTE, _SEPARATED, _YCBCR):
        name = _UNREAD_COLORS.get(photometric, f"of photometric interpretation {photometric}")
        raise ContentError(f"TIFF {name}: convert it to RGB")
    if photometric == _SEPARATED and (page.tags.valueof(_INK_SET, default=1) != 1 or page.samplesperpixel < 4):
        raise ContentError("TIFF of inks other than CMYK: convert it to RGB")
    if photometric == _YCBCR and not _converts_to_rgb(page):
        if compression not in (*_LOSSLESS, *_JPEG):
            raise ContentError(f"TIFF in YCbCr color compressed as {_name(page)}: convert it to RGB")
        if page.is_subsampled or page.samplesperpixel < 3:
            raise ContentError("TIFF in YCbCr color of subsampled chroma that is not JPEG: convert it to RGB")
    if compression == _APERIO_YCBCR:
        raise ContentError("TIFF in YCbCr color compressed as JPEG 2000: convert it to RGB")


def _check_data(data: bytes, image: Any) -> None:
    """Check that an image's compressed data are complete and cannot grow larger than its tags say.

    Raises:
        ContentError: it is cut off, states a size of its own that is too large, or one that cannot be checked.
    """
    page, compression = image.keyframe, int(image.keyframe.compression)
    if compression not in (*_LOSSLESS, *_CCITT, *_JPEG, *_PACKED):
        raise ContentError(f"TIFF compressed as {_name(page)}")
    for part in image.pages:
        if page.is_contiguous and not part.dataoffsets[0]:  # tifffile gives the file's header for it
            raise ContentError("TIFF without pixel data")
        for offset, count in zip(part.dataoffsets, part.databytecounts, strict=False):
            if offset + count > len(data) and compression != 1:  # without compression, tifffile compares the sizes
                raise ContentError("truncated TIFF")
            if compression in _JPEG:
                for frame in _FRAME.finditer(data, offset, offset + count):
                    check_size(*struct.unpack(">HH", frame[1]))
            elif count and compression in _PACKED:
                pillow, packed = lazy_import("PIL.Image", "pillow"), io.BytesIO(data[offset : offset + count])
                with pillow.open(packed, formats=(_PACKED[compression],)) as picture:
                    check_size(picture.height, picture.width)


def _converts_to_rgb(page: Any) -> bool:
    """Whether tifffile converts YCbCr to RGB."""
    return int(page.compression) in _JPEG and page.planarconfig == 1 and not page.extrasamples


def _name(page: Any) -> str:
    return str(getattr(page.compression, "name", page.compression))


def _read_samples(image: Any) -> np.ndarray:
    """Read samples `(H, W, B)` as in the file.

    Raises:
        ContentError: too many samples, or several pages.
        ValueError: the package for decompression is missing.
    """
    axes = _axis_sizes(image)
    check_size(axes["Y"], axes["X"], math.prod(axes.values()) // max(axes["Y"] * axes["X"], 1))
    try:
        return _order_axes(image, image.asarray())
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            lazy_import("imagecodecs", "imagecodecs")  # the error names the package if it is missing
        raise


def _order_axes(image: Any, samples: np.ndarray) -> np.ndarray:
    """Bring the samples of a series into the order `(H, W, B)`.

    Raises:
        ContentError: several pages.
    """
    axes = _axis_sizes(image)
    samples = samples.reshape(tuple(axes.values()))
    if samples.ndim == 2:
        return samples[..., None]
    if samples.ndim != 3:
        raise ContentError("TIFF of several pages")
    return np.moveaxis(samples, 0, 2) if next(iter(axes)) in "SC" else samples


def _find_absent(image: Any) -> np.ndarray | None:
    """Samples `(H, W, B)` in strips and tiles that the file omits (GDAL's SPARSE_OK); None if it omits none.

    Without a no-data value they are 0 (GDAL), as tifffile returns them.
    """
    page = image.keyframe
    if page.tags.valueof(_GDAL_NODATA, default=None) is None or page.is_contiguous:
        return None
    numbers = range(math.prod(page.chunked))
    empty = [
        [i for i, *extent in zip(numbers, part.dataoffsets, part.databytecounts, strict=False) if not all(extent)]
        for part in image.pages
    ]
    if not any(empty):
        return None
    absent = np.zeros((len(empty), *page.shaped), bool)
    for part, segments in zip(absent, empty, strict=True):
        for segment in segments:
            _, (plane, z, y, x, _), (depth, height, width, _) = page.decode(None, segment)
            part[plane, z : z + depth, y : y + height, x : x + width] = True
    return _order_axes(image, absent)


def _read_masks(masks: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Pixels `(H, W, 1)` outside an image's mask pages; None without mask pages.

    Raises:
        ContentError: a mask of another size.
    """
    outside = None
    for mask in masks:
        axes = _axis_sizes(mask)
        if (axes["Y"], axes["X"]) != shape or len(axes) > 2:
            raise ContentError("TIFF whose mask has another shape than its image")
        outside = _union(outside, mask.asarray().reshape(*shape, 1) == 0)
    return outside


def _split_alpha(page: Any, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, int, bool]:
    """Split off alpha: samples, alpha `(H, W, 1)` or None, number of other extra samples, whether it is associated.

    Raises:
        ContentError: several alpha channels, or nothing else.
    """
    extras = [int(kind) for kind in page.extrasamples] if samples.shape[2] == page.samplesperpixel else []
    first = samples.shape[2] - len(extras)
    alphas = [first + i for i, kind in enumerate(extras) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    if first < 1 or len(alphas) > 1:
        raise ContentError("TIFF of several alpha channels" if len(alphas) > 1 else "TIFF of extra samples alone")
    if not alphas:
        return samples, None, len(extras), False
    alpha = samples[..., alphas[0], None]
    return np.delete(samples, alphas[0], 2), alpha, len(extras) - 1, extras[alphas[0] - first] == _ASSOCIATED


def _full_scale(page: Any, samples: np.ndarray) -> int:
    """Full scale of unsigned samples by their depth in bits; 0 for signed samples and floats."""
    if samples.dtype.kind == "b":
        return 1
    if samples.dtype.kind != "u":
        return 0
    bits = page.bitspersample  # a tuple if they differ, such as 5, 6, 5, which tifffile scales to the full type
    return int((1 << (bits if isinstance(bits, int) else 8 * samples.dtype.itemsize)) - 1)


def _find_missing(
    page: Any, samples: np.ndarray, absent: np.ndarray | None, nodata: Nodata, extras: int
) -> np.ndarray | None:
    """Samples `(H, W, B)`, or pixels `(H, W, 1)` of colors, without data.

    The file omits them, or they equal the no-data value of the file or recipe.
    """
    missing = absent
    for number in (_gdal_nodata(page), None if isinstance(nodata, str) else nodata):
        if number is not None:
            missing = _union(missing, equals_number(samples, number))
    if missing is not None and page.photometric in (_RGB, _PALETTE, _SEPARATED, _YCBCR) and not extras:
        missing = np.asarray(missing.all(2, keepdims=True))
    return missing


def _gdal_nodata(page: Any) -> float | None:
    value = page.tags.valueof(_GDAL_NODATA, default=None)
    try:
        return None if value is None else float(value.strip("\0 "))
    except (ValueError, AttributeError):
        return None


def _union(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _transparent_pixels(alpha: np.ndarray, associated: bool) -> np.ndarray:
    """Pixels `(H, W, 1)` without data because they are fully transparent.

    Raises:
        ContentError: partly transparent pixels, whose values are multiplied by alpha.
    """
    if associated and ((alpha > 0) & (alpha < alpha.max())).any():
        raise ContentError("TIFF of measurements multiplied by partial transparency")
    return alpha == 0


def _convert(page: Any, samples: np.ndarray, top: int, extras: int) -> tuple[np.ndarray, int]:
    """Convert samples `(H, W, B)` to gray, RGB or other bands; returns them and their full scale.

    Raises:
        ContentError: colors without a full scale, or with further bands.
    """
    photometric = int(page.photometric)
    if samples.dtype.kind == "b":
        samples = samples.view(np.uint8)
    if photometric in (_PALETTE, _SEPARATED, _YCBCR) and (not top or extras):
        raise ContentError(f"TIFF of {'further bands beside colors' if top else 'colors that are signed or floats'}")
    if photometric == _PALETTE:
        return _colormap(page)[samples[..., 0]], 65535
    if photometric == _SEPARATED:
        count_change("CMYK image converted to RGB without its color profile")
        inks = samples[..., :4] / np.float32(top)
        return (1 - inks[..., :3]) * (1 - inks[..., 3:]), 1
    if photometric == _YCBCR and not _converts_to_rgb(page):
        return _from_ycbcr(page, samples, top), 1
    is_untagged = _PHOTOMETRIC not in page.tags and int(page.compression) not in _CCITT  # libtiff: black is zero
    if photometric == _WHITE_IS_ZERO and top and not is_untagged:
        colors = samples.shape[2] - extras
        samples = np.concatenate([top - samples[..., :colors], samples[..., colors:]], 2).astype(samples.dtype)
    return samples, top


def _colormap(page: Any) -> np.ndarray:
    """Colors `(N, 3)` uint16 of a palette.

    Some writers store 8-bit values in the 16-bit entries or in their upper bytes; these are scaled.
    """
    colors = np.asarray(page.colormap, np.uint16).T
    if colors.max() < 256:
        return colors * 257
    return colors if (colors & 255).any() else (colors >> 8) * 257


def _from_ycbcr(page: Any, samples: np.ndarray, top: int) -> np.ndarray:
    """RGB `(H, W, 3)` float32, 0 to 1, by the page's coefficients and reference levels (TIFF 6.0)."""
    middle = (top + 1) / 2
    red, green, blue = _rationals(page, _LUMA, (0.299, 0.587, 0.114))
    levels = np.reshape(_rationals(page, _REFERENCE, (0, top, middle, top, middle, top)), (3, 2))
    span = np.array([top, middle - 1, middle - 1]) / (levels[:, 1] - levels[:, 0])
    y, cb, cr = np.moveaxis((samples[..., :3] - levels[:, 0]) * span, 2, 0)
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    rgb = np.stack([r, (y - blue * b - red * r) / green, b], -1)
    return (rgb.clip(0, top) / top).astype(np.float32)


def _rationals(page: Any, tag: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Values of a tag of rational numbers."""
    value = page.tags.valueof(tag, default=None)
    if value is None:
        return default
    return tuple(n / d for n, d in zip(value[::2], value[1::2], strict=True))
