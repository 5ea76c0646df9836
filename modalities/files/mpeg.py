"""Frames of MP3 files: count them, and build the first frame that states their number."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from modalities.files.reading import ContentError

Data = bytes | mmap.mmap

_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
"""Bit rates of layer III by index; True: MPEG 1, False: MPEG 2 and 2.5."""
_RATES_HZ = {3: (44_100, 48_000, 32_000, 0), 2: (22_050, 24_000, 16_000, 0), 0: (11_025, 12_000, 8_000, 0)}
"""Sample rates by the two bits of the version (MPEG 1, 2, 2.5) and index."""
_TABLE_BIT_RATE = 5
"""Bit rate index of the frame of a table: it has at least 96 bytes, and a table of two numbers takes 56."""


class Frames(NamedTuple):
    """Frames of an MP3 file.

    start: offset after the tags at the beginning. table: offset of the first frame, which may be a table. first: offset
    of the first frame with sound. total: number of frames with sound. header: first four bytes of the first frame.
    table_count: number of frames by the table, None without one. xing: whether decoders read this table. partial:
    whether the last frame is truncated.
    """

    start: int
    table: int
    first: int
    total: int
    header: bytes
    table_count: int | None
    xing: bool
    partial: bool


def skip_id3(data: Data, at: int = 0) -> int:
    """Offset after the ID3v2 tags at `at`."""
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        size = sum((byte & 0x7F) << shift for byte, shift in zip(data[at + 6 : at + 10], (21, 14, 7, 0), strict=True))
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
    return min(at, len(data))


def find_end_tags(data: Data) -> int:
    """Offset of the tags at a file's end (ID3v1, APEv2)."""
    end = len(data)
    if end >= 128 and data[end - 128 : end - 125] == b"TAG":
        end -= 128
    if end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", data, end - 20)
        end = max(end - size - (32 if flags >> 31 else 0), 0)
    return end


def _size(header: bytes) -> int:
    """Bytes of a frame of layer III by its header; 0 if it is not a header or has no bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version = header[1] >> 3 & 3
    rate_hz = _RATES_HZ[version][header[2] >> 2 & 3] if version in _RATES_HZ else 0
    kbps = _KBPS[version == 3][header[2] >> 4]
    if not rate_hz or not kbps:
        return 0
    return (144_000 if version == 3 else 72_000) * kbps // rate_hz + (header[2] >> 1 & 1)


def _is_same_kind(header: bytes, first: bytes) -> bool:
    """Whether two frames have the same version, rate and number of channels, as all frames of a file must."""
    is_same = header[1] | 1 == first[1] | 1 and header[2] & 0x0C == first[2] & 0x0C
    return is_same and (header[3] >> 6 == 3) == (first[3] >> 6 == 3)


def _starts(data: Data, at: int, end: int) -> Iterator[int]:
    """Offsets from `at` on of frames that are followed by a frame of the same kind, or by the end."""
    for match in re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]").finditer(data, at, end):
        offset = match.start()
        header = data[offset : offset + 4]
        if not (size := _size(header)):
            continue
        after = data[offset + size : offset + size + 4]
        if offset + size == end or (offset + size < end and _size(after) and _is_same_kind(after, header)):
            yield offset


def scan_frames(data: Data) -> Frames:
    """Scan the headers of an MP3 file's frames, skipping tags and damaged parts as decoders do.

    Raises:
        ContentError: no frame, frames of layer I or II or of a free bit rate, or frames of different kinds.
    """
    start, end = skip_id3(data), find_end_tags(data)
    if re.match(rb"\xff[\xe4-\xe7\xf4-\xf7\xfc-\xff]", data[start : start + 2]):
        raise ContentError("mp3 file of MPEG layer I or II")
    if (first := next(_starts(data, start, end), None)) is None:
        if re.match(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x00-\x0b]", data[start : start + 3]):
            raise ContentError("mp3 audio in free format, whose frames cannot be counted")
        raise ContentError("unreadable mp3 audio", "no MPEG frame")
    table_count, xing, table = _table(data, first)
    header = data[first : first + 4]
    beginning = first + _size(header) if table else first
    count, partial = _count(data, beginning, end, header)
    return Frames(start, first, beginning, count, header, table_count, xing, partial)


def _count(data: Data, at: int, end: int, first: bytes) -> tuple[int, bool]:
    """Count the frames from `at` on, and whether the last one is truncated, which is not counted.

    Raises:
        ContentError: the sample rate or the number of channels changes.
    """
    count = 0
    sizes: dict[bytes, int] = {}
    """Frame sizes by header; a file has few different headers."""
    while at + 4 <= end:
        header = data[at : at + 4]
        size = sizes.get(header)
        if size is None:
            size = sizes[header] = _size(header) if _is_same_kind(header, first) else 0
        if size:
            if at + size > end:
                return count, True
            count += 1
            at += size
            continue
        following = next(_starts(data, skip_id3(data, at), end), None)
        if following is None:
            break
        if not _is_same_kind(data[following : following + 4], first):
            raise ContentError("mp3 audio whose sample rate or number of channels changes")
        at = following
    return count, False


def _table(data: Data, at: int) -> tuple[int | None, bool, bool]:
    """Number of frames by the table in a frame, whether it has Xing's format, and whether there is a table."""
    version, mono = data[at + 1] >> 3 & 3, data[at + 3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    offset = at + 4 + side + (0 if data[at + 1] & 1 else 2)  # a checksum precedes the side information
    if data[offset : offset + 4] in (b"Xing", b"Info"):
        flags, count = struct.unpack(">II", data[offset + 4 : offset + 12].ljust(8, b"\0"))
        return (count if flags & 1 else None), True, True
    if data[at + 36 : at + 40] == b"VBRI":
        return int.from_bytes(data[at + 50 : at + 54], "big"), False, True
    return None, False, False


def build_table_frame(header: bytes, count: int, size: int) -> bytes:
    """Build a silent frame with a table: `count` frames of `size` bytes follow."""
    version, mono = header[1] >> 3 & 3, header[3] >> 6 == 3
    frame = bytes([0xFF, header[1] | 1, _TABLE_BIT_RATE << 4 | header[2] & 0x0C, header[3]])
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    table = b"Xing" + struct.pack(">III", 3, count, min(size + _size(frame), 0xFFFFFFFF))
    return (frame + bytes(side) + table).ljust(_size(frame), b"\0")
