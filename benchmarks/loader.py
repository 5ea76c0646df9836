"""How fast are samples read, shuffled, decoded and handed over, beside the loaders that others use?

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/loader-peers.txt
    python benchmarks/loader.py --peers PEERS/bin/python --work DIR

Writes the same bytes once in each loader's format (ours and webdataset's are the same tars) and prints one JSON line.
`rows`, by modality and number of worker processes: samples/s of each side, `decode_limit` (the decode function alone,
over bytes in memory, in as many processes), `ratio_best_peer` and `share_of_limit` of ours. `memory`: of one of our
workers, after 10,000 samples and after ten times as many: `anonymous_mib` is what it holds itself, `uss_mib` counts the
pages of mapped tars too, which belong to the system's cache and are given up when memory is short.

All sides shuffle, decode by `DECODE` in their workers and hand over batches of `default_collate`. Before anything is
timed, each side's samples are compared with the originals by checksum, set by set. A figure is the median of turns
that the sides take: passes over the whole set, as many as last `TURN_S`, since a machine shared with others is held up
for moments that are long beside a short pass. A pass is timed from its first batch to its last, so that starting
workers and first filling a buffer for shuffling is held against nobody. Every side runs in a process of its own;
webdataset and datasets in this environment, litdata and streaming in that of `--peers`, whose pins clash with ours.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import simplejpeg
import soundfile
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

SEED = 0
SHARD = {"image": 1024, "smiles": 8192, "ecg": 1024, "audio": 1024}
"""Samples of a tar, which so holds at least 10 MB."""
AHEAD = 4
"""Batches that each worker makes ahead, the same on all sides."""
TURN_S = 3.0
"""Seconds that a side is timed for in its turn, at least."""
ENDURED = 10_000
"""Samples after which memory is read, and again after ten times as many."""
MEMBERS = {"image": ("jpg",), "smiles": ("txt",), "ecg": ("npy", "json"), "audio": ("flac",)}
SAMPLES = {"image": 8192, "smiles": 131_072, "ecg": 8192, "audio": 4096}
BATCH = {"image": 64, "smiles": 256, "ecg": 64, "audio": 64}
REPEATED = ("image", "smiles")
"""What memory is measured on."""
PACKAGES = {"webdataset": "webdataset", "litdata": "litdata", "streaming": "mosaicml-streaming", "datasets": "datasets"}
"""The peers, and what they are called where packages are."""


# litdata hands over memoryviews, which all of these take
def ecg(npy: bytes, said: bytes) -> np.ndarray:
    samples = np.load(io.BytesIO(npy), allow_pickle=False)
    if len(json.loads(bytes(said))["channels"]) != len(samples):
        raise ValueError("an ECG that is not as described")
    return samples


def audio(flac: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(flac), dtype="float32")[0]


def smiles(text: bytes) -> str:
    return str(text, "ascii")


DECODE: dict[str, Callable[..., Any]] = {
    "image": simplejpeg.decode_jpeg,  # (256, 256, 3) uint8
    "smiles": smiles,
    "ecg": ecg,  # (12, 5000) float32
    "audio": audio,  # (80000,) float32
}


# What is read


def photos(count: int, rng: np.random.Generator) -> Iterator[tuple[bytes]]:
    """Crops of the two photographs that come with scikit-learn, encoded at quality 90."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = int(rng.integers(256, min(picture.size)))
        x, y = (int(rng.integers(length - side + 1)) for length in picture.size)
        crop = picture.resize((256, 256), Image.Resampling.BILINEAR, (x, y, x + side, y + side))
        yield (simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=90),)


def molecules(count: int, rng: np.random.Generator) -> Iterator[tuple[bytes]]:
    """SMILES that come with RDKit."""
    from rdkit import RDConfig

    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_bytes().splitlines()
    yield from ((lines[number].split()[0],) for number in rng.integers(len(lines), size=count))


