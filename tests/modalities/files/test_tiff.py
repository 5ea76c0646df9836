from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from modalities.files.reading import ContentError, counted_changes
from modalities.image import Image, Picture

RGB = ("red", "green", "blue")
GDAL_NODATA = 42113


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def by_pillow(picture: PIL.Image.Image, kind: str = "tiff", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pack_grey(
    values: np.ndarray, bits: int, photometric: int = 1, tags: tuple[tuple[int, int, int], ...] = ()
) -> bytes:
    """An uncompressed grey TIFF of any depth, rows of `(H, W)` packed without gaps (W times bits is whole bytes)."""
    height, width = values.shape
    text = "".join(f"{value:0{bits}b}" for value in values.ravel())
    data = int(text, 2).to_bytes(len(text) // 8, "big")
    entries = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0)]
    entries += [(277, 3, 1), (278, 3, height), (279, 4, len(data)), *tags]
    entries.sort()
    start = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", start if tag == 273 else value)
        for tag, kind, value in entries
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + data


def relabel(data: bytes, photometric: int) -> bytes:
    """An RGB TIFF whose photometric interpretation is another."""
    place = data.index(struct.pack("<HHIH", 262, 3, 1, 2)) + 8
    return data[:place] + struct.pack("<H", photometric) + data[place + 2 :]


def decode(data: bytes, **options: Any) -> Picture:
    return Image(**options).decode({"tif": data})


def scene(bands: int, dtype: type = np.uint8, shape: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A smooth image `(H, W, B)` over the whole range of a type."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    planes = [np.sin(rows / (3 + i)) * np.cos(columns / (4 + i)) for i in range(bands)]
    return ((np.stack(planes, -1) / 2 + 0.5) * np.iinfo(dtype).max).round().astype(dtype)


# Depth


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16])
def test_values_are_scaled_by_bit_depth(bits: int) -> None:
    top = 2**bits - 1
    values = np.round(np.tile(np.linspace(0, 1, 16), (4, 1)) * top).astype(int)
    np.testing.assert_allclose(decode(pack_grey(values, bits)).pixels[..., 0], values / top, atol=1e-6)
    np.testing.assert_allclose(decode(pack_grey(values, bits, 0)).pixels[..., 0], 1 - values / top, atol=1e-6)


def test_only_8_16_and_32_bit_samples_have_a_full_scale() -> None:
    ramp = np.tile(np.linspace(0, 1, 16), (4, 1))
    for dtype in (np.uint8, np.uint16, np.uint32):
        data = tiff((ramp * np.iinfo(dtype).max).astype(dtype), photometric="miniswhite")
        np.testing.assert_allclose(decode(data).pixels[..., 0], 1 - ramp, atol=4e-3)
    twelve = tiff((ramp * 4095).astype(np.uint16), photometric="minisblack")  # 12 bits in 16: the file does not say so
    assert decode(twelve).pixels.max() == pytest.approx(4095 / 65535)
    for values in (ramp.astype(np.float32) * 7 - 3, (ramp * 1000 - 500).astype(np.int16)):
        for photometric in ("minisblack", "miniswhite"):
            np.testing.assert_array_equal(decode(tiff(values, photometric=photometric)).pixels[..., 0], values)


def test_gray_without_a_photometric_tag_is_black_at_zero() -> None:
    values = np.arange(64).reshape(4, 16)
    data = pack_grey(values, 8)
    place = data.index(struct.pack("<HHI", 262, 3, 1))
    untagged = data[:place] + struct.pack("<HHI", 65000, 3, 1) + data[place + 8 :]
    np.testing.assert_allclose(decode(untagged).pixels[..., 0] * 255, values, atol=1e-4)


