"""Images of any size, aspect ratio and set of bands, as patches."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from modalities.base import fitted, register
from modalities.drawing import draw_png
from modalities.files.images import EXTENSIONS, from_pillow, read_image
from modalities.files.magic import detect_type, extensions_of, find_type
from modalities.files.pictures import perceptual_hash, thumbnail_features
from modalities.files.pixels import RGB, Nodata, Picture, from_array
from modalities.files.reading import ContentError, lazy_import
from modalities.layers.context import Context, Width
from modalities.layers.patches import PatchEmbedding, Stem, build_stem
from modalities.patch_modality import PatchModality
from modalities.tokens import Tokens

_WHITE = 1.0
"""Value of the white paper of line drawings."""
_MIN_VARIANCE = 1e-6
"""Added to the variance of an image that is standardized by its own."""
_TOLERANCE = 1 / 128
"""Pixels closer than this to `background` are background."""


@register
@dataclass(frozen=True, kw_only=True)
class Image(PatchModality):
    """Square patches on a grid (ViT, Dosovitskiy et al. 2021).

    If all training images have the same bands, a token is a patch with all of them; otherwise it is one band of a
    patch. `ids` are 2 (content) and the band, from 2 on. Pixels without data count for no mean or std;
    patches without any data become no tokens, and in other patches a pixel without data has the band's mean. Flips,
    crops and changes of brightness and contrast are drawn at random in training only.

    Attributes:
        size (px): Length of the longer side after scaling; the shorter one is scaled in proportion, both to a multiple
            of `patch`.
        patch (px): Side of a patch.
        bands: Bands to use: those of the file, or the image converted to `grey` or `rgb`.
        target: What masked modeling predicts: the standardized pixels (`values`), or each patch normalized by its own
            mean and std (`normalized`; MAE, He et al. 2022).
        flip: Whether to flip and rotate images, for data in which no direction is special, or only flip them left to
            right (`horizontal`).
        crop: Smallest and largest share of the area that is cut out, at 3/4 to 4/3 of the image's aspect ratio, and
            scaled to the size of the whole (Szegedy et al. 2015).
        brightness: Largest relative change b: pixels are multiplied by 1 - b to 1 + b.
        contrast: Largest relative change c: the distance of pixels from their mean is multiplied by 1 - c to 1 + c.
        background: Value of an empty background; patches without anything else become no tokens, so that a sparse
            drawing is cheap.
        stem: How a patch is embedded: by one linear map (ViT), or with a hidden layer (`mlp`), which suits line
            drawings.
        window (patches): Side of the square that a convolution before the trunk reads together; 0 for none.
        normalize: Standardize by the mean and std of all training images (`data`), or by each image's own (`image`),
            if light and color cast say more about the day than about the subject.
        nodata: Pixels without data: those that the file marks (`file`: GDAL's no-data value and mask pages of TIFF,
            NaN in floats); a number also marks pixels of this value as written in the file; `refuse` skips images with
            any.
    """

    type: ClassVar[str] = "image"
    extensions: ClassVar[tuple[str, ...]] = (*extensions_of("image", is_stored=True), "npy")
    requires: ClassVar[tuple[str, ...]] = ("imagecodecs", "pillow", "simplejpeg", "tifffile")

    illustrates: ClassVar[bool] = True

    size: int = 224
    patch: int = 16
    bands: Literal["file", "grey", "rgb"] = "file"
    target: Literal["values", "normalized"] = "normalized"
    flip: bool | Literal["horizontal"] = False
    crop: tuple[float, float] | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    background: float | None = None
    stem: Stem = "linear"
    window: Width = 0
    normalize: Literal["data", "image"] = "data"
    nodata: Nodata = "file"
    band_names: tuple[str, ...] = fitted(())
    separate: bool = fitted(False)
    mean: tuple[float, ...] = fitted(())
    std: tuple[float, ...] = fitted(())

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size < self.patch:
            raise ValueError(f"image size {self.size} must be at least the patch of {self.patch} pixels")
        if not isinstance(self.nodata, str) and not np.isfinite(self.nodata):
            raise ValueError("image nodata must be a finite number: pixels that are NaN are without data in any case")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"image crop {list(self.crop)} must be two shares above 0 and up to 1, the smaller first")
        for name, amount in (("brightness", self.brightness), ("contrast", self.contrast)):
            if not 0 <= amount <= 1:
                raise ValueError(f"image {name} is {amount}, but must be between 0 and 1")

    @property
    def example(self) -> str:
        return '"picture.png"'

    @property
    def is_drawing(self) -> bool:
        return self.background == _WHITE

    def perceptual_hash(self, raw: Picture) -> str:
        return perceptual_hash(raw)

    def plain(self, raw: Picture) -> np.ndarray:
        """Pixels of a thumbnail, and the mean and std of each band."""
        return thumbnail_features(raw, self.band_names, self.mean)

    def thumbnail(self, members: Mapping[str, bytes]) -> str:
        """The image file itself, if web browsers display its type."""
        extension, data = next(iter(members.items()))
        file_type = find_type(extension)
        if file_type is None or file_type.mime is None:
            return super().thumbnail(members)
        return f'<img alt="" src="data:{file_type.mime};base64,{base64.b64encode(data).decode()}">'

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.patch**2 * (1 if self.separate else len(self.band_names)), 2, 2

    def fit(self, raws: Iterable[Picture]) -> Image:
        """Fit band names, and the mean and std of each band over all pixels."""
        sets: set[tuple[str, ...]] = set()
        sums: dict[str, np.ndarray] = {}
        for picture in raws:
            sets.add(picture.bands)
            for band, plane in zip(picture.bands, np.moveaxis(picture.pixels, 2, 0), strict=True):
                if picture.incomplete:
                    plane = plane[~np.isnan(plane)]
                moments = np.array([plane.size, plane.sum(dtype=np.float64), np.square(plane, dtype=np.float64).sum()])
                sums[band] = sums.get(band, 0) + moments
        if not sets:
            raise ValueError("no images to fit on")
        if empty := [band for band, (count, *_) in sums.items() if not count]:
            raise ValueError(f"image band {empty[0]!r} has no data in any training image")
        first = next(iter(sets)) if len(sets) == 1 else tuple(sorted(sums))
        mean = {band: float(total / count) for band, (count, total, _) in sums.items()}
        std = {
            band: float(max(square / count - mean[band] ** 2, 1e-8 * square / count) ** 0.5) or 1.0
            for band, (count, _, square) in sums.items()
        }
        return dataclasses.replace(
            self,
            band_names=first,
            separate=len(sets) > 1,
            mean=tuple(mean[band] for band in first),
            std=tuple(std[band] for band in first),
        )

    def decode(self, members: dict[str, bytes]) -> Picture:
        return self._convert(read_image(members, self.nodata))

    def parse(self, value: Any) -> Picture:
        """A path, encoded bytes, a Pillow image or an array `(H, W)` or `(H, W, B)`."""
        if isinstance(value, np.ndarray):
            return self._convert(from_array(value, self.nodata))
        if isinstance(value, bytes):
            return self.decode({detect_type(value, EXTENSIONS) or "": value})
        if hasattr(value, "convert"):
            return self._convert(from_pillow(value, self.nodata))
        if not isinstance(value, (str, Path)):
            raise ContentError(f"an image cannot be read from {type(value).__name__}")
        return self.decode(self.read_members(Path(value)))

    def _convert(self, picture: Picture) -> Picture:
        """Convert a picture to the recipe's bands.

        Raises:
            ContentError: other bands, or nothing but background.
        """
        pixels, bands, incomplete = picture
        if self.bands == "grey" and bands == RGB:
            pixels, bands = (pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], ("grey",)  # ITU-R BT.601
        elif self.bands == "rgb" and bands == ("grey",):
            pixels, bands = np.repeat(pixels, 3, axis=2), RGB
        elif self.bands != "file" and bands != (("grey",) if self.bands == "grey" else RGB):
            raise ContentError(f"image of bands {', '.join(bands)} cannot become {self.bands}")
        if self.background is not None:
            low, high = (np.nanmin, np.nanmax) if incomplete else (np.min, np.max)
            if not self._is_foreground(np.array([low(pixels), high(pixels)])).any():
                raise ContentError("image of nothing but background")
        return Picture(pixels, bands, incomplete)

    def _is_foreground(self, pixels: np.ndarray) -> np.ndarray:
        """Which values are not background; NaN is background."""
        return np.abs(pixels - np.float32(self.background or 0.0)) > _TOLERANCE

    def tokenize(self, raw: Picture, rng: np.random.Generator | None = None) -> Tokens:
        if unknown := set(raw.bands) - set(self.band_names):
            raise ContentError(f"image band {sorted(unknown)[0]!r} is not among {', '.join(self.band_names)}")
        if not self.separate and raw.bands != self.band_names:
            raise ContentError(f"image bands {', '.join(raw.bands)} differ from {', '.join(self.band_names)}")
        columns = [self.band_names.index(band) for band in raw.bands]
        patches, coords = self._patches(raw, rng)
        if rng is not None:
            patches = self._jitter(patches, rng, raw.incomplete)
        mean, std = np.array(self.mean, np.float32)[columns], np.array(self.std, np.float32)[columns]
        if self.normalize == "image":
            floor = _MIN_VARIANCE * np.minimum(1, 100 * np.square(std))  # float images may have any unit
            mean, variance = _moments(patches) if raw.incomplete else (patches.mean((0, 1)), patches.var((0, 1)))
            std = np.sqrt(variance + floor)
        patches = (patches - mean) / std
        count, area, bands = patches.shape
        filled = ~np.isnan(patches).all(1) if raw.incomplete and self.separate else None  # of each band
        if raw.incomplete:
            np.nan_to_num(patches, copy=False)
        if not self.separate:
            ids = np.full((count, 2), 2, np.int64)
            return Tokens(np.ascontiguousarray(patches.reshape(count, -1)), ids, coords.astype(np.float32))
        values = patches.transpose(2, 0, 1).reshape(bands * count, area)
        ids = np.full((bands * count, 2), 2, np.int64)
        ids[:, 1] = np.repeat(np.array(columns, np.int64) + 2, count)
        tokens = Tokens(np.ascontiguousarray(values), ids, np.tile(coords, (bands, 1)).astype(np.float32))
        return tokens if filled is None else Tokens(*(part[filled.T.reshape(-1)] for part in tokens))

    def _patches(self, raw: Picture, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Patches `(N, P * P, B)` of an image, randomly cropped and flipped, and their rows and columns `(N, 2)`.

        Raises:
            ContentError: nothing but background, or no data.
        """
        shape = compute_grid_size(raw.pixels.shape[:2], self.size, self.patch)
        cropped = raw.pixels if self.crop is None or rng is None else crop_random(raw.pixels, self.crop, rng)
        pixels = _resize_incomplete(cropped, shape) if raw.incomplete else resize(cropped, shape)
        if raw.incomplete and np.isnan(pixels).all():  # the crop has no data, but the image may have some
            pixels = _resize_incomplete(raw.pixels, shape)
        if self.flip and rng is not None:
            pixels = _flip(pixels, 4 * int(rng.integers(2)) if self.flip == "horizontal" else int(rng.integers(8)))
        p, (height, width, bands) = self.patch, pixels.shape
        rows, cols = height // p, width // p
        patches = pixels.reshape(rows, p, cols, p, bands).transpose(0, 2, 1, 3, 4).reshape(rows * cols, p * p, bands)
        coords = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1).reshape(-1, 2)
        if raw.incomplete:
            filled = ~np.isnan(patches).all((1, 2))
            if not filled.any():
                raise ContentError("image with less than half of the data at any pixel of this size")
            patches, coords = patches[filled], coords[filled]
        if self.background is not None:
            visible = self._is_foreground(patches).any((1, 2))
            if not visible.any():
                raise ContentError("image of nothing but background")
            patches, coords = patches[visible], coords[visible]
        return patches, coords

    def _jitter(self, patches: np.ndarray, rng: np.random.Generator, incomplete: bool) -> np.ndarray:
        """Change the brightness and contrast of patches `(N, P * P, B)` at random."""
        if self.brightness:
            patches = patches * np.float32(rng.uniform(1 - self.brightness, 1 + self.brightness))
        if self.contrast:
            mean = (np.nanmean if incomplete else np.mean)(patches, dtype=np.float64).astype(np.float32)
            patches = mean + (patches - mean) * np.float32(rng.uniform(1 - self.contrast, 1 + self.contrast))
        return patches

    def embedding(self, dim: int) -> nn.Module:
        channels = 2 + (len(self.band_names) if self.separate else 1)
        return PatchEmbedding(build_stem(self.widths[0], dim, self.stem), dim, scales=(1.0, 1.0), channels=channels)

    def context(self, dim: int) -> Context | None:
        return Context(dim, 2, self.window) if self.window else None

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        filled = np.where(target[:, None], reconstructed.values, tokens.values)
        return {
            "original": self._html(tokens, tokens.values),
            "masked": self._html(tokens, np.where(target[:, None], np.nan, tokens.values)),
            "reconstructed": self._html(tokens, filled),
        }

    def _html(self, tokens: Tokens, values: np.ndarray) -> str:
        """Draw tokens as a PNG, hidden ones (NaN) in blue-gray; of separate bands the first."""
        p = self.patch
        band = int(tokens.ids[0, 1])
        first = tokens.ids[:, 1] == band
        coords = tokens.coords[first].astype(int)
        rows, cols = coords.max(0) + 1
        bands = values.shape[1] // p**2
        columns = slice(band - 2, band - 1) if self.separate else slice(None)
        grid = np.full((rows, cols, p, p, bands), self.background or 0.0)
        patches = values[first].reshape(-1, p, p, bands)
        grid[coords[:, 0], coords[:, 1]] = patches * np.array(self.std)[columns] + np.array(self.mean)[columns]
        pixels = grid.transpose(0, 2, 1, 3, 4).reshape(rows * p, cols * p, bands)
        if bands != 3:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        pixels = np.where(np.isnan(pixels), np.array([0.75, 0.8, 0.88]), pixels)
        return draw_png((pixels.clip(0, 1) * 255).astype(np.uint8))


