"""Images of any size, aspect and set of bands, as patches."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from modalities.base import ContentError, Modality, SineCosine, Tokens, fitted, parser, register
from modalities.patches import Stem, patch_embedding, restored, squared_error

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""
_TINT = 1 / 128
"""Pixels nearer to the paper's value than this are paper."""


class Picture(NamedTuple):
    """Raw image: pixels `(H, W, B)` float32, 0 to 1 where the file holds integers; one name a band."""

    pixels: np.ndarray
    bands: tuple[str, ...]


@register
@dataclass(frozen=True, kw_only=True)
class Image(Modality):
    """Square patches on a grid (ViT, Dosovitskiy et al. 2021).

    The longer side is scaled to `size` pixels, the shorter in proportion, both to a multiple of `patch`. Where all
    training images have the same bands a token is a patch with all of them; where they differ a token is one band of
    a patch. `ids` are 2 (there is content) and the band, from 2 on. `target`: what masked modelling predicts, the
    standardised pixels or each patch normalised by its own mean and deviation (MAE). `flip` mirrors and turns
    training images at random, for data in which no direction is special. `paper`: the value of an empty background;
    patches of nothing else become no tokens, so that a sparse drawing costs no more than its strokes. `stem`: how a
    patch is embedded, by one linear map (ViT) or with a hidden layer, which suits line drawings.
    """

    type: ClassVar[str] = "image"
    extensions: ClassVar[tuple[str, ...]] = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "npy")
    requires: ClassVar[tuple[str, ...]] = ("pillow",)

    size: int = 224
    patch: int = 16
    bands: Literal["file", "grey", "rgb"] = "file"
    target: Literal["pixels", "normalised"] = "normalised"
    flip: bool = False
    paper: float | None = None
    stem: Stem = "linear"
    band_names: tuple[str, ...] = fitted(())
    separate: bool = fitted(False)
    mean: tuple[float, ...] = fitted(())
    deviation: tuple[float, ...] = fitted(())

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size < self.patch:
            raise ValueError(f"image size {self.size} must be at least the patch of {self.patch} pixels")

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.patch**2 * (1 if self.separate else len(self.band_names)), 2, 2

    def fit(self, raws: Iterable[Picture]) -> Image:
        """Band names, and the mean and deviation of each band over all pixels."""
        sets: set[tuple[str, ...]] = set()
        sums: dict[str, np.ndarray] = {}
        for picture in raws:
            sets.add(picture.bands)
            for band, plane in zip(picture.bands, np.moveaxis(picture.pixels, 2, 0), strict=True):
                moments = np.array([plane.size, plane.sum(dtype=np.float64), np.square(plane, dtype=np.float64).sum()])
                sums[band] = sums.get(band, 0) + moments
        if not sets:
            raise ValueError("no images to fit on")
        first = next(iter(sets)) if len(sets) == 1 else tuple(sorted(sums))
        mean = {band: float(total / count) for band, (count, total, _) in sums.items()}
        deviation = {
            band: float(max(square / count - mean[band] ** 2, 1e-8) ** 0.5) for band, (count, _, square) in sums.items()
        }
        return dataclasses.replace(
            self,
            band_names=first,
            separate=len(sets) > 1,
            mean=tuple(mean[band] for band in first),
            deviation=tuple(deviation[band] for band in first),
        )

    def decode(self, members: dict[str, bytes]) -> Picture:
        extension, data = next(iter(members.items()))
        try:
            if extension == "npy":
                return self._bands(*_named(np.load(io.BytesIO(data), allow_pickle=False)))
            if extension in ("tif", "tiff"):
                return self._bands(*_tiff(data))
            return self._bands(*_pillow(io.BytesIO(data)))
        except ContentError:
            raise
        except Exception as error:  # parsers raise anything from SyntaxError to struct.error on hostile bytes
            if isinstance(error, ValueError) and "pip install" in str(error):
                raise
            raise ContentError(f"unreadable {extension} image", f"{type(error).__name__}: {error}") from error

    def parse(self, value: Any) -> Picture:
        """A path, encoded bytes, a Pillow image or an array `(H, W)` or `(H, W, B)`."""
        if isinstance(value, np.ndarray):
            return self._bands(*_named(value))
        if isinstance(value, bytes):
            return self.decode({_extension(value): value})
        if hasattr(value, "convert"):
            return self._bands(*_from_pillow(value))
        if not isinstance(value, (str, Path)):
            raise ContentError(f"an image cannot be read from {type(value).__name__}")
        path = Path(value)
        if not path.is_file():
            raise ContentError("no such image file", str(path))
        return self.decode({path.suffix.lower().lstrip("."): path.read_bytes()})

    def _bands(self, pixels: np.ndarray, bands: tuple[str, ...]) -> Picture:
        if not np.isfinite(pixels).all():
            raise ContentError("image with pixels that are not numbers")
        if self.bands == "grey" and bands == ("red", "green", "blue"):
            pixels, bands = (pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], ("grey",)  # ITU-R BT.601
        elif self.bands == "rgb" and bands == ("grey",):
            pixels, bands = np.repeat(pixels, 3, axis=2), ("red", "green", "blue")
        elif self.bands != "file" and bands != (("grey",) if self.bands == "grey" else ("red", "green", "blue")):
            raise ContentError(f"image of bands {', '.join(bands)} cannot become {self.bands}")
        return Picture(pixels, bands)

    def tokenize(self, raw: Picture, rng: np.random.Generator | None = None) -> Tokens:
        if unknown := set(raw.bands) - set(self.band_names):
            raise ContentError(f"image band {sorted(unknown)[0]!r} is not among {', '.join(self.band_names)}")
        if not self.separate and raw.bands != self.band_names:
            raise ContentError(f"image bands {', '.join(raw.bands)} differ from {', '.join(self.band_names)}")
        columns = [self.band_names.index(band) for band in raw.bands]
        pixels = resize(raw.pixels, grid_size(raw.pixels.shape[:2], self.size, self.patch))
        if self.flip and rng is not None:
            pixels = _turn(pixels, int(rng.integers(8)))
        p, (height, width, bands) = self.patch, pixels.shape
        rows, cols = height // p, width // p
        patches = pixels.reshape(rows, p, cols, p, bands).transpose(0, 2, 1, 3, 4).reshape(rows * cols, p * p, bands)
        coords = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1).reshape(-1, 2)
        if self.paper is not None:
            inked = (np.abs(patches - self.paper) > _TINT).any((1, 2))
            if not inked.any():
                raise ContentError("image of nothing but paper")
            patches, coords = patches[inked], coords[inked]
        patches = (patches - np.array(self.mean, np.float32)[columns]) / np.array(self.deviation, np.float32)[columns]
        count = len(patches)
        if not self.separate:
            ids = np.full((count, 2), 2, np.int64)
            return Tokens(np.ascontiguousarray(patches.reshape(count, -1)), ids, coords.astype(np.float32))
        values = patches.transpose(2, 0, 1).reshape(bands * count, p * p)
        ids = np.full((bands * count, 2), 2, np.int64)
        ids[:, 1] = np.repeat(np.array(columns, np.int64) + 2, count)
        return Tokens(np.ascontiguousarray(values), ids, np.tile(coords, (bands, 1)).astype(np.float32))

    def embedding(self, dim: int) -> nn.Module:
        return PatchEmbedding(self.widths[0], len(self.band_names) if self.separate else 1, dim, self.stem)

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, self.widths[0])

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Mean squared error over a patch."""
        return squared_error(prediction, values, self.target == "normalised")

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        """Patches in pixel units; normalised ones borrow the true patch's mean and deviation, as MAE shows them."""
        return tokens._replace(values=restored(prediction, tokens.values, self.target == "normalised"))

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        filled = np.where(target[:, None], reconstructed.values, tokens.values)
        return {
            "original": self._html(tokens, tokens.values),
            "masked": self._html(tokens, np.where(target[:, None], np.nan, tokens.values)),
            "reconstructed": self._html(tokens, filled),
        }

    def _html(self, tokens: Tokens, values: np.ndarray) -> str:
        """A PNG of the tokens, hidden ones (nan) blue-grey; of separate bands the first."""
        p = self.patch
        band = int(tokens.ids[0, 1])
        first = tokens.ids[:, 1] == band
        coords = tokens.coords[first].astype(int)
        rows, cols = coords.max(0) + 1
        bands = values.shape[1] // p**2
        chosen = slice(band - 2, band - 1) if self.separate else slice(None)
        grid = np.full((rows, cols, p, p, bands), self.paper or 0.0)
        patches = values[first].reshape(-1, p, p, bands)
        grid[coords[:, 0], coords[:, 1]] = patches * np.array(self.deviation)[chosen] + np.array(self.mean)[chosen]
        pixels = grid.transpose(0, 2, 1, 3, 4).reshape(rows * p, cols * p, bands)
        if bands != 3:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        pixels = np.where(np.isnan(pixels), np.array([0.75, 0.8, 0.88]), pixels)
        buffer = io.BytesIO()
        pillow = parser("PIL.Image", "pillow")
        pillow.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(buffer, "png")
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