# Color


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_ycbcr_without_jpeg_becomes_rgb(compression: str | None) -> None:
    ycbcr = PIL.Image.fromarray(scene(3)).convert("YCbCr")
    offset_tags = [(530, "H", 2, (1, 1), True)]
    data = tiff(np.asarray(ycbcr), photometric="rgb", compression=compression, extratags=offset_tags)
    picture = decode(relabel(data, 6))
    assert picture.bands == RGB
    assert np.abs(picture.pixels * 255 - np.asarray(ycbcr.convert("RGB"))).max() < 1.01
    levels = (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)  # of video: black is 16, white 235
    greys = np.full((4, 4, 3), 128, np.uint8)
    greys[:2, :, 0], greys[2:, :, 0] = 16, 235
    data = tiff(
        greys, photometric="rgb", compression=compression, extratags=[*offset_tags, (532, "2I", 6, levels, True)]
    )
    np.testing.assert_allclose(decode(relabel(data, 6)).pixels[:, 0], [[0] * 3, [0] * 3, [1] * 3, [1] * 3], atol=1e-6)


def test_subsampled_ycbcr_without_jpeg_is_refused_by_name() -> None:
    data = tiff(scene(3), photometric="rgb", extratags=[(530, "H", 2, (2, 2), True)])
    with pytest.raises(ContentError, match="YCbCr color of subsampled chroma that is not JPEG"):
        decode(relabel(data, 6))


def test_jpeg_ycbcr_decodes_as_in_pillow() -> None:
    picture = PIL.Image.fromarray(scene(3))
    for data in (by_pillow(picture.convert("YCbCr"), compression="jpeg"), by_pillow(picture, compression="jpeg")):
        expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
        assert decode(data).bands == RGB
        assert np.abs(decode(data).pixels * 255 - expected).max() < 3
        assert np.abs(decode(data).pixels * 255 - np.asarray(picture)).mean() < 4


def test_cmyk_becomes_rgb_as_in_jpeg_and_is_counted() -> None:
    inks = PIL.Image.fromarray(scene(4), "CMYK")
    expected = np.asarray(inks.convert("RGB"))
    wide = tiff(scene(4).astype(np.uint16) * 257, photometric="separated", planarconfig="contig")
    for data in (by_pillow(inks), by_pillow(inks, compression="tiff_lzw"), wide):
        with counted_changes() as changes:
            picture = decode(data)
        assert picture.bands == RGB
        assert np.abs(picture.pixels * 255 - expected).max() < 1.01
        assert changes == {"CMYK image converted to RGB without its color profile": 1}
    with pytest.raises(ContentError, match="inks other than CMYK"):
        decode(tiff(scene(4), photometric="separated", planarconfig="contig", extratags=[(332, "H", 1, 2, True)]))


@pytest.mark.parametrize(
    ("photometric", "name"),
    [
        (8, "in CIELab color"),
        (9, "in ICCLab color"),
        (32845, "in LogLuv color"),
        (32803, "of a color filter array"),
        (99, "of photometric interpretation 99"),
    ],
)
def test_unsupported_color_spaces_are_refused_by_name(photometric: int, name: str) -> None:
    with pytest.raises(ContentError, match=f"TIFF {name}: convert it to RGB"):
        decode(relabel(tiff(scene(3), photometric="rgb"), photometric))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_any_depth_become_colors(bits: int) -> None:
    colors = np.random.default_rng(0).integers(0, 65536, (2**bits, 3))
    values = np.arange(64).reshape(4, 16) % 2**bits
    data = pack_grey(values, bits, 3, ((320, 3, 0),))
    place = data.index(struct.pack("<HHI", 320, 3, 1))
    where = struct.pack("<HHII", 320, 3, 3 * 2**bits, len(data))
    data = data[:place] + where + data[place + 12 :] + colors.T.astype("<u2").tobytes()
    picture = decode(data)
    assert picture.bands == RGB
    np.testing.assert_allclose(picture.pixels * 65535, colors[values], atol=0.01)


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_palettes_of_8_bit_colors_equal_those_of_png(factor: int) -> None:
    indices, colors = scene(1)[..., 0], np.random.default_rng(0).integers(0, 256, (3, 256))
    data = tiff(indices, photometric="palette", colormap=(colors * factor).astype(np.uint16))
    np.testing.assert_allclose(decode(data).pixels * 255, colors.T[indices], atol=1e-4)


