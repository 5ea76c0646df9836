"""Cut recordings into windows: shared by the sources `edf`, `wfdb` and `audio`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from modalities.files.reading import ContentError, count_change
from shards.sources.base import Source


@dataclass(frozen=True, kw_only=True)
class WindowedSource(Source):
    """Base of sources that cut recordings into windows.

    Attributes:
        window_s: Length of a window; by default recordings are kept whole.
        stride_s: Time between the starts of two windows; by default `window_s`, so that windows do not overlap.
    """

    window_s: float | None = None
    stride_s: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("window_s", self.window_s), ("stride_s", self.stride_s)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"data.source.{name} is {value}, but must be above 0")
        if self.stride_s is not None and self.window_s is None:
            raise ValueError("data.source.stride_s needs window_s")

    def windows(self, count: int, rate_hz: float) -> Iterator[tuple[int, int]]:
        """(start, stop) of each window of a recording of `count` samples; a remainder shorter than a window is dropped.

        Without `window_s`, and if the recording is shorter than a window, the whole recording is the only window.
        """
        size, step = self._size_and_step(count, rate_hz)
        for start in range(0, max(count - size, 0) + 1, step):
            yield start, min(start + size, count)

    def count_remainder(self, count: int, rate_hz: float) -> None:
        """Count as a change that `windows` drops the end of a recording."""
        size, step = self._size_and_step(count, rate_hz)
        last = max(count - size, 0) // step * step
        if last + max(size, step) < count:
            count_change("end of a recording, shorter than a window, left out")

    def _size_and_step(self, count: int, rate_hz: float) -> tuple[int, int]:
        """Samples of a window, and samples from the start of one to the start of the next."""
        size = count if self.window_s is None else max(round(self.window_s * rate_hz), 1)
        return size, max(size if self.stride_s is None else round(self.stride_s * rate_hz), 1)

    def centered_windows(self, centers: Iterable[int], count: int, rate_hz: float) -> Iterator[tuple[int, int, int]]:
        """(number, start, stop) of a window around each center; start and stop are 0 if it crosses an end."""
        assert self.window_s is not None
        size = max(round(self.window_s * rate_hz), 1)
        for number, center in enumerate(centers):
            start = center - size // 2
            yield (number, start, start + size) if 0 <= start <= count - size else (number, 0, 0)


def refuse_empty_window(annotation: int, start: Fraction | int, stop: Fraction | int) -> None:
    """Refuse the empty window that marks an annotation too near an end of its recording.

    annotation: its number, -1 for a window without an annotation.

    Raises:
        ContentError: the window is empty.
    """
    if annotation >= 0 and start == stop:
        raise ContentError("annotation too near an end of its recording")
