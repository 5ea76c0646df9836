"""Folders of sound recordings, labelled by file names or a table."""

from __future__ import annotations

import io
import mmap
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np

from modalities.files.lengths import Splice, SplicedFile, add_length, can_seek, find_splice, sound_error
from modalities.files.magic import extensions_of
from modalities.files.reading import ContentError, cache_by_mtime, count_change, lazy_import
from shards.sources.base import register
from shards.sources.drafting.settings import MASKS
from shards.sources.drafting.survey import spread
from shards.sources.media import File, MediaFolder
from shards.sources.windows import WindowedSource

_FLAC_BITS = {
    **{"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24},
    **dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"), 24),
}
"""Bits per sample in FLAC by the subtype of a file; windows of other subtypes, mostly floats, become WAV."""
_FLAC_CHANNELS, _FLAC_HZ = 8, 655_350
_FLAC_LOSS = 2**-16
"""Largest error in FLAC of a lossy format, relative to the peak of its channel; beyond it, windows become WAV."""
_BLOCK = 1 << 20
"""Samples per channel that are decoded at a time to reach a window."""


@register
@dataclass(frozen=True, kw_only=True)
class AudioFolder(WindowedSource, MediaFolder):
    """WAV, FLAC, Ogg and MP3 files, whole or in windows.

    Recordings longer than `window_s` are cut into windows, which have the field `start_s`; a remainder shorter than a
    window is dropped and counted. Windows of integers become FLAC without loss; windows of
    lossy formats become FLAC of 24 bits if that holds them to 16 bits of each channel's highest sample, and WAV of
    floats otherwise.

    If a header states no length, or less than the file has, it is corrected, which is counted as a change. If it states
    more than the file has, the file is skipped.

    Attributes:
        modality: Name of the modality that reads the files.
    """

    type: ClassVar[str] = "audio"
    requires: ClassVar[tuple[str, ...]] = ("soundfile",)
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".{extension}" for extension in extensions_of("sound"))
    nouns: ClassVar[tuple[str, str]] = ("recording", "recordings")
    file_modality: ClassVar[str | None] = "audio"
    may_be_speech: ClassVar[bool] = True

    modality: str = "audio"

    @classmethod
    def draft_modality(cls, paths: Sequence[Path]) -> dict[str, Any] | None:
        soundfile = lazy_import("soundfile", "soundfile")
        rates_hz = []
        for path in spread(paths):
            try:
                info = soundfile.info(str(path))
            except (soundfile.SoundFileError, OSError):
                continue
            if info.samplerate:  # not the number of frames, which may be unknown
                rates_hz.append(info.samplerate)
        if not rates_hz:
            return None
        rate_hz = min(int(median(rates_hz)), 16_000)
        bands = 128 if rate_hz >= 16_000 else 64 if rate_hz >= 8000 else 32 if rate_hz >= 4000 else 16
        settings = {"type": "spectrogram", "sample_rate_hz": rate_hz, "mel_bands": bands, "patch": [16, 8]}
        return {**settings, "mask": MASKS["audio"]}

    @property
    def builtin_fields(self) -> tuple[str, ...]:
        return () if self.window_s is None else ("start_s",)

    def items(self, raw: Path) -> Iterator[File]:
        for item in super().items(raw):
            if self.window_s is None or item.fault:
                yield item
                continue
            try:
                with _open(item.path) as file:
                    count, rate_hz = int(file.frames), float(file.samplerate)
                for start, stop in self.windows(count, rate_hz):
                    row = {**item.row, "start_s": start / rate_hz}
                    yield item._replace(row=row, part=None if stop - start == count else (start, stop))
                self.count_remainder(count, rate_hz)
            except ContentError as error:
                yield item._replace(fault=error.reason)

    def content(self, item: File) -> tuple[str, bytes]:
        if item.part is None:
            extension, data = super().content(item)
            return extension, add_length(data, extension)
        start, stop = item.part
        samples, rate_hz, bits = _read_window(item.path, start, stop)
        if splice := _splice(item.path):
            count_change(splice.reason)
        return _encode(samples, rate_hz, bits)


def _read_window(path: Path, start: int, stop: int) -> tuple[np.ndarray, int, int | None]:
    """Samples `(T, C)` float32 of a part of a file, their rate in Hz, and the bits per sample in FLAC or None for WAV.

    Raises:
        ContentError: the file is unreadable or ends before `stop`.
    """
    with _open(path) as file:
        rate_hz = file.samplerate
        bits = _FLAC_BITS.get(file.subtype) if file.channels <= _FLAC_CHANNELS and rate_hz <= _FLAC_HZ else None
        if file.seekable() and not file.subtype.startswith("MPEG") and _seeks(path):
            file.seek(start)
            samples = file.read(stop - start, dtype="float32", always_2d=True)
        else:
            samples = _decoder(path).samples(start, stop)
    if len(samples) < stop - start:
        raise ContentError(f"truncated {_extension(path)} audio")
    return samples, rate_hz, bits


