"""How long does it take from a folder of very many shards to the first sample, and how well are samples shuffled?

    python benchmarks/order.py [--shards 100000] [--samples 1000] [--nodes 1]

Writes that many indexes and tars (sparse files of full size), then opens them in a fresh process. Prints one JSON
line: `seconds` from opening the folder to the key of the order's first sample, `seconds_manifest` for reading the
JSON alone (timed before), `memory_mib` used, `positions_per_s` for further positions, `same_shard`: the probability
that the next sample is from the same shard, and `full_permutation`: the same probability if all samples were permuted
at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from shards.index import index_path, write_index
from shards.manifest import Manifest, Shard, hash_file
from shards.order import Mixture
from shards.read import Split

POSITIONS = 50_000


def write(folder: Path, shards: int, samples: int) -> None:
    """Write shards that share indexes through hard links; a file system allows some ten thousand links per file."""
    size, rows = samples * 10_000, []
    for number in range(shards):
        tar = folder / f"train-{number:06}.tar"
        with tar.open("wb") as file:
            file.truncate(size)
        if number % 10_000 == 0:
            write_index(tar, [(f"{i:06}", "image.jpg", i * 10_000 + 512, 9000, f"{i:06}") for i in range(samples)])
            first = index_path(tar)
            digest = hash_file(first)
        else:
            os.link(first, index_path(tar))
        rows.append(
            Shard(name=tar.name, split="train", samples=samples, bytes=size, sha256="0" * 64, index_sha256=digest)
        )
    Manifest(shards=tuple(rows), fields={"image.jpg": shards * samples}).write(folder)


def peak_kib() -> int:
    """Peak memory of this process in KiB; unlike getrusage it excludes the parent's before the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(folder: Path, nodes: int) -> dict[str, float]:
    started = time.perf_counter()
    Manifest.read(folder)
    read = time.perf_counter() - started
    memory = peak_kib()
    started = time.perf_counter()
    split = Split(folder, "train")
    sizes = split.sizes
    order = Mixture([sizes], seed=0, nodes=nodes)
    _, epoch, shard, slot = order.locate(0)
    split.key(shard, split.sample_at(epoch, shard, slot))
    first = time.perf_counter() - started
    memory = peak_kib() - memory
    began = time.perf_counter()
    positions = np.array([order.locate(position) for position in range(POSITIONS)])
    rate = POSITIONS / (time.perf_counter() - began)
    indices = positions[::nodes, 2]
    return {
        "shards": len(sizes),
        "samples": sum(sizes),
        "nodes": nodes,
        "seconds": round(first, 3),
        "seconds_manifest": round(read, 3),
        "memory_mib": round(memory / 1024, 1),
        "positions_per_s": round(rate),
        "same_shard": round(float((indices[1:] == indices[:-1]).mean()), 5),
        "full_permutation": round((sizes[0] - 1) / (sum(sizes) - 1), 7),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=1000, help="samples per shard")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder, arguments.nodes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.shards, arguments.samples)
        words = [sys.executable, __file__, "--nodes", str(arguments.nodes), "--folder", folder]
        subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
