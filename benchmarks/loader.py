"""How fast are samples read, shuffled, decoded and batched, compared with other loaders?

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/loader-peers.txt
    python benchmarks/loader.py --peers PEERS/bin/python --work DIR

Writes the same bytes once in each loader's format (sensorium and webdataset share the tars) and prints one JSON line.
`rows`, by modality and number of worker processes: samples/s of each loader, `decode_limit` (the decode function
alone, over bytes in memory, in the same number of processes), and for sensorium (`ours`) `ratio_best_peer` and
`share_of_limit`. `memory` is that of one sensorium worker after 10,000 samples and after ten times as many:
`anonymous_mib` is its own, `uss_mib` includes the pages of mapped tars, which the system reclaims if memory is short.

All loaders shuffle, decode by `DECODE` in their workers and give batches of `default_collate`. Before anything is
timed, each loader's samples are compared with the originals by checksum. The loaders take turns, and a figure is the
median over turns. A turn is at least `TURN_S` of epochs, because a shared machine pauses for times that are long
compared with one epoch. An epoch is timed from its first batch to its last, so that starting workers and filling a
shuffle buffer count for no loader. Every loader runs in its own process: webdataset and datasets in this environment,
litdata and streaming in that of `--peers`, whose pins conflict with ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from loader_samples import BATCH, DECODE, MEMBERS, SAMPLES, SEED, SHARD, checksum, make_tars, originals, write_once
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

AHEAD = 4
"""Batches that each worker prefetches, the same for all loaders."""
TURN_S = 3.0
"""Shortest time in seconds of a loader's turn."""
MEMORY_SAMPLES = 10_000
"""Number of samples after which memory is measured, and again after ten times as many."""
MEMORY_MODALITIES = ("image", "smiles")
"""Modalities for which memory is measured."""
PACKAGES = {"webdataset": "webdataset", "litdata": "litdata", "streaming": "mosaicml-streaming", "datasets": "datasets"}
"""The other loaders, and the names of their packages."""


# The loaders: each converts the tars to its own format once, if it has one, and loads it


def load(dataset: Any, workers: int, kind: type[DataLoader] = DataLoader, **settings: Any) -> DataLoader:
    return kind(dataset, num_workers=workers, prefetch_factor=AHEAD, **settings)


