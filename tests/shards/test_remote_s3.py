"""Shards in S3: moto's server behind one that refuses, truncates and stalls."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server

from shards.manifest import NAME, Manifest
from shards.read import Members, Split
from shards.remote import Cache, open_store
from shards.store import ShardError
from shards.tars import verify_shards

SHARDS, SAMPLES = 6, 3
URL = "s3://bucket/data"
TAR = "train-00001.tar"
TRIES = 5
"""Attempts of s3fs itself before it reports a failed request."""
SOON_S = 60
"""Time in which even a busy machine gives up a connection; with the default settings it takes minutes."""
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
Response = Callable[..., Any]


class Spoiled:
    """A WSGI application whose responses to GET a test can spoil.

    faults: by file, the faults of the next requests in order; `*` repeats the first forever. requests: counts by file.
    """

    def __init__(self, application: Any):
        self.application = application
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.ended = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Response) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return self.application(environ, start_response)
        name = environ["PATH_INFO"].rpartition("/")[2]
        self.requests[name] += 1
        waiting = self.faults.get(name, [])
        fault = waiting[0] if waiting[-1:] == ["*"] else waiting.pop(0) if waiting else ""
        if fault == "503":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        if fault == "stall":
            self.ended.wait(60)
        data = b"".join(self.application(environ, start_response))
        return self.spoil(data, fault) if fault else [data]

    def spoil(self, data: bytes, fault: str) -> Iterator[bytes]:
        if fault == "trickle":
            for start in range(0, len(data), 8192):
                yield data[start : start + 8192]
                self.ended.wait(0.4)
            return
        yield data[: len(data) // 2]
        if fault == "stall midway":
            self.ended.wait(60)
        raise ConnectionError("cut")


@pytest.fixture(scope="module")
def folder(tar_folder: Path) -> Path:
    return tar_folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Spoiled]:
    """A server of S3 that holds the folder as `s3://bucket/data`."""
    application = Spoiled(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    server.log = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="bucket")
        for path in folder.iterdir():
            put(path.name, path.read_bytes())
        warm()
        yield application
    S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.fixture
def s3(server: Spoiled) -> Iterator[Spoiled]:
    """The server without faults."""
    server.faults, server.requests, server.ended = {}, Counter(), threading.Event()
    yield server
    server.ended.set()


@pytest.fixture
def no_clients(server: Spoiled) -> Iterator[None]:
    """Without the clients of other tests, which use another server."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()
    warm()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that gives up a connection after seconds."""
    return Cache(str(tmp_path / "cache"), give_up_s=4.0)


def impatient(cache: Cache, fault: str) -> Cache:
    """The cache with a timeout of seconds for connections that stall; s3fs itself reports other faults."""
    return replace(cache, timeout_s=3.0) if "stall" in fault else cache


def warm() -> None:
    """Create this process's client in advance, because it takes seconds that would count as a stalled connection."""
    open_store(URL, Cache()).read(NAME, 10_000)


def content(split: Split) -> list[Members]:
    return [split.read(shard, number) for shard in range(SHARDS) for number in range(SAMPLES)]


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ShardError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(name: str, data: bytes) -> None:
    boto3.client("s3").put_object(Bucket="bucket", Key=f"data/{name}", Body=data)


def test_a_split_on_s3_equals_the_local_one(folder: Path, s3: Spoiled, cache: Cache) -> None:
    split = Split(URL, "train", cache=cache)
    assert split.manifest == Manifest.read(folder)
    assert content(split) == content(Split(folder, "train"))
    assert content(Split(URL, "train", cache=cache)) == content(split)
    assert s3.requests.pop("manifest.json") == 2
    assert set(s3.requests.values()) == {1}, "each file is fetched once"
    assert verify_shards(URL, cache=cache) == split.manifest