# Transparency


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA"])
def test_a_png_and_a_tiff_of_one_image_are_equal(mode: str) -> None:
    rgba = PIL.Image.fromarray(scene(4), "RGBA")
    picture = rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)
    if mode == "LA":
        picture.putalpha(rgba.getchannel("A"))
    png = Image().decode({"png": by_pillow(picture, "png")})
    for compression in ("raw", "tiff_lzw"):
        pixels = decode(by_pillow(picture, compression=compression))
        assert pixels.bands == png.bands
        np.testing.assert_array_equal(pixels.pixels, png.pixels)
        assert Image().fit([png, pixels]).separate is False


def test_transparent_16_bit_pixels_are_composited_on_white() -> None:
    samples = scene(4, np.uint16)
    alpha = samples[..., 3:] / 65535
    expected = samples[..., :3] / 65535 * alpha + 1 - alpha
    with counted_changes() as changes:
        straight = decode(tiff(samples, photometric="rgb", extrasamples=["unassalpha"]))
    assert changes == {"image with transparent pixels, set on white": 1}
    np.testing.assert_allclose(straight.pixels, expected, atol=2e-5)
    multiplied = np.concatenate([samples[..., :3] * alpha, samples[..., 3:]], -1).round().astype(np.uint16)
    picture = decode(tiff(multiplied, photometric="rgb", extrasamples=["assocalpha"]))
    np.testing.assert_allclose(picture.pixels, expected, atol=3e-5)


def test_extra_samples_without_alpha_stay_bands() -> None:
    near_infrared = scene(4, np.uint16)
    picture = decode(tiff(near_infrared, photometric="rgb", extrasamples=["unspecified"]))
    assert picture.bands == ("band1", "band2", "band3", "band4")
    np.testing.assert_allclose(picture.pixels, near_infrared / 65535, atol=1e-6)
    two = decode(tiff(scene(2), photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]))
    assert two.bands == ("band1", "band2")