def heartbeats(count: int, rng: np.random.Generator) -> Iterator[tuple[bytes, bytes]]:
    """Twelve channels of 10 s at 500 Hz, as a source writes them: a pulse a beat, and noise."""
    from modalities.files.recording import Recording, to_members

    leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    time_s = np.arange(5000) / 500
    for _ in range(count):
        pulse = np.exp(-(((time_s * rng.uniform(0.8, 1.6)) % 1 - 0.5) ** 2) / 2e-4)
        samples = rng.normal(size=(12, 1)) * pulse + 0.02 * rng.normal(size=(12, 5000))
        members = to_members(Recording(samples.astype(np.float32), leads, ("mV",) * 12, 500.0))
        yield members["npy"], members["json"]


def sounds(count: int, rng: np.random.Generator) -> Iterator[tuple[bytes]]:
    """Five seconds at 16 kHz: a voice's harmonics, syllables and noise."""
    time_s = np.arange(80_000) / 16_000
    for _ in range(count):
        pitch_hz = rng.uniform(90, 250)
        voice = sum(np.sin(2 * np.pi * pitch_hz * n * time_s + rng.uniform(0, 6)) / n for n in range(1, 12))
        loud = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * time_s), 0, 1)
        file = io.BytesIO()
        wave = 0.1 * voice * loud + 0.003 * rng.normal(size=len(time_s))
        soundfile.write(file, wave.astype(np.float32), 16_000, format="FLAC", subtype="PCM_16")
        yield (file.getvalue(),)


MADE = {"image": photos, "smiles": molecules, "ecg": heartbeats, "audio": sounds}


