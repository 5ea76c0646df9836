"""Items made ahead by worker processes, whose arrays lie in memory that both sides share and use again.

What a worker makes is pickled, but for its arrays (pickle's out-of-band buffers, PEP 574): they lie in a slot of
anonymous shared memory, where the receiver finds them without a copy. Once all of an item's arrays are gone at the
receiver, its worker takes the slot for another item. So pages are mapped once, not once a batch, which costs more than
filling them; and items of small objects come through a pipe alone, without a thread or a lock.
"""

from __future__ import annotations

import atexit
import copyreg
import gc
import io
import math
import mmap
import os
import pickle
import signal
import tempfile
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from pipeline.machine import keep_freed_memory

AHEAD = 4
"""Items that a worker may be ahead of its receiver."""
SLOTS = 64
"""Of a worker at most, as each takes a descriptor; where a receiver keeps more items, further ones are copied to it."""
SMALL_BYTES = 4096
"""Arrays of less are pickled."""
ALIGNED = 64
"""Bytes at whose multiples arrays begin in a slot."""
PATIENCE_S = 1.0
"""How long workers may finish what they are at before they are killed, once nobody waits for it."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """What makes items by their number, alike in any process."""

    def __getitem__(self, number: int, /) -> T_co: ...


def prefetch(items: Items[T], numbers: Sequence[int], workers: int) -> Iterator[T]:
    """Items of these numbers in order: made by so many processes, or here where there are none.

    Raises:
        ChildProcessError: a worker came to an end. Also what making an item raises, in its turn.
    """
    return _Ahead(items, numbers, workers) if workers else map(items.__getitem__, numbers)


class _Ahead(Iterator[T]):
    """The receiver of what workers make in turns."""

    def __init__(self, items: Items[T], numbers: Sequence[int], workers: int):
        count = min(workers, len(numbers))
        self._team: list[_Worker[T]] = []
        # Before the standard library's own exit hook, which would wait for workers that wait for us.
        self._end = atexit.register(weakref.finalize(self, _end, self._team))
        self._team += (_Worker(items, numbers[first::count]) for first in range(count))
        self._remaining = len(numbers)
        self._turn = 0

    def __next__(self) -> T:
        if not self._remaining:
            self._end()
            atexit.unregister(self._end)
            raise StopIteration
        worker = self._team[self._turn]
        self._turn = (self._turn + 1) % len(self._team)
        self._remaining -= 1
        return worker.receive()


class _Worker(Generic[T]):
    """A worker process, as its receiver sees it."""

    def __init__(self, items: Items[T], numbers: Sequence[int]):
        self.connection, theirs = Pipe()
        self.process = Process(target=_work, args=(items, numbers, theirs, self.connection), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.slots: dict[int, mmap.mmap] = {}
        self.freed: deque[int] = deque()
        self.unasked = len(numbers) - AHEAD

    def receive(self) -> T:
        """The next item.

        Raises:
            ChildProcessError: the process came to an end.
        """
        try:
            slot, new, spans, payload, failed = pickle.loads(self.connection.recv_bytes())
            if new:
                descriptor = recv_handle(self.connection)
                self.slots[slot] = mmap.mmap(descriptor, new)  # has a descriptor of its own
                os.close(descriptor)
            if self.unasked > 0:
                self.unasked -= 1
                self.connection.send_bytes(bytes(self.freed.popleft() for _ in range(len(self.freed))))
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(self._fate()) from error
        item = pickle.loads(payload, buffers=self._buffers(slot, spans))
        if failed:
            raise item
        return item

    def _buffers(self, slot: int, spans: list[tuple[int, int]]) -> list[memoryview]:
        """Parts of a slot, which is free again when the last of them is gone."""
        if not spans:
            return []
        buffer = np.frombuffer(self.slots[slot], np.uint8)
        weakref.finalize(buffer, self.freed.append, slot)
        view = buffer.data
        return [view[start : start + size] for start, size in spans]

    def _fate(self) -> str:
        """How the process ended."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"a loader worker ended with exit code {code}"
        ended_by = signal.Signals(-code)
        hints = {signal.SIGKILL: "is memory short?", signal.SIGBUS: "was a shard cut short while it was read?"}
        return f"a loader worker was ended by {ended_by.name}: {hints.get(ended_by, 'see the system log')}"


def _end(team: list[_Worker[Any]]) -> None:
    """End workers; none of them holds anything that would be lost."""
    for worker in team:
        worker.connection.close()
    for worker in team:
        worker.process.join(PATIENCE_S)
        worker.process.kill()
        worker.process.join()