def test_alpha_of_multiband_or_measured_data_marks_missing_pixels() -> None:
    bands = scene(6, np.uint16)
    bands[..., 5] = 65535
    bands[:3, :, 5] = 0
    extras = ["unspecified"] * 4 + ["unassalpha"]
    picture = decode(tiff(bands, photometric="minisblack", planarconfig="contig", extrasamples=extras))
    assert (len(picture.bands), picture.incomplete) == (5, True)
    assert np.isnan(picture.pixels[:3]).all()
    np.testing.assert_allclose(picture.pixels[3:], bands[3:, :, :5] / 65535, atol=1e-6)
    heights = np.stack([scene(1)[..., 0] * 10.0 - 300, bands[..., 5] / 65535], -1).astype(np.float32)
    picture = decode(tiff(heights, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]))
    assert picture.bands == ("grey",)
    assert np.isnan(picture.pixels[:3]).all()
    np.testing.assert_array_equal(picture.pixels[3:, :, 0], heights[3:, :, 0])
    heights[5, 5, 1] = 0.5
    with pytest.raises(ContentError, match="multiplied by partial transparency"):
        decode(tiff(heights, photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"]))


# Compression


PREDICTED = ("lzw", "zlib", "zstd")
UNPREDICTED = (*PREDICTED, "packbits", "lzma", "png", "webp", "jpeg2000", "jpeg")


@pytest.mark.parametrize(
    ("compression", "predictor"), [*((c, False) for c in UNPREDICTED), *((c, True) for c in PREDICTED)]
)
def test_compressed_tiffs_are_read(compression: str, predictor: bool) -> None:
    rgb = scene(3)
    picture = decode(tiff(rgb, photometric="rgb", compression=compression, predictor=predictor))
    assert picture.bands == RGB
    tolerance = {"webp": 6, "jpeg": 20}.get(compression, 1e-4)
    assert np.abs(picture.pixels * 255 - rgb).max() < tolerance


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_with_predictor_3_are_read(dtype: type) -> None:
    heights = (scene(1)[..., 0] * 3.5 - 100).astype(dtype)
    data = tiff(heights, photometric="minisblack", compression="zlib", predictor=3)
    np.testing.assert_array_equal(decode(data).pixels[..., 0], heights.astype(np.float32))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_compression_is_read(compression: str) -> None:
    ink = scene(1)[..., 0] > 128
    data = by_pillow(PIL.Image.fromarray(ink), compression=compression)
    np.testing.assert_array_equal(decode(data).pixels[..., 0], ink)


def test_tiles_and_planes_of_compressed_tiffs_are_read() -> None:
    rgb = scene(3, shape=(40, 56))
    tiled = decode(tiff(rgb, photometric="rgb", compression="lzw", tile=(16, 16)))
    planes = decode(tiff(np.moveaxis(rgb, 2, 0), photometric="rgb", compression="lzw", planarconfig="separate"))
    for data in (tiled, planes):
        np.testing.assert_allclose(data.pixels * 255, rgb, atol=1e-4)


def test_compressions_whose_size_cannot_be_checked_are_refused_by_name() -> None:
    with pytest.raises(ContentError, match=r"^TIFF compressed as JPEGXL$"):
        decode(tiff(scene(3), photometric="rgb", compression="jpegxl"))
    data = tiff(scene(1)[..., 0], photometric="minisblack")
    place = data.index(struct.pack("<HHIH", 259, 3, 1, 1))
    with pytest.raises(ContentError, match=r"^TIFF compressed as THUNDERSCAN$"):
        decode(data[: place + 8] + struct.pack("<H", 32809) + data[place + 10 :])


def test_a_missing_decompression_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain.tif").write_bytes(tiff(scene(1)[..., 0], photometric="minisblack"))
    (tmp_path / "lzw.tif").write_bytes(tiff(scene(1)[..., 0], photometric="minisblack", compression="lzw"))
    script = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from modalities.image import Image\n"
        "print(Image().parse(sys.argv[1] + '/plain.tif').bands)\n"
        "try: Image().parse(sys.argv[1] + '/lzw.tif')\n"
        "except ValueError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "('grey',)",
        "MissingPackageError this needs the package 'imagecodecs': "
        "pip install 'sensorium[images]' or pip install imagecodecs",
    ]


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "jpeg", "webp", "jpeg2000"])
def test_truncated_compressed_tiffs_are_refused(compression: str) -> None:
    data = tiff(scene(3), photometric="rgb", compression=compression)
    for length in (len(data) // 2, len(data) * 9 // 10, len(data) - 2):
        with pytest.raises(ContentError):
            decode(data[:length])


@given(st.sampled_from(UNPREDICTED), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6))
def test_corrupted_compressed_tiffs_give_an_image_or_a_content_error(
    compression: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(tiff(scene(3), photometric="rgb", compression=compression))
    for at, byte in changes:
        data[at % len(data)] = byte
    try:
        picture = decode(bytes(data))
    except ContentError:
        return
    assert picture.pixels.ndim == 3
    assert np.isfinite(picture.pixels).all()


def test_jpegs_in_a_tiff_have_the_size_limit_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(tiff(scene(3), photometric="rgb", compression="jpeg"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    monkeypatch.setattr("tifffile.TiffPageSeries.asarray", lambda *_: pytest.fail("the pixels were decoded"))
    with pytest.raises(ContentError, match="more than 50,000,000 pixels"):
        decode(bytes(data))


def test_strips_that_grow_beyond_their_tags_are_refused() -> None:
    data = pack_grey(np.arange(64).reshape(4, 16), 8)
    strip = zlib.compress(bytes(10_000_000))
    place = data.index(struct.pack("<HHI", 259, 3, 1)) + 8
    data = data[:place] + struct.pack("<I", 8) + data[place + 4 : -64] + strip
    place = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    with pytest.raises(ContentError, match=r"unreadable tif image .*INSUFFICIENT_SPACE"):
        decode(data[:place] + struct.pack("<I", len(strip)) + data[place + 4 :])


# Pages, layouts and files


def test_multiband_tiffs_in_either_layout_and_byte_order() -> None:
    pixels = scene(6, np.uint16)
    planes = np.moveaxis(pixels, 2, 0)
    for array, options in [
        (pixels, {"planarconfig": "contig"}),
        (planes, {"planarconfig": "separate"}),
        (planes, {"metadata": {"axes": "CYX"}}),
        (pixels, {"planarconfig": "contig", "byteorder": ">"}),
        (pixels, {"planarconfig": "contig", "bigtiff": True}),
        (pixels, {"planarconfig": "contig", "compression": "zlib"}),
    ]:
        raw = Image().parse(tiff(array, photometric="minisblack", **options))
        np.testing.assert_allclose(raw.pixels, pixels / 65535, rtol=1e-6)


def test_many_bands_do_not_count_as_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(scene(9, shape=(6, 8)), photometric="minisblack", planarconfig="contig")
    monkeypatch.setattr("modalities.files.pixels.MAX_PIXELS", 48)
    assert decode(data).pixels.shape == (6, 8, 9)
    monkeypatch.setattr("modalities.files.pixels.MAX_NUMBERS", 431)
    with pytest.raises(ContentError, match=r"more than 431 numbers \(8 x 6 x 9\)"):
        decode(data)


@pytest.mark.parametrize("axes", [None, "ZYX", "TYX"])
def test_tiffs_with_several_pages_are_refused(axes: str | None) -> None:
    pages = np.zeros((3, 8, 9), np.uint8)
    metadata = {"metadata": {"axes": axes}} if axes else {}
    with pytest.raises(ContentError, match="several pages"):
        Image().parse(tiff(pages, photometric="minisblack", **metadata))
    scans = io.BytesIO()
    with tifffile.TiffWriter(scans) as file:
        file.write(pages[0], photometric="minisblack")
        file.write(pages[0, :4], photometric="minisblack")
    with pytest.raises(ContentError, match="several pages"):
        Image().parse(scans.getvalue())


def test_previews_in_a_tiff_are_skipped() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(scene(1)[..., 0], photometric="minisblack")
        file.write(scene(1, shape=(4, 4))[..., 0], photometric="minisblack", subfiletype=1)
    np.testing.assert_allclose(Image().parse(buffer.getvalue()).pixels * 255, scene(1), atol=1e-4)


def test_ome_tiffs_with_missing_companion_files_are_refused(tmp_path: Path) -> None:
    parts = ["urn:uuid:11111111-1111-1111-1111-111111111111", "urn:uuid:22222222-2222-2222-2222-222222222222"]
    planes = "".join(
        f'<TiffData IFD="0" PlaneCount="1" FirstC="{i}"><UUID FileName="{i}.ome.tif">{part}</UUID></TiffData>'
        for i, part in enumerate(parts)
    )
    channels = "".join(f'<Channel ID="Channel:0:{i}" SamplesPerPixel="1"/>' for i in range(2))
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{parts[0]}"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="32" SizeY="24" SizeC="2" SizeZ="1" SizeT="1">'
        f"{channels}{planes}</Pixels></Image></OME>"
    )
    path = tmp_path / "0.ome.tif"
    tifffile.imwrite(path, scene(1)[..., 0], photometric="minisblack", description=xml, metadata=None)
    with pytest.raises(ContentError, match="OME-TIFF whose other files are absent"):
        Image().parse(path)
    tifffile.imwrite(path, np.moveaxis(scene(2), 2, 0), photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    np.testing.assert_allclose(Image().parse(path).pixels * 255, scene(2), atol=1e-4)


# No data


def with_mask(pixels: np.ndarray, mask: np.ndarray, **options: Any) -> bytes:
    """A TIFF of an image and its mask page, as GDAL writes them."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(pixels, metadata=None, **options)
        file.write(mask, photometric="mask", subfiletype=4, metadata=None)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-9999.0, "-9999"),
        (-9999.0, "-9999.0 "),
        (float(np.finfo(np.float32).min), "-3.4028234663852886e+38"),
        (float(np.finfo(np.float32).min), "-3.40282346638529e+38"),
        (np.nan, "nan"),
    ],
)
def test_gdal_nodata_values_are_missing_pixels(value: float, text: str) -> None:
    heights = (100 + 50 * np.tile(np.linspace(0, 1, 16), (16, 1))).astype(np.float32)
    heights[:4] = value
    for compression in (None, "lzw"):
        data = tiff(
            heights, photometric="minisblack", compression=compression, extratags=[(GDAL_NODATA, 2, 0, text, True)]
        )
        with counted_changes() as changes:
            picture = decode(data)
        assert picture.incomplete
        assert np.isnan(picture.pixels[:4]).all()
        np.testing.assert_array_equal(picture.pixels[4:, :, 0], heights[4:])
        assert changes == {"image pixels without data": 64}
        fitted = Image(size=16, patch=4).fit([picture])
        assert fitted.mean[0] == pytest.approx(125)
        assert fitted.std[0] == pytest.approx(heights[4:].std(), rel=1e-5)
        with pytest.raises(ContentError, match="image with pixels without data"):
            decode(data, nodata="refuse")


@pytest.mark.parametrize("text", ["-9999", "0.5", "none", "1e9"])
def test_nodata_values_outside_the_sample_type_mask_nothing(text: str) -> None:
    data = tiff(scene(1)[..., 0], photometric="minisblack", extratags=[(GDAL_NODATA, 2, 0, text, True)])
    picture = decode(data)
    assert not picture.incomplete
    np.testing.assert_allclose(picture.pixels * 255, scene(1), atol=1e-4)


def test_nodata_masks_a_band_of_measurements_and_all_bands_of_colors() -> None:
    tag = [(GDAL_NODATA, 2, 0, "0", True)]
    samples = scene(3)
    samples[0, 0] = 0
    samples[1, 1] = (0, 90, 0)
    picture = decode(tiff(samples, photometric="rgb", extratags=tag))
    assert np.isnan(picture.pixels[0, 0]).all()
    np.testing.assert_allclose(picture.pixels[1, 1] * 255, (0, 90, 0), atol=1e-4)
    picture = decode(tiff(samples, photometric="minisblack", planarconfig="contig", extratags=tag))
    assert np.isnan(picture.pixels[1, 1]).tolist() == [True, False, True]


def test_nodata_is_compared_before_values_are_converted() -> None:
    values = scene(1)[..., 0]
    missing = values == values[5, 5]
    tag = [(GDAL_NODATA, 2, 0, str(values[5, 5]), True)]
    inverted = decode(tiff(values, photometric="miniswhite", extratags=tag))
    colors = np.random.default_rng(0).integers(0, 65536, (3, 256), np.uint16)
    mapped = decode(tiff(values, photometric="palette", colormap=colors, extratags=tag))
    assert mapped.bands == RGB
    for picture in (inverted, mapped):
        np.testing.assert_array_equal(np.isnan(picture.pixels).all(2), missing)
        np.testing.assert_array_equal(np.isnan(picture.pixels).any(2), missing)


@pytest.mark.parametrize("bands", [1, 3])
def test_mask_pages_are_missing_pixels(bands: int) -> None:
    pixels = scene(bands)
    inside = np.ones(pixels.shape[:2], bool)
    inside[:5, :7] = False
    options = {"photometric": "rgb" if bands == 3 else "minisblack", "extratags": [(274, "H", 1, 6, True)]}
    picture = decode(with_mask(pixels if bands == 3 else pixels[..., 0], inside, **options))
    np.testing.assert_array_equal(np.isnan(picture.pixels), np.rot90(~inside, -1)[..., None].repeat(bands, 2))
    inner = ~np.isnan(picture.pixels)
    np.testing.assert_allclose(picture.pixels[inner] * 255, np.rot90(pixels, -1)[inner], atol=1e-4)
    with pytest.raises(ContentError, match="mask has another shape"):
        decode(with_mask(scene(3), inside[:4], photometric="rgb"))
    with pytest.raises(ContentError, match="image without data"):
        decode(with_mask(scene(3), ~inside & inside, photometric="rgb"))
