"""Select the samples of a split and their frequency, by keep-lists and weights from a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as parquet
from pyarrow import ArrowException, ChunkedArray, Table

from shards.columns import require_columns

GOLDEN = 40503
"""An odd number near 2^16 / golden ratio: its multiples modulo 2^16 visit all phases evenly (Weyl 1916)."""


class Selection:
    """The selected samples of each shard, and their slots in an epoch.

    Without weights, every selected sample has one slot. With weights, a shard of total weight W has `round(W)` slots
    per epoch (at least 1), and a sample of weight w has w of them: exactly if weights are integers, else rounded down
    or up from epoch to epoch, with mean w over many epochs (systematic sampling, Madow 1949). Memory is 4 bytes per
    selected sample, 12 with weights.

    numbers: numbers of the selected samples, by shard. weights: their weights, above 0; None for 1.
    """

    def __init__(self, numbers: Iterable[np.ndarray], weights: Iterable[np.ndarray] | None = None):
        indices = [np.asarray(shard, np.int32) for shard in numbers]
        self._numbers = np.concatenate([np.zeros(0, np.int32), *indices])
        self._starts = np.cumsum([0, *map(len, indices)])
        self._ends: np.ndarray | None = None
        self.sizes = tuple(map(len, indices))
        """Slots of each shard per epoch."""
        if weights is not None:
            cumulative = [np.cumsum(shard, dtype=np.float64) for shard in weights]
            self._ends = np.concatenate([np.zeros(0), *cumulative])
            self.sizes = tuple(max(round(ends[-1]), 1) if len(ends) else 0 for ends in cumulative)

    @property
    def weighted(self) -> bool:
        """Whether samples have weights, so that one may have several slots in an epoch."""
        return self._ends is not None

    def digest(self) -> str:
        """Hexadecimal sha256 of the selected samples and their weights."""
        ends = b"" if self._ends is None else self._ends.tobytes()
        return hashlib.sha256(self._starts.tobytes() + self._numbers.tobytes() + ends).hexdigest()

    def sample_numbers(self, shard: int) -> np.ndarray:
        """Numbers of the selected samples of a shard."""
        return self._numbers[self._starts[shard] : self._starts[shard + 1]]

    def pick(self, epoch: int, shard: int, slot: int) -> int:
        """Number of the sample in a slot of a shard in an epoch."""
        if self._ends is None:
            return int(self.sample_numbers(shard)[slot])
        ends = self._ends[self._starts[shard] : self._starts[shard + 1]]
        phase = (epoch * GOLDEN % 65536 + 0.5) / 65536
        point = (slot + phase) * (ends[-1] / self.sizes[shard])
        return int(self.sample_numbers(shard)[min(int(np.searchsorted(ends, point, side="right")), len(ends) - 1)])


def read_weights(file: Path, column: str | None = None) -> dict[str, float]:
    """Read a keep-list: weights by key, from the column `key` of a CSV or Parquet file; 1 without a weight column.

    Keys of weight 0 or with an empty cell are omitted.

    Raises:
        ValueError: the file or a column does not exist, a key is repeated, or a weight is not a number of at least 0.
    """
    table = _read(file)
    require_columns(file, table.column_names, ["key", *([column] if column else [])])
    table = table.filter(table["key"].is_valid())
    keys = [str(key) for key in table["key"].to_pylist()]
    weights = _numbers(table[column], file, column) if column else np.ones(len(keys))
    weights_by_key = dict(zip(keys, weights.tolist(), strict=True))
    if len(weights_by_key) < len(keys):
        repeated = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"{file} has the key {repeated!r} twice")
    return {key: weight for key, weight in weights_by_key.items() if weight > 0}


def _read(file: Path) -> Table:
    """Read a table with one thread, because forked loader workers must not inherit a thread pool."""
    if not file.is_file():
        raise ValueError(f"no keep-list {file}")
    try:
        if file.suffix == ".parquet":
            return parquet.read_table(file, use_threads=False)
        if file.suffix == ".csv":
            text = csv.ConvertOptions(column_types={"key": "string"})  # 007 is a key, not a number
            return csv.read_csv(file, csv.ReadOptions(use_threads=False), convert_options=text)
    except (ArrowException, OSError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{file} cannot be read ({line})") from error
    raise ValueError(f"keep-list {file} is neither .parquet nor .csv")


def _numbers(column: ChunkedArray, file: Path, name: str | None) -> np.ndarray:
    """Convert a column of weights to floats; empty cells are 0."""
    try:
        weights = column.cast("float64").fill_null(0.0).to_numpy()
    except ArrowException as error:
        raise ValueError(f"column {name!r} of {file} has cells that are not numbers") from error
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"column {name!r} of {file} has weights that are negative or not finite")
    return weights


def select(keys: Iterable[list[str]], weights: dict[str, float], weighted: bool) -> Selection:
    """Select the samples whose keys have a weight.

    keys: the keys of each shard, one shard at a time, so that memory holds one.

    Raises:
        ValueError: no sample is selected.
    """
    numbers, shares = [], []
    for shard in keys:
        shard_weights = np.array([weights.get(key, 0.0) for key in shard])
        numbers.append(np.flatnonzero(shard_weights).astype(np.int32))
        shares.append(shard_weights[numbers[-1]])
    if not any(map(len, numbers)):
        raise ValueError("none of its keys is the key of a sample")
    return Selection(numbers, shares if weighted else None)
