"""Masks of a whole sample, coordinated over its modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from modalities.masks.draw import draw_mask, keep_one
from modalities.masks.masking import Action, Mask, Masking, MaskRules
from modalities.masks.modes import MODES
from modalities.masks.shapes import SHAPES
from modalities.tokens import Tokens, column, maskable

if TYPE_CHECKING:
    from modalities.base import Modality


@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """How the masks of one sample's modalities go together: the recipe key `masking`.

    Attributes:
        kind: `independent` masks each modality by its own `mask`. `complementary` lets one modality lead: of the
            others exactly the tokens are hidden that the leader keeps, along the shared `axis`, so that each time is
            visible in one of them; a modality without that axis hides the share of tokens that the leader keeps.
            `hide` masks all tokens of one modality in place (the extreme case of MultiMAE, Bachmann et al. 2022); at
            least one modality stays visible.
        probability: Probability that `hide` hides a modality of a sample.
        modality: The modality that leads or is hidden; by default the sample's first one leads and a random one is
            hidden.
        axis: Axis along which `complementary` compares tokens.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    kind: Literal["independent", "complementary", "hide"] = "independent"
    probability: float = 0.5
    modality: str | None = None
    axis: str = "time"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"masking.probability is {self.probability}, but a probability is between 0 and 1")


def rules_of(modality: Modality) -> MaskRules:
    """Collect what the masks of a modality depend on."""
    maskings = (modality.mask,) if isinstance(modality.mask, Masking) else modality.mask
    return MaskRules(maskings, modality.num_ids, modality.axes, modality.overlap, modality.row_axis)


def plan_masks(
    sample: Mapping[str, Tokens],
    rng: np.random.Generator,
    step: int,
    rules: Mapping[str, MaskRules],
    plan: MaskPlan = MaskPlan(),
) -> dict[str, Mask]:
    """Draw masks for all modalities of one sample, a pure function of the generator's state and the arguments."""
    if plan.kind == "complementary" and len(sample) > 1:
        return _complementary(sample, rng, step, rules, plan)
    masks = {name: draw_mask(tokens, rng, step, rules[name]) for name, tokens in sample.items()}
    if plan.kind == "hide" and rng.random() < plan.probability:
        names = [name for name in sample if plan.modality in (None, name)]
        if names and len(sample) > 1:
            name = names[int(rng.integers(len(names)))]
            masks[name] = _hide(maskable(sample[name]), Action.MASK)
    return masks


def _complementary(
    sample: Mapping[str, Tokens],
    rng: np.random.Generator,
    step: int,
    rules: Mapping[str, MaskRules],
    plan: MaskPlan,
) -> dict[str, Mask]:
    leader = plan.modality if plan.modality in sample else next(iter(sample))
    assert leader is not None
    lead = draw_mask(sample[leader], rng, step, rules[leader])
    lead_axis = rules[leader].axes.get(plan.axis)
    masks = {}
    for name, tokens in sample.items():
        axis, first = rules[name].axes.get(plan.axis), rules[name].maskings[0]
        if name == leader:
            masks[name] = lead
        elif axis is not None and lead_axis is not None:
            hidden = _hidden_nearby(column(tokens, axis), column(sample[leader], lead_axis), lead.target)
            action = Action.DROP if first.mode == "drop" else Action.MASK
            masks[name] = keep_one(_hide(maskable(tokens) & ~hidden, action), rng)
        else:
            masking = replace(first, ratio=1 - float(lead.target.mean()), final_ratio=None)
            masks[name] = draw_mask(tokens, rng, step, rules[name]._replace(maskings=(masking,)))
    return masks


def _hide(target: np.ndarray, action: Action) -> Mask:
    """Mask with targets `(N,)` that all have the same action."""
    actions = np.where(target, action, Action.KEEP).astype(np.int8)
    return Mask(target, actions, np.arange(len(target), dtype=np.int64))


def _hidden_nearby(positions: np.ndarray, lead_positions: np.ndarray, lead_target: np.ndarray) -> np.ndarray:
    """`(N,)` bool: whether most of the leader's tokens at the value nearest to each of N positions are targets."""
    values, group = np.unique(lead_positions, return_inverse=True)
    is_hidden = np.bincount(group, lead_target) * 2 > np.bincount(group)
    if len(values) == 1:
        return np.full(len(positions), is_hidden[0])
    right = np.clip(np.searchsorted(values, positions), 1, len(values) - 1)
    return is_hidden[np.where(positions - values[right - 1] <= values[right] - positions, right - 1, right)]


def check_masks(modalities: Mapping[str, Modality], plan: MaskPlan, visible: bool) -> None:
    """Check the masks of a recipe.

    visible: whether an objective reads single modalities as their masks leave them.

    Raises:
        ValueError: an unknown mask kind or mode, a kind that the tokens do not allow, or a plan that cannot be
            followed.
    """
    for name, modality in modalities.items():
        for masking in rules_of(modality).maskings:
            _check_masking(name, modality, masking)
    if plan.modality is not None and plan.modality not in modalities:
        raise ValueError(f"masking.modality is {plan.modality!r}, but the recipe has no modality of that name")
    axes = {axis for modality in modalities.values() for axis in modality.axes}
    if plan.kind == "complementary" and plan.axis != MaskPlan.axis and plan.axis not in axes:
        axis_names = ", ".join(sorted(axes)) or "none"
        raise ValueError(
            f"masking.axis is {plan.axis!r}, but no modality has an axis of that name; known: {axis_names}"
        )
    if plan.kind == "hide" and visible:
        raise ValueError("masking.kind 'hide' leaves nothing of a modality: let the objectives read 'full'")


def _check_masking(name: str, modality: Modality, masking: Masking) -> None:
    kinds = (*SHAPES, *modality.axes)
    if masking.kind not in kinds:
        raise ValueError(f"modalities.{name}.mask.kind is {masking.kind!r}; known: {', '.join(kinds)}")
    if masking.mode not in MODES:
        raise ValueError(f"modalities.{name}.mask.mode is {masking.mode!r}; known: {', '.join(MODES)}")
    if masking.kind in SHAPES and modality.widths[2] < SHAPES[masking.kind].coordinates:
        raise ValueError(f"modalities.{name}.mask.kind '{masking.kind}' needs tokens on a grid: use 'random' or 'span'")
