"""Lengths in the headers of sound files."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile

from modalities.files.lengths import add_length, can_seek, find_splice
from modalities.files.mpeg import build_table_frame, find_end_tags, scan_frames, skip_id3
from modalities.files.reading import ContentError, counted_changes

SECONDS = 3
ID3 = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 52, 1, 1 << 31) + bytes(8 + 20)
TAGS = APE + b"APETAGEX" + struct.pack("<IIII", 2000, 52, 1, 1 << 31) + bytes(8) + b"TAG" + bytes(125)


def sound(rate_hz: int = 16_000, channels: int = 1) -> np.ndarray:
    """A tone in noise, `(T, C)`."""
    time_s = np.arange(SECONDS * rate_hz) / rate_hz
    noise = np.random.default_rng(0).standard_normal((len(time_s), channels))
    return 0.3 * np.sin(2 * np.pi * 440 * time_s)[:, None] + 0.02 * noise


def encoded(kind: str, rate_hz: int = 16_000, channels: int = 1, **form: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(rate_hz, channels), rate_hz, format=kind, **form)
    return buffer.getvalue()


def read(data: bytes, extension: str) -> tuple[np.ndarray, dict[str, int]]:
    """Samples `(T, C)` of a file with its length, and what was counted; its header says how many they are."""
    with counted_changes() as changes:
        data = add_length(data, extension)
    assert find_splice(data, extension) is None, "once is enough"
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        samples = file.read(file.frames, dtype="float32", always_2d=True)
        assert len(samples) == file.frames
    return samples, dict(changes)


def refusal(data: bytes, extension: str) -> str:
    with pytest.raises(ContentError) as caught:
        find_splice(data, extension)
    return caught.value.reason


def patch(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


# MP3

DELAY = 529
"""Samples by which an MP3 decoder is late, which it leaves out where a table stands in front."""


def bare(data: bytes) -> bytes:
    """An MP3 file without the table in front."""
    return data[scan_frames(data).first :]


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_frames_equal_those_of_the_decoder(rate_hz: int, channels: int) -> None:
    data = encoded("MP3", rate_hz, channels, bitrate_mode="VARIABLE", compression_level=0.4)
    mp3 = scan_frames(data)
    assert mp3.total == mp3.table_count
    samples, changes = read(data, "mp3")
    assert (len(samples), changes) == (SECONDS * rate_hz, {})
    size = 1152 if rate_hz >= 32_000 else 576
    for sound in (bare(data), ID3 + bytes(50) + bare(data) + TAGS):
        samples, changes = read(sound, "mp3")
        assert len(samples) == mp3.total * size - DELAY
        assert changes == {"mp3 audio that does not state its length: frames counted": 1}


def test_an_mp3_file_without_a_header_table_is_read_completely() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * 44_100)
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    data = bare(buffer.getvalue())
    assert soundfile.info(io.BytesIO(data)).frames < 10 * 44_100, "an estimate by the first frame"
    samples, _ = read(data, "mp3")
    shift = 1105 - DELAY  # what encoder and decoder add in front, and the reader takes off
    assert np.corrcoef(samples[shift : shift + len(noise), 0], noise[: len(samples) - shift])[0, 1] > 0.75
    assert len(samples) / 44_100 == pytest.approx(20, abs=0.06)


def test_wrong_mp3_header_tables_are_corrected() -> None:
    data = encoded("MP3", 44_100, bitrate_mode="CONSTANT")
    mp3 = scan_frames(data)
    place = data.find(b"Info") if b"Info" in data[:64] else data.find(b"Xing")
    complete = mp3.total * 1152 - DELAY
    wrong = {"mp3 audio whose table has a wrong number of frames: frames counted": 1}
    for number in (mp3.total + 1, mp3.total - 5):  # some count the table's own frame
        samples, changes = read(patch(data, place + 8, struct.pack(">I", number)), "mp3")
        assert (len(samples), changes) == (complete, wrong)
    samples, changes = read(data + data, "mp3")
    assert (len(samples), changes) == ((2 * mp3.total + 1) * 1152 - DELAY, wrong)
    samples, changes = read(data + ID3 + data, "mp3")
    assert (len(samples), changes) == ((2 * mp3.total + 1) * 1152 - DELAY, wrong)
    samples, changes = read(patch(data, place + 4, bytes(4)), "mp3")
    assert (len(samples), changes) == (complete, {"mp3 audio that does not state its length: frames counted": 1})


def test_a_fraunhofer_header_table_is_replaced() -> None:
    data = bare(encoded("MP3", 44_100, bitrate_mode="CONSTANT"))
    total = scan_frames(data).total
    table = build_table_frame(data[:4], total, len(data))
    assert scan_frames(table + data).table_count == total
    fraunhofer = table[:4] + bytes(32) + b"VBRI" + struct.pack(">HHHII", 1, 0, 0, len(data), total)
    samples, changes = read(fraunhofer.ljust(len(table), b"\0") + data, "mp3")
    assert len(samples) == total * 1152 - DELAY
    assert changes == {"mp3 audio with a VBRI table, which the decoder ignores: frames counted": 1}


def test_truncated_mp3_files() -> None:
    data = encoded("MP3", 44_100)
    assert refusal(data[:-3000], "mp3") == "truncated mp3 audio"
    total = scan_frames(data).total
    samples, changes = read(bare(data)[:-30], "mp3")
    assert len(samples) == (total - 1) * 1152 - DELAY
    assert changes == {"mp3 audio that ends inside a frame: that frame left out, the others counted": 1}


def test_padding_after_the_tags_of_an_mp3_file_is_removed() -> None:
    data = encoded("MP3", 44_100)
    complete, _ = read(data, "mp3")
    padded = ID3 + bytes(3000) + data
    with pytest.raises(RuntimeError):
        soundfile.info(io.BytesIO(padded))
    samples, changes = read(padded, "mp3")
    np.testing.assert_array_equal(samples, complete)
    assert changes == {"mp3 audio after bytes that are not a frame: these bytes left out": 1}
    assert find_splice(ID3 + data, "mp3") is None


def test_mp3_files_that_no_decoder_supports_are_refused_by_name() -> None:
    data = bare(encoded("MP3", 44_100))
    turns = "mp3 audio whose sample rate or number of channels changes"
    assert refusal(data + bare(encoded("MP3", 32_000)), "mp3") == turns
    assert refusal(data + bare(encoded("MP3", 44_100, 2)), "mp3") == turns
    assert refusal(ID3 + b"\xff\xfd\x90\0" + bytes(999), "mp3") == "mp3 file of MPEG layer I or II"
    free = (b"\xff\xfb\0\0" + bytes(500)) * 9
    assert refusal(free, "mp3") == "mp3 audio in free format, whose frames cannot be counted"
    assert refusal(ID3 + bytes(5000), "mp3") == "unreadable mp3 audio"


def test_tags_are_skipped() -> None:
    assert skip_id3(ID3 + ID3 + b"x") == 2 * len(ID3)
    assert skip_id3(b"ID3\x04\0\x10\0\0\x02\0" + bytes(266) + b"x") == 276
    assert skip_id3(b"ID3\x04\0\0\x7f\x7f\x7f\x7f") == 10
    assert find_end_tags(b"sound" + TAGS) == 5
    assert find_end_tags(b"sound") == 5


# FLAC


def flac(subtype: str = "PCM_16", channels: int = 1, total: int | None = None) -> bytes:
    """A FLAC file whose header says that it has some number of samples."""
    data = encoded("FLAC", channels=channels, subtype=subtype)
    return data if total is None else patch(data, 22, struct.pack(">I", total))


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_flac_files_without_a_stated_length(subtype: str, channels: int) -> None:
    complete, changes = read(flac(subtype, channels), "flac")
    assert (len(complete), changes) == (SECONDS * 16_000, {})
    unknown = flac(subtype, channels, total=0)
    for data in (unknown, ID3 + unknown, unknown + b"TAG" + bytes(125), unknown + bytes(500)):
        samples, changes = read(data, "flac")
        np.testing.assert_array_equal(samples, complete)
        assert changes == {"flac audio that does not state its length: samples counted": 1}


def test_flac_files_with_a_wrong_stated_length() -> None:
    complete, _ = read(flac(), "flac")
    samples, changes = read(flac(total=16_000), "flac")
    np.testing.assert_array_equal(samples, complete)
    assert changes == {"flac audio longer than its header states: all samples read": 1}
    assert refusal(flac(total=96_000), "flac") == "truncated flac audio"
    assert refusal(flac()[: len(flac()) // 2], "flac") == "truncated flac audio"
    assert find_splice(flac() + bytes(range(99)), "flac") is None


def test_a_flac_file_of_unknown_length_that_ends_within_a_frame() -> None:
    complete, _ = read(flac(), "flac")
    samples, changes = read(flac(total=0)[:-3000], "flac")
    assert len(samples) % 4096 == 0
    assert 0 < len(complete) - len(samples) <= 2 * 4096
    np.testing.assert_array_equal(samples, complete[: len(samples)])
    assert changes == {"flac audio that ends inside a frame: that frame left out, the samples of the others counted": 1}
    assert refusal(flac(total=0)[:200], "flac") == "unreadable flac audio"


def crc(data: bytes, polynomial: int, bits: int) -> bytes:
    """A cyclic redundancy check, most significant bit first: the remainder of a division of polynomials."""
    value = 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial | 1 << bits if value >> bits - 1 else 0)
    return value.to_bytes(bits // 8, "big")


def flac_frames(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Where the frames of a FLAC file begin, and each one's place and length of header, less the checksum.

    Blocks have 4,096 samples but for the last one, whose number of samples takes two bytes of its header.
    """
    places = []
    at = -1
    while (at := data.find(b"\xff\xf8", at + 1)) >= 0:
        size = 5 + (2 if data[at + 2] >> 4 == 7 else 0)
        if data[at + size : at + size + 1] == crc(data[at : at + size], 0x07, 8):
            places.append((at, size))
    return places[0][0], places


