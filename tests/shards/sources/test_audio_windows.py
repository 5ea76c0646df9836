"""Windows of recordings: what they hold, in which files, and the same in each build."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.spectrogram import Spectrogram
from shards.build import SplitBy, build
from shards.sources.audio import AudioFolder

MODALITIES: dict[str, Modality] = {"audio": Spectrogram(sample_rate_hz=8000, mel_bands=16)}
LONG = np.random.default_rng(5).integers(-9000, 9000, (20_000, 2)).astype(np.int16)
"""Two and a half seconds at 8 kHz."""


def calls(path: Path, seconds: float = 9.5) -> np.ndarray:
    """Samples `(T,)` of an MP3 file of calls and pauses, whose frames borrow bits from those before them."""
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (880 * time_s + 50 * np.sin(time_s))) * (np.sin(8 * time_s) > 0)
    soundfile.write(path, tone, 16_000, format="MP3")
    return soundfile.read(path, dtype="float32")[0]


def cut(path: Path, source: AudioFolder) -> list[tuple[int, np.ndarray]]:
    """First sample and samples of each window of a file."""
    parts = []
    for item in source.items(path):
        assert item.part is not None
        [data] = source.content(item)[1:]
        parts.append((item.part[0], soundfile.read(io.BytesIO(data), dtype="float32")[0]))
    return parts


@pytest.mark.parametrize("stride_s", [1.0, 0.4, 1.7])
def test_windows_of_mp3_files_equal_the_samples_of_the_file(tmp_path: Path, stride_s: float) -> None:
    reference = calls(tmp_path / "a.mp3")
    parts = cut(tmp_path / "a.mp3", AudioFolder(window_s=1, stride_s=stride_s))
    assert len(parts) == 1 + int(8.5 / stride_s)
    for start, samples in parts:
        np.testing.assert_allclose(samples, reference[start : start + 16_000], atol=2**-22)


def test_windows_of_mp3_files_are_the_same_in_any_order(tmp_path: Path) -> None:
    calls(tmp_path / "a.mp3")
    source = AudioFolder(window_s=1, stride_s=0.6)
    items = list(source.items(tmp_path / "a.mp3"))
    forwards = [source.content(item) for item in items]
    assert [source.content(item) for item in reversed(items)] == forwards[::-1]
    assert [source.content(item) for item in items[5:]] == forwards[5:]


def test_a_long_mp3_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = calls(tmp_path / "a.mp3", 30.5)
    count = 0
    read = soundfile.SoundFile.read

    def count_read(self: soundfile.SoundFile, frames: int = -1, *args: Any, **keywords: Any) -> np.ndarray:
        nonlocal count
        samples = read(self, frames, *args, **keywords)
        count += len(samples)
        return samples

    def refuse(*_: Any) -> int:
        raise AssertionError("a seek reads all frames before its place")

    monkeypatch.setattr(soundfile.SoundFile, "read", count_read)
    monkeypatch.setattr(soundfile.SoundFile, "seek", refuse)
    source = AudioFolder(window_s=1)
    parts = [source.content(item) for item in source.items(tmp_path / "a.mp3")]
    assert len(parts) == 30
    assert count <= len(reference)


LOSSY = {"mp3": "MPEG_LAYER_III", "vorbis.ogg": "VORBIS", "opus.ogg": "OPUS"}
WAV = ("FLOAT", "DOUBLE", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize(
    ("gains", "extension", "loss"),
    [((0.99,), "wav", 0), ((1e-5,), "wav", 0), ((0.3, 1e-4), "wav", 0), ((0.3, 0.2), "flac", 2**-24)],
)
def test_windows_of_lossy_formats_equal_the_samples_of_the_file(
    tmp_path: Path, name: str, gains: tuple[float, ...], extension: str, loss: float
) -> None:
    square = np.sign(np.sin(2 * np.pi * 441 * np.arange(40_000) / 16_000))
    path = tmp_path / f"a.{name}"
    soundfile.write(
        path, square[:, None] * gains, 16_000, format="MP3" if name == "mp3" else "OGG", subtype=LOSSY[name]
    )
    with soundfile.SoundFile(path) as file:
        reference = file.read(40_000, dtype="float32", always_2d=True)
    assert np.abs(reference).max() > 1.1 or max(gains) < 0.9
    source = AudioFolder(window_s=1)
    contents = [source.content(item) for item in source.items(path)]
    assert [kind for kind, _ in contents] == [extension, extension]
    samples = np.concatenate([soundfile.read(io.BytesIO(data), always_2d=True)[0] for _, data in contents])
    assert np.abs(samples - reference[:32_000]).max() <= loss


def test_a_silent_channel_of_a_lossy_format_does_not_need_floats(tmp_path: Path) -> None:
    square = np.sign(np.sin(2 * np.pi * 441 * np.arange(40_000) / 16_000))
    soundfile.write(tmp_path / "a.mp3", square[:, None] * (0.3, 0), 16_000, format="MP3")
    source = AudioFolder(window_s=1)
    assert [source.content(item)[0] for item in source.items(tmp_path)] == ["flac", "flac"]


def test_a_clipped_recording_is_refused_with_and_without_windows(tmp_path: Path) -> None:
    """A loud MP3 file is not clipped: its decoder goes beyond the highest whole number."""
    tone = np.sin(2 * np.pi * 441 * np.arange(40_000) / 16_000)
    soundfile.write(tmp_path / "loud.mp3", 1.2 * tone, 16_000, format="MP3")
    soundfile.write(tmp_path / "clipped.wav", 1.2 * tone, 16_000)
    strict = Spectrogram(sample_rate_hz=8000, mel_bands=16, max_clipped=0.05)
    for window_s in (None, 1):
        source = AudioFolder(window_s=window_s)
        reasons = {}
        for item in source.items(tmp_path):
            extension, data = source.content(item)
            try:
                strict.decode({extension: data})
            except ContentError as error:
                reasons[item.path.name] = error.reason
        assert reasons == {"clipped.wav": "clipped audio"}


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_windows_of_integers_are_lossless(tmp_path: Path, subtype: str) -> None:
    limit = 2 ** ({"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}[subtype] - 1)
    numbers = np.random.default_rng(0).integers(-limit, limit, 12_000)
    numbers[:5] = -limit, limit - 1, 0, 1, -1
    soundfile.write(tmp_path / "a.flac", numbers / limit, 8000, subtype=subtype)
    [item] = AudioFolder(window_s=1).items(tmp_path)
    extension, data = AudioFolder(window_s=1).content(item)
    assert (extension, soundfile.info(io.BytesIO(data)).subtype) == ("flac", subtype)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(data))[0] * limit, numbers[:8000])


def test_windows_have_equal_bytes_in_every_build(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for subtype in WAV:
        soundfile.write(tmp_path / f"{subtype}.wav", 0.1 * rng.standard_normal(20_000), 8000, subtype=subtype)
    for name, subtype in LOSSY.items():
        for gain in (0.1, 1.0):
            path = tmp_path / f"{gain}.{name}"
            form = "MP3" if name == "mp3" else "OGG"
            soundfile.write(path, gain * rng.standard_normal(20_000), 8000, format=form, subtype=subtype)
    source = AudioFolder(window_s=1)

    def contents() -> dict[tuple[str, Any], tuple[str, bytes]]:
        return {(item.path.name, item.part): source.content(item) for item in source.items(tmp_path)}

    first = contents()
    time.sleep(1.1)  # libsndfile writes the time in seconds into WAV files of floats
    assert len(first) == 2 * len(list(tmp_path.iterdir()))
    assert {extension for extension, _ in first.values()} == {"flac", "wav"}
    assert contents() == first


def test_windows_of_flac_files_that_libflac_cannot_seek_in(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, 270_000).astype(np.int16)
    path = tmp_path / "a.flac"
    soundfile.write(path, noise, 8000)
    data = path.read_bytes()
    frame = data.find(b"\xff\xf8", int.from_bytes(data[5:8], "big") + 8)
    shortest = data[:8] + (256).to_bytes(2, "big") + data[10:]
    soundfile.write(path, noise[::-1], 8000)
    joined = data[:22] + (2 * len(noise)).to_bytes(4, "big") + data[26:] + path.read_bytes()[frame:]
    for content, reference in ((shortest, noise), (joined, np.concatenate([noise, noise[::-1]]))):
        path.write_bytes(content)
        parts = cut(path, AudioFolder(window_s=1))
        assert [start for start, _ in parts] == list(range(0, len(reference) - 7999, 8000))
        samples = np.concatenate([samples for _, samples in parts])
        np.testing.assert_array_equal(samples * 2**15, reference[: len(samples)])


def test_an_mp3_file_with_padding_is_cut(tmp_path: Path) -> None:
    reference = calls(tmp_path / "a.mp3")
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(b"ID3\x04\0\0\0\0\x02\0" + bytes(256 + 3000) + data)
    parts = cut(tmp_path / "a.mp3", AudioFolder(window_s=1))
    assert len(parts) == 9
    for start, samples in parts:
        np.testing.assert_allclose(samples, reference[start : start + 16_000], atol=2**-23)


def test_remainders_of_recordings_are_counted(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    soundfile.write(raw / "a.wav", LONG, 8000)
    soundfile.write(raw / "b.wav", LONG[:16_000], 8000)
    calls(raw / "c.mp3")
    manifest = build(AudioFolder(window_s=1), MODALITIES, SplitBy(validation=0, test=0), raw, tmp_path / "out")
    assert manifest.fields == {"audio.flac": 2 + 2 + 9}
    assert manifest.changed == {"end of a recording, shorter than a window, left out": 2}
    overlapping = AudioFolder(window_s=1, stride_s=0.5)
    manifest = build(overlapping, MODALITIES, SplitBy(validation=0, test=0), raw, tmp_path / "overlapping")
    assert manifest.changed == {}


def test_a_damaged_mp3_file_gives_the_windows_before_the_damage(tmp_path: Path) -> None:
    reference = calls(tmp_path / "a.mp3")
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(data[: len(data) // 2] + bytes(5000) + data[len(data) // 2 :])
    source = AudioFolder(window_s=1)
    lengths: list[int | str] = []
    for start, item in zip(range(0, len(reference), 16_000), source.items(tmp_path), strict=False):
        try:
            samples, _ = soundfile.read(io.BytesIO(source.content(item)[1]), dtype="float32")
        except ContentError as error:
            lengths.append(error.reason)
            continue
        lengths.append(len(samples))
        if start < len(reference) // 2 - 16_000:
            np.testing.assert_allclose(samples, reference[start : start + 16_000], atol=2**-23)
    good = lengths.count(16_000)
    assert 3 <= good <= len(lengths) - 3
    assert lengths == [16_000] * good + ["truncated mp3 audio"] * (len(lengths) - good)
