"""A build that was killed or interrupted resumes exactly, and repeats no finished work."""

from __future__ import annotations

import fcntl
import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from modalities.base import Modality
from modalities.text import Text
from shards.build import SplitBy, build
from shards.manifest import Manifest
from shards.samples import CHUNK
from shards.sources.base import Sample, Source
from shards.tars import verify_shards

COUNT = 5 * CHUNK
TEXT: dict[str, Modality] = {"text": Text()}
SPLIT = SplitBy(validation=0.1, test=0.1)
SCRIPT = """
import os, sys, time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from modalities.text import Text
from shards.build import SplitBy, build
from shards.sources.base import Sample, Source

@dataclass(frozen=True, kw_only=True)
class Slow(Source):
    type = "slow"
    log: str
    def items(self, raw):
        yield from range({count})
    def make(self, item, modalities):
        with open(self.log, "a") as log:
            log.write(f"{{item}} {{os.getpid()}}\\n")
        time.sleep(0.002)
        return Sample(identity=str(item // 2), members={{"text.txt": f"sample {{item}}".encode()}})

def run(log, raw, out, workers):
    split = SplitBy(validation=0.1, test=0.1)
    build(Slow(log=log), {{"text": Text()}}, split, Path(raw), Path(out), samples_per_shard=9, workers=int(workers))

if __name__ == "__main__":
    run(*sys.argv[1:])
"""


KILLED = """
import os
from dataclasses import dataclass
from pathlib import Path
from shards.samples import CHUNK
from shards.sources.base import Sample, Source

@dataclass(frozen=True, kw_only=True)
class Killed(Source):
    type = "killed"
    flag: str
    def items(self, raw):
        yield from range(3 * CHUNK)
    def make(self, item, modalities):
        if item == 2 * CHUNK and not Path(self.flag).exists():
            Path(self.flag).touch()
            os._exit(9)
        return Sample(identity=str(item), members={"text.txt": f"sample {item}".encode()})
"""


@dataclass(frozen=True, kw_only=True)
class Interrupted(Source):
    """Numbered texts. `numbers` records every one made; each number in `stop` raises KeyboardInterrupt once."""

    type: ClassVar[str] = "interrupted"
    numbers: ClassVar[list[int]] = []
    stop: ClassVar[set[int]] = set()
    size: int = 10
    count: int = COUNT

    def items(self, raw: Path) -> Iterator[int]:
        yield from range(self.count)

    def make(self, item: int, modalities: Mapping[str, Modality]) -> Sample:
        if item in self.stop:
            self.stop.remove(item)
            raise KeyboardInterrupt
        self.numbers.append(item)
        return Sample(identity=str(item), members={"text.txt": f"{item}".rjust(self.size).encode()})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    Interrupted.numbers.clear()
    Interrupted.stop.clear()
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "file.txt").write_text("raw")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_build(raw: Path, out: Path, messages: list[str] | None = None, **changes: Any) -> Manifest:
    report = (messages if messages is not None else []).append
    return build(Interrupted(), TEXT, SPLIT, raw, out, samples_per_shard=9, report=report, **changes)


