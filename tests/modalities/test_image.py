from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modalities.files.reading import ContentError
from modalities.image import Image, Picture, compute_grid_size, crop_random, resize
from modalities.tokens import Tokens
from pictures import RGB, picture


def assemble(modality: Image, tokens: Tokens) -> np.ndarray:
    """Pixels `(H, W, B)` from tokens, one patch at a time."""
    p = modality.patch
    rows, columns = tokens.coords.max(0).astype(int) + 1
    planes = np.full((rows * p, columns * p, len(modality.band_names)), np.nan)
    for values, (_, identity), (row, column) in zip(tokens.values, tokens.ids, tokens.coords.astype(int), strict=True):
        bands = slice(identity - 2, identity - 1) if modality.separate else slice(None)
        patch = values.reshape(p, p, -1) * np.array(modality.std)[bands] + np.array(modality.mean)[bands]
        planes[row * p : (row + 1) * p, column * p : (column + 1) * p, bands] = patch
    return planes


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 5), st.integers(1, 9), st.integers(0, 40), st.booleans())
def test_images_of_any_size_aspect_and_bands(
    height: int, width: int, bands: int, patch: int, more: int, separate: bool
) -> None:
    raw = picture(height, width, bands)
    other_images = [picture(3, 3, bands + 1)] if separate else []
    modality = Image(size=patch + more, patch=patch).fit([raw, *other_images])
    tokens = modality.tokenize(raw)
    rows, columns = (side // patch for side in compute_grid_size((height, width), patch + more, patch))

    assert modality.separate == separate
    assert tuple(part.shape[1] for part in tokens) == modality.widths
    assert modality.widths == (patch**2 * (1 if separate else bands), 2, 2)
    assert [part.dtype for part in tokens] == [np.float32, np.int64, np.float32]
    assert np.isfinite(tokens.values).all()
    everywhere = {(r, c, b) for r in range(rows) for c in range(columns) for b in range(bands if separate else 1)}
    places = np.column_stack([tokens.coords, tokens.ids[:, 1] - 2]).astype(int).tolist()
    assert len(places) == len(everywhere)
    assert set(map(tuple, places)) == everywhere

    longer, shorter = max(rows, columns), min(rows, columns)
    assert longer == round((patch + more) / patch)
    ideal = (patch + more) / patch * min(height, width) / max(height, width)
    assert abs(shorter - max(ideal, 1)) <= 0.5


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_tokens_contain_the_pixels(rows: int, columns: int, patch: int, bands: int, separate: bool) -> None:
    raw = picture(rows * patch, columns * patch, bands, seed=rows)
    other_images = [picture(5, 4, bands + 1)] if separate else []
    modality = Image(size=max(rows, columns) * patch, patch=patch).fit([raw, *other_images])
    np.testing.assert_allclose(assemble(modality, modality.tokenize(raw))[..., :bands], raw.pixels, atol=1e-5)


def test_the_grid_does_not_depend_on_rounding() -> None:
    assert compute_grid_size((400, 300), 224, 16) == (224, 160)
    assert compute_grid_size((1, 1000), 224, 16) == (16, 224)
    assert {compute_grid_size((side, side), 21, 2) for side in range(1, 200)} == {(20, 20)}


def test_mean_and_std_cover_all_training_pixels() -> None:
    raws = [picture(5, 7, 2, seed=1), picture(3, 2, 2, seed=2)]
    modality = Image().fit(raws)
    pixels = np.concatenate([raw.pixels.reshape(-1, 2) for raw in raws])
    np.testing.assert_allclose(modality.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(modality.std, pixels.std(0), rtol=1e-5)
    flat = Image(size=16).fit([Picture(np.ones((4, 4, 1), np.float32), ("grey",))])
    assert np.isfinite(flat.tokenize(Picture(np.zeros((4, 4, 1), np.float32), ("grey",))).values).all()
    with pytest.raises(ValueError, match="no images"):
        Image().fit([])


def test_resize_keeps_flat_bands_flat() -> None:
    pixels = np.full((13, 29, 2), [0.25, 0.75], np.float32)
    np.testing.assert_allclose(resize(pixels, (32, 8)), np.full((32, 8, 2), [0.25, 0.75]), atol=1e-6)


@pytest.mark.parametrize("wrong", [{"patch": 0}, {"size": 8, "patch": 16}])
def test_invalid_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="patch"):
        Image(**wrong)


# Bands that differ


def test_separate_bands_give_a_token_for_each_patch_and_band() -> None:
    raws = [picture(8, 12, ("nir", "red")), picture(12, 8, ("red", "swir"))]
    modality = Image(size=12, patch=4).fit(raws)
    assert (modality.separate, modality.band_names, modality.widths) == (True, ("nir", "red", "swir"), (16, 2, 2))
    for raw in (*raws, picture(12, 12, ("swir", "nir", "red")), picture(4, 12, ("red",))):
        tokens = modality.tokenize(raw)
        pixels = assemble(modality, tokens)
        for i, band in enumerate(modality.band_names):
            if band in raw.bands:
                plane = raw.pixels[..., raw.bands.index(band)]
                np.testing.assert_allclose(pixels[..., i], plane, atol=1e-5)
            else:
                assert np.isnan(pixels[..., i]).all()


def test_unfitted_bands_are_refused() -> None:
    both = Image(size=16).fit([picture(4, 4, ("red", "nir")), picture(4, 4, ("red",))])
    alike = Image(size=16).fit([picture(4, 4, ("red", "nir"))])
    for modality in (both, alike):
        with pytest.raises(ContentError, match="'swir'"):
            modality.tokenize(picture(4, 4, ("red", "swir")))
    with pytest.raises(ContentError, match="differ"):
        alike.tokenize(picture(4, 4, ("red",)))
    with pytest.raises(ContentError, match="differ"):
        alike.tokenize(picture(4, 4, ("nir", "red")))


# Augmentation


@pytest.mark.parametrize("shape", [(12, 12), (8, 12)])
def test_flip_is_one_of_the_eight_symmetries(shape: tuple[int, int]) -> None:
    raw = picture(*shape)
    modality = Image(size=12, patch=4, flip=True).fit([raw])
    symmetries = [np.rot90(side, quarters) for side in (raw.pixels, raw.pixels[:, ::-1]) for quarters in range(4)]
    crops = set()
    for seed in range(100):
        pixels = assemble(modality, modality.tokenize(raw, np.random.default_rng(seed)))
        same = [i for i, s in enumerate(symmetries) if s.shape == pixels.shape and np.allclose(s, pixels, atol=1e-5)]
        assert len(same) == 1
        crops.update(same)
    assert crops == set(range(8))


def test_images_are_flipped_only_in_training_and_on_request() -> None:
    raw = picture(8, 12)
    turning = Image(size=12, patch=4, flip=True).fit([raw])
    still = Image(size=12, patch=4).fit([raw])
    straight = still.tokenize(raw)
    for tokens in (turning.tokenize(raw), *(still.tokenize(raw, np.random.default_rng(i)) for i in range(9))):
        assert all((a == b).all() for a, b in zip(tokens, straight, strict=True))


AUGMENTATIONS: list[dict[str, Any]] = [
    {"flip": "horizontal"},
    {"crop": (0.3, 0.6)},
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"flip": True, "crop": (0.5, 1.0), "brightness": 0.2, "contrast": 0.2},
]


