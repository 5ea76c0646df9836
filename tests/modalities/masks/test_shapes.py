"""Shapes and modes of other packages, and axes of any name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from modalities.masks.draw import draw_mask
from modalities.masks.masking import Action, Masking, MaskRules
from modalities.masks.modes import MODES, MaskMode
from modalities.masks.plan import MaskPlan, check_masks
from modalities.masks.shapes import SHAPES, MaskRequest, MaskShape
from modalities.registry import Registry
from modalities.table import Table
from modalities.tokens import Axes, Tokens
from pipeline.recipe.load import load

AXES: Axes = {"plate": ("ids", 1), "wavelength": ("coords", 0)}


class Comb(MaskShape):
    """Every n-th candidate from a random first one."""

    type = "comb"
    default_span = 2

    def select(self, request: MaskRequest, rng: np.random.Generator) -> np.ndarray:
        step = request.masking.span_range(self.default_span)[0]
        return np.roll(request.candidates, -int(rng.integers(step)))[::step][: request.num_targets]


class Zero(MaskMode):
    """Zeros in place of the content."""

    type = "zero"
    shares = ((Action.ZERO, 1.0),)


@pytest.fixture
def comb() -> Iterator[None]:
    """A shape and a mode, registered as another package's module registers them."""
    SHAPES.register(Comb)
    MODES.register(Zero)
    yield
    forget(SHAPES, Comb.type)
    forget(MODES, Zero.type)


def forget(registry: Registry[Any], name: str) -> None:
    del registry._classes[name]


def plates(count: int, wavelengths: int) -> Tokens:
    """Tokens of spectra on several plates, one plate after the other."""
    plate, wavelength = (part.ravel() for part in np.indices((count, wavelengths)))
    values = np.ones((count * wavelengths, 2), np.float32)
    return Tokens(values, np.stack([np.full_like(plate, 2), plate], 1), wavelength[:, None].astype(np.float32))


@pytest.mark.usefixtures("comb")
def test_a_recipe_uses_a_registered_shape_and_mode(recipe: dict[str, Any]) -> None:
    recipe["modalities"]["table"]["mask"] = {"kind": "comb", "mode": "zero", "ratio": 0.5}
    table = load(recipe).modalities["table"]
    assert table.mask == Masking(kind="comb", mode="zero", ratio=0.5)
    mask = draw_mask(plates(1, 8), np.random.default_rng(0), 0, MaskRules((table.mask,)))
    assert np.diff(np.flatnonzero(mask.target)).tolist() == [2, 2, 2]
    assert set(mask.action[mask.target].tolist()) == {Action.ZERO}


@pytest.mark.parametrize(("num_ids", "action"), [(9, Action.RANDOM), (0, Action.MASK)])
def test_a_mode_of_random_content_alone_draws_ids(num_ids: int, action: Action) -> None:
    class Shuffle(MaskMode):
        type = "shuffle"
        shares = ((Action.RANDOM, 1.0),)

    MODES.register(Shuffle)
    try:
        rules = MaskRules((Masking(mode="shuffle", ratio=1.0),), num_ids)
        mask = draw_mask(plates(10, 10), np.random.default_rng(0), 0, rules)
    finally:
        forget(MODES, Shuffle.type)
    assert (mask.action == action).all()
    if num_ids:
        assert set(mask.source.tolist()) == set(range(2, num_ids))


@pytest.mark.usefixtures("comb")
def test_zeros_alone_do_not_leave_content_in_ids_visible() -> None:
    tokens = plates(1, 8)._replace(values=np.zeros((8, 2), np.float32))
    mask = draw_mask(tokens, np.random.default_rng(0), 0, MaskRules((Masking(mode="zero", ratio=1.0),), 9))
    assert (mask.action == Action.MASK).all()


def test_unknown_kinds_and_modes_are_refused_with_the_registered_ones(recipe: dict[str, Any]) -> None:
    recipe["modalities"]["table"]["mask"] = {"kind": "comb"}
    with pytest.raises(ValueError, match=r"modalities.table.mask.kind is 'comb'; known: block, random, span$"):
        load(recipe)
    recipe["modalities"]["table"]["mask"] = {"mode": "zero"}
    with pytest.raises(ValueError, match=r"modalities.table.mask.mode is 'zero'; known: drop, mask, bert, corrupt$"):
        load(recipe)


@pytest.mark.usefixtures("comb")
def test_the_error_lists_shapes_of_other_packages() -> None:
    with pytest.raises(ValueError, match="known: block, random, span, comb"):
        check_masks({"table": Table(mask=Masking(kind="com"))}, MaskPlan(), False)


@pytest.mark.parametrize("span", [1, 3])
def test_axes_may_have_any_name(span: int) -> None:
    tokens = plates(4, 12)
    rules = MaskRules((Masking(kind="wavelength", ratio=0.25, span=span),), axes=AXES)
    target = draw_mask(tokens, np.random.default_rng(0), 0, rules).target.reshape(4, 12)
    assert (target == target[0]).all()
    assert target[0].sum() == 3


def test_spans_end_with_the_row_that_a_modality_declares() -> None:
    tokens, masking = plates(30, 2), Masking(kind="span", ratio=0.5, span=4)
    rules = MaskRules((masking,), axes=AXES, row_axis="plate")
    crossing = 0
    for seed in range(20):
        runs = [
            draw_mask(tokens, np.random.default_rng(seed), 0, variant).target.reshape(30, 2)
            for variant in (rules, rules._replace(row_axis=None))
        ]
        assert (runs[0][:, 1] | ~runs[0][:, 0]).sum() >= 29, "a span from a row's first token covers the row"
        crossing += int((runs[1][1:, 0] & ~runs[1][1:, 1]).sum())
    assert crossing > 5
