"""The table of file types."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from modalities.files.images import EXTENSIONS
from modalities.files.magic import FILE_TYPES, detect_type, extensions_of, find_type, has_magic
from modalities.image import Image
from modalities.spectrogram import Spectrogram

PIXELS = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
SOUND = np.sin(np.arange(8000) * 0.1)
PILLOW = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF", "ppm": "PPM"}


def written(extension: str) -> bytes:
    """A small file of a type, as a common library writes it."""
    buffer = io.BytesIO()
    if extension in PILLOW:
        pillow: Any = pytest.importorskip("PIL.Image")
        pillow.fromarray(PIXELS).save(buffer, PILLOW[extension])
    elif extension == "npy":
        np.save(buffer, PIXELS)
    else:
        pytest.importorskip("soundfile").write(buffer, SOUND, 8000, format=extension.upper())
    return buffer.getvalue()


@pytest.mark.parametrize("extension", [file_type.extension for file_type in FILE_TYPES])
def test_each_type_is_detected_by_its_content_alone(extension: str) -> None:
    data = written(extension)
    everything = [name for file_type in FILE_TYPES for name in file_type.extensions]
    assert detect_type(data, everything) == extension
    file_type = find_type(extension)
    assert file_type is not None
    for name in everything:
        assert has_magic(data, name) == (name in file_type.extensions)
    assert detect_type(b"anything else", everything) is None
    assert not has_magic(data, "doc")


def test_extensions_are_unique_and_lower_case() -> None:
    names = [name for file_type in FILE_TYPES for name in file_type.extensions]
    assert len(names) == len(set(names))
    assert all(name.isalnum() and name == name.lower() for name in names)


def test_modalities_and_readers_follow_the_table() -> None:
    assert Image.extensions == ("png", "jpg", "jpeg", "webp", "tif", "tiff", "npy")
    assert set(Spectrogram.extensions) == {"wav", "flac", "ogg", "mp3", "npy", "json"}
    assert set(EXTENSIONS) - set(Image.extensions) == {"bmp", "gif", "ppm", "pbm", "pgm", "pnm"}
    assert set(extensions_of("image", has_mime=True)) == {"png", "jpg", "jpeg", "webp", "bmp", "gif"}
