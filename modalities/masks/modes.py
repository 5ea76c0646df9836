"""Mask modes: the actions that hide targets, and their shares."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from modalities.masks.masking import Action
from modalities.registry import Registry


class MaskMode(ABC):
    """What the encoder gets in place of targets, by its `type`, the recipe's `mask.mode`.

    Subclasses are decorated with `register` and only set class attributes; other packages name them as entry points of
    the group `sensorium.mask_modes`. shares: actions and the share of the targets that gets each; the shares add up to
    1.
    """

    type: ClassVar[str]
    shares: ClassVar[tuple[tuple[Action, float], ...]]


MODES: Registry[MaskMode] = Registry("sensorium.mask_modes")
"""All mask modes by type."""
register = MODES.register


@register
class Drop(MaskMode):
    """Targets are not encoded (MAE, He et al. 2022)."""

    type = "drop"
    shares = ((Action.DROP, 1.0),)


@register
class MaskToken(MaskMode):
    """A learned mask token replaces the content (SimMIM, Xie et al. 2022)."""

    type = "mask"
    shares = ((Action.MASK, 1.0),)


@register
class Bert(MaskMode):
    """Mask token, random content, and unchanged content (BERT, Devlin et al. 2019)."""

    type = "bert"
    shares = ((Action.MASK, 0.8), (Action.RANDOM, 0.1), (Action.KEEP, 0.1))


@register
class Corrupt(MaskMode):
    """Zeros, noise, and content of other tokens (GMML, Atito et al. 2021)."""

    type = "corrupt"
    shares = ((Action.ZERO, 0.35), (Action.NOISE, 0.3), (Action.SWAP, 0.35))