@pytest.mark.parametrize("options", AUGMENTATIONS)
def test_images_are_augmented_only_in_training_and_by_seed(options: dict[str, Any]) -> None:
    raw = picture(24, 16)
    modality, plain = (Image(size=24, patch=4, **options_of_one).fit([raw]) for options_of_one in (options, {}))
    straight = plain.tokenize(raw)
    np.testing.assert_array_equal(modality.tokenize(raw).values, straight.values)
    token_lists = [modality.tokenize(raw, np.random.default_rng(seed)) for seed in (*range(20), 0)]
    assert len({tokens.values.tobytes() for tokens in token_lists}) > 1
    for part, again in zip(token_lists[0], token_lists[-1], strict=True):
        np.testing.assert_array_equal(part, again)
    assert any((tokens.values != straight.values).any() for tokens in token_lists if tokens.size == straight.size)


def test_mirroring_keeps_images_upright() -> None:
    raw = picture(8, 12)
    modality = Image(size=12, patch=4, flip="horizontal").fit([raw])
    crops = [assemble(modality, modality.tokenize(raw, np.random.default_rng(seed))) for seed in range(40)]
    mirrored = [np.allclose(pixels, raw.pixels[:, ::-1], atol=1e-5) for pixels in crops]
    straight = [np.allclose(pixels, raw.pixels, atol=1e-5) for pixels in crops]
    assert all(a != b for a, b in zip(mirrored, straight, strict=True))
    assert 5 < sum(mirrored) < 35


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 99))
def test_crops_are_inside_the_image_and_cover_their_share(
    height: int, width: int, one: float, other: float, seed: int
) -> None:
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width, 1)
    low, high = sorted((one, other))
    part = crop_random(pixels, (low, high), np.random.default_rng(seed))
    h, w, _ = part.shape
    top, column = divmod(int(part[0, 0, 0]), width)
    np.testing.assert_array_equal(part, pixels[top : top + h, column : column + w])
    assert (h + 1) * (w + 1) >= low * height * width
    assert max(h - 1, 0) * max(w - 1, 0) <= high * height * width
    np.testing.assert_array_equal(crop_random(pixels, (1, 1), np.random.default_rng(seed)), pixels)


