"""Folders of recordings, their labels from file names or from a table."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from modalities.base import ContentError, parser
from modalities.spectrogram import whole
from shards.sources.base import register
from shards.sources.folder import File, Folder
from shards.sources.recordings import check_windows, windows

_FLAC = {
    **{"PCM_U8": "PCM_S8", "PCM_S8": "PCM_S8", "PCM_16": "PCM_16", "PCM_24": "PCM_24"},
    **dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"), "PCM_16"),
}
"""How FLAC holds samples of each kind; of other kinds, floats above all, windows become WAV files of floats."""
_FLAC_CHANNELS, _FLAC_HZ = 8, 655_350


@register
@dataclass(frozen=True, kw_only=True)
class AudioFolder(Folder):
    """WAV, FLAC, Ogg and MP3 files, as `Folder` describes.

    window_s, stride_s: recordings longer than `window_s` are cut to windows, one every `stride_s` (default: without
    overlap), a rest shorter than a window is left out; they have the field `start_s`, and their first and last sample
    in their identity. Windows of whole numbers become FLAC without a loss, those of floats WAV.
    """

    type: ClassVar[str] = "audio"
    requires: ClassVar[tuple[str, ...]] = ("soundfile",)
    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".ogg", ".mp3")
    noun: ClassVar[str] = "recording"

    modality: str = "audio"
    window_s: float | None = None
    stride_s: float | None = None

    def __post_init__(self) -> None:
        check_windows(self.window_s, self.stride_s)
        super().__post_init__()

    @property
    def given(self) -> tuple[str, ...]:
        return () if self.window_s is None else ("start_s",)

    def items(self, raw: Path) -> Iterator[File]:
        for item in super().items(raw):
            if self.window_s is None or item.fault:
                yield item
                continue
            try:
                with _opened(item.path) as file:
                    count, rate_hz = int(file.frames), float(file.samplerate)
                for start, stop in windows(count, rate_hz, self.window_s, self.stride_s):
                    row = {**item.row, "start_s": start / rate_hz}
                    yield item._replace(row=row, part=None if stop - start == count else (start, stop))
            except ContentError as error:
                yield item._replace(fault=error.reason)

    def content(self, item: File) -> tuple[str, bytes]:
        if item.part is None:
            return super().content(item)
        start, stop = item.part
        with _opened(item.path) as file:
            rate_hz, subtype = file.samplerate, file.subtype
            flac = subtype in _FLAC and file.channels <= _FLAC_CHANNELS and rate_hz <= _FLAC_HZ
            file.seek(start)
            samples = file.read(
                stop - start, dtype="int32" if flac and subtype.startswith("PCM") else "float32", always_2d=True
            )
        if len(samples) < stop - start:
            raise ContentError(f"truncated {item.path.suffix.lower().lstrip('.')} audio")
        buffer = io.BytesIO()
        form = {"format": "FLAC", "subtype": _FLAC[subtype]} if flac else {"format": "WAV", "subtype": "FLOAT"}
        parser("soundfile", "soundfile").write(buffer, samples, rate_hz, **form)
        return "flac" if flac else "wav", buffer.getvalue()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A sound file, checked without being read whole.

    Raises:
        ContentError: it is not what its extension says, it is cut, or it cannot be read.
    """
    soundfile, extension = parser("soundfile", "soundfile"), path.suffix.lower().lstrip(".")
    try:
        if not path.stat().st_size:
            raise ContentError("empty audio file")
        with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
            whole(data, extension)
        with soundfile.SoundFile(path) as file:
            yield file
    except (RuntimeError, OSError) as error:  # libsndfile's own errors are the former
        raise ContentError(f"unreadable {extension} audio", str(error)) from error
