"""Lengths in the headers of sound files, checked against what is there and mended where a header has none."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from modalities.base import ContentError, count_change
from modalities.kinds import is_kind
from modalities.mpeg import Data, after_id3, before_tags, frames, table_frame

_UNKNOWN_WAV = 0x7FFFFC00
"""Sizes from here on stand in WAV files that were written to a pipe."""
_FLAC_OVERHEAD = 1024
"""Bytes that a FLAC frame takes at most beyond its samples."""

_FLAC_HEADERS = 8
"""Places at a file's end that are tried as headers: other bytes rarely look like one."""


class Splice(NamedTuple):
    """Bytes that take the place of `[start, stop)` of a file, so that its header says its length, and why."""

    start: int
    stop: int
    data: bytes
    reason: str


class SplicedFile(io.RawIOBase):
    """A file in memory with a splice, for readers that seek."""

    def __init__(self, data: Data, splice: Splice):
        self._parts = [(0, data, 0, splice.start), (splice.start, splice.data, 0, len(splice.data))]
        behind = splice.start + len(splice.data)
        self._parts.append((behind, data, splice.stop, len(data) - splice.stop))
        self._size = behind + len(data) - splice.stop
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(offset + (0, self._at, self._size)[whence], 0)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        for place, data, start, size in self._parts:
            if place <= self._at < place + size:
                offset = self._at - place
                count = min(len(buffer), size - offset)
                buffer[:count] = data[start + offset : start + offset + count]
                self._at += count
                return count
        return 0


def with_length(data: bytes, extension: str, *, built: bool = False) -> bytes:
    """A sound file's bytes with a header that says its length; other bytes than those given are counted as a change.

    built: a FLAC header that says a length is believed, as a build has checked it: that takes half as long as decoding.

    Raises:
        ContentError: as `length_splice` does.
    """
    if built and extension == "flac" and data[:4] == b"fLaC" and int.from_bytes(data[18:26], "big") & (1 << 36) - 1:
        return data
    splice = length_splice(data, extension)
    if splice is None:
        return data
    count_change(splice.reason)
    return data[: splice.start] + splice.data + data[splice.stop :]


def unreadable(extension: str, error: Exception) -> str:
    """The reason for a file that libsndfile gave up."""
    return "truncated flac audio" if "lost sync" in str(error) else f"unreadable {extension} audio"


def length_splice(data: Data, extension: str) -> Splice | None:
    """Compare the length in a sound file's header with the file; what makes them agree, None where they do.

    libsndfile passes over much of it: it takes a size of 0 for no samples, and reads no further than a header says.

    Raises:
        ContentError: the file is not of the kind that its extension says, it is cut, or parts are missing.
    """
    if extension not in _CHECKS:
        raise ContentError(f"audio of the unknown kind {extension}")
    if not len(data):
        raise ContentError("empty audio file")
    if not is_kind(data, extension):
        raise ContentError(f"audio file is not {extension}")
    return _CHECKS[extension](data)


def _mp3(data: Data) -> Splice | None:
    """A table of the frames that there are, where a file has none or another: decoders then guess by the bit rate."""
    found = frames(data)
    if found.stated is not None and found.stated > found.total + (not found.partial):  # some count the table's frame
        raise ContentError("truncated mp3 audio")
    if found.stated == found.total and found.xing:
        return None
    if found.partial:
        reason = "mp3 audio that ends within a frame: that frame left out, the others counted"
    elif found.stated is None:
        reason = "mp3 audio without its length: frames counted"
    elif found.stated != found.total:
        reason = "mp3 audio whose table has another number of frames: frames counted"
    else:
        reason = "mp3 audio with a table of Fraunhofer's form: frames counted"
    table = table_frame(found.header, found.total, len(data) - found.first)
    return Splice(found.start, found.first, table, reason)