def compute_grid_size(shape: tuple[int, ...], size: int, patch: int) -> tuple[int, int]:
    """Height and width in pixels: the longer side near `size`, the aspect ratio kept, both multiples of `patch`."""
    height, width = (max(round(side * size / (max(shape) * patch)), 1) * patch for side in shape)
    return height, width


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize `(H, W, B)` band by band, bicubic with antialiasing."""
    if pixels.shape[:2] == shape:
        return pixels
    pillow = lazy_import("PIL.Image", "pillow")
    planes = [
        np.asarray(pillow.fromarray(np.ascontiguousarray(plane)).resize(shape[::-1], pillow.Resampling.BICUBIC))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(planes, -1)


def _resize_incomplete(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize over pixels with data; NaN if these have less than half of a pixel's weight."""
    if pixels.shape[:2] == shape:
        return pixels
    filled = ~np.isnan(pixels)
    share = resize(filled.astype(np.float32), shape)
    values = resize(np.where(filled, pixels, np.float32(0)), shape)
    return np.where(share < 0.5, np.float32(np.nan), values / np.maximum(share, 0.5))


def _moments(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance `(B,)` of patches `(N, P * P, B)` without NaN; 0 if there are no other values."""
    filled = ~np.isnan(patches)
    count = np.maximum(filled.sum((0, 1)), 1)
    mean = np.where(filled, patches, 0).sum((0, 1)) / count
    variance = np.where(filled, np.square(patches - mean), 0).sum((0, 1)) / count
    return mean.astype(np.float32), variance.astype(np.float32)


def crop_random(pixels: np.ndarray, share: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Crop a random rectangle `(h, w, B)` from pixels `(H, W, B)`; share: smallest and largest share of the area."""
    height, width = pixels.shape[:2]
    side = rng.uniform(*share) ** 0.5
    stretch = np.exp(rng.uniform(-1, 1) * min(np.log(4 / 3) / 2, -np.log(side)))  # no side longer than the image's
    h, w = max(round(height * side * stretch), 1), max(round(width * side / stretch), 1)
    row, column = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return pixels[row : row + h, column : column + w]


def _flip(pixels: np.ndarray, symmetry: int) -> np.ndarray:
    """Apply one of the eight symmetries of the square."""
    rotated = np.rot90(pixels, symmetry % 4)
    return rotated[:, ::-1] if symmetry >= 4 else rotated
