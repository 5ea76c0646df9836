"""Shards on the Hugging Face Hub: a server of its API, set by HF_ENDPOINT, which a process reads when it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.manifest import Manifest

URL = "hf://datasets/user/finds/data"
TAR = "train-00001.tar"
SCRIPT = """
import sys
from shards.tars import verify_shards
from shards.read import Split
from shards.remote import Cache
from shards.store import ShardError

cache = Cache(sys.argv[2], timeout_s=5, give_up_s=20)
try:
    verify_shards(sys.argv[1], cache=cache)
    print(Split(sys.argv[1], "train", cache=cache).read(1, 2)["smiles"]["txt"].decode())
except ShardError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub(tar_folder: Path, serve: Callable[[Path], Any]) -> Any:
    """A server of the Hub that holds the folder as `data` of the dataset user/finds."""
    server = serve(tar_folder)

    class Hub(server.RequestHandlerClass):
        def do_GET(self) -> None:  # noqa: N802
            api = "/api/datasets/user/finds"
            if self.path.startswith("/datasets/user/finds/resolve/main/data/"):
                self.path = f"/data/{self.path.rpartition('/')[2]}"
                super().do_GET()
            elif self.path.startswith(f"{api}/tree/main/data?"):
                self.send_json(
                    [
                        {"type": "file", "path": f"data/{path.name}", "size": path.stat().st_size, "oid": "0" * 40}
                        for path in tar_folder.iterdir()
                    ]
                )
            elif self.path.startswith(f"{api}/tree/"):
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_json({"id": "user/finds", "sha": "0" * 40, "private": False, "tags": [], "siblings": []})

        def send_json(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server.RequestHandlerClass = Hub
    return server


def read(hub: Any, tmp_path: Path, url: str = URL) -> subprocess.CompletedProcess[str]:
    """Verify the shards and read a sample in a separate process."""
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, url, str(tmp_path / "cache")],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
    )  # fmt: skip


def test_a_split_on_the_hub_equals_the_local_one(tar_folder: Path, hub: Any, tmp_path: Path) -> None:
    done = read(hub, tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 2 " * 2500 + "\n"), done.stderr
    assert hub.requests.pop("manifest.json") == 2
    assert hub.requests == {
        name: 1 for shard in Manifest.read(tar_folder).shards for name in (shard.tar.name, shard.index.name)
    }


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_temporary_fault_is_retried(hub: Any, tmp_path: Path, fault: str) -> None:
    hub.faults[TAR] = [fault]
    done = read(hub, tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 2 " * 2500 + "\n"), done.stderr
    assert hub.requests[TAR] == 2


def test_a_refusal_is_not_retried(hub: Any, tmp_path: Path) -> None:
    hub.faults[TAR] = ["403", "*"]
    done = read(hub, tmp_path)
    assert done.stderr.startswith(f"cannot fetch {URL}/{TAR}: ")
    assert "403" in done.stderr
    assert "(attempt 1, " in done.stderr
    assert hub.requests[TAR] == 1


def test_a_missing_folder_is_not_retried(hub: Any, tmp_path: Path) -> None:
    assert read(hub, tmp_path, f"{URL}/nothing").stderr.startswith(f"no shards at {URL}/nothing: build them")
