"""Engines that run the parts of a build: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from modalities.files.reading import lazy_import

Mapper = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""`run(function, calls)` yields the function's result for each tuple of arguments, in the order of the calls."""


def worker_pool(engine: str, workers: int | None) -> AbstractContextManager[Mapper]:
    """Open a pool of workers for the parts of a build; it closes when the context ends.

    engine: `local` or `ray`. Ray uses the cluster of `RAY_ADDRESS` or `ray start`, or a new one on this machine; all
    its machines must have the raw data and the shards at the same paths. workers: number of parallel workers, None for
    one per core.

    Raises:
        ValueError: the engine is unknown, or Ray is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; known: {', '.join(ENGINES)}")
    return ENGINES[engine](workers)


@contextmanager
def _local(workers: int | None) -> Iterator[Mapper]:
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield itertools.starmap
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)

    def run(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        try:
            yield from _in_order(calls, lambda call: pool.submit(function, *call).result, 2 * workers)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, probably because memory ran out: "
                "run the same command again with fewer workers; finished parts are kept"
            ) from error

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Make a worker exit when the build is killed, because the workers of a pool would wait forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _ray(workers: int | None) -> Iterator[Mapper]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import, so that Ray sends no usage statistics
    ray = lazy_import("ray", "ray")
    is_new = not ray.is_initialized()
    if is_new:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    call_one = ray.remote(_call)
    ahead = workers or 2 * int(ray.cluster_resources()["CPU"])

    def run(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        shared = ray.put(function)

        def submit(call: tuple[Any, ...]) -> Callable[[], Any]:
            reference = call_one.remote(shared, *call)
            return lambda: ray.get(reference)

        try:
            yield from _in_order(calls, submit, ahead)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise ChildProcessError(
                f"the Ray cluster lost a part of the build ({type(error).__name__}): "
                "run the same command again; finished parts are kept"
            ) from error

    try:
        yield run
    finally:
        if is_new:
            ray.shutdown()


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _in_order(
    calls: Iterable[tuple[Any, ...]], submit: Callable[[tuple[Any, ...]], Callable[[], Any]], ahead: int
) -> Iterator[Any]:
    """Yield results in the order of the calls. At most `ahead` calls are pending, so that memory stays bounded."""
    waiting: deque[Callable[[], Any]] = deque()
    for call in calls:
        waiting.append(submit(call))
        if len(waiting) >= ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


ENGINES: dict[str, Callable[[int | None], AbstractContextManager[Mapper]]] = {"local": _local, "ray": _ray}
