"""Groups are assigned whole, by their names and the seed alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.build import SplitBy
from shards.split import SPLITS, assign, sample_key

GROUPS = st.dictionaries(st.text(max_size=8), st.integers(1, 30), min_size=1, max_size=60)
SHARE = st.floats(0, 0.45)


def count_samples(groups: dict[str, int], splits: dict[str, str], split: str) -> int:
    return sum(count for group, count in groups.items() if splits[group] == split)


@settings(deadline=None)
@given(GROUPS, SHARE, SHARE, st.floats(0, 1), st.integers(0, 9))
def test_groups_are_not_split_and_shares_are_reached_within_one_group(
    groups: dict[str, int], validation: float, test: float, large: float, seed: int
) -> None:
    splits = assign(groups, validation, test, large, seed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) <= set(SPLITS)
    total = sum(groups.values())
    limit = max(large, 2 / len(groups)) * total
    assert all(splits[group] == "train" for group, count in groups.items() if count > limit)
    assert any(split == "train" and groups[group] == max(groups.values()) for group, split in splits.items())
    for split, share in (("test", test), ("validation", validation)):
        members = [groups[group] for group in groups if splits[group] == split]
        assert len(members) < 2 or sum(members) - share * total <= max(members) / 2 + 1e-6
        assert share or not members


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_few_large_groups_are_divided(count: int) -> None:
    splits = assign({f"speaker {i}": 100 for i in range(count)}, 0.1, 0.25)
    held_out = sum(split != "train" for split in splits.values())
    assert len(splits) - held_out > 0
    assert held_out >= min(count - 1, 2)


@settings(deadline=None)
@given(GROUPS, st.randoms())
def test_the_order_of_groups_does_not_matter(groups: dict[str, int], random: object) -> None:
    items = list(groups.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert assign(dict(items), 0.2, 0.2, 0.5) == assign(groups, 0.2, 0.2, 0.5)


def test_shares_and_seed() -> None:
    groups = {f"group {i}": 1 + i % 5 for i in range(1000)}
    first, second = (assign(groups, 0.05, 0.1, seed=seed) for seed in (0, 1))
    total = sum(groups.values())
    assert count_samples(groups, first, "test") / total == pytest.approx(0.1, abs=5 / total)
    assert count_samples(groups, first, "validation") / total == pytest.approx(0.05, abs=5 / total)
    both = sum(first[group] == second[group] == "test" for group in groups)
    assert both < 0.3 * sum(split == "test" for split in first.values())


def test_assignment_and_keys_are_stable_across_versions() -> None:
    splits = assign(dict.fromkeys("abcdefgh", 1), 0.25, 0.25, large=1.0, seed=0)  # `printf 0:a | sha256sum` ranks them
    assert splits == {
        **dict.fromkeys("hf", "test"),
        **dict.fromkeys("gd", "validation"),
        **dict.fromkeys("abce", "train"),
    }
    assert sample_key("CCO") == "ab1de819ede91df490e6441934decfa9"


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (0.0, 1.0)])
def test_shares_that_leave_no_training_data_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="shares"):
        SplitBy(validation=validation, test=test)
