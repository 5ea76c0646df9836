"""Annotations of EDF+ and BDF+ recordings: their times, and the fields that they give a window."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from modalities.files.edf import Annotation, read_edf_annotations, read_edf_header, read_edf_offset_s
from modalities.files.reading import ContentError

BAD = "BAD"
"""Beginning, in any case, of annotations that mark unusable data, as in mne: `BAD_acq_skip`, `bad segment`."""


class Timeline:
    """The annotations of a recording in the order of its file, searchable by time."""

    def __init__(self, annotations: Sequence[Annotation]):
        self.annotations = tuple(annotations)
        self._order = sorted(range(len(annotations)), key=lambda number: annotations[number].onset_s)
        ordered = [annotations[number] for number in self._order]
        self._onsets = np.array([annotation.onset_s for annotation in ordered])
        # rounded, because the sum of two decimals is inexact
        self._ends = np.round([annotation.onset_s + annotation.length_s for annotation in ordered], 7)
        self._latest = np.maximum.accumulate(self._ends)
        bad = np.array([annotation.text.upper().startswith(BAD) for annotation in ordered], bool)
        self._bad_onsets, self._bad_latest = self._onsets[bad], np.maximum.accumulate(self._ends[bad])

    def within(self, start_s: float, stop_s: float) -> list[Annotation]:
        """The annotations that overlap a window, including those without a length that begin in it."""
        first, last = np.searchsorted(self._latest, start_s), np.searchsorted(self._onsets, stop_s)
        onsets, ends = self._onsets[first:last], self._ends[first:last]
        overlaps = np.flatnonzero((ends > start_s) | (onsets >= start_s))
        return [self.annotations[self._order[first + number]] for number in overlaps]

    def is_bad(self, start_s: float, stop_s: float) -> bool:
        """Whether a window overlaps an annotation that begins with `BAD`."""
        last = int(np.searchsorted(self._bad_onsets, stop_s)) - 1
        return last >= 0 and bool(self._bad_latest[last] > start_s or self._bad_onsets[last] >= start_s)

    def fields(self, start_s: float, stop_s: float) -> dict[str, Any]:
        """The fields of a window: `symbol`, `symbols` and `annotations`.

        `symbol` is the text that covers most of the window; ties go to the most frequent, then to the first by name.
        """
        covered_s, counts = defaultdict[str, float](float), Counter[str]()
        for onset_s, length_s, text in self.within(start_s, stop_s):
            covered_s[text] += min(stop_s, onset_s + length_s) - max(start_s, onset_s)
            counts[text] += 1
        main = max(sorted(counts), key=lambda text: (covered_s[text], counts[text]), default=None)
        return {"symbol": main, "symbols": sorted(counts), "annotations": counts.total()}


def read_timeline(paths: Sequence[Path]) -> Timeline:
    """Read the annotations of a recording and, if there is one, of a second file, aligned by the dates of both.

    Cached until the size or the time of a file changes.

    Raises:
        ContentError: the annotations are unreadable, or a date needed to align the second file is.
    """
    states = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _read_timeline(tuple(paths), states)


@lru_cache(maxsize=16)
def _read_timeline(paths: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> Timeline:
    """`read_timeline` for files of given sizes and times."""
    first, *other_paths = paths
    annotations = list(read_edf_annotations(first))
    for second in other_paths:
        starts = read_edf_header(first).start, read_edf_header(second).start
        if starts[0] is None or starts[1] is None:
            raise ContentError("EDF file whose date cannot be read", "it places the annotations of a second file")
        delay_s = (starts[1] - starts[0]).total_seconds() + read_edf_offset_s(second) - read_edf_offset_s(first)
        annotations += [
            annotation._replace(onset_s=round(annotation.onset_s + delay_s, 7))
            for annotation in read_edf_annotations(second)
        ]
    return Timeline(annotations)
