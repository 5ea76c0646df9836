"""Image files of all formats but TIFF, and hostile ones of any."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import simplejpeg
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from modalities.files.pixels import MAX_NUMBERS, MAX_PIXELS
from modalities.files.reading import ContentError, counted_changes
from modalities.image import Image
from pictures import RGB, encoded, packed_png, picture, ramp


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "pixels", "bands"),
    [
        ("png", ramp(5, 7), ("grey",)),
        ("png", ramp(5, 7, dtype=np.uint16), ("grey",)),
        ("png", ramp(5, 7, 3), RGB),
        ("tif", ramp(5, 7), ("grey",)),
        ("tif", ramp(5, 7, dtype=np.uint16), ("grey",)),
        ("tif", ramp(5, 7, 3), RGB),
        ("tif", ramp(5, 7, 6, dtype=np.uint16), tuple(f"band{i}" for i in range(1, 7))),
        ("npy", ramp(5, 7), ("grey",)),
        ("npy", ramp(5, 7, 2, dtype=np.uint16), ("band1", "band2")),
        ("npy", ramp(5, 7, 3), RGB),
    ],
)
def test_integers_are_scaled_to_one(kind: str, pixels: np.ndarray, bands: tuple[str, ...]) -> None:
    contiguous = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
    options = {"photometric": "rgb" if bands == RGB else "minisblack", **contiguous} if kind == "tif" else {}
    data = encoded(pixels, kind, **options)
    for raw in (Image().decode({kind: data}), Image().parse(data)):
        assert raw.bands == bands
        assert raw.pixels.dtype == np.float32
        np.testing.assert_allclose(raw.pixels, pixels.reshape(5, 7, -1) / np.iinfo(pixels.dtype).max, rtol=1e-6)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_formats(kind: str) -> None:
    rgb = np.stack(np.broadcast_arrays(ramp(1, 32), ramp(32, 1), np.uint8(128)), -1)
    raw = Image().decode({{"jpeg": "jpg"}.get(kind, kind): encoded(rgb, kind, quality=95)})
    assert raw.bands == RGB
    assert np.abs(raw.pixels - rgb / 255).mean() < 0.02
    if kind == "jpeg":
        assert Image().decode({"jpg": encoded(rgb[..., 0], kind)}).bands == ("grey",)


@pytest.mark.parametrize(
    ("mode", "options", "bands"),
    [
        ("1", {}, ("grey",)),
        ("L", {}, ("grey",)),
        ("LA", {}, ("grey",)),
        ("L", {"transparency": 3}, ("grey",)),
        ("P", {}, RGB),
        ("P", {"transparency": 0}, RGB),
        ("RGB", {"transparency": (1, 2, 3)}, RGB),
        ("RGBA", {}, RGB),
    ],
)
def test_modes_of_png(mode: str, options: dict[str, Any], bands: tuple[str, ...]) -> None:
    raw = Image().decode({"png": encoded(ramp(8, 8, 3), "png", mode, **options)})
    assert raw.bands == bands
    assert raw.pixels.shape == (8, 8, len(bands))
    assert raw.pixels.min() >= 0
    assert raw.pixels.max() <= 1


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_16_bit_pngs_keep_all_bits(bands: int) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (4, 5, bands))
    colors = samples / 65535
    if bands in (2, 4):
        alpha = colors[..., -1:]
        colors = colors[..., :-1] * alpha + 1 - alpha
    picture = Image().decode({"png": packed_png(samples, 16)})
    assert picture.bands == (("grey",) if bands < 3 else RGB)
    np.testing.assert_allclose(picture.pixels, colors, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_transparent_gray_in_a_png_is_white_at_any_depth(bits: int) -> None:
    top = 2**bits - 1
    samples = np.arange(64).reshape(8, 8, 1) * (257 if bits == 16 else 1) % (top + 1)
    expected = np.where(samples == samples[0, 0], top, samples) / top
    samples[0, 1:] = samples[0, 0]
    expected[0, 1:] = 1
    with counted_changes() as changes:
        picture = Image().decode({"png": packed_png(samples, bits, struct.pack(">H", samples[0, 0, 0]))})
    assert picture.bands == ("grey",)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    assert changes == {"image with transparent pixels, set on white": 1}


def test_ppm_with_more_than_8_bits() -> None:
    grey = Image().parse(b"P5 4 2 65535\n" + np.array([[0, 256, 65535, 1000]] * 2, ">u2").tobytes())
    np.testing.assert_allclose(grey.pixels[0, :, 0] * 65535, [0, 256, 65535, 1000], atol=1e-2)
    with pytest.raises(ContentError, match="PPM of more than 8 bits"):
        Image().parse(b"P6 2 2 65535\n" + np.arange(12, dtype=">u2").tobytes())


def test_frames_after_the_first_are_counted() -> None:
    frames = [PIL.Image.fromarray(np.roll(ramp(8, 8, 3), i, 0)) for i in range(3)]
    for kind in ("gif", "webp", "png"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
        with counted_changes() as changes:
            assert Image().parse(buffer.getvalue()).pixels.shape == (8, 8, 3)
        assert changes["image frames after the first, left out"] == 2


def test_pillow_images_with_rare_modes() -> None:
    rgba = PIL.Image.fromarray(ramp(8, 8, 4), "RGBA")
    expected = Image().parse(rgba).pixels
    assert np.abs(Image().parse(rgba.convert("RGBa")).pixels - expected).max() < 3 / 255
    grey = Image().parse(rgba.convert("LA").convert("La"))
    assert grey.bands == ("grey",)
    assert grey.pixels.max() > 0.99  # what is transparent is white
    with pytest.raises(ContentError, match="CIELab"):
        Image().parse(PIL.Image.new("LAB", (4, 4)))


def test_files_of_other_types_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ContentError, match=r"type heic is not read \(read: png, jpg, jpeg, webp, tif"):
        Image().parse(path)
    with pytest.raises(ContentError, match="type unknown is not read"):
        Image().parse(path.read_bytes())
    with pytest.raises(ContentError, match="empty image file"):
        Image().parse(b"")


@pytest.mark.parametrize(
    ("kind", "extension"), [("png", "jpg"), ("jpeg", "png"), ("webp", "png"), ("tif", "npy"), ("png", "tif")]
)
def test_bytes_that_contradict_the_extension_are_refused(kind: str, extension: str) -> None:
    with pytest.raises(ContentError, match=f"image file is not {extension}"):
        Image().decode({extension: encoded(ramp(4, 5, 3), kind, **({"photometric": "rgb"} if kind == "tif" else {}))})


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "gif", "ppm", "tif", "npy"])
def test_constant_images_are_refused(kind: str) -> None:
    options: dict[str, Any] = {"tif": {"photometric": "rgb"}, "webp": {"lossless": True}}.get(kind, {})
    red = np.full((16, 24, 3), (250, 10, 10), np.uint8)
    with pytest.raises(ContentError, match="constant image"):
        Image().parse(encoded(red, kind, **options))
    red[8:, 12:] = 0
    assert Image().parse(encoded(red, kind, **options)).bands == RGB


def test_one_bit_images_are_black_and_white() -> None:
    bits = np.eye(6, dtype=bool)
    np.testing.assert_array_equal(Image().decode({"png": encoded(bits, "png")}).pixels[..., 0], bits)
    np.testing.assert_array_equal(Image().decode({"npy": encoded(bits, "npy")}).pixels[..., 0], bits)


@pytest.mark.parametrize("bands", [1, 3])
def test_transparent_pixels_are_white(bands: int) -> None:
    pixels = np.zeros((2, 2, bands + 1), np.uint8)
    pixels[0, 0, -1] = 255  # one black point
    raw = Image().decode({"png": encoded(pixels, "png")})
    np.testing.assert_array_equal(raw.pixels, np.repeat([[[0.0], [1]], [[1], [1]]], bands, axis=2))


@pytest.mark.parametrize("dtype", [">u2", "<u2", "u4", "u8", ">f4", "<f8", "f2", "i4", "i8"])
def test_arrays_of_any_number_type(dtype: str) -> None:
    values = np.arange(12).reshape(3, 4)
    if np.dtype(dtype).kind == "u":
        values = values.astype(dtype) * (np.iinfo(dtype).max // 11)
    raw = Image().decode({"npy": encoded(values.astype(dtype), "npy")})
    scale = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    np.testing.assert_allclose(raw.pixels[..., 0], values / scale, rtol=1e-6)


def test_parse_takes_paths_images_and_arrays(tmp_path: Path) -> None:
    pixels = ramp(6, 4, 3)
    path = tmp_path / "photo.PNG"
    path.write_bytes(encoded(pixels, "png"))
    for value in (path, str(path), path.read_bytes(), PIL.Image.fromarray(pixels), pixels):
        raw = Image().parse(value)
        assert raw.bands == RGB
        np.testing.assert_allclose(raw.pixels, pixels / 255, rtol=1e-6)


@pytest.mark.parametrize(
    "value", [None, 3, ["a.png"], "nowhere.png", Path("/nowhere/at/all.jpg"), b"", np.zeros(5), np.zeros((2, 2, 2, 2))]
)
def test_values_that_are_not_images_are_refused(value: Any) -> None:
    with pytest.raises(ContentError):
        Image().parse(value)


def test_bands_are_converted_to_gray_and_rgb() -> None:
    rgb, grey = picture(4, 5).pixels, picture(4, 5, ("grey",)).pixels
    grey_image = Image(bands="grey").parse(rgb)
    assert grey_image.bands == ("grey",)
    np.testing.assert_allclose(grey_image.pixels, (rgb @ [0.299, 0.587, 0.114])[..., None], rtol=1e-5)
    grey_image = Image(bands="rgb").parse(grey)
    assert grey_image.bands == RGB
    np.testing.assert_array_equal(grey_image.pixels, np.repeat(grey, 3, 2))
    assert Image(bands="grey").parse(grey).bands == ("grey",)
    assert Image(bands="rgb").parse(rgb).bands == RGB
    for bands in ("grey", "rgb"):
        with pytest.raises(ContentError, match="cannot become"):
            Image(bands=bands).parse(picture(4, 5, 4).pixels)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpegs_decode_as_in_pillow(subsampling: int, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    for pixels in (noise, noise[..., 0]):
        data = encoded(pixels, "jpeg", subsampling=subsampling, progressive=progressive)
        expected = np.asarray(PIL.Image.open(io.BytesIO(data))).reshape(37, 53, -1)
        for extension in ("jpg", "jpeg"):
            decoded = Image().decode({extension: data}).pixels
            assert np.abs(decoded * 255 - expected).max() <= 1.01


def test_jpegs_unsupported_by_simplejpeg_are_decoded_by_pillow() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    cmyk = encoded(noise, "jpeg", "CMYK")
    expected = np.asarray(PIL.Image.open(io.BytesIO(cmyk)).convert("RGB"))
    np.testing.assert_allclose(Image().decode({"jpg": cmyk}).pixels * 255, expected, atol=1e-4)
    data = encoded(noise, "jpeg")
    odd = data[:2] + b"\xff\xfe\0\4ab" + b"zz" + data[2:]  # bytes between two markers
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    np.testing.assert_array_equal(Image().decode({"jpg": odd}).pixels, Image().decode({"jpg": data}).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tif"])
def test_images_are_rotated_upright(kind: str, orientation: int) -> None:
    pixels = np.kron(ramp(3, 4, 3), np.ones((8, 8, 1), np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    tag = {"exif": exif} if kind != "tif" else {"photometric": "rgb", "extratags": [(274, 3, 1, orientation, True)]}
    data = encoded(pixels, kind, **tag, **({"lossless": True} if kind == "webp" else {}))
    with PIL.Image.open(io.BytesIO(data)) as file:
        expected = np.asarray(PIL.ImageOps.exif_transpose(file))
    raw = Image().parse(data)
    assert raw.pixels.shape == expected.shape
    np.testing.assert_allclose(raw.pixels * 255, expected, atol=1e-4)


def test_unreadable_exif_is_ignored() -> None:
    data = encoded(ramp(8, 8, 3), "jpeg")
    spoilt = data[:2] + b"\xff\xe1\0\x0eExif\0\0II*\0zz" + data[2:]
    np.testing.assert_array_equal(Image().decode({"jpg": spoilt}).pixels, Image().decode({"jpg": data}).pixels)


def test_32_bit_integers_do_not_overflow() -> None:
    pixels = np.array([[0, 65535], [65536, 1 << 20]], np.int32)
    for value in (pixels, PIL.Image.fromarray(pixels, "I")):
        np.testing.assert_array_equal(Image().parse(value).pixels[..., 0], pixels)


def test_a_sample_without_a_file_has_no_image() -> None:
    with pytest.raises(ContentError, match="without a file"):
        Image().decode({})


# Hostile files


class Trap:
    """Unpickling it leaves a trace."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def test_pickles_are_never_loaded() -> None:
    array = np.empty((2, 2), object)
    array[:] = Trap()
    for data in (encoded(array, "npy", allow_pickle=True), pickle.dumps(Trap())):
        for kind in ("npy", "png", "tif"):
            with pytest.raises(ContentError):
                Image().decode({kind: data})
        with pytest.raises(ContentError):
            Image().parse(data)
    assert not Trap.sprung


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tif", "npy"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = encoded(noise, kind, **({"photometric": "rgb"} if kind == "tif" else {}))
    for length in (0, 1, 7, 20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ContentError):
            Image().decode({kind: data[:length]})


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@given(st.sampled_from(Image.extensions), st.binary(max_size=60), st.integers(0, 8))
def test_garbage_is_refused(kind: str, garbage: bytes, head: int) -> None:
    heads = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"MM\0*",
        b"\x93NUMPY\x01\0",
        b"RIFF",
        b"GIF89a",
        b"PK\3\4",
    ]
    with pytest.raises(ContentError):
        Image().decode({kind: heads[head] + garbage})


