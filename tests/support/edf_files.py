"""EDF and BDF files written byte by byte, for what no library writes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def cell(text: object, width: int) -> bytes:
    return (text if isinstance(text, bytes) else str(text).encode()).ljust(width)[:width]


def edf(
    path: Path,
    digital: Sequence[np.ndarray],
    labels: Sequence[str | bytes] = ("EEG Fp1", "EEG Cz"),
    units: Sequence[str | bytes] = ("uV", "uV"),
    samples: Sequence[int] = (200, 200),
    record_s: float = 1,
    reserved: str = "",
    start: bytes = b"01.01.2000.00.00",
    records: int | None = None,
    texts: Sequence[bytes] = (),
) -> None:
    """A file written byte by byte, each number of EDF a tenth of its unit, each of BDF one.

    texts: what each record has for annotations.
    """
    bdf, width = path.suffix == ".bdf", 60 if texts else 0
    labels, units = [*labels, *(["EDF Annotations"] if texts else [])], [*units, *([""] if texts else [])]
    n, limit, count = len(labels), 8388607 if bdf else 32767, len(digital[0]) // samples[0]
    fixed = (b"\xffBIOSEMI" if bdf else cell("0", 8)) + cell("X X X X", 80) + cell("Startdate X X X X", 80) + start
    fixed += cell(256 * (n + 1), 8) + cell(reserved, 44) + cell(count if records is None else records, 8)
    fixed += cell(f"{record_s:g}", 8) + cell(n, 4)
    lengths = [*samples, *([width // 2] if texts else [])]
    physical, lowest = limit if bdf else limit / 10, [-limit] * len(samples) + [-limit - 1] * bool(texts)
    columns = (
        (labels, 16), ([""] * n, 80), (units, 8), ([-physical] * n, 8), ([physical] * n, 8), (lowest, 8),
        ([limit] * n, 8), ([""] * n, 80), (lengths, 8), ([""] * n, 32),
    )  # fmt: skip
    data = fixed + b"".join(cell(value, size) for values, size in columns for value in values)
    for record in range(count):
        for values, channel in zip(digital, samples, strict=True):
            part = values[record * channel : (record + 1) * channel]
            data += b"".join(struct.pack("<i", v)[:3] for v in part) if bdf else np.asarray(part, "<i2").tobytes()
        data += texts[record].ljust(width, b"\0") if texts else b""
    path.write_bytes(data)
