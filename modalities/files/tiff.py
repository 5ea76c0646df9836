"""TIFF files to pixels: color, depth, transparency, no-data values and masks as the tags say (TIFF 6.0, GDAL)."""

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
"""Photometric interpretations whose samples are values: grey, RGB, mask, linear raw, depth."""
_OTHERS = {
    8: "in CIELab color",
    9: "in ICCLab color",
    10: "in ITULab color",
    32803: "of a color filter array",
    32844: "in LogL encoding",
    32845: "in LogLuv color",
}
_CCITT = (2, 3, 4)
_PACKED = {50001: "WEBP", 34933: "PNG", 34712: "JPEG2000", 33004: "JPEG2000", 33005: "JPEG2000"}
"""Compressions whose data states its own size, as Pillow calls them."""
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x02-\x10](....)", re.DOTALL)
"""A frame header of JPEG, its height and width as the group."""
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions that give samples back as they are written: none, LZW, deflate, PackBits, LZMA, Zstandard."""
_JPEG = (6, 7, 33007, 34892)
"""Compressions whose YCbCr tifffile converts to RGB."""
_APERIO_YCBCR = 33003


@cache
def _tifffile() -> Any:
    """`tifffile`, its own messages silenced: what cannot be read is refused, and counted, here."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return lazy_import("tifffile", "tifffile")


def read_tiff(data: bytes, nodata: Nodata = "file") -> Picture:
    """A TIFF of one image. Pages that its metadata calls channels are bands; previews are passed over.

    YCbCr, CMYK and palettes become RGB. Grey or RGB with an alpha channel is set on white; beside other bands or in
    samples that are no share of a full scale, alpha 0 means no data. Samples of a GDAL no-data value, strips and tiles
    that a file with such a value leaves out, and pixels outside the image's mask page are without data.

    Raises:
        ContentError: several pages, another color space, other files that are absent, or what `make_picture` refuses.
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
    """The one image of a file, and its masks.

    Raises:
        ContentError: there is none, several, or one that is not whole.
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
    """Sizes of a series' axes that have more than one element, of height and width in any case."""
    return {axis: size for axis, size in zip(image.axes, image.shape, strict=True) if size > 1 or axis in "YX"}


def _check_color(page: Any) -> None:
    """Refuse color spaces that cannot be converted to RGB by the file alone.

    Raises:
        ContentError: the image is in one of these.
    """
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric not in (*_PLAIN, _PALETTE, _SEPARATED, _YCBCR):
        name = _OTHERS.get(photometric, f"of photometric interpretation {photometric}")
        raise ContentError(f"TIFF {name}: convert it to RGB")
    if photometric == _SEPARATED and (page.tags.valueof(_INK_SET, default=1) != 1 or page.samplesperpixel < 4):
        raise ContentError("TIFF of inks other than CMYK: convert it to RGB")
    if photometric == _YCBCR and not _gives_rgb(page):
        if compression not in (*_LOSSLESS, *_JPEG):
            raise ContentError(f"TIFF in YCbCr color compressed as {_name(page)}: convert it to RGB")
        if page.is_subsampled or page.samplesperpixel < 3:
            raise ContentError("TIFF in YCbCr color of subsampled chroma that is not JPEG: convert it to RGB")
    if compression == _APERIO_YCBCR:
        raise ContentError("TIFF in YCbCr color compressed as JPEG 2000: convert it to RGB")