@given(
    st.sampled_from(["png", "jpeg", "webp", "tif", "npy"]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255))),
)
def test_corrupted_bytes_give_an_image_or_a_content_error(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(ramp(9, 9, 3), kind, **({"photometric": "rgb"} if kind == "tif" else {})))
    for at, byte in changes:
        data[at % len(data)] = byte
    try:
        raw = Image().decode({kind: bytes(data)})
    except ContentError:
        return
    assert raw.pixels.ndim == 3
    assert np.isfinite(raw.pixels).all()


def decoded(*_: Any) -> None:
    """Stands for a decoder; no handler of exceptions catches this failure."""
    pytest.fail("the pixels were decoded")


@pytest.mark.parametrize(
    ("width", "height"), [(8000, 8000), (10_000, 10_000), (60_000, 60_000), (MAX_PIXELS + 1, 1), (2**31 - 1, 2**31 - 1)]
)
def test_png_bombs_are_refused_before_they_are_decoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(ContentError, match=r"pixels|bomb"):
        Image().decode({"png": png_header(width, height)})


def test_jpeg_bombs_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(encoded(ramp(16, 16, 3), "jpeg"))
    frame = data.index(b"\xff\xc0")  # height and width stand in the frame header
    data[frame + 5 : frame + 9] = struct.pack(">HH", 10_000, 10_000)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    monkeypatch.setattr("simplejpeg.decode_jpeg", decoded)
    with pytest.raises(ContentError, match="more than"):
        Image().decode({"jpg": bytes(data)})


