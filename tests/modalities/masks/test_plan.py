"""Masks of a sample: each modality by its by_name rules, or coordinated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.image import Image
from modalities.masks.masking import Action, Masking, MaskRules
from modalities.masks.plan import MaskPlan, check_masks, plan_masks
from modalities.table import Table
from modalities.tokens import Axes, Tokens

seeds = st.integers(0, 2**32 - 1)
TIMED: Axes = {"time": ("coords", 0)}


def series(times: int, channels: int = 1, step_s: float = 1.0) -> Tokens:
    """Tokens of some channels over time."""
    place = np.tile(np.arange(times) * step_s, channels).astype(np.float32)[:, None]
    return Tokens(np.ones((len(place), 2), np.float32), np.full((len(place), 1), 2, np.int64), place)


def rules(ratio: float = 0.5, mode: str = "mask", timed: bool = True) -> MaskRules:
    return MaskRules((Masking(ratio=ratio, mode=mode),), 9, TIMED if timed else {})


def test_masks_of_a_sample_are_drawn_in_order() -> None:
    sample = {name: series(25) for name in "abc"}
    masks = plan_masks(sample, np.random.default_rng(0), 0, {"a": rules(), "b": rules(), "c": rules(0.0)})
    assert masks.keys() == sample.keys()
    assert (masks["a"].target != masks["b"].target).any()
    assert not masks["c"].target.any()


@given(st.integers(1, 20), st.integers(1, 3), st.floats(0, 1), st.sampled_from(["mask", "drop"]), seeds)
def test_complementary_masks_show_each_time_position_once(
    times: int, channels: int, ratio: float, mode: str, seed: int
) -> None:
    sample = {"eeg": series(times), "ecg": series(times, channels)}
    by_name = {"eeg": rules(ratio, mode), "ecg": rules(0.1, mode)}
    masks = plan_masks(sample, np.random.default_rng(seed), 0, by_name, MaskPlan(kind="complementary"))
    other = masks["ecg"].target.reshape(channels, times)
    expected = np.tile(~masks["eeg"].target, (channels, 1))
    assert (other != expected).sum() <= (mode == "drop")  # a modality never disappears
    assert (masks["ecg"].action != Action.DROP).any()
    again = plan_masks(sample, np.random.default_rng(seed), 0, by_name, MaskPlan(kind="complementary"))
    assert all((a == b).all() for name in sample for a, b in zip(masks[name], again[name], strict=True))


def test_complementary_masks_follow_the_nearest_time_and_the_named_leader() -> None:
    sample = {"slow": series(4, step_s=3.0), "fast": series(12)}
    mask_plan = MaskPlan(kind="complementary", modality="slow")
    masks = plan_masks(sample, np.random.default_rng(3), 0, {"slow": rules(), "fast": rules()}, mask_plan)
    nearest = [min(range(4), key=lambda i: (abs(3 * i - t), i)) for t in range(12)]
    assert masks["fast"].target.tolist() == [not masks["slow"].target[i] for i in nearest]


def test_without_a_shared_axis_the_ratio_is_what_the_leader_keeps() -> None:
    sample = {"a": series(100), "b": series(100)}
    masks = plan_masks(
        sample, np.random.default_rng(0), 0, {"a": rules(0.3), "b": rules(timed=False)}, MaskPlan(kind="complementary")
    )
    assert (masks["a"].target.sum(), masks["b"].target.sum()) == (30, 70)


@pytest.mark.parametrize("modality", [None, "b"])
def test_hide_masks_one_modality_completely_with_its_probability(modality: str | None) -> None:
    sample = {name: series(6) for name in "abc"}
    mask_plan, hidden = MaskPlan(kind="hide", probability=0.5, modality=modality), []
    for seed in range(400):
        masks = plan_masks(sample, np.random.default_rng(seed), 0, dict.fromkeys(sample, rules(0.2)), mask_plan)
        complete = [name for name in sample if masks[name].target.all()]
        assert len(complete) <= 1
        assert all((masks[name].action == Action.MASK).all() for name in complete)
        hidden += complete
    assert 160 < len(hidden) < 240
    assert set(hidden) == ({"b"} if modality else set("abc"))
    alone = plan_masks(
        {"b": series(6)}, np.random.default_rng(0), 0, {"b": rules(0.2)}, MaskPlan(kind="hide", probability=1.0)
    )
    assert not alone["b"].target.all(), "what is alone stays"


def test_unusable_mask_plans_are_refused() -> None:
    kinds = {"image": Image(mask=Masking(kind="lead")), "table": Table()}
    with pytest.raises(ValueError, match=r"modalities.image.mask.kind is 'lead'; known: block, random, span"):
        check_masks(kinds, MaskPlan(), False)
    kinds["image"] = Image()
    with pytest.raises(ValueError, match=r"masking.modality is 'ecg'"):
        check_masks(kinds, MaskPlan(modality="ecg"), False)
    with pytest.raises(ValueError, match="read 'full'"):
        check_masks(kinds, MaskPlan(kind="hide"), True)
    with pytest.raises(ValueError, match=r"masking.probability is 1.5"):
        MaskPlan(probability=1.5)
    check_masks(kinds, MaskPlan(kind="hide"), False)
