"""Pixels without data: what the modality makes of them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from modalities.base import ContentError, counted_changes
from modalities.image import Image, Picture
from pipeline.baseline import plain
from shards.dedupe import phash

RGB = ("red", "green", "blue")


def heights(shape: tuple[int, int] = (32, 32), missing: tuple[slice, slice] = np.s_[:8, :]) -> np.ndarray:
    """A slope from 100 to 150, NaN in a part."""
    values = np.tile(np.linspace(100, 150, shape[1], dtype=np.float32), (shape[0], 1))
    values[missing] = np.nan
    return values


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_nan_is_no_data_and_is_counted() -> None:
    with counted_changes() as changes:
        picture = Image().decode({"npy": npy(heights())})
    assert picture.incomplete
    np.testing.assert_array_equal(picture.pixels[..., 0], heights())
    assert changes == {"image pixels without data": 8 * 32}
    with pytest.raises(ContentError, match="image with pixels without data"):
        Image(nodata="refuse").decode({"npy": npy(heights())})
    whole = Image(nodata="refuse").parse(np.nan_to_num(heights()))
    assert not whole.incomplete


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint16, np.uint8])
def test_the_recipe_names_a_number_that_is_no_data(dtype: type) -> None:
    number = 255 if dtype == np.uint8 else 9999
    values = np.nan_to_num(heights(), nan=number).astype(dtype)
    scale = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    picture = Image(nodata=number).decode({"npy": npy(values)})
    np.testing.assert_array_equal(np.isnan(picture.pixels[..., 0]), values == number)
    np.testing.assert_allclose(picture.pixels[8:, :, 0], values[8:] / np.float32(scale), rtol=1e-6)
    assert not Image().decode({"npy": npy(values)}).incomplete


def test_a_number_is_no_data_of_one_band_in_measurements_and_of_the_pixel_in_colors() -> None:
    colors = np.full((4, 4, 3), 9, np.uint8)
    colors[0, 0], colors[1, 1, 0] = 0, 0
    picture = Image(nodata=0).parse(PIL.Image.fromarray(colors))
    assert np.isnan(picture.pixels).sum() == 3
    bands = np.concatenate([colors, colors[..., :1]], -1)
    assert np.isnan(Image(nodata=0).parse(bands).pixels).sum() == 4 + 2


def test_images_without_data_or_variation_are_refused() -> None:
    with pytest.raises(ContentError, match="image without data"):
        Image().decode({"npy": npy(np.full((4, 4), np.nan))})
    flat = np.full((4, 4), 7.0)
    flat[0] = np.nan
    with pytest.raises(ContentError, match="constant image"):
        Image().decode({"npy": npy(flat)})
    with pytest.raises(ValueError, match="nodata must be a finite number"):
        Image(nodata=float("nan"))


def test_missing_pixels_count_for_no_mean_or_deviation() -> None:
    pictures = [Image().parse(heights()), Image().parse(heights(missing=np.s_[:, 16:]))]
    fitted = Image(size=32, patch=8).fit(pictures)
    values = np.concatenate([p.pixels[~np.isnan(p.pixels)] for p in pictures]).astype(float)
    assert fitted.mean[0] == pytest.approx(values.mean())
    assert fitted.deviation[0] == pytest.approx(values.std(), rel=1e-5)
    empty = Picture(np.stack([heights(), np.full((32, 32), np.nan, np.float32)], -1), ("a", "b"), True)
    with pytest.raises(ValueError, match="band 'b' holds no data in any training image"):
        Image().fit([empty])


def test_patches_without_data_become_no_tokens_and_gaps_in_others_the_mean() -> None:
    picture = Image().parse(heights(missing=np.s_[:12, :]))
    modality = Image(size=32, patch=8).fit([picture])
    tokens = modality.tokenize(picture)
    assert sorted({int(row) for row in tokens.coords[:, 0]}) == [1, 2, 3]
    assert tokens.size == 12
    first = tokens.values[tokens.coords[:, 0] == 1].reshape(-1, 8, 8)
    assert (first[:, :4] == 0).all()
    expected = (picture.pixels[12:16, :8, 0] - modality.mean[0]) / modality.deviation[0]
    np.testing.assert_allclose(first[0, 4:], expected, rtol=1e-4, atol=1e-5)


def test_bands_that_differ_lack_tokens_where_they_lack_data() -> None:
    both = np.stack([heights(), heights(missing=np.s_[16:, :])], -1)
    pictures = [Picture(both, ("a", "b"), True), Picture(heights(missing=np.s_[:0, :])[..., None], ("a",))]
    modality = Image(size=32, patch=8).fit(pictures)
    assert modality.separate
    tokens = modality.tokenize(pictures[0])
    places = {(int(band) - 2, int(row)) for band, row in zip(tokens.ids[:, 1], tokens.coords[:, 0], strict=True)}
    assert places == {(0, 1), (0, 2), (0, 3), (1, 0), (1, 1)}
    assert tokens.size == 4 * 5
    assert np.isfinite(tokens.values).all()


@pytest.mark.parametrize("size", [8, 16, 24, 64])
def test_no_data_does_not_bleed_when_images_are_resized(size: int) -> None:
    flat = np.where(np.isnan(heights(missing=np.s_[:9, 3:])), np.float32(np.nan), np.float32(120))
    flat[-1, -1] = 121
    picture = Image().parse(flat)
    modality = Image(size=size, patch=4).fit([picture])
    tokens = modality.tokenize(picture)
    values = tokens.values * modality.deviation[0] + modality.mean[0]
    filled = tokens.values != 0
    assert filled.mean() > 0.5
    assert values[filled].min() > 119.5
    assert values[filled].max() < 121.5
    share = filled.sum() / size**2
    assert share == pytest.approx(1 - 9 * 29 / 32**2, abs=0.1)


AUGMENTATIONS: list[dict[str, Any]] = [
    {"flip": True},
    {"crop": (0.1, 0.3)},
    {"brightness": 0.5, "contrast": 0.5},
    {"normalise": "image"},
    {"normalise": "image", "flip": True, "crop": (0.3, 1.0), "contrast": 0.3},
]


@pytest.mark.parametrize("options", AUGMENTATIONS)
@pytest.mark.parametrize("bands", [1, 3])
def test_augmented_images_with_gaps_are_finite(options: dict[str, Any], bands: int) -> None:
    picture = Image().parse(np.repeat(heights(missing=np.s_[:24, :20])[..., None], bands, 2))
    modality = Image(size=32, patch=8, **options).fit([picture])
    for seed in range(20):
        tokens = modality.tokenize(picture, np.random.default_rng(seed))
        assert tokens.size > 0
        assert np.isfinite(tokens.values).all()
        assert np.abs(tokens.values).max() < 10
    if options == {"normalise": "image"}:
        values = modality.tokenize(picture).values
        assert values[values != 0].std() == pytest.approx(1, rel=0.02)


def test_images_of_too_little_data_for_their_size_are_refused() -> None:
    sparse = np.full((64, 64), np.nan, np.float32)
    sparse[::4, ::4] = np.arange(256).reshape(16, 16)
    picture = Image().parse(sparse)
    with pytest.raises(ContentError, match="less than half of the data at any pixel of this size"):
        Image(size=16, patch=4).fit([picture]).tokenize(picture)
    assert Image(size=64, patch=4).fit([picture]).tokenize(picture).size == 256


def test_bands_and_paper_keep_the_gaps() -> None:
    values = heights() / 150
    grey = Image(bands="rgb").parse(values)
    assert (grey.bands, grey.incomplete) == (RGB, True)
    np.testing.assert_array_equal(np.isnan(grey.pixels), np.isnan(values)[..., None].repeat(3, 2))
    back = Image(bands="grey").parse(grey.pixels)
    np.testing.assert_allclose(back.pixels[..., 0], values, rtol=1e-5)
    drawing = np.ones((16, 16), np.float32)
    drawing[:4, :4], drawing[8:, 8:] = np.nan, 0.2
    modality = Image(size=16, patch=4, paper=1.0)
    picture = modality.parse(drawing)
    assert modality.fit([picture]).tokenize(picture).size == 4
    drawing[8:, 8:] = 1
    with pytest.raises(ContentError, match="nothing but paper"):
        modality.parse(drawing)


def test_images_with_gaps_are_drawn_hashed_and_described() -> None:
    picture = Image().parse(heights() / 150)
    modality = Image(size=32, patch=8).fit([picture])
    tokens = modality.tokenize(picture)
    html = modality.show(tokens, np.zeros(tokens.size, bool), tokens)["original"]
    image = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0]))))
    np.testing.assert_allclose(image[8:, :, 0] / 255, picture.pixels[8:, :, 0], atol=0.01)
    filled = np.where(np.isnan(picture.pixels), np.nanmean(picture.pixels), picture.pixels)
    assert phash(picture) == phash(Picture(filled, picture.bands))
    features = plain(modality, {"npy": npy(heights() / 150)}, tokens)
    assert np.isfinite(features).all()
    assert features[-2] == pytest.approx(np.nanmean(heights() / 150), rel=1e-4)


def test_models_of_before_know_no_nodata() -> None:
    state = Image(nodata=-9999).fit([Image().parse(heights())]).to_json()
    assert Image.from_json(state).nodata == -9999
    del state["nodata"]
    assert Image.from_json(state).nodata == "file"
