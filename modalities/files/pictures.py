"""Pictures as hashes and as features of classical models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modalities.files.pixels import RGB, Picture
from modalities.files.reading import lazy_import

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a gray image (ITU-R BT.601), so that a color image equals its gray copy."""
THUMBNAIL_PX = 16


def perceptual_hash(picture: Picture) -> str:
    """64-bit perceptual hash of an image of any bands, from its lowest cosine frequencies (Zauner 2010)."""
    gray = np.average(picture.pixels, axis=2, weights=LUMA if picture.bands == RGB else None)
    if picture.incomplete:
        gray = np.where(np.isnan(gray), np.nanmean(gray), gray)
    gray = (gray - gray.min()) / max(float(np.ptp(gray)), 1e-12)
    image = lazy_import("PIL.Image", "pillow").fromarray((gray * 255).astype(np.uint8))
    return str(lazy_import("imagehash", "imagehash").phash(image))


def thumbnail_features(picture: Picture, band_names: Sequence[str], means: Sequence[float]) -> np.ndarray:
    """Pixels of a thumbnail, then mean and std of each of `band_names`; zero for bands that the picture lacks.

    means: of each band; they replace pixels without data.
    """
    pixels, bands, incomplete = picture
    columns = [band_names.index(band) for band in bands]
    if incomplete:
        pixels = np.where(np.isnan(pixels), np.array(means, np.float32)[columns], pixels)
    pillow = lazy_import("PIL.Image", "pillow")
    planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(pixels, 2, 0)]
    small = np.zeros((len(band_names), THUMBNAIL_PX, THUMBNAIL_PX), np.float32)
    moments = np.zeros((2, len(band_names)), np.float32)
    small[columns] = [pillow.fromarray(plane).resize(small.shape[1:], pillow.Resampling.BOX) for plane in planes]
    moments[:, columns] = pixels.mean((0, 1)), pixels.std((0, 1))
    return np.concatenate([small.ravel(), moments.ravel()])
