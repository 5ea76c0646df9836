"""Samples of the loading benchmark: their original bytes, how they are decoded, and the tars that hold them."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import soundfile

SEED = 0
SHARD = {"image": 1024, "smiles": 8192, "ecg": 1024, "audio": 1024}
"""Samples per tar, so that a tar has at least 10 MB."""
MEMBERS = {"image": ("jpg",), "smiles": ("txt",), "ecg": ("npy", "json"), "audio": ("flac",)}
SAMPLES = {"image": 8192, "smiles": 131_072, "ecg": 8192, "audio": 4096}
BATCH = {"image": 64, "smiles": 256, "ecg": 64, "audio": 64}


# litdata passes memoryviews, which all of these accept
def ecg(npy: bytes, description: bytes) -> np.ndarray:
    samples = np.load(io.BytesIO(npy), allow_pickle=False)
    if len(json.loads(bytes(description))["channels"]) != len(samples):
        raise ValueError("the description of an ECG does not match its samples")
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
    """Twelve channels of 10 s at 500 Hz, as a source writes them: one pulse per beat, and noise."""
    from modalities.files.recording import Recording, to_members

    leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    time_s = np.arange(5000) / 500
    for _ in range(count):
        pulse = np.exp(-(((time_s * rng.uniform(0.8, 1.6)) % 1 - 0.5) ** 2) / 2e-4)
        samples = rng.normal(size=(12, 1)) * pulse + 0.02 * rng.normal(size=(12, 5000))
        members = to_members(Recording(samples.astype(np.float32), leads, ("mV",) * 12, 500.0))
        yield members["npy"], members["json"]


def sounds(count: int, rng: np.random.Generator) -> Iterator[tuple[bytes]]:
    """Five seconds at 16 kHz: harmonics of a voice, syllables and noise."""
    time_s = np.arange(80_000) / 16_000
    for _ in range(count):
        pitch_hz = rng.uniform(90, 250)
        voice = sum(np.sin(2 * np.pi * pitch_hz * n * time_s + rng.uniform(0, 6)) / n for n in range(1, 12))
        loud = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * time_s), 0, 1)
        file = io.BytesIO()
        wave = 0.1 * voice * loud + 0.003 * rng.normal(size=len(time_s))
        soundfile.write(file, wave.astype(np.float32), 16_000, format="FLAC", subtype="PCM_16")
        yield (file.getvalue(),)


GENERATORS = {"image": photos, "smiles": molecules, "ecg": heartbeats, "audio": sounds}


def make_tars(modality: str, count: int, folder: Path) -> None:
    """Write shards for sensorium and webdataset, indexed as `sensorium shards index` does."""
    from shards.tars import index_tars

    samples = GENERATORS[modality](count, np.random.default_rng(SEED))
    size = SHARD[modality]
    for first in range(0, count, size):
        with tarfile.open(folder / f"train-{first // size:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, min(first + size, count)):
                for extension, data in zip(MEMBERS[modality], next(samples), strict=True):
                    entry = tarfile.TarInfo(f"{number:032x}.{modality}.{extension}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    index_tars(folder, {})


def write_once(folder: Path, make: Callable[[Path], None]) -> None:
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
        size = len(MEMBERS[modality])
        yield from (tuple(contents[i : i + size]) for i in range(0, len(contents), size))


def checksum(batches: Iterable[Any]) -> list[int]:
    """Number of samples, and the sum of their checksums, which does not depend on the order."""
    count = total = 0
    for batch in batches:
        count += len(batch)
        total += sum(zlib.crc32(part.encode() if isinstance(part, str) else np.asarray(part)) for part in batch)
    return [count, total]
