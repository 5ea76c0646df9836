"""Prefetching by worker processes, whose arrays are in shared memory that is used again.

A worker pickles each item except its arrays (out-of-band buffers, PEP 574). These are in a slot of anonymous shared
memory, where the receiver reads them without a copy. When the receiver has released all arrays of an item, its worker
fills the slot again. Pages are thus mapped once and not once per batch, which would cost more than filling them. Items
of small objects go through a pipe, without a thread or a lock.
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

MAX_AHEAD = 4
"""Number of items that a worker may be ahead of its receiver."""
MAX_SLOTS = 64
"""Slots of a worker, because each takes a file descriptor. If a receiver keeps more items, the others are copied."""
MIN_SHARED_BYTES = 4096
"""Smaller arrays are pickled."""
ALIGNMENT = 64
"""Arrays in a slot start at multiples of this number of bytes."""
SHUTDOWN_GRACE_S = 1.0
"""Time that workers have at shutdown to finish their item before they are killed."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """Items by index, the same in any process."""

    def __getitem__(self, index: int, /) -> T_co: ...


def prefetch(items: Items[T], indices: Sequence[int], workers: int) -> Iterator[T]:
    """Items in the order of `indices`, made ahead by worker processes; by this process if there are no workers.

    Raises:
        ChildProcessError: a worker died. Also the error of an item, when its turn comes.
    """
    return _Receiver(items, indices, workers) if workers else map(items.__getitem__, indices)


class _Receiver(Iterator[T]):
    """Receives items from workers in turn."""

    def __init__(self, items: Items[T], indices: Sequence[int], workers: int):
        count = min(workers, len(indices))
        self._workers: list[_Worker[T]] = []
        # Registered before the standard library's exit hook, which would wait for workers that wait for us.
        self._shut_down = atexit.register(weakref.finalize(self, _shut_down, self._workers))
        self._workers += (_Worker(items, indices[first::count]) for first in range(count))
        self._remaining = len(indices)
        self._next = 0

    def __next__(self) -> T:
        if not self._remaining:
            self._shut_down()
            atexit.unregister(self._shut_down)
            raise StopIteration
        worker = self._workers[self._next]
        self._next = (self._next + 1) % len(self._workers)
        self._remaining -= 1
        return worker.receive()


class _Worker(Generic[T]):
    """A worker process, as its receiver sees it.

    slots: shared memory by number. free: slots to be reported as free. unrequested: items that the worker may not make
    yet.
    """

    def __init__(self, items: Items[T], indices: Sequence[int]):
        self.connection, worker_end = Pipe()
        self.process = Process(target=_work, args=(items, indices, worker_end, self.connection), daemon=True)
        self.process.start()
        worker_end.close()  # so that the pipe closes when the process ends
        self.slots: dict[int, mmap.mmap] = {}
        self.free: deque[int] = deque()
        self.unrequested = len(indices) - MAX_AHEAD

    def receive(self) -> T:
        """The next item.

        Raises:
            ChildProcessError: the process died. Also the error of the item.
        """
        try:
            slot, new_size, ranges, pickled, failed = pickle.loads(self.connection.recv_bytes())
            if new_size:
                descriptor = recv_handle(self.connection)
                self.slots[slot] = mmap.mmap(descriptor, new_size)  # has its own copy of the descriptor
                os.close(descriptor)
            if self.unrequested > 0:
                self.unrequested -= 1
                self.connection.send_bytes(bytes(self.free.popleft() for _ in range(len(self.free))))
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(self._cause_of_death()) from error
        item = pickle.loads(pickled, buffers=self._buffers(slot, ranges))
        if failed:
            raise item
        return item

    def _buffers(self, slot: int, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """Views of (start, size) ranges of a slot, which becomes free when the last of them is released."""
        if not ranges:
            return []
        memory = np.frombuffer(self.slots[slot], np.uint8)
        weakref.finalize(memory, self.free.append, slot)
        view = memory.data
        return [view[start : start + size] for start, size in ranges]

    def _cause_of_death(self) -> str:
        """How the process ended."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"a loader worker exited with code {code}"
        number = signal.Signals(-code)
        hints = {signal.SIGKILL: "is memory short?", signal.SIGBUS: "was a shard truncated while it was read?"}
        return f"a loader worker was killed by {number.name}: {hints.get(number, 'see the system log')}"


def _shut_down(workers: list[_Worker[Any]]) -> None:
    """Stop workers; nothing that they hold needs saving."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.join(SHUTDOWN_GRACE_S)
        worker.process.kill()
        worker.process.join()


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to fill; in a worker it is in the slot of the current item, so that it is handed over without a copy."""
    return np.empty(shape, dtype) if _slots is None else _slots.empty(shape, dtype)


