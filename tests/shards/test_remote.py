"""Remote shards: a real HTTP server that fails, stalls, truncates and corrupts, and a cache that processes share."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from shards.manifest import Manifest, Shard
from shards.read import Members, Split
from shards.remote import GIB, Cache, Remote, open_store
from shards.store import Local, ShardError, Store
from shards.tars import verify_shards
from shards.transfer import transfer

SHARDS, SAMPLES = 6, 3
BYTES = 40_960
"""Size of each tar."""


@pytest.fixture
def folder(tar_folder: Path) -> Path:
    """Eighteen samples in six shards."""
    assert {path.stat().st_size for path in tar_folder.glob("*.tar")} == {BYTES}
    return tar_folder


@pytest.fixture
def web(folder: Path, serve: Callable[[Path], Any]) -> Any:
    return serve(folder)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that gives up a connection after seconds."""
    return Cache(str(tmp_path / "cache"), give_up_s=3.0)


def impatient(cache: Cache) -> Cache:
    """The cache with a timeout of one second, for connections that stall."""
    return replace(cache, timeout_s=1.0)


def tar(number: int) -> str:
    return f"train-{number:05d}.tar"


def content(split: Split) -> list[Members]:
    return [split.read(shard, number) for shard in range(SHARDS) for number in range(SAMPLES)]


def cached_hashes(cache: Cache) -> set[str]:
    return {path.name for path in Path(cache.folder).iterdir() if path.is_file() and len(path.name) == 64}


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ShardError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_remote_split_equals_the_local_one(folder: Path, web: Any, cache: Cache) -> None:
    split = Split(web.url, "train", verify=True, cache=cache)
    assert split.manifest == Manifest.read(folder)
    assert split.locations() == Split(folder, "train").locations()
    assert content(split) == content(Split(folder, "train"))
    again = Split(f"{web.url}/", "train", cache=cache)
    assert content(again) == content(split)
    assert web.requests.pop("manifest.json") == 2
    assert set(web.requests.values()) == {1}, "each file is fetched once"
    assert verify_shards(web.url, cache=cache) == split.manifest


def test_files_are_fetched_on_first_use(web: Any, cache: Cache) -> None:
    split = Split(web.url, "train", cache=cache)
    assert dict(web.requests) == {"manifest.json": 1}
    split.key(2, 1)
    assert set(web.requests) == {"manifest.json", "train-00002.index.parquet"}
    split.read(4, 0)
    assert set(web.requests) == {
        "manifest.json", "train-00002.index.parquet", "train-00004.index.parquet", "train-00004.tar"
    }  # fmt: skip


def test_a_local_folder_is_read_in_place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for where in (folder, str(folder), f"file://{folder}"):
        assert open_store(where) == Local(folder)
        assert len(content(Split(where, "train"))) == SHARDS * SAMPLES
    assert not list(tmp_path.iterdir()), "no copy is made"


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "stall", "stall midway"])
@pytest.mark.parametrize("name", ["manifest.json", "train-00001.index.parquet", "train-00001.tar"])
def test_a_connection_that_fails_for_a_while_is_retried(web: Any, cache: Cache, name: str, fault: str) -> None:
    web.faults[name] = [fault]
    split = Split(web.url, "train", cache=impatient(cache) if "stall" in fault else cache)
    assert split.read(1, 2)["smiles"]["txt"].startswith(b"1 2 ")
    assert web.requests[name] >= 2


