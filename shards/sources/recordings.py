"""What sources of recordings share: windows, channels to modalities, members."""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from modalities.base import Modality
from modalities.files.channels import suggest
from modalities.files.reading import ContentError, count_change
from modalities.files.recording import Recording, to_members
from modalities.signal import Signal
from shards.sources.rows import as_groups, as_json, table_member

Fields = dict[str, Any]
T = TypeVar("T")
THREADS, LOOKAHEAD = 16, 256
"""Headers that are read at the same time, and how many are read before they are needed."""


def read_ahead(read: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[tuple[Path, T | ContentError]]:
    """Each path with what `read` gives for it, or why that cannot be used, in order and read by several threads.

    Headers on a network's disk are waited for at the same time; at most `LOOKAHEAD` are in memory.
    """
    waiting = deque[tuple[Path, Future[T | ContentError]]]()

    def attempt(path: Path) -> T | ContentError:
        try:
            return read(path)
        except ContentError as error:
            return error

    pool = ThreadPoolExecutor(THREADS)
    try:
        for path in paths:
            waiting.append((path, pool.submit(attempt, path)))
            if len(waiting) >= LOOKAHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for path, future in waiting:
            yield path, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_windows(window_s: float | None, stride_s: float | None) -> None:
    """Check a recipe's windows.

    Raises:
        ValueError: a length that is not above 0, or a stride without a window.
    """
    for name, value in (("window_s", window_s), ("stride_s", stride_s)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"data.source.{name} is {value}, but must be above 0")
    if stride_s is not None and window_s is None:
        raise ValueError("data.source.stride_s needs window_s")


def windows(count: int, rate_hz: float, window_s: float | None, stride_s: float | None) -> Iterator[tuple[int, int]]:
    """(first, one past the last) sample of each window; a rest shorter than a window is left out.

    Without `window_s` the whole recording is one window; so is a recording that is shorter than one.
    """
    size, step = _size_and_step(count, rate_hz, window_s, stride_s)
    for start in range(0, max(count - size, 0) + 1, step):
        yield start, min(start + size, count)


def count_rest(count: int, rate_hz: float, window_s: float | None, stride_s: float | None) -> None:
    """Count as a change that the last of `windows` is followed by a rest of its recording, shorter than a window."""
    size, step = _size_and_step(count, rate_hz, window_s, stride_s)
    last = max(count - size, 0) // step * step
    if last + max(size, step) < count:
        count_change("end of a recording, shorter than a window, left out")


def _size_and_step(count: int, rate_hz: float, window_s: float | None, stride_s: float | None) -> tuple[int, int]:
    """Samples of a window, and from one's beginning to that of the next."""
    size = count if window_s is None else max(round(window_s * rate_hz), 1)
    return size, max(size if stride_s is None else round(stride_s * rate_hz), 1)


def around(at: Iterable[int], count: int, rate_hz: float, window_s: float) -> Iterator[tuple[int, int, int]]:
    """(number, first, one past the last) of a window centred on each sample, 0 and 0 where it is too near an end."""
    size = max(round(window_s * rate_hz), 1)
    for number, sample in enumerate(at):
        start = sample - size // 2
        yield (number, start, start + size) if 0 <= start <= count - size else (number, 0, 0)


def check_inside(annotation: int, start: Fraction | int, stop: Fraction | int) -> None:
    """Check a window that `around` gave.

    Raises:
        ContentError: its annotation is too near the beginning or end of the recording.
    """
    if annotation >= 0 and start == stop:
        raise ContentError("annotation too near an end of its recording")


def assigned(
    labels: Sequence[str], modalities: Mapping[str, Modality], leave_out: Sequence[str] = ()
) -> dict[str, list[int]]:
    """The channels of a file that each signal modality of the recipe takes, by number.

    Channels that match one of `leave_out` (`EOG*`) are passed over, as are those that a modality's own list of
    channels does not name.

    Raises:
        ValueError: the recipe has no signal.
        ContentError: a channel that no modality knows, or no channel for any.
    """
    signals = {name: modality for name, modality in modalities.items() if isinstance(modality, Signal)}
    if not signals:
        raise ValueError("recordings need a modality of type 'signal' in the recipe")
    taken: dict[str, list[int]] = {}
    open_ = [modality for modality in signals.values() if not modality.chosen]
    for number, label in enumerate(labels):
        if any(fnmatch.fnmatchcase(label.lower(), pattern.lower()) for pattern in leave_out):
            continue
        takers = [name for name, modality in signals.items() if modality.takes(label)]
        if not takers and open_:
            raise ContentError("signal with an unknown channel", suggest(label, open_[0].montage))
        for name in takers:
            taken.setdefault(name, []).append(number)
    if not taken:
        raise ContentError("recording without a channel for the recipe")
    return taken


def written(value: Any) -> Any:
    """A field's value as a label, a cell or a group has it: the texts of a list by commas."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def groups_of(fields: Fields) -> dict[str, str]:
    """What a split can be made by."""
    return as_groups({name: written(value) for name, value in fields.items()})


def members_of(recordings: Mapping[str, Recording]) -> dict[str, bytes]:
    """A sample's members `{modality}.npy` and `{modality}.json`."""
    return {
        f"{name}.{extension}": data
        for name, recording in recordings.items()
        for extension, data in to_members(recording).items()
    }


def table_members(
    fields: Fields,
    columns: Mapping[str, tuple[str, ...]],
    labels: tuple[str, ...],
    flags: Mapping[str, tuple[str, str]],
    modalities: Mapping[str, Modality],
) -> dict[str, bytes]:
    """Members of tables and labels; a field that a record lacks is null, a table of nothing else is left out.

    flags: labels that are 1 where a field's list, or text of such a form (`426177001,426783006`), holds a code, else 0.
    """
    for name in columns:
        if name not in modalities:
            raise ValueError(f"data.source names the modality {name!r}, which the recipe has not")
    cells = {name: written(value) for name, value in fields.items()}
    members: dict[str, bytes] = {}
    for name, names in columns.items():
        members |= table_member(name, dict.fromkeys(names) | cells, names)
    held = {name: cells.get(name) for name in labels}
    for label, (field, code) in flags.items():
        listed = fields.get(field)
        codes = listed if isinstance(listed, (list, tuple)) else str(listed).split(",")
        held[label] = None if listed is None else int(code in {str(each).strip() for each in codes})
    if held:
        members["labels.json"] = as_json(held, tuple(held))
    return members