def _check_data(data: bytes, image: Any) -> None:
    """Refuse an image's compressed data if it is not all there, or may grow larger than the image's tags say.

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


def _gives_rgb(page: Any) -> bool:
    """Whether tifffile gives RGB for YCbCr."""
    return int(page.compression) in _JPEG and page.planarconfig == 1 and not page.extrasamples


def _name(page: Any) -> str:
    return str(getattr(page.compression, "name", page.compression))


def _read_samples(image: Any) -> np.ndarray:
    """Samples `(H, W, B)` as they are written.

    Raises:
        ContentError: too large, or of several pages.
        ValueError: the package that decompresses them is absent.
    """
    axes = _axis_sizes(image)
    check_size(axes["Y"], axes["X"], math.prod(axes.values()) // max(axes["Y"] * axes["X"], 1))
    try:
        return _by_pixel(image, image.asarray())
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            lazy_import("imagecodecs", "imagecodecs")  # names the package if it is absent
        raise


def _by_pixel(image: Any, samples: np.ndarray) -> np.ndarray:
    """Samples of a series, in its order, as `(H, W, B)`.

    Raises:
        ContentError: of several pages.
    """
    axes = _axis_sizes(image)
    samples = samples.reshape(tuple(axes.values()))
    if samples.ndim == 2:
        return samples[..., None]
    if samples.ndim != 3:
        raise ContentError("TIFF of several pages")
    return np.moveaxis(samples, 0, 2) if next(iter(axes)) in "SC" else samples


def _find_absent(image: Any) -> np.ndarray | None:
    """Which samples `(H, W, B)` lie in strips and tiles that are not in the file (GDAL's SPARSE_OK); None if none do.

    Without a no-data value they are 0 (GDAL), as tifffile gives them.
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
    return _by_pixel(image, absent)


def _read_masks(masks: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Pixels `(H, W, 1)` outside an image's mask pages, None without these.

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
    """Samples without alpha, alpha `(H, W, 1)` or None, number of other extra samples, whether alpha is associated.

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
    """Full scale of unsigned samples by their depth in bits, 0 for signed ones and floats."""
    if samples.dtype.kind == "b":
        return 1
    if samples.dtype.kind != "u":
        return 0
    bits = page.bitspersample  # several if they differ, as 5, 6, 5, which tifffile scales to the whole type
    return int((1 << (bits if isinstance(bits, int) else 8 * samples.dtype.itemsize)) - 1)


def _find_missing(
    page: Any, samples: np.ndarray, absent: np.ndarray | None, nodata: Nodata, extras: int
) -> np.ndarray | None:
    """Which samples `(H, W, B)`, of colors which pixels `(H, W, 1)`, are without data.

    That is those of which the file has none, and those that equal its or the recipe's no-data value.
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
    """Pixels `(H, W, 1)` without data because they are wholly transparent.

    Raises:
        ContentError: partly transparent ones, whose values alpha has changed.
    """
    if associated and ((alpha > 0) & (alpha < alpha.max())).any():
        raise ContentError("TIFF of measurements multiplied by partial transparency")
    return alpha == 0


def _convert(page: Any, samples: np.ndarray, top: int, extras: int) -> tuple[np.ndarray, int]:
    """Grey, RGB or other bands from samples `(H, W, B)`, and their full scale.

    Raises:
        ContentError: a color space whose samples are no share of a full scale.
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
    if photometric == _YCBCR and not _gives_rgb(page):
        return _from_ycbcr(page, samples, top), 1
    untagged = _PHOTOMETRIC not in page.tags and int(page.compression) not in _CCITT  # libtiff guesses black is zero
    if photometric == _WHITE_IS_ZERO and top and not untagged:
        colors = samples.shape[2] - extras
        samples = np.concatenate([top - samples[..., :colors], samples[..., colors:]], 2).astype(samples.dtype)
    return samples, top


def _colormap(page: Any) -> np.ndarray:
    """Colors `(N, 3)` uint16 of a palette.

    Some writers put 8-bit values into its 16-bit entries, or into their upper bytes: then they are scaled.
    """
    colors = np.asarray(page.colormap, np.uint16).T
    if colors.max() < 256:
        return colors * 257
    return colors if (colors & 255).any() else (colors >> 8) * 257


def _from_ycbcr(page: Any, samples: np.ndarray, top: int) -> np.ndarray:
    """RGB `(H, W, 3)` float32, 0 to 1, by the coefficients and reference levels that the page states (TIFF 6.0)."""
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