def test_tiff_bombs_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, ramp(4, 4), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(50_000)

    monkeypatch.setattr("tifffile.TiffPageSeries.asarray", decoded)
    with pytest.raises(ContentError, match="more than"):
        Image().parse(path)


def test_arrays_shorter_than_their_header_says_are_refused() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 10**7)})
    with pytest.raises(ContentError):
        Image().decode({"npy": buffer.getvalue() + bytes(100)})
    with pytest.raises(ContentError, match="more than"):
        Image().parse(np.broadcast_to(np.uint8(0), (10_000, 10_000)))


@pytest.mark.parametrize("shape", [(1, 1, MAX_NUMBERS + 1), (5_000, 5_000, 9)])
def test_arrays_with_too_many_bands_are_refused_before_conversion_to_float(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modalities.files.pixels.scale_samples", decoded)
    with pytest.raises(ContentError, match=f"more than {MAX_NUMBERS:,} numbers"):
        Image().parse(np.broadcast_to(np.uint8(0), shape))


def test_array_files_with_too_many_bands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalities.files.pixels.MAX_NUMBERS", 4 * 4 * 3)
    assert Image().decode({"npy": encoded(ramp(4, 4, 3), "npy")}).pixels.shape == (4, 4, 3)
    with pytest.raises(ContentError, match="more than 48 numbers"):
        Image().decode({"npy": encoded(ramp(4, 4, 4), "npy")})


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4, 4, 0), (0, 0, 3), (5,), (1, 2, 3, 4), ()])
def test_arrays_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContentError):
        Image().decode({"npy": encoded(np.zeros(shape, np.float32), "npy")})


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, 1e300])
def test_pixels_must_be_finite(wrong: float) -> None:
    pixels = np.zeros((3, 3))
    pixels[1, 1] = wrong
    with pytest.raises(ContentError, match="infinite"):
        Image().parse(pixels)
    for dtype in (complex, "U3", "M8[s]", [("a", "f4")]):
        with pytest.raises(ContentError, match="pixels"):
            Image().parse(np.zeros((3, 3), dtype))
