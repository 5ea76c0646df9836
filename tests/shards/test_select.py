"""Keep-lists and weights from side files: what is kept, how often, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shards.select import Selection, read_weights, select


@pytest.fixture(params=["csv", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    table = pl.DataFrame({"key": ["007", "b", "c", "d"], "often": [2.0, 0.0, None, 0.5], "note": ["x", "y", "z", "w"]})
    path = tmp_path / f"side.{request.param}"
    table.write_csv(path) if request.param == "csv" else table.write_parquet(path)
    return path


def test_keys_and_weights_are_read(file: Path) -> None:
    assert read_weights(file) == {"007": 1, "b": 1, "c": 1, "d": 1}
    assert read_weights(file, "often") == {"007": 2, "d": 0.5}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("name\na\n", None, "has no column 'key'; it has name"),
        ("key\na\n", "often", "has no column 'often'; it has key"),
        ("key\na\nb\na\n", None, "has the key 'a' twice"),
        ("key,often\na,much\n", "often", "column 'often' of .* has cells that are not numbers"),
        ("key,often\na,-1\n", "often", "negative or not finite"),
        ("key,often\na,inf\n", "often", "negative or not finite"),
        ("key,often\na\n", None, "cannot be read"),
    ],
)
def test_invalid_keep_lists_are_refused(tmp_path: Path, text: str, column: str | None, message: str) -> None:
    (tmp_path / "side.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(tmp_path / "side.csv", column)
    assert "\n" not in str(caught.value)


def test_rows_without_a_key_are_skipped(tmp_path: Path) -> None:
    pl.DataFrame({"key": ["a", None, None], "often": [2.0, 1.0, 1.0]}).write_parquet(tmp_path / "side.parquet")
    assert read_weights(tmp_path / "side.parquet", "often") == {"a": 2}


def test_non_numeric_weights_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"key": ["a"], "often": [[1.0]]}).write_parquet(tmp_path / "side.parquet")
    with pytest.raises(ValueError, match="has cells that are not numbers"):
        read_weights(tmp_path / "side.parquet", "often")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no keep-list"):
        read_weights(tmp_path / "none.csv")
    (tmp_path / "side.txt").write_text("key\n")
    with pytest.raises(ValueError, match=r"neither \.parquet nor \.csv"):
        read_weights(tmp_path / "side.txt")
    (tmp_path / "side.parquet").write_text("key\n")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / "side.parquet")


def one_pass(selection: Selection, epoch: int) -> Counter[tuple[int, int]]:
    return Counter(
        (shard, selection.pick(epoch, shard, slot))
        for shard, size in enumerate(selection.sizes)
        for slot in range(size)
    )


KEYS = [["a", "b", "c"], [], ["d", "e"], ["f"]]


def test_selected_samples_occur_once_per_epoch() -> None:
    selection = select(KEYS, {"c": 1, "a": 1, "e": 1, "elsewhere": 1}, weighted=False)
    assert selection.sizes == (2, 0, 1, 0)
    assert one_pass(selection, 7) == {(0, 0): 1, (0, 2): 1, (2, 1): 1}
    assert [selection.sample_numbers(shard).tolist() for shard in range(4)] == [[0, 2], [], [1], []]


def test_integer_weights_are_exact_in_every_epoch() -> None:
    selection = select(KEYS, {"a": 3, "c": 1, "d": 2, "f": 1}, weighted=True)
    assert selection.sizes == (4, 0, 2, 1)
    for epoch in (0, 1, 2, 65_535, 10**12):
        assert one_pass(selection, epoch) == {(0, 0): 3, (0, 2): 1, (2, 0): 2, (3, 0): 1}


def test_fractional_weights_are_reached_over_epochs() -> None:
    weights = {"a": 0.25, "b": 1.5, "c": 2.25, "d": 0.5, "e": 0.5}
    selection = select(KEYS, weights, weighted=True)
    assert selection.sizes == (4, 0, 1, 0)
    passes = [one_pass(selection, epoch) for epoch in range(400)]
    names = {"a": (0, 0), "b": (0, 1), "c": (0, 2), "d": (2, 0), "e": (2, 1)}
    for key, place in names.items():
        counts = [counted[place] for counted in passes]
        assert set(counts) <= {int(weights[key]), int(weights[key]) + 1}
        assert np.mean(counts) == pytest.approx(weights[key], abs=0.02)


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="none of its keys"):
        select(KEYS, {"elsewhere": 1}, weighted=False)


def test_memory_is_4_bytes_per_sample_and_12_with_weights() -> None:
    numbers, weights = [np.arange(1000)] * 50, [np.full(1000, 1.5)] * 50

    def count_samples(selection: Selection) -> int:
        return sum(value.nbytes for value in vars(selection).values() if isinstance(value, np.ndarray))

    assert count_samples(Selection(numbers)) <= 50_000 * 4 + 51 * 8
    assert count_samples(Selection(numbers, weights)) <= 50_000 * 12 + 51 * 8


def test_selections_have_distinct_fingerprints() -> None:
    selections = [
        select(KEYS, {"a": 1, "d": 1}, weighted=False),
        select(KEYS, {"b": 1, "d": 1}, weighted=False),
        select(KEYS, {"a": 1, "d": 1}, weighted=True),
        select(KEYS, {"a": 2, "d": 1}, weighted=True),
    ]
    assert len({selection.digest() for selection in selections}) == 4
    assert selections[0].digest() == select(KEYS, {"d": 1, "a": 1}, weighted=False).digest()
