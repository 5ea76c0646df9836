"""The ledger on disk says what the functions in memory say."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.ledger import Ledger, write_ledger
from shards.sources.base import ByteRange, StoredSample
from shards.split import SPLITS, SplitBy, assign, sample_key

SHARE = st.floats(0, 0.45)
GROUPS = st.lists(st.text(st.characters(codec="utf-8"), max_size=3), min_size=1, max_size=60)


def make_sample(number: int, group: str) -> StoredSample:
    return StoredSample(
        identity=f"sample {number}",
        members={"b.txt": ByteRange("x", number, 1), "a.txt": ByteRange("x", 0, 2)},
        groups={"by": group},
    )


@settings(deadline=None, max_examples=50)
@given(GROUPS, SHARE, SHARE, st.floats(0, 1), st.integers(0, 9))
def test_splits_follow_assign_and_samples_keep_their_order(
    groups: list[str], validation: float, test: float, large: float, seed: int
) -> None:
    split = SplitBy(by="by", validation=validation, test=test, large=large, seed=seed)
    expected = assign(Counter(groups), validation, test, large, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger"
        write_ledger(path, (make_sample(i, group) for i, group in enumerate(groups)), split, {})
        with Ledger(path) as ledger:
            for name in SPLITS:
                batches = list(ledger.batches(name, 7))
                assert all(len(batch) == 7 for batch in batches[:-1])
                rows = [(row.key, row.group) for batch in batches for row in batch]
                assert rows == [(sample_key(f"sample {i}"), g) for i, g in enumerate(groups) if expected[g] == name]
            assert ledger.counts("fields") == {"a.txt": len(groups), "b.txt": len(groups)}


def test_members_come_back_in_order_and_reasons_are_counted(tmp_path: Path) -> None:
    samples = [make_sample(0, "x"), "broken", make_sample(0, "y"), make_sample(1, "x"), "broken"]
    write_ledger(tmp_path / "ledger", samples, SplitBy(by="by", validation=0, test=0), {})
    with Ledger(tmp_path / "ledger") as ledger:
        assert ledger.counts("skipped") == {"broken": 2, "duplicate": 1}
        rows = next(ledger.batches("train", 10))
        assert [list(row.members.items()) for row in rows] == [
            [("a.txt", ByteRange("x", 0, 2)), ("b.txt", ByteRange("x", i, 1))] for i in range(2)
        ]


def test_an_empty_ledger_is_not_an_error(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger", [], SplitBy(), {})
    with Ledger(tmp_path / "ledger") as ledger:
        assert ledger.counts("fields") == {}
        assert not list(ledger.batches("train", 10))


def test_a_missing_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can be grouped by by"):
        write_ledger(tmp_path / "ledger", [make_sample(0, "x")], SplitBy(by="speaker"), {})
