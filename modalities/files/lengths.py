"""Lengths in the headers of sound files: checked against the content, and added to headers without one."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from modalities.files.magic import has_magic
from modalities.files.mpeg import Data, build_table_frame, find_end_tags, scan_frames, skip_id3
from modalities.files.reading import ContentError, count_change, lazy_import

_UNKNOWN_WAV = 0x7FFFF000 - 0xFFFF
"""Smallest size that means unknown in WAV files written to a pipe: SoX writes the number of whole blocks, of 65,535
bytes at most, in 0x7FFFF000 bytes."""
_FLAC_OVERHEAD = 1024
"""Largest number of bytes of a FLAC frame beyond its samples."""
_BLOCK = 1 << 20
"""Samples per channel that are decoded at a time."""
_FLAC_HEADERS = 8
"""Number of candidates for a header that are tried from a file's end; other bytes rarely look like one."""


class Splice(NamedTuple):
    """Replacement of bytes `[start, stop)` of a file by `data`, so that its header has its length, and the reason."""

    start: int
    stop: int
    data: bytes
    reason: str


class SplicedFile(io.RawIOBase):
    """A file in memory with a splice applied, for readers that seek."""

    def __init__(self, data: Data, splice: Splice):
        self._parts = [(0, data, 0, splice.start), (splice.start, splice.data, 0, len(splice.data))]
        after = splice.start + len(splice.data)
        self._parts.append((after, data, splice.stop, len(data) - splice.stop))
        self._size = after + len(data) - splice.stop
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(offset + (0, self._position, self._size)[whence], 0)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        for begin, data, start, size in self._parts:
            if begin <= self._position < begin + size:
                offset = self._position - begin
                count = min(len(buffer), size - offset)
                buffer[:count] = data[start + offset : start + offset + count]
                self._position += count
                return count
        return 0


def add_length(data: bytes, extension: str, *, built: bool = False) -> bytes:
    """Make the header of a sound file state its length; a changed file is counted.

    built: trust a FLAC header with a length, because a build has checked it; the check takes half the time of decoding.

    Raises:
        ContentError: see `find_splice`.
    """
    if built and extension == "flac" and data[:4] == b"fLaC" and int.from_bytes(data[18:26], "big") & (1 << 36) - 1:
        return data
    splice = find_splice(data, extension)
    if splice is None:
        return data
    count_change(splice.reason)
    return data[: splice.start] + splice.data + data[splice.stop :]


def sound_error(extension: str, error: Exception) -> str:
    """Reason to skip a file that libsndfile cannot read."""
    return "truncated flac audio" if "lost sync" in str(error) else f"unreadable {extension} audio"


def find_splice(data: Data, extension: str) -> Splice | None:
    """Compare the length in a sound file's header with its content; returns the splice that corrects it, if any.

    libsndfile does not compare them: it takes a size of 0 as no samples, and stops at the length in the header.

    Raises:
        ContentError: the file is not of the type of its extension, is truncated, or lacks parts.
    """
    if extension not in _CHECKS:
        raise ContentError(f"audio of the unknown kind {extension}")
    if not len(data):
        raise ContentError("empty audio file")
    if not has_magic(data, extension):
        raise ContentError(f"audio file is not {extension}")
    return _CHECKS[extension](data)


def can_seek(data: Data, extension: str) -> bool:
    """Whether libsndfile seeks correctly in a sound file that `find_splice` accepts.

    In FLAC it fails or returns other samples if blocks have other sizes, or frames other numbers, than the header says.
    """
    return extension != "flac" or _flac_stream(data).is_seekable


def _mp3(data: Data) -> Splice | None:
    """Add a table with the number of frames if a file has none or a wrong one: decoders guess it by bit rate."""
    mp3 = scan_frames(data)
    # some encoders count the frame of the table
    if mp3.table_count is not None and mp3.table_count > mp3.total + (not mp3.partial):
        raise ContentError("truncated mp3 audio")
    if mp3.table_count == mp3.total and mp3.xing:
        if mp3.start == mp3.table:
            return None
        return Splice(mp3.start, mp3.table, b"", "mp3 audio after bytes that are not a frame: these bytes left out")
    if mp3.partial:
        reason = "mp3 audio that ends inside a frame: that frame left out, the others counted"
    elif mp3.table_count is None:
        reason = "mp3 audio that does not state its length: frames counted"
    elif mp3.table_count != mp3.total:
        reason = "mp3 audio whose table has a wrong number of frames: frames counted"
    else:
        reason = "mp3 audio with a VBRI table, which the decoder ignores: frames counted"
    table = build_table_frame(mp3.header, mp3.total, len(data) - mp3.first)
    return Splice(mp3.start, mp3.first, table, reason)


