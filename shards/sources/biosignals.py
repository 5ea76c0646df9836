"""Shared by the sources of biosignals (`edf`, `wfdb`, `ptbxl`): assign channels to modalities, make samples."""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.files.recording import Recording, to_members
from shards.sources.base import Sample, Source
from shards.sources.checks import require_signal, require_tables
from shards.sources.folder import FolderSource
from shards.sources.members import dump_cells, group_values, join_list, table_member
from shards.sources.windows import WindowedSource

Fields = dict[str, Any]
T = TypeVar("T")
THREADS = 16
"""Headers that are read at the same time."""
LOOKAHEAD = 256
"""Headers that are read before they are needed."""


@dataclass(frozen=True, kw_only=True)
class BiosignalSource(Source):
    """Base of sources that give each recording fields: channels become signals, fields become tables and labels.

    A split can be made by any field.

    Attributes:
        columns: Fields of each table modality.
        labels: Fields stored as labels, apart from the content.
        flags: Labels that are 1 if the list in a field contains a code and 0 if not, `{fibrillation: [codes, AFIB]}`;
            the field may also be text such as `426177001,426783006`.
    """

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    flags: dict[str, tuple[str, str]] = field(default_factory=dict)

    def check(self, modalities: Mapping[str, Modality]) -> None:
        require_signal(modalities, self.type)
        require_tables(self.columns, modalities)

    def sample(self, identity: str, recordings: Mapping[str, Recording], fields: Fields) -> Sample:
        """The sample of recordings by modality and of their fields.

        A field that the recording lacks is null; a table with only null fields is omitted.
        """
        members = {
            f"{name}.{extension}": data
            for name, recording in recordings.items()
            for extension, data in to_members(recording).items()
        }
        cells = {name: join_list(value) for name, value in fields.items()}
        for name, names in self.columns.items():
            members |= table_member(name, dict.fromkeys(names) | cells, names)
        labels = {name: cells.get(name) for name in self.labels}
        for label, (name, code) in self.flags.items():
            value = fields.get(name)
            codes = value if isinstance(value, (list, tuple)) else str(value).split(",")
            labels[label] = None if value is None else int(code in {str(item).strip() for item in codes})
        if labels:
            members["labels.json"] = dump_cells(labels, tuple(labels))
        return Sample(identity=identity, members=members, groups=group_values(cells))


@dataclass(frozen=True, kw_only=True)
class BiosignalFolder(WindowedSource, FolderSource, BiosignalSource):
    """Base of sources that find biosignal files by a glob and cut them into windows.

    Attributes:
        exclude: Patterns of the names of channels to ignore, such as `EOG*`; case does not matter.
    """

    exclude: tuple[str, ...] = ()


def assign_channels(
    labels: Sequence[str], modalities: Mapping[str, Modality], exclude: Sequence[str] = ()
) -> dict[str, list[int]]:
    """The channels of a file that each signal modality takes, by number.

    Ignores channels that match a pattern of `exclude`, and channels missing from the list of a modality that has one.

    Args:
        labels: Names of the channels in the file.
        modalities: The modalities of the recipe, at least one of them a signal.
        exclude: Patterns of names, such as `EOG*`.

    Raises:
        ContentError: no modality knows a channel, or no channel is left.
    """
    signals = {name: modality for name, modality in modalities.items() if modality.is_recording}
    channels: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        if any(fnmatch.fnmatchcase(label.lower(), pattern.lower()) for pattern in exclude):
            continue
        names = [name for name, modality in signals.items() if modality.takes(label)]
        hints = (modality.channel_hint(label) for modality in signals.values())
        if not names and (hint := next(filter(None, hints), None)):
            raise ContentError("signal with an unknown channel", hint)
        for name in names:
            channels.setdefault(name, []).append(number)
    if not channels:
        raise ContentError("recording without a channel for the recipe")
    return channels


def read_ahead(read: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[tuple[Path, T | ContentError]]:
    """Yield each path with the result of `read`, or with the error that it raised, in order.

    Threads read at most `LOOKAHEAD` files ahead, because many small files on a network disk are slow one by one.
    """
    queue = deque[tuple[Path, Future[T | ContentError]]]()

    def attempt(path: Path) -> T | ContentError:
        try:
            return read(path)
        except ContentError as error:
            return error

    pool = ThreadPoolExecutor(THREADS)
    try:
        for path in paths:
            queue.append((path, pool.submit(attempt, path)))
            if len(queue) >= LOOKAHEAD:
                first, future = queue.popleft()
                yield first, future.result()
        for path, future in queue:
            yield path, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
