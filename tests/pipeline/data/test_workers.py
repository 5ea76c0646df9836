"""Items made by worker processes: the same as made here, in memory that is used again and never too early."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.data.workers import MAX_AHEAD, MAX_SLOTS, empty, prefetch

LARGE = (64, 1000)


@dataclass(frozen=True)
class FunctionItems:
    """Items made by a function of their number."""

    make: Callable[[int], Any]

    def __getitem__(self, number: int) -> Any:
        return self.make(number)


def large(number: int) -> torch.Tensor:
    return torch.full(LARGE, float(number))


def all_kinds(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    shared = torch.from_numpy(rng.normal(size=LARGE))
    return {
        "text": [f"C{number}", "ü", b"\0"],
        "small": np.arange(number),
        "float64": shared,
        "again": shared,
        "bool": torch.from_numpy(rng.random(LARGE) < 0.5),
        "bfloat16": torch.from_numpy(rng.normal(size=LARGE)).bfloat16(),
        "transposed": rng.normal(size=LARGE).T,
        "strided": torch.from_numpy(rng.normal(size=LARGE))[:, ::2],
        "none": torch.zeros(0, 3),
        "scalar": np.float32(number),
        "nested": (number, {"deep": rng.integers(0, 256, (number % 7) * 5000, np.uint8)}),
    }


def placed(number: int) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """One array where it is handed over, one elsewhere, and more than the last item had."""
    first, last = empty((5000,), np.dtype(np.int32)), empty((number * 3000,), np.dtype(np.float32))
    first[:], last[:] = number, -number
    return first, large(number), last


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("make", [all_kinds, placed])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_equal_those_of_one_process_in_the_requested_order(make: Callable[[int], Any], workers: int) -> None:
    numbers = [5, 0, 7, 7, *range(30)]
    results = prefetch(FunctionItems(make), numbers, workers)
    assert all(equal(next(results), make(number)) for number in numbers)
    assert next(results, "none") == "none"


def test_a_tensor_that_occurs_twice_in_an_item_is_shared() -> None:
    (item,) = prefetch(FunctionItems(all_kinds), range(1), 1)
    assert item["float64"] is item["again"]


def test_items_are_writable_and_own_their_memory() -> None:
    arrays = []
    for number, item in enumerate(prefetch(FunctionItems(large), range(20), 1)):
        item += 1
        arrays.append(item[0])  # a view keeps its item
        assert all((row == before + 1).all() for before, row in enumerate(arrays)), number


def test_more_items_than_slots_may_be_retained() -> None:
    arrays = list(prefetch(FunctionItems(large), range(MAX_SLOTS + 30), 1))
    assert all(equal(item, large(number)) for number, item in enumerate(arrays))
    assert psutil.Process().num_fds() < 3 * MAX_SLOTS


@pytest.mark.parametrize("make", [large, lambda number: torch.from_numpy(placed(number % 2)[0])])
def test_memory_is_reused(make: Callable[[int], torch.Tensor]) -> None:
    results = prefetch(FunctionItems(make), range(200), 1)
    assert len({item.data_ptr() for item in results}) <= MAX_AHEAD + 3


def fails(number: int) -> int:
    if number == 2:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
    return number


def test_a_slot_stores_each_array_once() -> None:
    """Arrays made in the slot take no more of it than those copied there."""
    for item in prefetch(FunctionItems(lambda number: empty((1 << 20,), np.dtype(np.uint8))), range(8), 1):
        maps = Path("/proc/self/maps").read_text().splitlines()
        spans = [line.split()[0].split("-") for line in maps if "memfd:sensorium" in line]
        assert {int(end, 16) - int(start, 16) for start, end in spans} == {item.nbytes}


def test_an_error_in_an_item_is_raised_in_order() -> None:
    results = prefetch(FunctionItems(fails), range(6), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="No space left") as caught:
        next(results)
    assert caught.value.errno == errno.ENOSPC
    assert "in fails" in caught.value.__notes__[0]
    assert list(results) == [3, 4, 5]


class UnpicklableError(Exception):
    def __init__(self, first: int, second: int):
        super().__init__(f"{first} and {second}")


def raises_unpicklable(number: int) -> int:
    raise UnpicklableError(number, number)


def test_an_error_that_cannot_be_pickled_is_reported() -> None:
    with pytest.raises(RuntimeError, match="UnpicklableError: 0 and 0"):
        next(prefetch(FunctionItems(raises_unpicklable), range(1), 1))


def test_an_item_that_cannot_be_pickled_is_an_error_in_order() -> None:
    results = prefetch(FunctionItems(lambda number: number or (lambda: 0)), range(2), 1)
    with pytest.raises(Exception, match="lambda"):
        next(results)
    assert next(results) == 1


@pytest.mark.parametrize(("number", "hint"), [(signal.SIGKILL, "SIGKILL: is memory short"), (signal.SIGBUS, "SIGBUS")])
def test_a_killed_worker_is_reported_in_one_line(number: signal.Signals, hint: str) -> None:
    def dies(at: int) -> int:
        if at == 3:
            faulthandler.disable()  # pytest's, which would print where
            os.kill(os.getpid(), number)
        return at

    results = prefetch(FunctionItems(dies), range(6), 1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ChildProcessError, match=hint) as caught:
        next(results)
    assert "\n" not in str(caught.value)


def whose(number: int) -> int:
    """The process that makes an item."""
    return os.getpid()


def test_workers_leave_signals_to_the_receiver() -> None:
    results = prefetch(FunctionItems(whose), range(40), 2)
    for pid in (next(results), next(results)):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert sum(1 for _ in results) == 38


def whose_soon(number: int) -> int:
    time.sleep(60 if number > 1 else 0)
    return os.getpid()


@pytest.mark.parametrize("make", [whose, whose_soon])
def test_workers_stop_when_iteration_stops(make: Callable[[int], int]) -> None:
    results = prefetch(FunctionItems(make), range(10**6), 2)
    pids = {next(results), next(results)}
    assert len(pids) == 2
    assert all(map(psutil.pid_exists, pids))
    del results
    assert not any(map(psutil.pid_exists, pids))


CONSUMER = """
import os, psutil, sys, time
from pipeline.data.workers import prefetch
class Items:
    def __getitem__(self, number):
        return os.getpid()
held = prefetch(Items(), range(10**6), 2)
print(next(held), next(held), flush=True)
time.sleep(60 * (sys.argv[1] == "waits"))
"""


def consumer(way: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CONSUMER, way], stdout=subprocess.PIPE, text=True)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_workers_stop_if_the_receiver_is_killed() -> None:
    with consumer("waits") as process:
        assert process.stdout
        workers = list(map(int, process.stdout.readline().split()))
        process.kill()
    until = time.monotonic() + 20
    while not all(map(gone, workers)):
        assert time.monotonic() < until, "orphans"
        time.sleep(0.05)


def test_a_program_exits_while_it_still_holds_items() -> None:
    with consumer("ends") as process:
        assert process.wait(timeout=120) == 0
