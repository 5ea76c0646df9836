"""Small real things that many tests share: molecules as shards, a recipe of seconds, a finished run, a server."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DESCRIPTORS = ["MolWt", "MolLogP", "TPSA", "NumHDonors", "NumAromaticRings", "HeavyAtomCount"]


def smi_lines(count: int) -> list[str]:
    """The first molecules that come with RDKit, as lines of a .smi file."""
    from rdkit import RDConfig

    with (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").open() as lines:
        return [line.strip() for _, line in zip(range(count), lines, strict=False)]


def small_recipe(shards: Path, **train: Any) -> dict[str, Any]:
    """A recipe of all three modalities and both objectives, small enough for seconds."""
    return {
        "name": "small",
        "model": {"dim": 32, "depth": 1, "heads": 2, "embedding": 16, "decoder": {"dim": 16, "depth": 1, "heads": 2}},
        "data": {
            "source": {"type": "molecules", "drawing_px": 48, "descriptors": DESCRIPTORS, "labels": ["qed"]},
            "split": {"by": "scaffold", "validation": 0.1, "test": 0.2},
            "shards": [{"path": str(shards)}],
        },
        "modalities": {
            "smiles": {"type": "smiles", "window": 5, "mask": {"ratio": 0.3}},
            "image": {
                "type": "image",
                "size": 48,
                "patch": 16,
                "target": "values",
                "window": 3,
                "mask": {"ratio": 0.5, "mode": "drop"},
            },
            "table": {"type": "table", "mask": {"ratio": 0.3}},
        },
        "objectives": {"masked": {}, "contrastive": {"reads": "visible"}},
        "train": {
            "steps": 4,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "workers": 0,
            "log_every": 1,
            "checkpoint_every": 2,
            **train,
        },
        "evaluate": {"gallery": 20, "probe": "qed", "probe_samples": 50},
    }


def molecule_shards(folder: Path, samples_per_shard: int) -> Path:
    """Shards of the first 160 molecules."""
    from pipeline.commands.build import build_shards

    (folder / "raw").mkdir()
    (folder / "raw" / "molecules.smi").write_text("\n".join(smi_lines(160)))
    recipe = small_recipe(folder / "shards")
    recipe["data"]["samples_per_shard"] = samples_per_shard
    build_shards(recipe, folder / "raw", folder / "shards", workers=1)
    return folder / "shards"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the first 160 molecules."""
    return molecule_shards(tmp_path_factory.mktemp("data"), 50)


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same molecules in enough shards for the streams of two nodes."""
    return molecule_shards(tmp_path_factory.mktemp("many"), 4)


@pytest.fixture
def recipe(shards: Path) -> dict[str, Any]:
    """The small recipe on the small shards."""
    return small_recipe(shards)


@pytest.fixture(scope="session")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small recipe. Tests must not change it."""
    from runs import pretrained as pretrain

    return pretrain(small_recipe(shards), out=tmp_path_factory.mktemp("runs") / "small")


class Web(ThreadingHTTPServer):
    """A real HTTP server of a folder whose every answer a test can spoil.

    faults: what to do wrong at the next requests of a file, first to last; `*` for ever. requests: by file.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data"

    def next_fault(self, name: str) -> str:
        self.requests[name] += 1
        waiting = self.faults.get(name, [])
        if waiting and waiting[-1] == "*":
            return waiting[0]
        return waiting.pop(0) if waiting else ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is what is tested."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's faults say."""

    server: Web

    def do_GET(self) -> None:
        name = self.path.removeprefix("/data/")
        fault = self.server.next_fault(name)
        path = self.server.folder / name
        if fault.isdigit() or not path.is_file():
            self.send_error(int(fault or 404))
            return
        data = path.read_bytes()
        if fault == "stall":
            self.server.ended.wait(60)
        if fault == "wrong":
            data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
        if fault == "short":
            data = data[:-700]
        self.send_response(200)
        if fault == "endless":
            self.end_headers()
            while not self.server.ended.is_set():
                self.wfile.write(data)
            return
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("cut", "stall midway"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "stall midway":
                self.server.ended.wait(60)
            return
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Web]]:
    """Starts servers of folders, which end with the test."""
    with ExitStack() as servers:

        def start(folder: Path) -> Web:
            server = servers.enter_context(Web(folder))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            servers.callback(server.shutdown)
            servers.callback(server.ended.set)
            return server

        yield start


@pytest.fixture(scope="session")
def tar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen samples in six shards of 40,960 bytes: three members of 10,000 bytes, padded to records of 10,240."""
    from shards.tars import index_tars

    folder = tmp_path_factory.mktemp("origin")
    for shard in range(6):
        with tarfile.open(folder / f"train-{shard:05d}.tar", "w") as file:
            for number in range(3):
                data = f"{shard} {number} ".encode() * 2500
                entry = tarfile.TarInfo(f"{shard}-{number}.smiles.txt")
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    index_tars(folder, {})
    return folder