def interrupt(raw: Path, out: Path, at: int = 3 * CHUNK + 5) -> None:
    Interrupted.stop.add(at)
    with pytest.raises(KeyboardInterrupt):
        run_build(raw, out)
    Interrupted.numbers.clear()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "the build ended before it was killed"
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_build_killed_while_making_and_while_writing_resumes_exactly(raw: Path, tmp_path: Path, workers: int) -> None:
    script, log, out = tmp_path / "slow.py", tmp_path / "log", tmp_path / "out"
    script.write_text(SCRIPT.format(count=COUNT))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, script, log, raw, out, str(workers)])

    def lines() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    def written() -> int:
        return len(list((tmp_path / "out.building").glob("*/entries/*.tar")))

    stages: list[Callable[[], bool]] = [lambda: len(lines()) > 2 * CHUNK + 5, lambda: written() > 1]
    for is_reached in stages:
        process = start()
        until(is_reached, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not out.exists()
    workers_left = {int(line.split()[1]) for line in lines()} - {process.pid}
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers_left):
        assert time.monotonic() < deadline, "workers outlive a killed build"
        time.sleep(0.05)
    assert start().wait() == 0
    times = Counter(int(line.split()[0]) for line in lines())
    assert set(times) == set(range(COUNT))
    assert sum(times.values()) - COUNT <= 2 * workers * CHUNK, "only the chunks in progress are made twice"
    runpy.run_path(str(script))["run"](str(log), raw, tmp_path / "uninterrupted", 1)
    assert contents(out) == contents(tmp_path / "uninterrupted")
    assert verify_shards(out).skipped == {"duplicate": COUNT // 2}
    assert not (tmp_path / "out.building").exists()


def test_finished_chunks_are_not_recomputed(raw: Path, tmp_path: Path) -> None:
    interrupt(raw, tmp_path / "out")
    messages: list[str] = []
    run_build(raw, tmp_path / "out", messages)
    assert Interrupted.numbers == list(range(3 * CHUNK, COUNT))
    assert messages == [f"resuming in {tmp_path / 'out.building'}: 3 chunks of {CHUNK} items and 0 shards are done"]
    run_build(raw, tmp_path / "uninterrupted")
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")
    assert not (tmp_path / "out.building").exists()


def test_finished_chunks_survive_an_error(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Interrupted.make

    def fail_at_the_end(self: Interrupted, item: int, modalities: Mapping[str, Modality]) -> Sample:
        if item == COUNT - 1:
            raise ValueError("this needs the package 'x': pip install x")
        return make(self, item, modalities)

    with monkeypatch.context() as patch:
        patch.setattr(Interrupted, "make", fail_at_the_end)
        with pytest.raises(ValueError, match="needs the package"):
            run_build(raw, tmp_path / "out")
    Interrupted.numbers.clear()
    run_build(raw, tmp_path / "out")
    assert Interrupted.numbers == list(range(COUNT - CHUNK, COUNT))


def test_a_killed_worker_is_reported_and_finished_chunks_are_kept(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is that of the worker pool, not an error of the ledger that was being written."""
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.syspath_prepend(tmp_path)
    source = importlib.import_module("killed").Killed(flag=str(tmp_path / "flag"))
    arguments = {"samples_per_shard": 9, "workers": 2}
    with pytest.raises(ChildProcessError, match=r"^a worker process was killed, .* with fewer workers"):
        build(source, TEXT, SPLIT, raw, tmp_path / "out", **arguments)
    messages: list[str] = []
    build(source, TEXT, SPLIT, raw, tmp_path / "out", report=messages.append, **arguments)
    assert len(messages) == 1
    assert messages[0].startswith(f"resuming in {tmp_path / 'out.building'}: ")
    assert verify_shards(tmp_path / "out").counts()["train"] > CHUNK


def test_finished_shards_are_not_rewritten(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards.index import write_index

    names: list[str] = []

    def full(tar: Path, rows: Any) -> None:
        if len(names) == 4:
            raise OSError(28, "No space left on device")
        names.append(tar.name)
        write_index(tar, rows)

    with monkeypatch.context() as patch:
        patch.setattr("shards.tar_writer.write_index", full)
        with pytest.raises(OSError, match="No space"):
            run_build(raw, tmp_path / "out")
    Interrupted.numbers.clear()
    inodes = {p.name: p.stat().st_ino for p in (tmp_path / "out.building").glob("*/shards/*.tar")}
    assert len(inodes) == 4
    run_build(raw, tmp_path / "out")
    assert Interrupted.numbers == []
    assert inodes.items() <= {p.name: p.stat().st_ino for p in (tmp_path / "out").iterdir()}.items()
    run_build(raw, tmp_path / "uninterrupted")
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")


@pytest.mark.parametrize("changed", ["raw", "recipe"])
def test_other_raw_files_or_settings_start_again(raw: Path, tmp_path: Path, changed: str) -> None:
    interrupt(raw, tmp_path / "out")
    if changed == "raw":
        (raw / "file.txt").write_text("other")
    messages: list[str] = []
    run_build(raw, tmp_path / "out", messages, **({"dedupe": "exact"} if changed == "recipe" else {}))
    assert messages == [f"{tmp_path / 'out.building'} belongs to another recipe or other raw files: starting again"]
    assert Interrupted.numbers == list(range(COUNT))


def test_shards_may_be_built_inside_the_raw_folder(raw: Path) -> None:
    interrupt(raw, raw / "out")
    run_build(raw, raw / "out")
    assert Interrupted.numbers == list(range(3 * CHUNK, COUNT))


def test_two_builds_of_one_folder_are_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out.building").mkdir()
    with (tmp_path / "out.building" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another process is building in .*out\.building"):
            run_build(raw, tmp_path / "out")
    run_build(raw, tmp_path / "out")


def test_a_build_killed_during_cleanup_is_finished(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, **_: Any) -> None:
        if path == tmp_path / "out.building":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shards.build.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run_build(raw, tmp_path / "out")
    assert (tmp_path / "out.building").exists()
    Interrupted.numbers.clear()
    assert run_build(raw, tmp_path / "out") == verify_shards(tmp_path / "out")
    assert Interrupted.numbers == []
    assert not (tmp_path / "out.building").exists()
    with pytest.raises(ValueError, match="is not empty"):
        run_build(raw, tmp_path / "out")


def test_memory_does_not_grow_with_the_content(raw: Path, tmp_path: Path) -> None:
    source = Interrupted(size=1 << 20, count=60)
    build(source, {}, SPLIT, raw, tmp_path / "warm")
    tracemalloc.start()
    build(source, {}, SPLIT, raw, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(shard.bytes for shard in Manifest.read(tmp_path / "out").shards) > 60 << 20
    assert peak < 10 << 20