# In a worker


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled, in a worker one that is handed over without a copy as part of the item being made."""
    return np.empty(shape, dtype) if _slots is None else _slots.empty(shape, dtype)


def _work(items: Items[Any], numbers: Sequence[int], connection: Connection, theirs: Connection) -> None:
    """Make items and hand them over, until all are made or nobody is there to receive them."""
    global _slots
    theirs.close()  # held here too, it would hide that the receiver is gone
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.SIG_IGN)  # the receiver decides when to end
    torch.set_num_threads(1)
    keep_freed_memory()
    gc.freeze()  # what there is stays; collections need not look at it
    _slots = _Slots(connection)
    with suppress(EOFError, ConnectionError):
        for count, number in enumerate(numbers):
            if count >= AHEAD:
                _slots.free += connection.recv_bytes()
            try:
                _slots.send(items[number])
            except ConnectionError:
                raise
            except Exception as error:
                error.add_note("in a loader worker:\n" + traceback.format_exc())
                _slots.send(_portable(error), failed=True)


def _portable(error: Exception) -> Exception:
    """An error that can be handed over: itself, where pickle can restore it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Slots:
    """The shared memory of a worker, of which `free` slots may be filled again."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.free: list[int] = []
        self.memory: list[np.ndarray] = []
        self.unseen: dict[int, int] = {}
        """Descriptors of memory that the receiver does not have yet, by slot."""
        self.current: int | None = None
        """The slot of the item being made, of which `used` bytes are given away."""
        self.used = self.largest = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in the current slot, where it has room."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.current is None:
            self._take(self.largest)
        if self.current is None or self.used + size > len(self.memory[self.current]):
            return np.empty(shape, dtype)
        start, self.used = self.used, self.used + _aligned(size)
        return self.memory[self.current][start : start + size].view(dtype).reshape(shape)

    def send(self, item: Any, failed: bool = False) -> None:
        """Hand over an item, its arrays in a slot."""
        payload, arrays = _pickled(item)
        spans = self._place(arrays)
        if spans is None:
            payload, spans = _pickled(item, in_one_part=True)[0], []
        slot, descriptor = 0, None
        if spans and self.current is not None:
            slot, self.current = self.current, None
            descriptor = self.unseen.pop(slot, None)
        self.used = 0
        new = 0 if descriptor is None else len(self.memory[slot])
        self.connection.send_bytes(pickle.dumps((slot, new, spans, payload, failed), pickle.HIGHEST_PROTOCOL))
        if descriptor is not None:
            send_handle(self.connection, descriptor, os.getppid())
            os.close(descriptor)

    def _place(self, arrays: list[np.ndarray]) -> list[tuple[int, int]] | None:
        """Where arrays lie in the current slot, after those that do not are copied there; None where there is none."""
        size = self.used + sum(_aligned(len(array)) for array in arrays if self._start(array) is None)
        self.largest = max(self.largest, size)
        if not arrays:
            return []
        if self.current is None or size > len(self.memory[self.current]):
            self._take(size)  # enough also for those that lie in the slot now and will not lie in a larger one
        if self.current is None:
            return None
        memory = self.memory[self.current]
        spans = []
        for array in arrays:
            start = self._start(array)
            if start is None:
                start, self.used = self.used, self.used + _aligned(len(array))
                memory[start : start + len(array)] = array
            spans.append((start, len(array)))
        return spans

    def _start(self, array: np.ndarray) -> int | None:
        """Where an array begins in the current slot, if it lies there."""
        if self.current is None:
            return None
        memory = self.memory[self.current]
        start = array.ctypes.data - memory.ctypes.data
        return start if 0 <= start < len(memory) else None

    def _take(self, size: int) -> None:
        """Make a slot of at least so many bytes the current one, if any can be had."""
        if self.current is None:
            if not size or (not self.free and len(self.memory) == SLOTS):
                return
            self.current = self.free.pop() if self.free else len(self.memory)
            self.memory += [np.zeros(0, np.uint8)] * (self.current == len(self.memory))
        if size > len(self.memory[self.current]):
            size = 1 << (size - 1).bit_length()  # pages that are not needed are never taken
            descriptor = _anonymous(size)
            self.memory[self.current] = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
            if self.current in self.unseen:
                os.close(self.unseen[self.current])
            self.unseen[self.current] = descriptor
            self.used = 0


_slots: _Slots | None = None
"""Of this process, if it is a worker."""


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _anonymous(size: int) -> int:
    """Descriptor of memory that has no name and goes with its last user."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sensorium")  # unlike /dev/shm, which containers limit to 64 MiB
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _pickled(item: Any, in_one_part: bool = False) -> tuple[bytes, list[np.ndarray]]:
    """An item, and apart from it the bytes of its large arrays, unless it is to be whole."""
    arrays: list[np.ndarray] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        if in_one_part or buffer.raw().nbytes < SMALL_BYTES:
            return True
        arrays.append(np.frombuffer(buffer.raw(), np.uint8))
        return False

    written = io.BytesIO()
    pickler = pickle.Pickler(written, pickle.HIGHEST_PROTOCOL, buffer_callback=stays)
    pickler.dispatch_table = TENSORS
    pickler.dump(item)
    return written.getvalue(), arrays


def _reduced(tensor: torch.Tensor) -> Any:
    """A tensor as an array, where it can be one."""
    try:
        return torch.from_numpy, (tensor.numpy(),)
    except (TypeError, RuntimeError):  # of a type or device that NumPy lacks, or part of a graph
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


TENSORS = copyreg.dispatch_table | {torch.Tensor: _reduced}
