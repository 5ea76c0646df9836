"""The recipe key `mask`, and masks of one modality of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from modalities.tokens import Axes


class Action(IntEnum):
    """How a token enters the encoder."""

    KEEP = 0
    DROP = 1
    """not at all; the decoder gets its position (MAE, He et al. 2022)"""
    MASK = 2
    """with a learned mask token in place of its content (BERT, SimMIM)"""
    RANDOM = 3
    """with the content id `source` (10% of the targets in BERT)"""
    ZERO = 4
    NOISE = 5
    SWAP = 6
    """with the content of token `source` of the same sample (GMML)"""


class Mask(NamedTuple):
    """Mask of the N tokens of one modality of one sample.

    target: `(N,)` bool, tokens to predict. action: `(N,)` int8, an `Action` each. source: `(N,)` int64, the content id
    or the token that replaces the content; the token's own index for other actions.
    """

    target: np.ndarray
    action: np.ndarray
    source: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How one modality is masked. A recipe's `mask` is one such section or a list of them, applied in turn.

    Attributes:
        kind: `random` masks random tokens; `span`, runs of `span` neighboring tokens; `block`, squares of side `span`
            on the grid of the first two coordinates; an axis of the modality (time, frequency, channel), all tokens at
            some of its values, `span` neighboring values at a time. Other packages may register more kinds.
        ratio: Share of the maskable tokens, or of an axis's values, that become targets.
        mode: What the encoder gets in place of targets. `drop`: nothing; `mask`: a mask token; `bert`: a mask token
            (80%), random content (10%) or the content itself (10%; Devlin et al. 2019); `corrupt`: zeros (35%), noise
            (30%) or the content of another token (35%; GMML, Atito et al. 2021).
        span: Number of neighboring tokens: one length, or the range from which lengths are drawn (`[3, 5]` for SSAST's
            clusters). The default is 3, and 1 along an axis.
        final_ratio: Ratio to which `ratio` moves linearly over `ratio_steps` steps; it stays constant by default.
        ratio_steps: Number of training steps over which the ratio moves.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    kind: str = "random"
    ratio: float = 0.15
    mode: str = "mask"
    span: int | tuple[int, int] | None = None
    final_ratio: float | None = None
    ratio_steps: int = 0

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), ("final_ratio", self.final_ratio)):
            if ratio is not None and not 0 <= ratio <= 1:
                raise ValueError(f"mask {name} is {ratio}, but a ratio is between 0 and 1")
        shortest, longest = self.span_range(1)
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"mask span is {self.span}, but a span has at least 1 token and a range its lower end first"
            )
        if self.final_ratio is not None and self.ratio_steps < 1:
            raise ValueError("mask final_ratio needs ratio_steps of 1 or more")

    def span_range(self, default: int) -> tuple[int, int]:
        """Shortest and longest span; `default` if the recipe sets none."""
        if self.span is None or isinstance(self.span, int):
            length = default if self.span is None else self.span
            return length, length
        shortest, longest = self.span
        return shortest, longest

    def ratio_at(self, step: int) -> float:
        """Ratio at a training step."""
        if self.final_ratio is None:
            return self.ratio
        return self.ratio + (self.final_ratio - self.ratio) * min(step / self.ratio_steps, 1.0)


class MaskRules(NamedTuple):
    """Everything that masks of a modality depend on, apart from the tokens.

    num_ids: number of content ids, from which random replacements are drawn; if it is 0, tokens to be replaced get
    mask tokens. overlap: number of neighbors on either side that share content with a token; they are hidden
    with it, so that no target can be copied from them, but are no targets (k-mers; DNABERT, Ji et al. 2021).
    row_axis: axis whose values separate rows of tokens; spans do not cross from one row into another.
    """

    maskings: tuple[Masking, ...]
    num_ids: int = 0
    axes: Axes = MappingProxyType({})
    overlap: int = 0
    row_axis: str | None = None