def _wav(data: Data) -> Splice | None:
    """Add the size of the samples if their chunk has 0 or the value for unknown."""
    order = ">" if data[:4] == b"RIFX" else "<"
    place, wide = 12, None
    while place + 8 <= len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, place)
        if name == b"fmt " and data[place + 12 : place + 16] == bytes(4):
            raise ContentError("audio with a sample rate of 0")
        if name == b"ds64" and data[:4] == b"RF64" and place + 24 <= len(data):
            wide = place + 16
        if name == b"data":
            if wide is not None and size == 0xFFFFFFFF:
                return _wav_samples(data, place + 8, wide, "<Q")
            return _wav_samples(data, place + 8, place + 4, f"{order}I")
        place += 8 + size + size % 2
    raise ContentError("unreadable wav audio", "no data chunk")


def _wav_samples(data: Data, start: int, field: int, form: str) -> Splice | None:
    """Check the size at `field` of the samples that begin at `start`."""
    [size_in_header] = struct.unpack_from(form, data, field)
    available = len(data) - start
    missing = size_in_header == 0 and not _are_chunks(data, start)
    if missing or (form[1] == "I" and available < size_in_header and size_in_header >= _UNKNOWN_WAV):
        field_data = struct.pack(form, available if form[1] == "Q" else min(available, 0xFFFFFFFF))
        return Splice(
            field,
            field + len(field_data),
            field_data,
            "wav audio that does not state its length: read to the end of the file",
        )
    if size_in_header > available:
        raise ContentError("truncated wav audio")
    stop = start + size_in_header + size_in_header % 2
    if not _are_chunks(data, stop):
        reason = "wav audio followed by bytes that are not a chunk: these bytes left out"
        return Splice(stop, len(data), b"", reason)
    return None


def _are_chunks(data: Data, at: int) -> bool:
    """Whether the rest of a file from `at` on consists of chunks, or is empty."""
    while at + 8 <= len(data):
        name, size = (
            data[at : at + 4],
            int.from_bytes(data[at + 4 : at + 8], "big" if data[:4] == b"RIFX" else "little"),
        )
        if not all(32 <= byte < 127 for byte in name) or at + 8 + size > len(data):
            return False
        at += 8 + size + size % 2
    return True


def _ogg(data: Data) -> Splice | None:
    """Check all pages, because libsndfile reads only the first of several streams and stops early at a missing page.

    Raises:
        ContentError: the last page is missing or truncated, other pages are missing, or streams are chained.
    """
    numbers: dict[int, int] = {}
    ended: set[int] = set()
    at, beginning = 0, True
    while (at := data.find(b"OggS", at)) >= 0 and at + 27 <= len(data):
        kind, serial, number, count = struct.unpack_from("<5xB8xII4xB", data, at)
        size = 27 + count + sum(data[at + 27 : at + 27 + count])
        if at + size > len(data):
            break
        beginning = beginning and bool(kind & 2)
        if kind & 2 and not beginning:
            raise ContentError("ogg audio of several chained streams")
        if number != numbers.get(serial, number - 1) + 1:
            raise ContentError("ogg audio with missing pages")
        numbers[serial] = number
        if kind & 4:
            ended.add(serial)
        at += size
    if not numbers.keys() == ended:
        raise ContentError("truncated ogg audio")
    return None


def _flac(data: Data) -> Splice | None:
    """Add the number of samples if STREAMINFO has 0 (unknown, from recorders and pipes) or too few."""
    stream = _flac_stream(data)
    if stream.counts is None:
        if stream.total == 0:
            raise ContentError("unreadable flac audio", "no whole frame")
        return None  # the decoder reports the fault
    count, reach = stream.counts
    if reach < stream.total:
        if _count_decoded(data) < stream.total:
            raise ContentError("truncated flac audio")
        return None  # frame numbers start again in joined files
    if count == stream.total or count < stream.total == reach:
        return None  # the last frame is truncated or followed by other bytes, which the decoder handles
    size = (stream.packed >> 36 << 36 | count).to_bytes(8, "big")
    reason = "flac audio that does not state its length: samples counted"
    if count < reach:
        reason = "flac audio that ends inside a frame: that frame left out, the samples of the others counted"
    elif stream.total:
        reason = "flac audio longer than its header states: all samples read"
    return Splice(stream.offset, stream.offset + 8, size, reason)


class _Stream(NamedTuple):
    """Header of a FLAC file, and its length by its frames.

    offset: of the eight bytes that end with the number of samples. packed: these bytes. total: that number. counts:
    see `_flac_samples`, None without a frame. is_seekable: see `can_seek`.
    """

    offset: int
    packed: int
    total: int
    counts: tuple[int, int] | None
    is_seekable: bool