def test_a_crop_keeps_the_grid() -> None:
    raw = picture(30, 50)
    modality = Image(size=48, patch=8, crop=(0.1, 0.9)).fit([raw])
    for seed in range(20):
        np.testing.assert_array_equal(
            modality.tokenize(raw, np.random.default_rng(seed)).coords, modality.tokenize(raw).coords
        )


def test_brightness_and_contrast_change_pixels_as_documented() -> None:
    raw = picture(8, 8)
    for option in ("brightness", "contrast"):
        modality = Image(size=8, patch=4, **{option: 0.5}).fit([raw])
        ratios = []
        for seed in range(30):
            pixels = assemble(modality, modality.tokenize(raw, np.random.default_rng(seed)))
            centre = raw.pixels.mean() if option == "contrast" else 0.0
            ratio = (pixels - centre) / (raw.pixels - centre)
            np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-2)
            ratios.append(np.median(ratio))
        assert 0.49 < min(ratios) < 0.7 < 1.3 < max(ratios) < 1.51


def test_jitter_leaves_the_background_empty() -> None:
    pixels = np.ones((8, 8, 1), np.float32)
    pixels[:4, :4] = 0.5
    drawing = Picture(pixels, ("grey",))
    modality = Image(size=8, patch=4, background=1.0, brightness=0.5).fit([drawing])
    assert all(modality.tokenize(drawing, np.random.default_rng(seed)).size == 1 for seed in range(9))


@pytest.mark.parametrize(
    "wrong", [{"crop": (0, 1)}, {"crop": (0.9, 0.5)}, {"crop": (0.5, 1.5)}, {"brightness": -0.1}, {"contrast": 2}]
)
def test_invalid_augmentations_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Image(**wrong)


# Loss, reconstruction and pictures


def normalized(values: np.ndarray) -> np.ndarray:
    """Each patch by its own mean and std."""
    return np.stack([(row - row.mean()) / np.sqrt(row.var() + 1e-6) for row in values.astype(np.float64)])


@pytest.mark.parametrize("target", ["values", "normalized"])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_loss_is_the_squared_error_of_the_target(target: Any, patch: int) -> None:
    raw = picture(8, 8, ("grey",))
    modality = Image(size=8, patch=patch, target=target).fit([raw])
    tokens = modality.tokenize(raw)
    prediction = np.random.default_rng(1).standard_normal(tokens.values.shape).astype(np.float32)
    true_values = tokens.values if target == "values" else normalized(tokens.values)
    loss = modality.loss(*map(torch.from_numpy, (prediction, tokens.values, tokens.ids)))
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.numpy(), ((prediction - true_values) ** 2).mean(1), rtol=1e-4)


@pytest.mark.parametrize("target", ["values", "normalized"])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_perfect_prediction_reconstructs_the_image(target: Any, patch: int) -> None:
    raw = picture(8, 12)
    modality = Image(size=12, patch=patch, target=target).fit([raw])
    tokens = modality.tokenize(raw)
    prediction = tokens.values if target == "values" else normalized(tokens.values)
    reconstruction = modality.reconstruct(prediction, tokens)
    assert reconstruction.values.dtype == np.float32
    np.testing.assert_allclose(assemble(modality, reconstruction), raw.pixels, atol=1e-4)


def pixels_of(html: str) -> np.ndarray:
    """Pixels `(H, W, 3)` of the picture in HTML."""
    data = html.split("base64,")[1].split('"')[0]
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data)))) / 255


@pytest.mark.parametrize("bands", [("grey",), RGB, ("nir", "red", "green", "blue")])
@pytest.mark.parametrize("separate", [False, True])
def test_show_draws_the_image(bands: tuple[str, ...], separate: bool) -> None:
    raw = picture(8, 12, bands)
    modality = Image(size=12, patch=4, target="values").fit([raw, *[picture(4, 4, ("other",))] * separate])
    tokens = modality.tokenize(raw)
    target = (tokens.coords == [1, 2]).all(1)
    parts = modality.show(tokens, target, modality.reconstruct(np.zeros_like(tokens.values), tokens))
    assert list(parts) == ["original", "masked", "reconstructed"]
    images = {name: pixels_of(html) for name, html in parts.items()}

    drawn_bands = RGB if bands == RGB and not separate else bands[:1] * 3
    mean = [modality.mean[modality.band_names.index(band)] for band in drawn_bands]
    patch = np.s_[4:8, 8:12]
    for name, part, expected in [
        ("original", np.s_[:], raw.pixels[..., [bands.index(band) for band in drawn_bands]]),
        ("masked", patch, np.full((4, 4, 3), [0.75, 0.8, 0.88])),
        ("reconstructed", patch, np.full((4, 4, 3), mean)),
    ]:
        np.testing.assert_allclose(images[name][part], expected, atol=1.5 / 255)
    for name in ("masked", "reconstructed"):
        images[name][patch] = images["original"][patch]
        np.testing.assert_array_equal(images[name], images["original"])