def _encode(samples: np.ndarray, rate_hz: int, bits: int | None) -> tuple[str, bytes]:
    """Extension and bytes of a file of samples `(T, C)` float32: FLAC of `bits` if it can represent them, else WAV."""
    buffer = io.BytesIO()
    if bits and _represents(samples, bits):
        subtype = "PCM_S8" if bits == 8 else f"PCM_{bits}"
        lazy_import("soundfile", "soundfile").write(buffer, samples, rate_hz, format="FLAC", subtype=subtype)
        return "flac", buffer.getvalue()
    # not soundfile: libsndfile writes the time of day into WAV files of floats, but builds must be reproducible
    lazy_import("scipy.io.wavfile", "scipy").write(buffer, rate_hz, samples)
    return "wav", buffer.getvalue()


def _represents(samples: np.ndarray, bits: int) -> bool:
    """Whether integers of `bits` represent samples `(T, C)`: none is out of range, and the error is small."""
    limit = 2 ** (bits - 1)
    integers = np.rint(samples * np.float32(limit))
    error = np.abs(integers / limit - samples).max(0)
    in_range = -limit <= integers.min() and integers.max() < limit
    return bool(in_range and (error <= _FLAC_LOSS * np.abs(samples).max(0)).all())


class _Decoder:
    """Decode a file once from its start, for windows in order.

    Seeking in MPEG audio is slow, because it reads all earlier headers, and decodes the next frames wrongly, because
    they borrow bits from earlier ones. `soundfile` seeks after each read of a seekable file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._restart()

    def _restart(self) -> None:
        self._file = _sound(self._path)
        weakref.finalize(self, self._file.close)  # closes at exit at the latest, while soundfile is still loaded
        self._file.seekable = lambda: False
        self._last = np.zeros((0, self._file.channels), np.float32)
        self._at = 0
        self._broken = False

    def _read(self, count: int) -> np.ndarray:
        """The next samples; fewer if the decoder stops early."""
        if self._broken or count <= 0:
            return self._last[:0]
        try:
            samples = self._file.read(count, dtype="float32", always_2d=True)
        except RuntimeError:
            self._broken = True
            return self._last[:0]
        self._broken = len(samples) < count
        self._at += len(samples)
        return samples

    def samples(self, start: int, stop: int) -> np.ndarray:
        """Samples `(T, C)` float32 of `[start, stop)`; fewer if the decoder stops early."""
        if start < self._at - len(self._last):
            self._restart()
        if start > self._at:
            self._last = self._last[:0]
            while self._at < start and len(self._read(min(start - self._at, _BLOCK))):
                pass
            if self._at < start:
                return self._last
        overlap = self._last[len(self._last) - (self._at - start) :]
        self._last = np.concatenate([overlap, self._read(stop - self._at)])
        return self._last[: stop - start]


@cache_by_mtime(4)
def _decoder(path: Path) -> _Decoder:
    return _Decoder(path)


@cache_by_mtime(64)
def _splice(path: Path) -> Splice | None:
    """The correction of the length in a file's header, None if it is correct; does not read the whole file.

    Raises:
        ContentError: the file does not match its extension, or is visibly truncated.
    """
    with _mapped(path) as data:
        return find_splice(data, _extension(path))


@cache_by_mtime(64)
def _seeks(path: Path) -> bool:
    with _mapped(path) as data:
        return can_seek(data, _extension(path))


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    if not path.stat().st_size:
        yield b""  # an empty file cannot be mapped
        return
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _extension(path: Path) -> str:
    return path.suffix.lower().lstrip(".")


def _sound(path: Path) -> Any:
    """Open a sound file, with a header that states its length."""
    soundfile = lazy_import("soundfile", "soundfile")
    if (splice := _splice(path)) is None:
        return soundfile.SoundFile(path)
    with path.open("rb") as raw:
        data = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
    return soundfile.SoundFile(io.BufferedReader(SplicedFile(data, splice)))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a sound file and check it without reading it whole.

    Raises:
        ContentError: the file does not match its extension, is truncated or unreadable.
    """
    extension = _extension(path)
    try:
        with _sound(path) as file:
            yield file
    except (RuntimeError, OSError) as error:  # libsndfile raises RuntimeError
        raise ContentError(sound_error(extension, error), str(error)) from error