def _flac_stream(data: Data) -> _Stream:
    start = skip_id3(data)
    info = data[start + 8 : start + 42]
    if data[start : start + 4] != b"fLaC" or len(info) < 34:
        raise ContentError("unreadable flac audio", "no STREAMINFO")
    packed = int.from_bytes(info[10:18], "big")
    total, (shortest, longest) = packed & (1 << 36) - 1, struct.unpack_from(">HH", info)
    channels, bits = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    largest = longest * channels * -(-(bits + 1) // 8) + _FLAC_OVERHEAD
    first = _flac_audio(data, start + 4)
    beginning = _flac_frame(data[first : first + 32])
    if beginning is None:
        return _Stream(start + 18, packed, total, None, False)
    unit = _flac_unit(data, first, beginning, shortest == longest, largest)
    counts = _flac_samples(data, first, beginning.number, unit, largest)
    expected = 1 if beginning.by_sample or shortest < longest else longest  # by libFLAC
    has_index = counts is not None and counts[1] >= total and beginning.number == 0 and unit == expected
    return _Stream(start + 18, packed, total, counts, has_index)


def _flac_audio(data: Data, at: int) -> int:
    """Offset of the first frame of a FLAC file, after its metadata blocks, which begin at `at`."""
    while at + 4 <= len(data):
        last, size = data[at] >> 7, int.from_bytes(data[at + 1 : at + 4], "big")
        at += 4 + size
        if last:
            break
    return at


def _count_decoded(data: Data) -> int:
    """Count the samples per channel that the decoder returns until it ends or fails."""
    count = 0
    with suppress(RuntimeError):  # libsndfile's own errors
        raw = io.BufferedReader(SplicedFile(data, Splice(0, 0, b"", "")))
        with lazy_import("soundfile", "soundfile").SoundFile(raw) as file:
            file.seekable = lambda: False  # else `soundfile` seeks after each read
            while size := len(file.read(_BLOCK, dtype="int16", always_2d=True)):
                count += size
    return count


class _Frame(NamedTuple):
    """FLAC frame: its number, its samples per channel, and whether the number is that of its first sample."""

    number: int
    size: int
    by_sample: bool


def _flac_samples(data: Data, first: int, number: int, unit: int, largest: int) -> tuple[int, int] | None:
    """Number of samples of all complete frames, and the same with a truncated last one, by the last frames' headers.

    A frame has a checksum of its header and one of the whole frame. number: of the first frame. unit: samples per step
    of frame numbers. largest: maximum number of bytes of a frame.
    """
    sync, end = data[first : first + 2], find_end_tags(data)
    stops, at = {end: 0}, end
    while len(stops) < _FLAC_HEADERS and (at := data.rfind(sync, max(first, end - 2 * largest), at + 1)) >= 0:
        if frame := _flac_frame(data[at : at + 32]):
            samples = (frame.number - number) * unit + frame.size
            for stop, reach in stops.items():
                if _crc(data[at:stop], 0x8005, 16) == 0:
                    return samples, max(samples, reach)
            stops[at] = samples
        at -= 1
    return None


def _flac_unit(data: Data, first: int, beginning: _Frame, one_size: bool, largest: int) -> int:
    """Samples per step of frame numbers: 1 if frames are numbered by samples.

    A bit in a frame's header tells. Encoders older than that bit tell by different sizes of the shortest and longest
    block in the file's header; because others count the last block there too, the second frame's number decides.
    """
    if beginning.by_sample:
        return 1
    at = first
    while not one_size and (at := data.find(data[first : first + 2], at + 1, first + largest)) >= 0:
        second = _flac_frame(data[at : at + 32])
        if second and _crc(data[first:at], 0x8005, 16) == 0:
            return 1 if second.number == beginning.number + beginning.size else beginning.size
    return beginning.size


def _flac_frame(header: bytes) -> _Frame | None:
    """Parse the header of a FLAC frame; None if the bytes are not one."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    ones = next((i for i in range(8) if not header[4] >> (7 - i) & 1), 8)
    if not size_code or ones in (1, 8):
        return None
    number, at = header[4] & 0x7F >> ones, 5
    for byte in header[5 : 4 + ones]:
        number, at = number << 6 | byte & 0x3F, at + 1
    if size_code in (6, 7):
        size = int.from_bytes(header[at : at + size_code - 5], "big") + 1
        at += size_code - 5
    else:
        size = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if _crc(header[: at + 1], 0x07, 8):
        return None
    return _Frame(number, size, bool(header[1] & 1))


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Cyclic redundancy check, most significant bit first; 0 if the data end with their own checksum."""
    table, mask, value = _crc_table(polynomial, bits), (1 << bits) - 1, 0
    for byte in data:
        value = table[value >> (bits - 8) ^ byte] ^ value << 8 & mask
    return value


@lru_cache(maxsize=2)
def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    def remainder(value: int) -> int:
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) & 1 else 0)
        return value & (1 << bits) - 1

    return tuple(remainder(byte << (bits - 8)) for byte in range(256))


_CHECKS: dict[str, Callable[[Data], Splice | None]] = {"wav": _wav, "flac": _flac, "ogg": _ogg, "mp3": _mp3}
