"""A webdataset pipeline over a shard set, for training loops outside sensorium."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from modalities.files.images import read_image
from modalities.files.magic import extensions_of
from modalities.files.reading import ContentError, lazy_import, parse_json
from shards.manifest import Manifest, Shard
from shards.remote import Cache, open_store
from shards.store import ShardError, Store

_IMAGES, _SOUNDS = extensions_of("image"), extensions_of("sound")


class ShardPipeline(wds.DataPipeline, wds.compat.FluidInterface):
    """A `wds.DataPipeline` with the methods of `wds.WebDataset`: `shuffle`, `map`, `to_tuple`, `batched`, ..."""


def webdataset(
    folder: str | Path, split: str = "train", *, shuffle: bool = False, cache: Cache | None = None
) -> ShardPipeline:
    """Iterate over the decoded samples of a split as a `wds.DataPipeline`, a torch `IterableDataset`.

    A sample is a dict of `__key__`, `__url__` and its members by name:

    - `image.png`, `image.jpg`, ...: uint8 array `(H, W, C)`; of TIFF, of more than 8 bits and of pixels without data
      (NaN) a float32 array, 0 to 1 if the file has unsigned integers
    - `ecg.npy`: the array; arrays of Python objects are refused
    - `table.json`, `labels.json`: the parsed JSON, usually a dict
    - `smiles.txt`, `dna.txt`: string
    - `audio.flac`, `audio.wav`, ...: float32 array `(T, C)` and the sample rate in Hz
    - any other member: bytes

    For an exact order, use `sm.RawBatches`. Ranks and loader workers read different shards, so have at least as many
    shards as workers in total. Samples without a modality lack its key, so use a collate function that allows for
    it, or select members first:

        import sensorium as sm
        from torch.utils.data import DataLoader
        samples = sm.webdataset("shards/birds", shuffle=True).shuffle(1000).to_tuple("image.jpg", "labels.json")
        for image, labels in DataLoader(samples, batch_size=None, num_workers=4):
            ...

    Args:
        folder: Path or URL of the shard set. Remote shards are cached and verified.
        split: `train`, `validation` or `test`.
        shuffle: Whether to shuffle the shards in each epoch; add `.shuffle(size)` to shuffle samples in a buffer.
        cache: How remote shards are cached.

    Raises:
        ValueError: there is no such shard set, the split has no samples, or a package that decodes them is missing.
    """
    store = open_store(folder, cache)
    shards = _shards_of(store, split)
    return ShardPipeline(
        wds.SimpleShardList(sorted(shards)),
        wds.split_by_node,
        wds.split_by_worker,
        *([wds.shuffle(len(shards))] if shuffle else []),  # after the splits, because each worker shuffles differently
        partial(_open_tars, store, shards),
        wds.tariterators.tar_file_expander,
        wds.tariterators.group_by_keys,
        wds.map(decode_members),
    )


def _shards_of(store: Store, split: str) -> dict[str, Shard]:
    """The shards of a split by name, without empty ones.

    Raises:
        ShardError: the split has no samples.
    """
    manifest = Manifest.read(store)
    shards = {shard.name: shard for shard in manifest.of(split) if shard.samples}
    if not shards:
        counts = ", ".join(f"{name} {count:,}" for name, count in manifest.counts().items())
        raise ShardError(f"the {split} split of {store.location} is empty ({counts})")
    return shards


def _open_tars(
    store: Store, shards: Mapping[str, Shard], urls: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Open the tars of a shard list, from the cache if the shard set is remote."""
    for item in urls:
        shard = shards[item["url"]]
        with store.open(shard.tar) as stream:
            yield {"url": f"{store.location}/{shard.name}", "stream": stream}


def decode_members(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the members of a sample by their extension, as `webdataset` describes.

    Raises:
        ContentError: the bytes of a member do not match its extension.
    """
    return {
        name: value if name.startswith("__") else _decode(name.rpartition(".")[2].lower(), value)
        for name, value in sample.items()
    }


def _decode(extension: str, data: bytes) -> Any:
    if extension in _IMAGES:
        return _decode_image(extension, data)
    if extension in _SOUNDS:
        return _decode_sound(data)
    if extension == "npy":
        try:
            return np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ContentError("npy member that is not an array of numbers") from error
    if extension == "json":
        return parse_json(data, "json member")
    if extension == "txt":
        return data.decode()
    return data


def _decode_image(extension: str, data: bytes) -> np.ndarray:
    """Pixels `(H, W, C)`: uint8 if that loses nothing, else float32."""
    pixels = read_image({extension: data}).pixels
    levels = np.rint(pixels * 255)
    fits_uint8 = extension not in ("tif", "tiff") and np.allclose(levels / 255, pixels, rtol=0, atol=1e-6)
    return levels.astype(np.uint8) if fits_uint8 else pixels


def _decode_sound(data: bytes) -> tuple[np.ndarray, int]:
    """Samples `(T, C)` and their rate in Hz."""
    soundfile = lazy_import("soundfile", "soundfile")
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ContentError("sound that cannot be decoded") from error
    return samples, rate_hz