def _wav(data: Data) -> Splice | None:
    """The size of the samples, where their chunk says 0 or that it was not known."""
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
    """The splice of the size at `field`, of samples that begin at `start`."""
    [stated] = struct.unpack_from(form, data, field)
    there = len(data) - start
    none = stated == 0 and not _are_chunks(data, start)
    if none or (form[1] == "I" and there < stated and stated >= _UNKNOWN_WAV):
        size = struct.pack(form, there if form[1] == "Q" else min(there, 0xFFFFFFFF))
        return Splice(field, field + len(size), size, "wav audio without its length: read to the end of the file")
    if stated > there:
        raise ContentError("truncated wav audio")
    stop = start + stated + stated % 2
    if not _are_chunks(data, stop):
        reason = "wav audio with bytes behind its samples that its header does not count: these left out"
        return Splice(stop, len(data), b"", reason)
    return None


def _are_chunks(data: Data, at: int) -> bool:
    """Whether what is left of a file from `at` on are chunks, or nothing."""
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
    """Walk the pages: libsndfile reads the first of several streams, and less than there is behind a missing page.

    Raises:
        ContentError: the last page is absent or cut, pages are missing, or streams follow each other.
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
            raise ContentError("ogg audio of several streams, one behind the other")
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
    """The number of samples, where STREAMINFO says 0 (unknown, as recorders and pipes write) or too few."""
    start = after_id3(data)
    info = data[start + 8 : start + 42]
    if data[start : start + 4] != b"fLaC" or len(info) < 34:
        raise ContentError("unreadable flac audio", "no STREAMINFO")
    packed = int.from_bytes(info[10:18], "big")
    stated, (shortest, longest) = packed & (1 << 36) - 1, struct.unpack_from(">HH", info)
    channels, bits = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    largest = longest * channels * -(-(bits + 1) // 8) + _FLAC_OVERHEAD
    block = longest if shortest == longest else 0
    found = _flac_samples(data, _flac_audio(data, start + 4), block, largest)
    if found is None:
        if stated == 0:
            raise ContentError("unreadable flac audio", "no whole frame")
        return None  # the decoder finds what is wrong
    count, reach = found
    if reach < stated:
        raise ContentError("truncated flac audio")
    if count == stated or count < stated == reach:  # the last frame is cut, or has bytes behind it: the decoder knows
        return None
    size = (packed >> 36 << 36 | count).to_bytes(8, "big")
    reason = "flac audio without its length: samples counted"
    if count < reach:
        reason = "flac audio that ends within a frame: that frame left out, the samples of the others counted"
    elif stated:
        reason = "flac audio of more samples than its header says: all read"
    return Splice(start + 18, start + 26, size, reason)


def _flac_audio(data: Data, at: int) -> int:
    """Where the frames of a FLAC file begin: behind its metadata blocks, of which the first stands at `at`."""
    while at + 4 <= len(data):
        last, size = data[at] >> 7, int.from_bytes(data[at + 1 : at + 4], "big")
        at += 4 + size
        if last:
            break
    return at


def _flac_samples(data: Data, first: int, block: int, largest: int) -> tuple[int, int] | None:
    """Number of samples of all whole frames, and the same with a frame that is cut, by the last frames' headers.

    A frame has a checksum over its header and one over itself. block: samples of a frame where all have the same
    number, else 0. largest: bytes that a frame has at most.
    """
    sync, end = data[first : first + 2], before_tags(data)
    beginning = _flac_frame(data[first : first + 32], block)
    if beginning is None:
        return None
    stops, at = {end: 0}, end
    while len(stops) < _FLAC_HEADERS and (at := data.rfind(sync, max(first, end - 2 * largest), at + 1)) >= 0:
        frame = _flac_frame(data[at : at + 32], block)
        if frame is not None:
            for stop, reach in stops.items():
                if _crc(data[at:stop], 0x8005, 16) == 0:
                    return frame[1] - beginning[0], max(frame[1], reach) - beginning[0]
            stops[at] = frame[1]
        at -= 1
    return None


def _flac_frame(header: bytes, block: int) -> tuple[int, int] | None:
    """First and one past the last sample of a FLAC frame, None where the bytes are no frame's header.

    The number in it counts frames where all have as many samples, samples where they do not.
    """
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
    start = number if header[1] & 1 or not block else number * block
    return start, start + size


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Cyclic redundancy check, most significant bit first; 0 where the data end with their own."""
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