def test_forked_processes_read_from_s3(folder: Path, s3: Spoiled, cache: Cache) -> None:
    split = Split(URL, "train", cache=cache)
    split.read(0, 0)  # the parent has used s3fs's thread and client before it forks
    places = [(shard, number) for shard in range(SHARDS) for number in range(SAMPLES)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap_async(split.read, places).get(60) == content(Split(folder, "train"))


@pytest.mark.parametrize("fault", ["503", "cut", "stall", "stall midway"])
@pytest.mark.parametrize("name", ["manifest.json", TAR])
def test_a_temporary_fault_is_retried(s3: Spoiled, cache: Cache, name: str, fault: str) -> None:
    faults = [fault] * (1 if "stall" in fault else TRIES + 1)  # more than s3fs itself retries
    s3.faults[name] = list(faults)
    split = Split(URL, "train", cache=impatient(cache, fault))
    assert split.read(1, 2)["smiles"]["txt"] == b"1 2 " * 2500
    assert s3.requests[name] > len(faults)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503", "reduce your request rate"),
        ("cut", "payload"),
        ("stall", "no data for 3 s"),
        ("stall midway", "no data for 3 s"),
    ],
)
def test_a_dead_connection_is_an_error_in_the_end(s3: Spoiled, cache: Cache, fault: str, reason: str) -> None:
    split = Split(URL, "train", cache=impatient(cache, fault))
    split.key(1, 0)
    s3.faults[TAR] = [fault, "*"]
    started = time.monotonic()
    message = refused(lambda: split.read(1, 0))
    assert time.monotonic() - started < SOON_S
    assert message.startswith(f"cannot fetch {URL}/{TAR}: ")
    assert reason in message
    assert s3.requests[TAR] > 1
    assert not list(Path(cache.folder).glob("*.part"))


@pytest.mark.usefixtures("no_clients")
def test_an_unreachable_server_is_an_error_after_the_stated_time(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    message = refused(lambda: Split(URL, "train", cache=cache))
    assert time.monotonic() - started < SOON_S
    assert message.startswith(f"cannot fetch {URL}/manifest.json: ")


@pytest.mark.usefixtures("no_clients")
def test_missing_credentials_are_reported_at_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    message = refused(lambda: Split(URL, "train", cache=cache))
    assert message.startswith(f"cannot fetch {URL}/manifest.json: Unable to locate credentials (attempt 1, ")


def test_corrupted_contents_are_refetched_once_then_refused(folder: Path, s3: Spoiled, cache: Cache) -> None:
    data = (folder / TAR).read_bytes()
    put(TAR, data[:600] + b"!" + data[601:])
    split = Split(URL, "train", cache=cache)
    message = refused(lambda: split.read(1, 0))
    assert message == f"shard {URL}/{TAR} has a wrong checksum, even after a second download: upload it again"
    assert s3.requests[TAR] == 2
    put(TAR, data)
    assert split.read(1, 0)["smiles"]["txt"] == b"1 0 " * 2500, "no wrong file stays in the cache"


def test_a_missing_file_is_not_retried(folder: Path, s3: Spoiled, cache: Cache) -> None:
    assert f"no shards at {URL}/nothing: build them" in refused(lambda: Split(f"{URL}/nothing", "train", cache=cache))
    split = Split(URL, "train", cache=cache)
    boto3.client("s3").delete_object(Bucket="bucket", Key=f"data/{TAR}")
    assert refused(lambda: split.read(1, 0)) == f"shard {URL}/{TAR} is missing: upload it again"
    assert s3.requests[TAR] == 1
    put(TAR, (folder / TAR).read_bytes())


def test_a_slow_download_of_a_large_file_is_not_mistaken_for_a_stalled_one(
    s3: Spoiled, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3FileSystem, "default_block_size", 36_864)  # smaller than a tar, as 50 MB is in practice
    s3.faults[TAR] = ["trickle"]
    split = Split(URL, "train", cache=Cache(cache.folder, timeout_s=1.5, give_up_s=2.0))
    assert split.read(1, 2)["smiles"]["txt"] == b"1 2 " * 2500
    assert s3.requests[TAR] == 1
