"""Masks of a whole sample, coordinated across its modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from modalities.base import Modality
from modalities.masks.masking import Action, Mask, Masking, Rules, mask, something_left
from modalities.tokens import Tokens, column, maskable


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How masks of one sample go together: a recipe's `masking:` key.

    independent: each modality by its own `mask`. complementary: `modality` (by default the sample's first) leads; of
    the others just what it keeps is hidden, along the shared `axis`, so that at each time one of them is seen; one
    without that axis hides the share that the leader keeps. hide: with probability `share` one modality, `modality`
    or any, is a target whole, each of its tokens masked in place (MultiMAE's extreme case); one always stays.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    kind: Literal["independent", "complementary", "hide"] = "independent"
    share: float = 0.5
    modality: str | None = None
    axis: str = "time"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"masking.share is {self.share}, but a share lies between 0 and 1")


def rules_of(modality: Modality) -> Rules:
    """What a modality's masks depend on."""
    maskings = (modality.mask,) if isinstance(modality.mask, Masking) else modality.mask
    return Rules(maskings, modality.entries, modality.axes, modality.overlap)


def plan(
    sample: Mapping[str, Tokens],
    rng: np.random.Generator,
    step: int,
    rules: Mapping[str, Rules],
    how: Plan = Plan(),
) -> dict[str, Mask]:
    """Masks for all modalities of one sample, a pure function of the generator's state, the step and the tokens."""
    if how.kind == "complementary" and len(sample) > 1:
        return _complementary(sample, rng, step, rules, how)
    masks = {name: mask(tokens, rng, step, rules[name]) for name, tokens in sample.items()}
    if how.kind == "hide" and rng.random() < how.share:
        names = [name for name in sample if how.modality in (None, name)]
        if names and len(sample) > 1:
            name = names[int(rng.integers(len(names)))]
            target = maskable(sample[name])
            masks[name] = Mask(target, np.where(target, Action.MASK, Action.KEEP).astype(np.int8), masks[name].source)
    return masks


def _complementary(
    sample: Mapping[str, Tokens], rng: np.random.Generator, step: int, rules: Mapping[str, Rules], how: Plan
) -> dict[str, Mask]:
    leader = how.modality if how.modality in sample else next(iter(sample))
    assert leader is not None
    led = mask(sample[leader], rng, step, rules[leader])
    masks = {}
    for name, tokens in sample.items():
        own = rules[name]
        if name == leader:
            masks[name] = led
        elif how.axis in own.axes and how.axis in rules[leader].axes:
            there = column(sample[leader], rules[leader].axes[how.axis])
            hidden = _nearest(column(tokens, own.axes[how.axis]), there, led.target)
            target = maskable(tokens) & ~hidden
            action = Action.DROP if own.maskings[0].mode == "drop" else Action.MASK
            made = np.where(target, action, Action.KEEP).astype(np.int8)
            masks[name] = something_left(Mask(target, made, np.arange(tokens.size, dtype=np.int64)), rng)
        else:
            kept = 1 - float(led.target.mean())
            first = replace(own.maskings[0], ratio=kept, final_ratio=None)
            masks[name] = mask(tokens, rng, step, own._replace(maskings=(first,)))
    return masks


def _nearest(places: np.ndarray, there: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """`(N,)` bool: whether most of the leader's tokens at the value nearest to each place are hidden."""
    values, group = np.unique(there, return_inverse=True)
    most = np.bincount(group, hidden) * 2 > np.bincount(group)
    right = np.clip(np.searchsorted(values, places), 1, max(len(values) - 1, 1))
    if len(values) == 1:
        return np.full(len(places), most[0])
    return most[np.where(places - values[right - 1] <= values[right] - places, right - 1, right)]


def check(modalities: Mapping[str, Modality], how: Plan, visible: bool) -> None:
    """Check a recipe's masks.

    visible: whether an objective compares or reads out what the masks leave of single modalities.

    Raises:
        ValueError: a kind that is neither a shape nor an axis of the modality, or a plan that cannot be followed.
    """
    for name, modality in modalities.items():
        for masking in rules_of(modality).maskings:
            known = ("random", "span", "block", *modality.axes)
            if masking.kind not in known:
                raise ValueError(f"modalities.{name}.mask.kind is {masking.kind!r}; known: {', '.join(known)}")
            if masking.kind == "block" and modality.widths[2] < 2:
                raise ValueError(f"modalities.{name}.mask.kind 'block' needs tokens on a grid: use 'random' or 'span'")
    if how.modality is not None and how.modality not in modalities:
        raise ValueError(f"masking.modality is {how.modality!r}, which is no modality here")
    axes = {axis for modality in modalities.values() for axis in modality.axes}
    if how.kind == "complementary" and how.axis != Plan.axis and how.axis not in axes:
        axis = ", ".join(sorted(axes)) or "none"
        raise ValueError(f"masking.axis is {how.axis!r}, which is no axis of any modality; known: {axis}")
    if how.kind == "hide" and visible:
        raise ValueError("masking.kind 'hide' leaves nothing of a modality: let the objectives read 'full'")
