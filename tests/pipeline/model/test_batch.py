"""Packing loses nothing, whatever is absent and however long; the layout is a mere change of order."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modalities.masks.masking import Action, Mask
from modalities.tokens import Tokens
from pipeline.model.batch import Fault, layout, pack, unpack, visible_rows

WIDTHS = {"image": (6, 1, 2), "smiles": (0, 1, 1), "table": (1, 4, 0), "bare": (0, 0, 0)}


def tokens(size: int, widths: tuple[int, int, int], seed: int) -> Tokens:
    """Random tokens of given widths."""
    rng = np.random.default_rng(seed)
    values, ids, coords = (rng.normal(size=(size, width)) * 9 for width in widths)
    return Tokens(values.astype(np.float32), ids.astype(np.int64), coords.astype(np.float32))


@st.composite
def samples(draw: st.DrawFn) -> list[dict[str, Tokens]]:
    """Any number of samples, each with any of the modalities, of any length from one token."""
    samples = []
    for _ in range(draw(st.integers(0, 5))):
        names = draw(st.lists(st.sampled_from(sorted(WIDTHS)), unique=True))
        sizes = {name: draw(st.integers(1, 12)) for name in names}
        samples.append({name: tokens(size, WIDTHS[name], draw(st.integers(0, 99))) for name, size in sizes.items()})
    return samples


@settings(max_examples=150, deadline=None)
@given(samples())
def test_unpack_inverts_pack(given_samples: list[dict[str, Tokens]]) -> None:
    batch = pack(given_samples, WIDTHS)
    again = unpack(batch)
    assert [set(sample) for sample in again] == [set(sample) for sample in given_samples]
    for ours, theirs in zip(again, given_samples, strict=True):
        for name, true in theirs.items():
            for a, b in zip(ours[name], true, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    assert batch.size == len(given_samples)
    assert batch.tokens == sum(t.size for sample in given_samples for t in sample.values())
    for name, present in batch.present.items():
        assert present.tolist() == [name in sample for sample in given_samples]


@settings(max_examples=50, deadline=None)
@given(samples())
def test_the_last_row_is_a_dummy_in_its_own_slot(given_samples: list[dict[str, Tokens]]) -> None:
    batch = pack(given_samples, WIDTHS)
    assert list(batch.packs) == list(WIDTHS)
    for name, content in batch.packs.items():
        rows = sum(sample[name].size for sample in given_samples if name in sample) + 1
        assert {len(getattr(content, f.name)) for f in fields(content)} == {rows}
        assert (content.values.shape[1], content.ids.shape[1], content.coords.shape[1]) == WIDTHS[name]
        assert not content.values[-1].any()
        assert (content.ids[-1] == 1).all()
        assert not content.coords[-1].any()
        assert content.sample[-1] == batch.size
        assert (content.sample[:-1] < batch.size).all()
        assert not content.target[-1]
        assert content.action[-1] == Action.KEEP


def test_tokens_outside_the_fitted_vocabulary_are_refused() -> None:
    good = tokens(3, WIDTHS["table"], 0)
    with pytest.raises(ValueError, match=r"'sound' is not among the model's: image, smiles"):
        pack([{"table": good}, {"sound": good}], WIDTHS)
    for part in range(3):
        widths = list(WIDTHS["image"])
        widths[part] += 1
        wrong = tokens(3, (widths[0], widths[1], widths[2]), 0)
        with pytest.raises(ValueError, match=r"image tokens have widths \(\d, \d, \d\), .* fitted to \(6, 1, 2\)"):
            pack([{"image": wrong}], WIDTHS)


def test_masks_and_visible_values_are_stored_with_the_targets() -> None:
    true = {"table": tokens(4, WIDTHS["table"], 0)}
    inputs = {"table": true["table"]._replace(values=true["table"].values + 1, ids=true["table"].ids.copy())}
    target = np.array([True, False, True, False])
    action = np.array([Action.NOISE, Action.KEEP, Action.DROP, Action.KEEP], np.int8)
    masks = {"table": Mask(target, action, np.arange(4))}
    batch = pack([{}, true], WIDTHS, [{}, masks], [{}, inputs], keys=["", "b"], faults=[Fault("a.tar", "a", "torn")])
    content = batch.packs["table"]
    assert content.target.tolist() == [*target.tolist(), False]
    assert content.action.tolist() == [*action.tolist(), 0]
    assert torch.equal(content.input_values[:-1], content.values[:-1] + 1)
    assert visible_rows(content).tolist() == [True, True, False, True, True]
    assert content.sample.tolist() == [1, 1, 1, 1, 2]
    assert (batch.keys, batch.faults) == (("", "b"), (Fault("a.tar", "a", "torn"),))
    np.testing.assert_array_equal(unpack(batch)[1]["table"].values, true["table"].values)


def test_corrupted_arrays_do_not_share_memory() -> None:
    sample = {"table": tokens(4, WIDTHS["table"], 0)}
    mask = {"table": Mask(np.zeros(4, bool), np.zeros(4, np.int8), np.arange(4))}
    content = pack([sample], WIDTHS, [mask], [sample]).packs["table"]
    assert content.input_values is content.values
    assert content.input_ids is content.ids


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_layout_sorts_segments_by_length_and_back(numbers: list[int]) -> None:
    segment = torch.tensor(numbers)
    order, inverse, groups = layout(segment)
    assert sorted(order.tolist()) == list(range(len(numbers)))
    assert torch.equal(segment[order][inverse], segment)
    assert sum(segments * length for segments, length in groups) == len(numbers)
    assert [length for _, length in groups] == sorted({length for _, length in groups})
    start = 0
    for segments, length in groups:
        rows = segment[order][start : start + segments * length].view(segments, length)
        assert (rows == rows[:, :1]).all(), "each row is one segment"
        assert all(numbers.count(int(row[0])) == length for row in rows), "and a whole one"
        start += segments * length


def test_layout_keeps_the_order_within_a_segment() -> None:
    order, _, groups = layout(torch.tensor([5, 1, 5, 1, 5, 7]))
    assert groups == ((1, 1), (1, 2), (1, 3))
    assert order.tolist() == [5, 1, 3, 0, 2, 4]
