"""Pixels without data: what the modality makes of them."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from modalities.files.images import from_pillow
from modalities.files.pictures import perceptual_hash
from modalities.files.pixels import equals_number
from modalities.files.reading import ContentError, counted_changes
from modalities.files.tiff import _tifffile as silenced
from modalities.image import Image, Picture
from pictures import encoded, packed_png, ramp

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


def test_nan_is_nodata_and_is_counted() -> None:
    with counted_changes() as changes:
        picture = Image().decode({"npy": npy(heights())})
    assert picture.incomplete
    np.testing.assert_array_equal(picture.pixels[..., 0], heights())
    assert changes == {"image pixels without data": 8 * 32}
    with pytest.raises(ContentError, match="image with pixels without data"):
        Image(nodata="refuse").decode({"npy": npy(heights())})
    complete = Image(nodata="refuse").parse(np.nan_to_num(heights()))
    assert not complete.incomplete


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint16, np.uint8])
def test_the_recipe_names_a_nodata_value(dtype: type) -> None:
    number = 255 if dtype == np.uint8 else 9999
    values = np.nan_to_num(heights(), nan=number).astype(dtype)
    scale = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    picture = Image(nodata=number).decode({"npy": npy(values)})
    np.testing.assert_array_equal(np.isnan(picture.pixels[..., 0]), values == number)
    np.testing.assert_allclose(picture.pixels[8:, :, 0], values[8:] / np.float32(scale), rtol=1e-6)
    assert not Image().decode({"npy": npy(values)}).incomplete


def test_nodata_masks_one_band_in_measurements_and_the_pixel_in_colors() -> None:
    colors = np.full((4, 4, 3), 9, np.uint8)
    colors[0, 0], colors[1, 1, 0] = 0, 0
    picture = Image(nodata=0).parse(PIL.Image.fromarray(colors))
    assert np.isnan(picture.pixels).sum() == 3
    bands = np.concatenate([colors, colors[..., :1]], -1)
    assert np.isnan(Image(nodata=0).parse(bands).pixels).sum() == 4 + 2


LIMIT = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("f4", 1e39), ("f4", -np.finfo(float).max), ("f2", -LIMIT), ("f4", np.inf), ("f4", -np.inf), ("f8", np.inf)],
)
def test_floats_do_not_equal_numbers_outside_their_type(dtype: str, number: float) -> None:
    values = np.nan_to_num(heights()).astype(dtype)
    mask = equals_number(values, number)
    assert mask is None or not mask.any()
    tag = [(42113, 2, 0, repr(number), True)]
    np.testing.assert_array_equal(Image().decode({"tif": tiff(values, extratags=tag)}).pixels[..., 0], values)
    if np.isfinite(number):
        np.testing.assert_array_equal(Image(nodata=number).decode({"npy": npy(values)}).pixels[..., 0], values)
    else:
        values[0] = number
        picture = Image().decode({"tif": tiff(values, extratags=tag)})
        np.testing.assert_array_equal(np.isnan(picture.pixels[..., 0]), np.isinf(values))


@pytest.mark.parametrize("number", [LIMIT, -LIMIT, -3.40282346638529e38, 3.4028236e38, -3.4028236e38])
def test_the_largest_float_may_be_written_with_fewer_digits(number: float) -> None:
    values = np.nan_to_num(heights())
    values[0] = np.sign(number) * LIMIT
    values[1] = -values[0]
    np.testing.assert_array_equal(equals_number(values, number), np.arange(32)[:, None].repeat(32, 1) == 0)


def tiff(values: np.ndarray | Iterable[np.ndarray | None], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def sparse(dtype: str, text: str, bands: int, **options: Any) -> tuple[bytes, np.ndarray]:
    """A TIFF that leaves out a tile of its first and one of its last band, and its samples `(H, W, B)`, NaN there."""
    complete = np.arange(bands * 32 * 32, dtype=float).reshape(bands, 32, 32) % 200 + 1
    complete[0, :16, 16:], complete[-1, 16:, :16] = np.nan, np.nan
    tiles = [plane[y : y + 16, x : x + 16] for plane in complete for y in (0, 16) for x in (0, 16)]
    parts = (None if np.isnan(tile).any() else tile.astype(dtype) for tile in tiles)
    options |= {"planarconfig": "separate"} if bands > 1 else {}
    tag = [(42113, 2, 0, text, True)] if text else []
    shape = complete.shape if bands > 1 else (32, 32)
    return tiff(parts, shape=shape, dtype=dtype, tile=(16, 16), extratags=tag, **options), np.moveaxis(complete, 0, 2)


@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("f4", "-9999"), ("f4", "nan"), ("f4", "-3.4028234663852886e+38"), ("f4", "-1.7976931348623157e+308"),
        ("i2", "-9999"), ("i2", "-9999.0"), ("u1", "-9999"), ("u1", "255"),
    ],
)  # fmt: skip
def test_missing_tiles_of_a_tiff_are_nodata(dtype: str, text: str, compression: str | None, bands: int) -> None:
    data, expected = sparse(dtype, text, bands, compression=compression)
    with counted_changes() as changes:
        picture = Image().decode({"tif": data})
    scale = 255 if dtype == "u1" else 1
    np.testing.assert_allclose(picture.pixels * scale, expected, rtol=1e-6)
    assert changes == {"image pixels without data": 512}


def test_missing_tiles_of_a_tiff_without_a_nodata_value_are_zero() -> None:
    data, expected = sparse("f4", "", 1)
    np.testing.assert_array_equal(Image().decode({"tif": data}).pixels, np.nan_to_num(expected))


def test_sparse_colors_and_alpha() -> None:
    colors = ramp(32, 32, 4)
    colors[..., 3] = 255
    tag = [(42113, 2, 0, "-9999", True)]
    tiles = (colors[:16, :16], None, colors[16:, :16], colors[16:, 16:])
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "extratags": tag, "tile": (16, 16)}
    picture = Image().decode({"tif": tiff(iter(tiles), shape=(32, 32, 4), dtype="u1", **options)})
    expected = colors[..., :3] / np.float32(255)
    expected[:16, 16:] = np.nan
    np.testing.assert_allclose(picture.pixels, expected, rtol=1e-6)


def test_a_tiff_whose_only_strip_is_absent_is_refused() -> None:
    data = bytearray(tiff(ramp(4, 4)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags["StripOffsets"].valueoffset
    data[place : place + 4] = bytes(4)
    with pytest.raises(ContentError, match="TIFF without pixel data"):
        Image().decode({"tif": bytes(data)})


def test_the_tiff_parser_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = tiff(heights(), extratags=[(42113, 2, 0, "-3.4028234663852886e+38", True)])
    logging.getLogger("tifffile").setLevel(logging.NOTSET)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].shape == (32, 32)
    assert "GDAL_NODATA" in caplog.text, "tifffile says something of this file"
    caplog.clear()
    silenced.cache_clear()
    assert Image().decode({"tif": data}).incomplete
    assert not caplog.records


WRITTEN = np.arange(64).reshape(8, 8)


def grey_png(bits: int, transparent: bytes = b"") -> tuple[bytes, np.ndarray]:
    samples = WRITTEN % 2**bits
    return packed_png(samples[..., None], bits, transparent), samples


def netpbm(head: str, samples: np.ndarray, dtype: str) -> tuple[bytes, np.ndarray]:
    return f"{head}\n".encode() + samples.astype(dtype).tobytes(), samples


def palette_file(kind: str) -> tuple[bytes, np.ndarray]:
    picture = PIL.Image.fromarray((WRITTEN % 8).astype(np.uint8), "P")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 24, np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue(), WRITTEN % 8


@pytest.mark.parametrize(
    ("file", "number"),
    [
        (grey_png(2), 3), (grey_png(4), 15), (grey_png(4), 1), (grey_png(8), 15), (grey_png(16), 15),
        (grey_png(2, b"\0\1"), 3), (grey_png(4, b"\0\1"), 15), (grey_png(8, b"\0\1"), 15), (grey_png(16, b"\0\1"), 15),
        (palette_file("png"), 3), (palette_file("gif"), 3), (palette_file("bmp"), 3),
        (netpbm("P5 8 8 7", WRITTEN % 8, "u1"), 5), (netpbm("P5 8 8 255", WRITTEN, "u1"), 5),
        (netpbm("P5 8 8 1000", WRITTEN, ">u2"), 63), (netpbm("P5 8 8 65535", WRITTEN, ">u2"), 63),
        ((b"P2 8 8 100\n" + b" ".join(str(i).encode() for i in range(64)), WRITTEN), 63),
    ],
)  # fmt: skip
def test_nodata_is_compared_with_raw_file_values(file: tuple[bytes, np.ndarray], number: float) -> None:
    data, samples = file
    picture = Image(nodata=number).parse(data)
    np.testing.assert_array_equal(np.isnan(picture.pixels).any(2), samples == number)
    np.testing.assert_array_equal(np.isnan(picture.pixels).all(2), samples == number)
    complete = Image().parse(data).pixels
    np.testing.assert_array_equal(picture.pixels[samples != number], complete[samples != number])
    assert not Image(nodata=number + 0.5).parse(data).incomplete


def test_one_bit_white_is_not_255() -> None:
    data, samples = grey_png(1)
    np.testing.assert_array_equal(Image(nodata=255).parse(data).pixels[..., 0], samples)
    pbm = b"P4 8 8\n" + np.packbits(samples).tobytes()
    np.testing.assert_array_equal(Image(nodata=255).parse(pbm).pixels[..., 0], 1 - samples)
    picture = from_pillow(PIL.Image.fromarray(samples.astype(bool)), 1)
    np.testing.assert_array_equal(np.isnan(picture.pixels[..., 0]), samples)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [2, 4])
def test_nodata_is_compared_before_compositing_on_white(bits: int, bands: int) -> None:
    samples = np.random.default_rng(0).integers(1, 200, (8, 8, bands))
    samples[:3] = 0
    picture = Image(nodata=0).decode({"png": packed_png(samples, bits)})
    assert np.isnan(picture.pixels[:3]).all()
    assert not np.isnan(picture.pixels[3:]).any()
    np.testing.assert_array_equal(picture.pixels[3:], Image().decode({"png": packed_png(samples, bits)}).pixels[3:])


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_missing_pixels_are_rotated_with_the_image(kind: str) -> None:
    pixels = np.full((6, 8, 4), 255, np.uint8)
    pixels[..., :3] = ramp(6, 8, 3) // 2 + 1
    pixels[0, :5, :3] = 0
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "webp" else {}
    picture = Image(nodata=0).decode({kind: encoded(pixels, kind, exif=exif, **options)})
    assert np.argwhere(np.isnan(picture.pixels[..., 0])).tolist() == [[row, 5] for row in range(5)]


def test_nodata_is_compared_with_the_stored_inks_of_a_jpeg() -> None:
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:8, 16:], inks[8:, 16:] = 60, 90
    buffer = io.BytesIO()
    PIL.Image.fromarray(inks, "CMYK").save(buffer, "jpeg", quality=100)
    picture = Image(nodata=255).decode({"jpg": buffer.getvalue()})
    assert np.isnan(picture.pixels[:, :16]).all()
    assert not np.isnan(picture.pixels[:, 16:]).any()


def test_images_without_data_or_variation_are_refused() -> None:
    with pytest.raises(ContentError, match="image without data"):
        Image().decode({"npy": npy(np.full((4, 4), np.nan))})
    flat = np.full((4, 4), 7.0)
    flat[0] = np.nan
    with pytest.raises(ContentError, match="constant image"):
        Image().decode({"npy": npy(flat)})
    with pytest.raises(ValueError, match="nodata must be a finite number"):
        Image(nodata=float("nan"))


def test_missing_pixels_are_excluded_from_mean_and_std() -> None:
    pictures = [Image().parse(heights()), Image().parse(heights(missing=np.s_[:, 16:]))]
    fitted = Image(size=32, patch=8).fit(pictures)
    values = np.concatenate([p.pixels[~np.isnan(p.pixels)] for p in pictures]).astype(float)
    assert fitted.mean[0] == pytest.approx(values.mean())
    assert fitted.std[0] == pytest.approx(values.std(), rel=1e-5)
    empty = Picture(np.stack([heights(), np.full((32, 32), np.nan, np.float32)], -1), ("a", "b"), True)
    with pytest.raises(ValueError, match="band 'b' has no data in any training image"):
        Image().fit([empty])


def test_patches_without_data_have_no_token_and_partial_gaps_are_filled_with_the_mean() -> None:
    picture = Image().parse(heights(missing=np.s_[:12, :]))
    modality = Image(size=32, patch=8).fit([picture])
    tokens = modality.tokenize(picture)
    assert sorted({int(row) for row in tokens.coords[:, 0]}) == [1, 2, 3]
    assert tokens.size == 12
    first = tokens.values[tokens.coords[:, 0] == 1].reshape(-1, 8, 8)
    assert (first[:, :4] == 0).all()
    expected = (picture.pixels[12:16, :8, 0] - modality.mean[0]) / modality.std[0]
    np.testing.assert_allclose(first[0, 4:], expected, rtol=1e-4, atol=1e-5)


def test_separate_bands_have_no_tokens_where_they_have_no_data() -> None:
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
def test_nodata_does_not_spread_when_images_are_resized(size: int) -> None:
    flat = np.where(np.isnan(heights(missing=np.s_[:9, 3:])), np.float32(np.nan), np.float32(120))
    flat[-1, -1] = 121
    picture = Image().parse(flat)
    modality = Image(size=size, patch=4).fit([picture])
    tokens = modality.tokenize(picture)
    values = tokens.values * modality.std[0] + modality.mean[0]
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
    {"normalize": "image"},
    {"normalize": "image", "flip": True, "crop": (0.3, 1.0), "contrast": 0.3},
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
    if options == {"normalize": "image"}:
        values = modality.tokenize(picture).values
        assert values[values != 0].std() == pytest.approx(1, rel=0.02)


def test_images_with_too_little_data_are_refused() -> None:
    sparse = np.full((64, 64), np.nan, np.float32)
    sparse[::4, ::4] = np.arange(256).reshape(16, 16)
    picture = Image().parse(sparse)
    with pytest.raises(ContentError, match="less than half of the data at any pixel of this size"):
        Image(size=16, patch=4).fit([picture]).tokenize(picture)
    assert Image(size=64, patch=4).fit([picture]).tokenize(picture).size == 256


def test_band_conversion_and_background_keep_the_gaps() -> None:
    values = heights() / 150
    grey = Image(bands="rgb").parse(values)
    assert (grey.bands, grey.incomplete) == (RGB, True)
    np.testing.assert_array_equal(np.isnan(grey.pixels), np.isnan(values)[..., None].repeat(3, 2))
    back = Image(bands="grey").parse(grey.pixels)
    np.testing.assert_allclose(back.pixels[..., 0], values, rtol=1e-5)
    drawing = np.ones((16, 16), np.float32)
    drawing[:4, :4], drawing[8:, 8:] = np.nan, 0.2
    modality = Image(size=16, patch=4, background=1.0)
    picture = modality.parse(drawing)
    assert modality.fit([picture]).tokenize(picture).size == 4
    drawing[8:, 8:] = 1
    with pytest.raises(ContentError, match="nothing but background"):
        modality.parse(drawing)


def test_images_with_gaps_are_displayed_hashed_and_described() -> None:
    picture = Image().parse(heights() / 150)
    modality = Image(size=32, patch=8).fit([picture])
    tokens = modality.tokenize(picture)
    html = modality.show(tokens, np.zeros(tokens.size, bool), tokens)["original"]
    image = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0]))))
    np.testing.assert_allclose(image[8:, :, 0] / 255, picture.pixels[8:, :, 0], atol=0.01)
    filled = np.where(np.isnan(picture.pixels), np.nanmean(picture.pixels), picture.pixels)
    assert perceptual_hash(picture) == perceptual_hash(Picture(filled, picture.bands))
    features = modality.plain(modality.decode({"npy": npy(heights() / 150)}))
    assert np.isfinite(features).all()
    assert features[-2] == pytest.approx(np.nanmean(heights() / 150), rel=1e-4)


def test_models_of_earlier_versions_have_no_nodata_setting() -> None:
    state = Image(nodata=-9999).fit([Image().parse(heights())]).to_json()
    assert Image.from_json(state).nodata == -9999
    del state["nodata"]
    assert Image.from_json(state).nodata == "file"