def test_show_clips_values_outside_the_color_range() -> None:
    raw = picture(4, 8, ("grey",))
    modality = Image(size=8, patch=4).fit([raw])
    tokens = modality.tokenize(raw)
    wild = tokens._replace(values=np.float32([[99], [-99]]) * np.ones((1, 16), np.float32))
    image = pixels_of(modality.show(tokens, np.ones(2, bool), wild)["reconstructed"])
    np.testing.assert_array_equal(image[:, :, 0], np.repeat([[1.0, 0.0]], 4, axis=0).repeat(4, axis=1))


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_background_has_no_tokens_and_is_restored(rows: int, columns: int, data: st.DataObject) -> None:
    inked = data.draw(st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), min_size=1))
    pixels = np.ones((rows * 4, columns * 4, 1), np.float32)
    for row, column in inked:
        pixels[row * 4 + 1, column * 4 + 2] = 0.25
    drawing = Picture(pixels, ("grey",))
    modality = Image(size=4 * max(rows, columns), patch=4, background=1.0).fit([drawing])
    tokens = modality.tokenize(drawing)
    assert {tuple(place) for place in tokens.coords.astype(int)} == inked
    full = Image(size=modality.size, patch=4).fit([drawing]).tokenize(drawing)
    for values, place in zip(tokens.values, tokens.coords, strict=True):
        assert np.array_equal(values, full.values[(full.coords == place).all(1)][0])
    original = modality.show(tokens, np.zeros(tokens.size, bool), tokens)["original"]
    image = PIL.Image.open(io.BytesIO(base64.b64decode(original.split("base64,")[1].split('"')[0])))
    height, width = image.height, image.width
    assert np.allclose(np.asarray(image)[..., 0] / 255, pixels[:height, :width, 0], atol=0.01)


def test_an_image_of_background_only_is_refused() -> None:
    drawing = picture(8, 8, ("grey",))
    modality = Image(size=8, patch=4, background=1.0).fit([drawing])
    with pytest.raises(ContentError, match="nothing but background"):
        modality.parse(np.full((8, 8), 254, np.uint8))
    with pytest.raises(ContentError, match="nothing but background"):
        modality.tokenize(Picture(np.ones((8, 8, 1), np.float32), ("grey",)))


def test_the_stem_has_one_or_two_layers() -> None:
    drawing = picture(8, 8)
    for stem, layers in (("linear", 1), ("mlp", 2)):
        modality = Image(size=8, patch=4, stem=stem).fit([drawing])
        module = modality.embedding(16)
        tokens = [torch.from_numpy(part) for part in modality.tokenize(drawing)]
        assert module(*tokens)[0].shape == (4, 16)
        assert sum(isinstance(m, torch.nn.Linear) for m in module.content.modules()) == layers


def test_per_image_standardization_removes_brightness_and_color_cast() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((32, 32, 3), np.float32)
    normalized_image = Image(size=32, patch=8, normalize="image").fit([Image().parse(pixels)])
    plain = normalized_image.tokenize(normalized_image.parse(pixels)).values
    cast = normalized_image.tokenize(
        normalized_image.parse(pixels * np.float32([0.9, 0.5, 0.2]) + np.float32([0.1, 0, 0.3]))
    ).values
    np.testing.assert_allclose(plain, cast, atol=1e-3)
    np.testing.assert_allclose(plain.reshape(-1, 3).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(plain.reshape(-1, 3).std(0), 1, atol=1e-3)
    flat = normalized_image.tokenize(normalized_image.parse(np.full((32, 32, 3), 0.5, np.float32))).values
    assert np.isfinite(flat).all()


@pytest.mark.parametrize("normalize", ["data", "image"])
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e6])
def test_pixels_in_any_unit_are_standardized(normalize: str, unit: float) -> None:
    pixels = np.random.default_rng(0).random((32, 32, 1), np.float32)
    fitted = Image(size=32, patch=8, normalize=normalize).fit([Picture(pixels * np.float32(unit), ("grey",))])  # type: ignore[arg-type]
    values = fitted.tokenize(Picture(pixels * np.float32(unit), ("grey",))).values
    assert values.std() == pytest.approx(1, rel=1e-3)
    assert values.mean() == pytest.approx(0, abs=1e-3)