def test_attempts_leave_no_files_behind(web: Any, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(web.url, "train", cache=impatient(cache))
    split.key(1, 0)
    files: list[list[Path]] = []

    def watched(url: str, path: Path, *limits: Any) -> None:
        files.append(list(path.parent.iterdir()))
        transfer(url, path, *limits)

    web.faults[tar(1)] = ["cut", "cut", "stall midway"]
    monkeypatch.setattr("shards.transfer.transfer", watched)
    assert split.read(1, 2)["smiles"]["txt"].startswith(b"1 2 ")
    assert files == [[]] * 4


@pytest.mark.parametrize("fault", ["500", "cut", "stall"])
@pytest.mark.parametrize("name", ["manifest.json", "train-00001.tar"])
def test_a_dead_connection_is_an_error_after_the_stated_time(web: Any, cache: Cache, name: str, fault: str) -> None:
    web.faults[name] = [fault, "*"]
    started = time.monotonic()
    message = refused(lambda: Split(web.url, "train", cache=impatient(cache) if "stall" in fault else cache).read(1, 0))
    assert time.monotonic() - started < 60, "the default is minutes"
    assert message.startswith(f"cannot fetch {web.url}/{name}: ")
    assert {"500": "500", "cut": "payload", "stall": "no data for 1 s"}[fault] in message
    assert web.requests[name] > 1
    assert not list(Path(cache.folder).glob("*.part"))


def test_an_unreachable_server_is_an_error_after_the_stated_time(cache: Cache) -> None:
    message = refused(lambda: Split("http://127.0.0.1:9/data", "train", cache=cache))
    assert message.startswith("cannot fetch http://127.0.0.1:9/data/manifest.json: ")


def test_a_refusal_is_not_retried(web: Any, cache: Cache) -> None:
    web.faults["train-00001.tar"] = ["403", "*"]
    split = Split(web.url, "train", cache=cache)
    assert "403" in refused(lambda: split.read(1, 0))
    web.faults["train-00001.tar"] = ["404", "*"]
    assert refused(lambda: split.read(1, 0)) == f"shard {web.url}/train-00001.tar is missing: upload it again"
    assert web.requests["train-00001.tar"] == 2
    assert f"no shards at {web.url}/nothing: build them" in refused(
        lambda: Split(f"{web.url}/nothing", "train", cache=cache)
    )


@pytest.mark.parametrize("fault", ["wrong", "short"])
@pytest.mark.parametrize("name", ["train-00001.index.parquet", "train-00001.tar"])
def test_corrupted_contents_are_refetched_once_then_refused(web: Any, cache: Cache, name: str, fault: str) -> None:
    split = Split(web.url, "train", cache=cache)
    web.faults[name] = [fault]
    assert split.read(1, 2)["smiles"]["txt"].startswith(b"1 2 ")
    assert web.requests[name] == 2
    shutil.rmtree(cache.folder)
    web.faults[name] = [fault, fault]
    split = Split(web.url, "train", cache=cache)
    message = refused(lambda: split.read(1, 2))
    assert f"{web.url}/{name} has a wrong checksum, even after a second download" in message
    assert web.requests[name] == 4
    assert split.read(1, 2)["smiles"]["txt"].startswith(b"1 2 "), "no wrong file stays in the cache"


def test_an_endless_response_is_cut(web: Any, cache: Cache) -> None:
    web.faults["train-00001.tar"] = ["endless"]
    split = Split(web.url, "train", cache=cache)
    assert "train-00001.tar is larger than the 40,960 bytes" in refused(lambda: split.read(1, 0))


def test_the_least_recently_opened_is_evicted_and_stays_readable(folder: Path, web: Any, cache: Cache) -> None:
    room = Cache(cache.folder, (3 * BYTES + 2**17) / GIB)
    split = Split(web.url, "train", cache=room)
    expected = content(Split(folder, "train"))
    names = {shard.sha256: shard.name for shard in split.shards}
    samples = []
    for shard in (0, 1, 2):
        samples.append(split.read(shard, 0))
        time.sleep(0.02)
    other = Split(web.url, "train", cache=room)
    other.read(0, 0)  # shard 1 is now the least recently opened
    time.sleep(0.02)
    for shard in (3, 4):
        samples.append(split.read(shard, 0))
        time.sleep(0.02)
        files = [path for path in Path(room.folder).iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= room.size_gib * GIB
    cached_names = {names[sha256] for sha256 in cached_hashes(room) if sha256 in names}
    assert tar(1) not in cached_names
    assert tar(4) in cached_names
    opened = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in opened if path.startswith(room.folder) and "(deleted)" in path], (
        "deleted files that still take disk space"
    )
    before = web.requests[tar(1)]
    assert [split.read(1, number) for number in range(SAMPLES)] == expected[3:6]
    assert web.requests[tar(1)] == before + 1
    evicted = next(sha256 for sha256, name in names.items() if name == tar(1))
    (Path(room.folder) / evicted).unlink()
    assert split.read(1, 2) == expected[5]
    assert web.requests[tar(1)] == before + 1, "an open shard stays readable after it was evicted"


def test_a_shard_larger_than_the_cache_is_refused(web: Any, cache: Cache) -> None:
    split = Split(web.url, "train", cache=Cache(cache.folder, 39_000 / GIB))
    with pytest.raises(ShardError, match=r"more than data\.cache\.size_gib"):
        split.read(0, 0)


class Reader(Dataset[Members]):
    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return SHARDS * SAMPLES

    def __getitem__(self, number: int) -> Members:
        return self.split.read(number % SHARDS, number // SHARDS)


def test_loader_workers_share_a_cache(folder: Path, web: Any, cache: Cache) -> None:
    split = Split(web.url, "train", cache=cache)
    split.read(0, 0)  # the parent has used fsspec's threads and clients before it forks
    samples = list(DataLoader(Reader(split), batch_size=None, num_workers=3, multiprocessing_context="fork"))
    assert samples == [Reader(Split(folder, "train"))[i] for i in range(len(samples))]
    assert all(web.requests[tar(number)] == 1 for number in range(SHARDS))


def test_processes_share_a_cache_too_small_for_all(folder: Path, web: Any, cache: Cache) -> None:
    room = Cache(cache.folder, (2 * BYTES + 2**17) / GIB, timeout_s=10)
    split = Split(web.url, "train", cache=room)
    expected = content(Split(folder, "train"))
    places = [(shard, number) for shard in range(SHARDS) for number in range(SAMPLES)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.starmap(split.read, places * 3, chunksize=len(places)) == expected * 3
    total = sum(path.stat().st_size for path in Path(room.folder).iterdir() if path.is_file())
    assert total <= room.size_gib * GIB


def fetch(store: Store, shards: Sequence[Shard], seed: int) -> int:
    """Open many tars in turn; return how many."""
    sample = random.Random(seed).choices(shards, k=60)
    for shard in sample:
        store.open(shard.tar).close()
    return len(sample)


def test_downloads_may_end_while_others_look_for_room(web: Any, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("remote", "transfer"):  # so that more downloads end during a look for room
        monkeypatch.setattr(f"shards.{module}.POLL_S", 0.001)
    store = open_store(web.url, Cache(cache.folder, 3.5 * BYTES / GIB, timeout_s=10))
    shards = Manifest.read(store).shards
    with multiprocessing.get_context("fork").Pool(6) as pool:
        assert pool.starmap(fetch, [(store, shards, seed) for seed in range(6)], chunksize=1) == [60] * 6
    assert not list(Path(cache.folder).glob("*.part"))


def test_a_killed_fetch_leaves_no_files(web: Any, cache: Cache) -> None:
    slow = Cache(cache.folder, (BYTES + 2**17) / GIB, timeout_s=60)
    split = Split(web.url, "train", cache=slow)
    split.key(0, 0)
    web.faults[tar(0)] = ["stall midway"]
    process = multiprocessing.get_context("fork").Process(target=split.read, args=(0, 0))
    process.start()
    until = time.monotonic() + 60
    while not list(Path(slow.folder).glob("*.part/*")) and time.monotonic() < until:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(Path(slow.folder).glob("*.part"))) == 1
    split.read(1, 0)  # needs the room that the killed process had reserved
    assert not list(Path(slow.folder).glob("*.part"))
    assert split.read(0, 0)["smiles"]["txt"].startswith(b"0 0 ")


def test_a_truncated_file_in_the_cache_is_refetched(web: Any, cache: Cache) -> None:
    split = Split(web.url, "train", cache=cache)
    expected = split.read(0, 1)
    path = Path(cache.folder) / split.shards[0].sha256
    path.write_bytes(path.read_bytes()[:-1000])
    split.close()
    assert split.read(0, 1) == expected
    assert web.requests[tar(0)] == 2


def test_verify_finds_corrupted_files_in_the_cache(web: Any, cache: Cache) -> None:
    split = Split(web.url, "train", cache=cache)
    split.read(3, 1)
    path = Path(cache.folder) / split.shards[3].sha256
    path.write_bytes(path.read_bytes()[:-1000] + bytes(1000)[:-1] + b"x")
    assert f"{tar(3)} has a wrong checksum: remove it from the cache" in refused(
        lambda: verify_shards(web.url, cache=cache)
    )


def test_a_full_disk_is_not_a_dead_connection(web: Any, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def full(*_: Any) -> None:
        attempts.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shards.transfer.transfer", full)
    with pytest.raises(OSError, match="No space left"):
        Split(web.url, "train", cache=cache)
    assert len(attempts) == 1


def test_stores_by_the_protocol_of_their_url(tmp_path: Path) -> None:
    for url in ("https://host/data", "s3://bucket/data", "gs://bucket/data", "hf://datasets/user/data"):
        store = open_store(url)
        assert isinstance(store, Remote)
        assert pickle.loads(pickle.dumps(store)) == store
    assert "Protocol not known" in refused(lambda: Split("nowhere://bucket/data", "train"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("shards.transfer.url_to_fs", absent)
    assert refused(lambda: Split("s3://bucket/data", "train")).endswith(
        "needs the package 's3fs': pip install 'sensorium[remote]' or pip install s3fs"
    )
    assert refused(lambda: Split("abfs://bucket/data", "train")).endswith("needs a package: Install s3fs to access S3")


@pytest.mark.parametrize("key", ["size_gib", "timeout_s", "give_up_s"])
@pytest.mark.parametrize("value", [0, math.nan, math.inf])
def test_invalid_settings_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data\.cache\.{key} is {value}"):
        Cache(**{key: value})