def numbered_by_sample(data: bytes) -> bytes:
    """A FLAC file as encoders wrote it before a bit said what numbers are: each frame has its first sample's."""
    first, places = flac_frames(data)
    assert len(places) == -(-SECONDS * 16_000 // 4096)
    new = data[:first]
    for number, ((at, size), (stop, _)) in enumerate(zip(places, [*places[1:], (len(data), 0)], strict=True)):
        header = data[at : at + 4] + chr(4096 * number).encode() + data[at + 5 : at + size]
        frame = header + crc(header, 0x07, 8) + data[at + size + 1 : stop - 2]
        new += frame + crc(frame, 0x8005, 16)
    return patch(new, 8, struct.pack(">H", 256))


@pytest.mark.parametrize("shortest", [16, 256, 2944])
def test_flac_files_whose_minimum_block_size_includes_the_last_block(shortest: int) -> None:
    complete, _ = read(flac(), "flac")
    place, size = 8, struct.pack(">H", shortest)
    samples, changes = read(patch(flac(), place, size), "flac")
    np.testing.assert_array_equal(samples, complete)
    assert changes == {}
    samples, changes = read(patch(flac(total=0), place, size), "flac")
    np.testing.assert_array_equal(samples, complete)
    assert changes == {"flac audio that does not state its length: samples counted": 1}
    assert refusal(patch(flac()[:-9000], place, size), "flac") == "truncated flac audio"


def test_flac_files_with_frames_numbered_by_sample() -> None:
    complete, _ = read(flac(), "flac")
    for data, changed in (
        (flac(), {}),
        (flac(total=0), {"flac audio that does not state its length: samples counted": 1}),
        (flac(total=16_000), {"flac audio longer than its header states: all samples read": 1}),
    ):
        samples, changes = read(numbered_by_sample(data), "flac")
        np.testing.assert_array_equal(samples, complete)
        assert changes == changed


def test_renumbered_flac_frames_are_used_if_the_decoder_returns_them() -> None:
    data = flac()
    first, _ = flac_frames(data)
    joined = patch(data + data[first:], 22, struct.pack(">I", 2 * SECONDS * 16_000))
    complete, _ = read(data, "flac")
    samples, changes = read(joined, "flac")
    np.testing.assert_array_equal(samples, np.concatenate([complete, complete]))
    assert changes == {}
    assert refusal(joined[:-9000], "flac") == "truncated flac audio"


def test_flac_files_that_the_decoder_can_seek_in() -> None:
    data = flac()
    first, places = flac_frames(data)
    for ordinary in (data, flac(total=0), ID3 + data, numbered_by_sample(data), flac()[:-3000]):
        assert can_seek(ordinary, "flac")
    for other in (
        patch(data, 8, struct.pack(">H", 256)),
        patch(data, 8, struct.pack(">HH", 4608, 4608)),
        patch(data + data[first:], 22, struct.pack(">I", 2 * SECONDS * 16_000)),
        patch(data[:first] + data[places[3][0] :], 22, struct.pack(">I", SECONDS * 16_000 - 3 * 4096)),
    ):
        assert not can_seek(other, "flac")
    assert can_seek(encoded("WAV"), "wav")


# WAV


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_wav_files_without_a_stated_length(endian: str) -> None:
    data = encoded("WAV", endian=endian)
    complete, changes = read(data, "wav")
    assert (len(complete), changes) == (SECONDS * 16_000, {})
    order = "<" if endian == "LITTLE" else ">"
    for size in (0, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF):
        samples, changes = read(patch(data, 40, struct.pack(f"{order}I", size)), "wav")
        np.testing.assert_array_equal(samples, complete)
        assert changes == {"wav audio that does not state its length: read to the end of the file": 1}
    assert refusal(patch(data, 40, struct.pack(f"{order}I", len(data))), "wav") == "truncated wav audio"
    fewer = patch(data, 40, struct.pack(f"{order}I", 32_000))
    samples, changes = read(fewer, "wav")
    np.testing.assert_array_equal(samples, complete[:16_000])
    assert changes == {"wav audio followed by bytes that are not a chunk: these bytes left out": 1}
    behind = b"LIST" + struct.pack(f"{order}I", 4) + b"INFO"
    assert read(data + behind, "wav")[1] == {}
    assert len(read(patch(data[:44], 40, bytes(4)) + behind, "wav")[0]) == 0


@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_24", 1), ("PCM_24", 5), ("FLOAT", 2)])
def test_wav_files_written_by_sox_to_a_pipe(subtype: str, channels: int) -> None:
    data = encoded("WAV", channels=channels, subtype=subtype)
    complete, _ = read(data, "wav")
    place, block = data.find(b"data") + 4, int.from_bytes(data[32:34], "little")
    size = 0x7FFFF000 // block * block
    piped = patch(patch(data, place, struct.pack("<I", size)), 4, struct.pack("<I", size + place - 4))
    samples, changes = read(piped, "wav")
    np.testing.assert_array_equal(samples, complete)
    assert changes == {"wav audio that does not state its length: read to the end of the file": 1}


def test_wav_files_of_64_bits() -> None:
    data = encoded("RF64")
    complete, changes = read(data, "wav")
    assert (len(complete), changes) == (SECONDS * 16_000, {})
    place = data.find(b"ds64") + 16
    samples, changes = read(patch(data, place, bytes(8)), "wav")
    np.testing.assert_array_equal(samples, complete)
    assert changes == {"wav audio that does not state its length: read to the end of the file": 1}
    assert refusal(data[:-3000], "wav") == "truncated wav audio"


# Ogg


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_are_read_to_the_end(subtype: str) -> None:
    data = encoded("OGG", 48_000, 2, subtype=subtype)
    samples, changes = read(data, "ogg")
    assert (len(samples), changes) == (SECONDS * 48_000, {})
    pages = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    assert len(pages) >= 5
    assert refusal(data[: pages[3]] + data[pages[4] :], "ogg") == "ogg audio with missing pages"
    assert refusal(data[: pages[-1]], "ogg") == "truncated ogg audio"
    assert refusal(data[:-10], "ogg") == "truncated ogg audio"
    chained = data + encoded("OGG", 48_000, 2, subtype=subtype)
    assert refusal(chained, "ogg") == "ogg audio of several chained streams"