class PatchEmbedding(nn.Module):
    """Content from the pixels of the patch, place from row, column and band."""

    def __init__(self, width: int, bands: int, dim: int, stem: Stem):
        super().__init__()
        self.content = patch_embedding(width, dim, stem)
        self.place = SineCosine(2, dim)
        self.band = nn.Embedding(bands + 2, dim)

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.content(values), self.place(coords) + self.band(ids[:, 1])


def grid_size(shape: tuple[int, ...], size: int, patch: int) -> tuple[int, int]:
    """Height and width in pixels: the longer side near `size`, the aspect kept, both multiples of `patch`."""
    height, width = (max(round(side * size / (max(shape) * patch)), 1) * patch for side in shape)
    return height, width


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bicubic with antialiasing, band by band `(H, W, B)`."""
    if pixels.shape[:2] == shape:
        return pixels
    pillow = parser("PIL.Image", "pillow")
    planes = [
        np.asarray(pillow.fromarray(np.ascontiguousarray(plane)).resize(shape[::-1], pillow.Resampling.BICUBIC))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(planes, -1)


def _turn(pixels: np.ndarray, which: int) -> np.ndarray:
    """One of the eight symmetries of the square."""
    turned = np.rot90(pixels, which % 4)
    return turned[:, ::-1] if which >= 4 else turned


def _scaled(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:  # of either byte order
        return pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    if pixels.dtype.kind not in "fiub":
        raise ContentError(f"image of {pixels.dtype} pixels")
    return pixels.astype(np.float32)


def _bounded(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ContentError(f"image of more than {MAX_PIXELS:,} pixels", f"{width} x {height}")
    if height < 1 or width < 1:
        raise ContentError("image without pixels")


def _named(pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3:
        raise ContentError("image array that is not (height, width) or (height, width, bands)", f"{pixels.shape}")
    _bounded(*pixels.shape[:2])
    if not pixels.shape[2]:
        raise ContentError("image without bands")
    names = {1: ("grey",), 3: ("red", "green", "blue")}
    bands = names.get(pixels.shape[2], tuple(f"band{i + 1}" for i in range(pixels.shape[2])))
    return _scaled(pixels), bands


def _pillow(file: io.BytesIO) -> tuple[np.ndarray, tuple[str, ...]]:
    with parser("PIL.Image", "pillow").open(file) as picture:
        _bounded(picture.height, picture.width)
        return _from_pillow(picture)


def _from_pillow(picture: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:  # transparent is white, not black
        layers = picture.convert("RGBA")
        pillow = parser("PIL.Image", "pillow")
        paper = pillow.new("RGBA", layers.size, "white")
        grey = picture.mode in ("1", "L", "LA")
        picture = pillow.alpha_composite(paper, layers).convert("L" if grey else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "I;16", "I;16B", "I", "F"):
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    return _named(pixels.astype(np.uint16) if picture.mode.startswith("I") else pixels)


def _tiff(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    with parser("tifffile", "tifffile").TiffFile(io.BytesIO(data)) as file:
        page = file.series[0]
        _bounded(int(np.prod(page.shape)), 1)
        pixels = page.asarray()
        if pixels.ndim == 3 and page.axes[0] not in "YX":  # planes first
            pixels = np.moveaxis(pixels, 0, 2)
        return _named(pixels)


def _extension(data: bytes) -> str:
    """The kind of image, by its first bytes."""
    if data[:6] == b"\x93NUMPY":
        return "npy"
    return "tif" if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else "png"