class Ours:
    make = None  # reads the tars

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        from pipeline.data.loader import RawBatches
        from pipeline.data.workers import prefetch
        from shards.read import Split

        dataset = RawBatches(
            sets=(Split(folder, "train"),),
            decode=DECODE[modality],
            batch_size=BATCH[modality],
            seed=SEED,
            members=tuple(f"{modality}.{extension}" for extension in MEMBERS[modality]),
            stack=modality != "smiles",
        )
        return prefetch(dataset, range(-(-samples // BATCH[modality])), workers)


class Webdataset:
    make = None

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        import webdataset

        def decode(members: tuple[bytes, ...]) -> Any:
            return DECODE[modality](*members)

        files = [str(path) for path in sorted(folder.glob("*.tar"))]
        dataset = webdataset.WebDataset(files, shardshuffle=len(files), seed=SEED).shuffle(1000)
        dataset = dataset.to_tuple(*(f"{modality}.{extension}" for extension in MEMBERS[modality])).map(decode)
        dataset = dataset.batched(BATCH[modality], collation_fn=default_collate)
        return load(dataset, workers, webdataset.WebLoader, batch_size=None)


def litdata_samples(tars_and_modality: tuple[Path, str]) -> Iterator[Any]:
    """Samples for litdata; a single member is bytes instead of a tuple."""
    for members in originals(*tars_and_modality):
        yield members[0] if len(members) == 1 else members


class Litdata:
    @staticmethod
    def make(tars: Path, modality: str, folder: Path) -> None:
        from litdata import optimize

        optimize(
            litdata_samples, [(tars, modality)], str(folder), chunk_bytes="64MB", num_workers=1, start_method="fork"
        )

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        from litdata import StreamingDataLoader, StreamingDataset

        class Decoded(StreamingDataset):
            def __getitem__(self, index: Any) -> Any:
                sample = super().__getitem__(index)
                return DECODE[modality](*(sample if isinstance(sample, (tuple, list)) else [sample]))

        dataset = Decoded(str(folder), shuffle=True, seed=SEED)
        return load(dataset, workers, StreamingDataLoader, batch_size=BATCH[modality], collate_fn=default_collate)


def without_torchvision() -> None:
    """Replace torchvision, which streaming imports for unused data sets; its CUDA wheels fail with a CPU torch."""
    for name, attributes in {"datasets": ("VisionDataset", "CIFAR10"), "transforms.functional": ("to_tensor",)}.items():
        module = ModuleType(f"torchvision.{name}")
        vars(module).update(dict.fromkeys(attributes, object))
        sys.modules[module.__name__] = module


class Streaming:
    @staticmethod
    def make(tars: Path, modality: str, folder: Path) -> None:
        without_torchvision()
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns=dict.fromkeys(MEMBERS[modality], "bytes")) as writer:
            for members in originals(tars, modality):
                writer.write(dict(zip(MEMBERS[modality], members, strict=True)))

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        without_torchvision()
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        class Decoded(StreamingDataset):
            def __getitem__(self, index: Any) -> Any:
                return DECODE[modality](*map(super().__getitem__(index).__getitem__, MEMBERS[modality]))

        clean_stale_shared_memory()
        dataset = Decoded(local=str(folder), shuffle=True, shuffle_seed=SEED, batch_size=BATCH[modality])
        return load(dataset, workers, batch_size=BATCH[modality], collate_fn=default_collate)


class Datasets:
    """Arrow on disk, from which a batch sampler takes complete batches of shuffled rows."""

    @staticmethod
    def make(tars: Path, modality: str, folder: Path) -> None:
        from datasets import Dataset, Features, Value

        def rows() -> Iterator[dict[str, bytes]]:
            yield from (dict(zip(MEMBERS[modality], members, strict=True)) for members in originals(tars, modality))

        columns = Features(dict.fromkeys(MEMBERS[modality], Value("binary")))
        Dataset.from_generator(rows, columns, cache_dir=str(folder / "cache")).save_to_disk(folder / "rows")

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        from datasets import load_from_disk

        def decode(columns: dict[str, list[bytes]]) -> dict[str, list[Any]]:
            return {"sample": list(map(DECODE[modality], *map(columns.__getitem__, MEMBERS[modality])))}

        def stacked(columns: dict[str, list[Any]]) -> Any:
            return default_collate(columns["sample"])

        dataset = load_from_disk(folder / "rows").with_transform(decode)
        batches = BatchSampler(RandomSampler(dataset), BATCH[modality], drop_last=False)
        return load(dataset, workers, sampler=batches, batch_size=None, collate_fn=stacked)


LOADERS: dict[str, Any] = {
    "ours": Ours,
    "webdataset": Webdataset,
    "litdata": Litdata,
    "streaming": Streaming,
    "datasets": Datasets,
}


# Tasks of a loader, in its own process


def take_turn(measure: Callable[[], float], samples: int) -> float:
    """Mean samples/s over the epochs of one turn; `measure` gives the samples/s of one epoch of `samples`."""
    spans: list[float] = []
    while sum(spans) < TURN_S:
        spans.append(samples / measure())
    return len(spans) * samples / sum(spans)


def rate(batches: Iterable[Any], samples: int) -> float:
    """Samples/s from the first batch to the last."""
    sizes, started = [], 0.0
    for batch in batches:
        started = started or time.perf_counter()
        sizes.append(len(batch))
    if sum(sizes) != samples:
        raise RuntimeError(f"{sum(sizes)} samples in an epoch instead of {samples}")
    return sum(sizes[1:]) / (time.perf_counter() - started)


def decode_rate(members_in_memory: list[tuple[bytes, ...]], modality: str, workers: int) -> float:
    """Samples/s of decoding bytes in memory in `workers` processes."""
    context = multiprocessing.get_context("fork")
    ready, spans = context.Barrier(workers), context.SimpleQueue()

    def work_on(number: int) -> None:
        decode = DECODE[modality]
        ready.wait()
        started = time.perf_counter()  # one clock for all processes of a machine
        for members in members_in_memory[number::workers]:
            decode(*members)
        spans.put((started, time.perf_counter()))

    processes = [context.Process(target=work_on, args=(number,)) for number in range(workers)]
    for process in processes:
        process.start()
    first, last = zip(*(spans.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return len(members_in_memory) / (max(last) - min(first))


def measure_memory(batches: Iterable[Any]) -> dict[str, list[float]]:
    """Memory in MiB of the only worker after `MEMORY_SAMPLES` samples and after ten times as many."""
    import psutil

    count, readings = 0, []
    for batch in batches:
        count += len(batch)
        if count >= MEMORY_SAMPLES * 10 ** len(readings):
            (worker,) = psutil.Process().children()
            memory = worker.memory_full_info()
            readings.append((memory.rss - memory.shared, memory.uss))
    anonymous, uss = ([round(part / 2**20, 1) for part in parts] for parts in zip(*readings, strict=True))
    return {"anonymous_mib": anonymous, "uss_mib": uss}


def answer(name: str, task: str, work: Path, modality: str, workers: int, samples: int) -> Any:
    tars = work / f"{modality}-{samples}" / "tars"
    if name == "decode_limit":
        if task == "rate":
            return take_turn(partial(decode_rate, list(originals(tars, modality)), modality, workers), samples)
        return checksum([DECODE[modality](*members)] for members in originals(tars, modality))
    loader, folder = LOADERS[name], tars
    if loader.make:
        folder = tars.with_name(name)
        write_once(folder, partial(loader.make, tars, modality))
    if task == "measure_memory":
        return measure_memory(loader.load(folder, modality, workers, 11 * MEMORY_SAMPLES))
    if task == "checksum":
        return checksum(loader.load(folder, modality, workers, samples))
    return take_turn(lambda: rate(loader.load(folder, modality, workers, samples), samples), samples)


def serve(name: str) -> None:
    """Answer tasks given as JSON lines; the output of libraries goes to standard error."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(version(PACKAGES[name]) if name in PACKAGES else None), file=answers, flush=True)
    for line in sys.stdin:
        task, work, *rest = json.loads(line)
        print(json.dumps(answer(name, task, Path(work), *rest)), file=answers, flush=True)


# The benchmark


class Server:
    """A loader in its own process."""

    def __init__(self, name: str, python: str):
        self.name = name
        self.process = subprocess.Popen(
            [python, __file__, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
        )

        self.version = self.answer("its start")

    def ask(self, *request: Any) -> Any:
        assert self.process.stdin
        print(json.dumps(request, default=str), file=self.process.stdin, flush=True)
        return self.answer(" ".join(map(str, request)))

    def answer(self, request: str) -> Any:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            sys.exit(f"{self.name} failed at {request}: its own message stands above")
        return json.loads(line)


def compare(work: Path, pythons: dict[str, str], counts: dict[str, int], workers: list[int], repeats: int) -> Any:
    """The figures of all loaders, after a check that their samples are the same."""
    for modality, count in counts.items():
        (work / f"{modality}-{count}").mkdir(parents=True, exist_ok=True)
        print(f"writing {count:,} samples of {modality}, unless they exist", file=sys.stderr)
        write_once(work / f"{modality}-{count}" / "tars", partial(make_tars, modality, count))
    servers = {name: Server(name, python) for name, python in pythons.items()}
    rows = []
    for modality, count in counts.items():
        sums = {name: server.ask("checksum", work, modality, 1, count) for name, server in servers.items()}
        if wrong := [name for name, checksums in sums.items() if checksums != sums["decode_limit"]]:
            sys.exit(f"{', '.join(wrong)} gave other samples of {modality} than the original ones: {sums}")
        for number in workers:
            print(f"timing {modality} with {number} workers", file=sys.stderr)
            turns = [
                {name: server.ask("rate", work, modality, number, count) for name, server in servers.items()}
                for _ in range(repeats)
            ]
            rows.append(row(modality, number, turns))
    memory = {
        name: servers["ours"].ask("measure_memory", work, name, 1, counts[name])
        for name in counts
        if name in MEMORY_MODALITIES
    }
    return {
        "rows": rows,
        "memory": memory,
        "versions": {name: servers[name].version for name in PACKAGES if name in servers},
    }


def row(modality: str, workers: int, turns: list[dict[str, float]]) -> dict[str, Any]:
    rates = {loader: statistics.median(rates_of_all[loader] for rates_of_all in turns) for loader in turns[0]}
    best = max((rates[loader] for loader in PACKAGES if loader in rates), default=None)
    return {
        "modality": modality,
        "workers": workers,
        **{loader: round(rates[loader]) if loader in rates else None for loader in (*LOADERS, "decode_limit")},
        "ratio_best_peer": round(rates["ours"] / best, 2) if best else None,
        "share_of_limit": round(rates["ours"] / rates["decode_limit"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the sets, which the next run reuses")
    parser.add_argument("--peers", help="a Python with litdata and streaming; without it they are left out")
    parser.add_argument("--modalities", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, help=f"samples of each set, by default {SAMPLES}; per tar {SHARD}")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    pythons = dict.fromkeys(("ours", "decode_limit", "webdataset", "datasets"), sys.executable)
    if arguments.peers:
        pythons |= dict.fromkeys(("litdata", "streaming"), arguments.peers)
    else:
        print("litdata and streaming are left out: --peers names no python that has them", file=sys.stderr)
    multiple = max(map(SHARD.__getitem__, arguments.modalities)) * max(arguments.workers)
    if arguments.samples and arguments.samples % multiple:
        parser.error(f"--samples must be a multiple of {multiple:,}, so that all workers have complete tars")
    counts = {modality: arguments.samples or SAMPLES[modality] for modality in arguments.modalities}
    with tempfile.TemporaryDirectory() as aside:
        work = arguments.work or Path(aside)
        print(json.dumps(compare(work, pythons, counts, arguments.workers, arguments.repeats)))


if __name__ == "__main__":
    main()
