"""Shards in Google Cloud Storage: a server of its JSON API, found by STORAGE_EMULATOR_HOST."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from gcsfs import GCSFileSystem

from shards.manifest import Manifest
from shards.read import Split
from shards.remote import Cache
from shards.store import ShardError
from shards.tars import verify_shards

URL = "gs://bucket/data"
TAR = "train-00001.tar"


@pytest.fixture
def gs(tar_folder: Path, serve: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that holds the folder as `gs://bucket/data`."""
    server = serve(tar_folder)

    class Storage(server.RequestHandlerClass):
        def do_GET(self) -> None:  # noqa: N802
            path = unquote(self.path)
            name = re.search(r"/storage/v1/b/bucket/o/data/([^?]+)", path)
            if name and path.startswith("/download/"):
                self.path = f"/data/{name[1]}"
                super().do_GET()
            elif name and (tar_folder / name[1]).is_file():
                size = (tar_folder / name[1]).stat().st_size
                self.send_json({"bucket": "bucket", "name": f"data/{name[1]}", "size": str(size), "generation": "1"})
            elif name:
                self.send_error(404)
            else:
                self.send_json({"items": [], "prefixes": []})

        def send_json(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server.RequestHandlerClass = Storage
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    GCSFileSystem.clear_instance_cache()
    yield server
    GCSFileSystem.clear_instance_cache()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"), timeout_s=10.0, give_up_s=20.0)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ShardError) as caught:
        call()
    return str(caught.value)


def test_a_split_on_gs_equals_the_local_one(tar_folder: Path, gs: Any, cache: Cache) -> None:
    assert verify_shards(URL, cache=cache) == Manifest.read(tar_folder)
    assert Split(URL, "train", cache=cache).read(1, 2) == Split(tar_folder, "train").read(1, 2)
    assert gs.requests.pop("manifest.json") == 2
    assert set(gs.requests.values()) == {1}, "each file is fetched once"


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_temporary_fault_is_retried(gs: Any, cache: Cache, fault: str) -> None:
    gs.faults[TAR] = [fault]
    assert Split(URL, "train", cache=cache).read(1, 2)["smiles"]["txt"] == b"1 2 " * 2500
    assert gs.requests[TAR] == 2


def test_a_refusal_is_not_retried(gs: Any, cache: Cache) -> None:
    split = Split(URL, "train", cache=cache)
    gs.faults[TAR] = ["403", "*"]
    message = refused(lambda: split.read(1, 0))
    assert message.startswith(f"cannot fetch {URL}/{TAR}: Forbidden: ")
    assert "(attempt 1, " in message
    gs.faults[TAR] = ["404", "*"]
    assert refused(lambda: split.read(1, 0)) == f"shard {URL}/{TAR} is missing: upload it again"
    assert gs.requests[TAR] == 2


def test_a_large_file_grows_as_it_arrives(gs: Any, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, gcsfs fetches files above 100 MB in parallel parts, which would look like a stalled connection."""
    monkeypatch.setattr(GCSFileSystem, "_get_file_concurrent", None)
    assert Split(URL, "train", cache=cache).read(1, 2)["smiles"]["txt"] == b"1 2 " * 2500