def make_tars(modality: str, count: int, folder: Path) -> None:
    """Shards that ours and webdataset read, indexed as `sensorium shards index` does."""
    from shards.manifest import index

    samples = MADE[modality](count, np.random.default_rng(SEED))
    size = SHARD[modality]
    for first in range(0, count, size):
        with tarfile.open(folder / f"train-{first // size:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, min(first + size, count)):
                for extension, data in zip(MEMBERS[modality], next(samples), strict=True):
                    entry = tarfile.TarInfo(f"{number:032x}.{modality}.{extension}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    index(folder, {})


def written(folder: Path, make: Callable[[Path], None]) -> None:
    """Create a folder atomically unless it exists."""
    from shards.files import atomic_folder

    if not folder.exists():
        with atomic_folder(folder) as temporary:
            make(temporary)


def originals(tars: Path, modality: str) -> Iterator[tuple[bytes, ...]]:
    """The members of each sample."""
    for path in sorted(tars.glob("*.tar")):
        with tarfile.open(path) as tar:
            contents = [tar.extractfile(entry).read() for entry in tar]  # type: ignore[union-attr]
        each = len(MEMBERS[modality])
        yield from (tuple(contents[i : i + each]) for i in range(0, len(contents), each))


# The sides: each makes its files of the tars once, if it needs any, and loads them


def load(dataset: Any, workers: int, kind: type[DataLoader] = DataLoader, **settings: Any) -> DataLoader:
    return kind(dataset, num_workers=workers, prefetch_factor=AHEAD, **settings)


class Ours:
    make = None  # the tars are there

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        from pipeline.data.loader import RawBatches
        from pipeline.data.workers import prefetch
        from shards.read import Split

        dataset = RawBatches(
            (Split(folder, "train"),),
            DECODE[modality],
            BATCH[modality],
            SEED,
            members=tuple(f"{modality}.{each}" for each in MEMBERS[modality]),
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
        dataset = dataset.to_tuple(*(f"{modality}.{each}" for each in MEMBERS[modality])).map(decode)
        dataset = dataset.batched(BATCH[modality], collation_fn=default_collate)
        return load(dataset, workers, webdataset.WebLoader, batch_size=None)


def bare(about: tuple[Path, str]) -> Iterator[Any]:
    """Samples for litdata, a single member as bytes alone."""
    for members in originals(*about):
        yield members[0] if len(members) == 1 else members


class Litdata:
    @staticmethod
    def make(tars: Path, modality: str, folder: Path) -> None:
        from litdata import optimize

        optimize(bare, [(tars, modality)], str(folder), chunk_bytes="64MB", num_workers=1, start_method="fork")

    @staticmethod
    def load(folder: Path, modality: str, workers: int, samples: int) -> Iterable[Any]:
        from litdata import StreamingDataLoader, StreamingDataset

        class Decoded(StreamingDataset):
            def __getitem__(self, index: Any) -> Any:
                held = super().__getitem__(index)
                return DECODE[modality](*(held if isinstance(held, (tuple, list)) else [held]))

        dataset = Decoded(str(folder), shuffle=True, seed=SEED)
        return load(dataset, workers, StreamingDataLoader, batch_size=BATCH[modality], collate_fn=default_collate)


def without_torchvision() -> None:
    """streaming imports it for sets that nobody reads here, and its wheels, linked to CUDA, fail beside a CPU torch."""
    for name, held in {"datasets": ("VisionDataset", "CIFAR10"), "transforms.functional": ("to_tensor",)}.items():
        module = ModuleType(f"torchvision.{name}")
        vars(module).update(dict.fromkeys(held, object))
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
    """Arrow on disk, of which a batch sampler takes whole batches of shuffled rows at once."""

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


SIDES: dict[str, Any] = {
    "ours": Ours,
    "webdataset": Webdataset,
    "litdata": Litdata,
    "streaming": Streaming,
    "datasets": Datasets,
}


# What a side is asked for, in its own process


def checksum(batches: Iterable[Any]) -> list[int]:
    """Number of samples, and the sum of their checksums, which no order changes."""
    count = total = 0
    for batch in batches:
        count += len(batch)
        total += sum(zlib.crc32(part.encode() if isinstance(part, str) else np.asarray(part)) for part in batch)
    return [count, total]


def turn(timed: Callable[[], float], samples: int) -> float:
    """Samples/s of as many passes of so many as fill a turn."""
    spans: list[float] = []
    while sum(spans) < TURN_S:
        spans.append(samples / timed())
    return len(spans) * samples / sum(spans)


def rate(batches: Iterable[Any], samples: int) -> float:
    """Samples/s from the first batch to the last."""
    sizes, started = [], 0.0
    for batch in batches:
        started = started or time.perf_counter()
        sizes.append(len(batch))
    if sum(sizes) != samples:
        raise RuntimeError(f"{sum(sizes)} samples in a pass instead of {samples}")
    return sum(sizes[1:]) / (time.perf_counter() - started)


def alone(held: list[tuple[bytes, ...]], modality: str, workers: int) -> float:
    """Samples/s of decoding what lies in memory, in so many processes."""
    context = multiprocessing.get_context("fork")
    ready, spans = context.Barrier(workers), context.SimpleQueue()

    def work_on(number: int) -> None:
        decode = DECODE[modality]
        ready.wait()
        started = time.perf_counter()  # one clock for all processes of a machine
        for members in held[number::workers]:
            decode(*members)
        spans.put((started, time.perf_counter()))

    processes = [context.Process(target=work_on, args=(number,)) for number in range(workers)]
    for process in processes:
        process.start()
    first, last = zip(*(spans.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return len(held) / (max(last) - min(first))


def endure(batches: Iterable[Any]) -> dict[str, list[float]]:
    """MiB of the one worker after `ENDURED` samples and after ten times as many."""
    import psutil

    seen, readings = 0, []
    for batch in batches:
        seen += len(batch)
        if seen >= ENDURED * 10 ** len(readings):
            (worker,) = psutil.Process().children()
            held = worker.memory_full_info()
            readings.append((held.rss - held.shared, held.uss))
    anonymous, uss = ([round(part / 2**20, 1) for part in parts] for parts in zip(*readings, strict=True))
    return {"anonymous_mib": anonymous, "uss_mib": uss}


def answer(name: str, task: str, work: Path, modality: str, workers: int, samples: int) -> Any:
    tars = work / f"{modality}-{samples}" / "tars"
    if name == "decode_limit":
        if task == "rate":
            return turn(partial(alone, list(originals(tars, modality)), modality, workers), samples)
        return checksum([DECODE[modality](*members)] for members in originals(tars, modality))
    side, folder = SIDES[name], tars
    if side.make:
        folder = tars.with_name(name)
        written(folder, partial(side.make, tars, modality))
    if task == "endure":
        return endure(side.load(folder, modality, workers, 11 * ENDURED))
    if task == "checksum":
        return checksum(side.load(folder, modality, workers, samples))
    return turn(lambda: rate(side.load(folder, modality, workers, samples), samples), samples)


def serve(name: str) -> None:
    """Answer tasks that come as JSON lines; what libraries print goes to standard error."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(version(PACKAGES[name]) if name in PACKAGES else None), file=answers, flush=True)
    for line in sys.stdin:
        task, work, *rest = json.loads(line)
        print(json.dumps(answer(name, task, Path(work), *rest)), file=answers, flush=True)


# The benchmark


class Server:
    """A side in a process of its own."""

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
    """The figures of all sides, after their samples were found to be the same."""
    for modality, count in counts.items():
        (work / f"{modality}-{count}").mkdir(parents=True, exist_ok=True)
        print(f"writing {count:,} samples of {modality}, unless they are there", file=sys.stderr)
        written(work / f"{modality}-{count}" / "tars", partial(make_tars, modality, count))
    servers = {name: Server(name, python) for name, python in pythons.items()}
    rows = []
    for modality, count in counts.items():
        sums = {name: server.ask("checksum", work, modality, 1, count) for name, server in servers.items()}
        if wrong := [name for name, found in sums.items() if found != sums["decode_limit"]]:
            sys.exit(f"{', '.join(wrong)} handed over other samples of {modality} than there are: {sums}")
        for number in workers:
            print(f"timing {modality} with {number} at work", file=sys.stderr)
            turns = [
                {name: server.ask("rate", work, modality, number, count) for name, server in servers.items()}
                for _ in range(repeats)
            ]
            rows.append(row(modality, number, turns))
    held = {name: servers["ours"].ask("endure", work, name, 1, counts[name]) for name in counts if name in REPEATED}
    return {
        "rows": rows,
        "memory": held,
        "versions": {name: servers[name].version for name in PACKAGES if name in servers},
    }


def row(modality: str, workers: int, turns: list[dict[str, float]]) -> dict[str, Any]:
    rates = {side: statistics.median(turn[side] for turn in turns) for side in turns[0]}
    best = max((rates[side] for side in PACKAGES if side in rates), default=None)
    return {
        "modality": modality,
        "workers": workers,
        **{side: round(rates[side]) if side in rates else None for side in (*SIDES, "decode_limit")},
        "ratio_best_peer": round(rates["ours"] / best, 2) if best else None,
        "share_of_limit": round(rates["ours"] / rates["decode_limit"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the sets are written, and found again by the next run")
    parser.add_argument("--peers", help="a python that has litdata and streaming; without it they are left out")
    parser.add_argument("--modalities", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, help=f"of each set, by default {SAMPLES}; in tars of {SHARD}")
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
    whole = max(map(SHARD.__getitem__, arguments.modalities)) * max(arguments.workers)
    if arguments.samples and arguments.samples % whole:
        parser.error(f"--samples must be a multiple of {whole:,}, so that each worker of each side has whole tars")
    counts = {modality: arguments.samples or SAMPLES[modality] for modality in arguments.modalities}
    with tempfile.TemporaryDirectory() as aside:
        work = arguments.work or Path(aside)
        print(json.dumps(compare(work, pythons, counts, arguments.workers, arguments.repeats)))


if __name__ == "__main__":
    main()
