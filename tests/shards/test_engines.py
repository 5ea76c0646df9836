"""Parts of a build in this process, in processes and on a Ray cluster."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modalities.base import Modality
from modalities.table import Table
from modalities.text import Text
from shards.build import SplitBy, build
from shards.engines import worker_pool
from shards.sources.rows import Rows

MODALITIES: dict[str, Modality] = {"record": Table(), "text": Text()}
SOURCE = Rows(columns={"text": "words", "record": ("size",)})

slow = pytest.mark.slow


def rows(folder: Path, count: int = 500) -> Path:
    folder.mkdir()
    lines = "\n".join(f"{'word ' * (i % 7)}{i % 480},{i}" for i in range(count))
    (folder / "a.csv").write_text(f"words,size\n{lines}\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def build_on(engine: str, workers: int | None, raw: Path, out: Path) -> dict[str, bytes]:
    split = SplitBy(validation=0.2, test=0.1)
    build(
        SOURCE,
        MODALITIES,
        split,
        raw,
        out,
        samples_per_shard=40,
        dedupe={"text": "exact"},
        workers=workers,
        engine=engine,
    )
    return contents(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of 2 cores on this machine."""
    import ray

    ray.init(num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_calls(workers: int) -> None:
    with worker_pool("local", workers) as run:
        assert list(run(math.factorial, ((n,) for n in [900, *range(20)]))) == [
            math.factorial(n) for n in [900, *range(20)]
        ]
        assert list(run(math.gcd, [(12, 18), (7, 5)])) == [6, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_arrive_as_they_were_raised(workers: int) -> None:
    with (
        worker_pool("local", workers) as run,
        pytest.raises(ValueError, match=r"^factorial\(\) not defined for negative"),
    ):
        list(run(math.factorial, [(3,), (-1,), (4,)]))


def test_calls_are_consumed_no_faster_than_results() -> None:
    calls_taken: list[int] = []

    def calls() -> Any:
        for n in range(100):
            calls_taken.append(n)
            yield (n,)

    with worker_pool("local", 2) as run:
        results = run(math.factorial, calls())
        assert next(results) == 1
        assert len(calls_taken) <= 5


def test_a_killed_worker_stops_the_build_with_instructions() -> None:
    with worker_pool("local", 2) as run, pytest.raises(ChildProcessError, match="fewer workers"):
        list(run(os._exit, [(9,)]))


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match="engine is 'dask'; known: local, ray"):
        worker_pool("dask", 1)


@slow
@pytest.mark.parametrize("workers", [None, 1])
def test_a_ray_cluster_gives_equal_bytes(cluster: None, workers: int | None, tmp_path: Path) -> None:
    raw = rows(tmp_path / "raw")
    spread = build_on("ray", workers, raw, tmp_path / "ray")
    assert spread == build_on("local", 2, raw, tmp_path / "two")
    assert spread == build_on("local", 1, raw, tmp_path / "one")
    assert len(spread) > 20


@slow
@pytest.mark.usefixtures("cluster")
def test_paths_are_relative_to_the_caller_not_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    spread = build_on("ray", None, Path("raw"), Path("ray"))
    assert spread == build_on("local", 1, Path("raw"), Path("one"))


@slow
def test_a_ray_cluster_keeps_order_and_errors(cluster: None) -> None:
    with worker_pool("ray", None) as run:
        assert list(run(math.gcd, ((12, n) for n in range(1, 20)))) == [math.gcd(12, n) for n in range(1, 20)]
        with pytest.raises(ValueError, match=r"^factorial\(\) not defined for negative"):
            list(run(math.factorial, [(3,), (-1,), (4,)]))
    import ray

    assert ray.is_initialized(), "a cluster that was there stays"