def _work(items: Items[Any], indices: Sequence[int], connection: Connection, receiver_end: Connection) -> None:
    """Make and send items in a worker process, until all are sent or the receiver is gone."""
    global _slots
    receiver_end.close()  # an open copy of it would hide that the receiver is gone
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the receiver decides when to stop
    torch.set_num_threads(1)
    keep_freed_memory()
    gc.freeze()  # objects of the receiver stay alive, so collections may skip them
    _slots = _Slots(connection)
    with suppress(EOFError, ConnectionError):
        for count, index in enumerate(indices):
            if count >= MAX_AHEAD:
                _slots.free += connection.recv_bytes()
            try:
                _slots.send(items[index])
            except ConnectionError:
                raise
            except Exception as error:
                error.add_note("in a loader worker:\n" + traceback.format_exc())
                _slots.send(_portable(error), failed=True)


def _portable(error: Exception) -> Exception:
    """An error that pickle can restore: the error itself, or a RuntimeError with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Slots:
    """The shared memory of a worker.

    free: slots that may be filled again. memory: bytes of each slot. unsent: descriptors of memory that the receiver
    does not have yet, by slot. current: slot of the current item, with `used` bytes taken. largest: most bytes that an
    item took.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.free: list[int] = []
        self.memory: list[np.ndarray] = []
        self.unsent: dict[int, int] = {}
        self.current: int | None = None
        self.used = self.largest = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array to fill, in the current slot if that has room."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.current is None:
            self._take(self.largest)
        if self.current is None or self.used + size > len(self.memory[self.current]):
            return np.empty(shape, dtype)
        start, self.used = self.used, self.used + _aligned(size)
        return self.memory[self.current][start : start + size].view(dtype).reshape(shape)

    def send(self, item: Any, failed: bool = False) -> None:
        """Send an item, its arrays in a slot."""
        pickled, arrays = _pickle(item)
        ranges = self._place(arrays)
        if ranges is None:
            pickled, ranges = _pickle(item, inline=True)[0], []
        slot, descriptor = 0, None
        if ranges and self.current is not None:
            slot, self.current = self.current, None
            descriptor = self.unsent.pop(slot, None)
        self.used = 0
        new_size = 0 if descriptor is None else len(self.memory[slot])
        self.connection.send_bytes(pickle.dumps((slot, new_size, ranges, pickled, failed), pickle.HIGHEST_PROTOCOL))
        if descriptor is not None:
            send_handle(self.connection, descriptor, os.getppid())
            os.close(descriptor)

    def _place(self, arrays: list[np.ndarray]) -> list[tuple[int, int]] | None:
        """Copy arrays to the current slot unless they are there; their (start, size) ranges, None without a slot."""
        size = self.used + sum(_aligned(len(array)) for array in arrays if self._start(array) is None)
        self.largest = max(self.largest, size)
        if not arrays:
            return []
        if self.current is None or size > len(self.memory[self.current]):
            self._take(size)  # enough also for arrays in the present slot, which are then copied to the larger one
        if self.current is None:
            return None
        memory = self.memory[self.current]
        ranges = []
        for array in arrays:
            start = self._start(array)
            if start is None:
                start, self.used = self.used, self.used + _aligned(len(array))
                memory[start : start + len(array)] = array
            ranges.append((start, len(array)))
        return ranges

    def _start(self, array: np.ndarray) -> int | None:
        """Where an array starts in the current slot, None if it is elsewhere."""
        if self.current is None:
            return None
        memory = self.memory[self.current]
        start = array.ctypes.data - memory.ctypes.data
        return start if 0 <= start < len(memory) else None

    def _take(self, size: int) -> None:
        """Make a slot of at least `size` bytes the current one, unless all are in use."""
        if self.current is None:
            if not size or (not self.free and len(self.memory) == MAX_SLOTS):
                return
            self.current = self.free.pop() if self.free else len(self.memory)
            self.memory += [np.zeros(0, np.uint8)] * (self.current == len(self.memory))
        if size > len(self.memory[self.current]):
            size = 1 << (size - 1).bit_length()  # pages that are not used take no memory
            descriptor = _anonymous(size)
            self.memory[self.current] = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
            if self.current in self.unsent:
                os.close(self.unsent[self.current])
            self.unsent[self.current] = descriptor
            self.used = 0


_slots: _Slots | None = None
"""The slots of this process, if it is a worker."""


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _anonymous(size: int) -> int:
    """A descriptor of memory without a name, which is released with its last user."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sensorium")  # unlike /dev/shm, which containers limit to 64 MiB
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _pickle(item: Any, inline: bool = False) -> tuple[bytes, list[np.ndarray]]:
    """An item as pickled bytes, and the bytes of its large arrays, which are left out unless `inline`."""
    arrays: list[np.ndarray] = []

    def is_inline(buffer: pickle.PickleBuffer) -> bool:
        if inline or buffer.raw().nbytes < MIN_SHARED_BYTES:
            return True
        arrays.append(np.frombuffer(buffer.raw(), np.uint8))
        return False

    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL, buffer_callback=is_inline)
    pickler.dispatch_table = TENSORS
    pickler.dump(item)
    return stream.getvalue(), arrays


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    """How to pickle a tensor: as an array if possible."""
    try:
        return torch.from_numpy, (tensor.numpy(),)
    except (TypeError, RuntimeError):  # of a type or device that NumPy lacks, or part of a graph
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


TENSORS = copyreg.dispatch_table | {torch.Tensor: _reduce_tensor}
