"""Which tokens a model must fill in, and what it sees in their place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from modalities.base import Tokens


class Action(IntEnum):
    """What happens to a token on its way into the encoder."""

    KEEP = 0
    DROP = 1
    """not encoded at all; the decoder gets its place (MAE, He et al. 2022)"""
    MASK = 2
    """a learnt vector takes the place of the content (BERT, SimMIM)"""
    RANDOM = 3
    """another content id, given by `source` (BERT's 10%)"""
    ZERO = 4
    NOISE = 5
    SWAP = 6
    """the content of token `source` of the same sample (GMML)"""


class Mask(NamedTuple):
    """Masks of one modality of one sample: target `(N,)` bool, action `(N,)` int8, source `(N,)` int64."""

    target: np.ndarray
    action: np.ndarray
    source: np.ndarray


MODES: dict[str, tuple[tuple[Action, float], ...]] = {
    "drop": ((Action.DROP, 1.0),),
    "mask": ((Action.MASK, 1.0),),
    "bert": ((Action.MASK, 0.8), (Action.RANDOM, 0.1), (Action.KEEP, 0.1)),
    "corrupt": ((Action.ZERO, 0.35), (Action.NOISE, 0.3), (Action.SWAP, 0.35)),
}
"""Shares of the actions among targets. bert: Devlin et al. 2019, 80/10/10; corrupt: GMML, Atito et al. 2021."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How one modality is masked: a recipe's `mask:` key.

    kind: random tokens; spans of about `span` neighbours in a sequence; rectangular blocks of an image grid.
    ratio: share of the maskable tokens that become targets, moving to `final_ratio` over `ratio_steps` steps.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    kind: Literal["random", "span", "block"] = "random"
    ratio: float = 0.15
    mode: Literal["drop", "mask", "bert", "corrupt"] = "mask"
    span: int = 3
    final_ratio: float | None = None
    ratio_steps: int = 0

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), ("final_ratio", self.final_ratio)):
            if ratio is not None and not 0 <= ratio <= 1:
                raise ValueError(f"mask {name} is {ratio}, but a share lies between 0 and 1")
        if self.span < 1:
            raise ValueError(f"mask span is {self.span}, but a span has at least 1 token")
        if self.final_ratio is not None and self.ratio_steps < 1:
            raise ValueError("mask final_ratio needs ratio_steps of 1 or more")

    def ratio_at(self, step: int) -> float:
        """The ratio in force at a training step."""
        if self.final_ratio is None:
            return self.ratio
        return self.ratio + (self.final_ratio - self.ratio) * min(step / self.ratio_steps, 1.0)


def plan(
    sample: dict[str, Tokens],
    rng: np.random.Generator,
    step: int,
    maskings: dict[str, Masking],
    entries: dict[str, int],
) -> dict[str, Mask]:
    """Masks for all modalities of one sample.

    entries: how many content ids a random replacement may draw from, by modality; without any, a token that would
    be replaced at random is masked instead.
    """
    return {name: _mask(tokens, rng, step, maskings[name], entries[name]) for name, tokens in sample.items()}


def maskable(tokens: Tokens) -> np.ndarray:
    """`(N,)` bool: special tokens, those whose content id is MISSING (0), are never masked."""
    return tokens.ids[:, 0] != 0 if tokens.ids.shape[1] else np.ones(len(tokens.ids), bool)


def _mask(tokens: Tokens, rng: np.random.Generator, step: int, masking: Masking, entries: int) -> Mask:
    allowed = np.flatnonzero(maskable(tokens))
    size, ratio = len(tokens.ids), masking.ratio_at(step)
    wanted = int(np.floor(ratio * len(allowed) + rng.random()))  # stochastic rounding: exact on average
    if masking.mode == "drop":
        wanted = min(wanted, size - 1)  # something must remain to be encoded
    chosen = {"random": _random, "span": _span, "block": _block}[masking.kind](tokens, allowed, wanted, masking, rng)
    target = np.zeros(size, bool)
    target[chosen] = True
    action = np.zeros(size, np.int8)
    source = np.arange(size, dtype=np.int64)
    shares = MODES[masking.mode]
    if len(shares) == 1:
        action[chosen] = shares[0][0]
        return Mask(target, action, source)
    ends = np.cumsum([share for _, share in shares])
    action[chosen] = np.array([a for a, _ in shares], np.int8)[np.searchsorted(ends[:-1], rng.random(len(chosen)))]
    replaced = np.flatnonzero(action == Action.RANDOM)
    if entries > 2:
        source[replaced] = rng.integers(2, entries, len(replaced))
    else:
        action[replaced] = Action.MASK
    blank = ~tokens.values.any(1) & ((action == Action.ZERO) | (action == Action.NOISE))
    action[blank] = Action.MASK  # content that is an id would be seen through zeros and noise
    swapped = np.flatnonzero(action == Action.SWAP)
    source[swapped] = allowed[rng.integers(0, max(len(allowed), 1), len(swapped))]
    return Mask(target, action, source)


def _random(_: Tokens, allowed: np.ndarray, wanted: int, __: Masking, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(allowed)[:wanted]


def _span(_: Tokens, allowed: np.ndarray, wanted: int, masking: Masking, rng: np.random.Generator) -> np.ndarray:
    """Runs of `span` neighbours from random starts, the last run cut so that the count is exact."""
    starts = rng.permutation(len(allowed))
    runs = (starts[:, None] + np.arange(masking.span)).ravel()
    runs = runs[runs < len(allowed)]
    return allowed[_first(runs, wanted)]


def _block(tokens: Tokens, allowed: np.ndarray, wanted: int, masking: Masking, rng: np.random.Generator) -> np.ndarray:
    """Squares of side `span` on the grid of the first two coordinates, the last one cut so that the count is exact."""
    if tokens.coords.shape[1] < 2:
        raise ValueError("mask kind 'block' needs tokens on a grid: use 'random' or 'span'")
    grid = tokens.coords[allowed, :2]
    centres = grid[rng.permutation(len(allowed))]
    offset = grid[None] - centres[:, None]  # (centre, token, 2)
    inside = ((offset >= 0) & (offset < masking.span)).all(-1)
    return allowed[_first(np.nonzero(inside)[1], wanted)]


def _first(items: np.ndarray, count: int) -> np.ndarray:
    """The first `count` distinct items, in order of appearance."""
    _, first = np.unique(items, return_index=True)
    return items[np.sort(first)][:count]


def corrupt(tokens: Tokens, mask: Mask, rng: np.random.Generator) -> Tokens:
    """Tokens as the encoder sees them; the same arrays where no content is replaced."""
    if not (mask.action >= Action.RANDOM).any():
        return tokens
    values, ids = tokens.values.copy(), tokens.ids.copy()
    where = {action: mask.action == action for action in Action}
    ids[where[Action.RANDOM], 0] = mask.source[where[Action.RANDOM]]
    values[where[Action.ZERO]] = 0
    values[where[Action.NOISE]] = rng.standard_normal((int(where[Action.NOISE].sum()), values.shape[1]))
    swapped = where[Action.SWAP]
    values[swapped] = tokens.values[mask.source[swapped]]
    ids[swapped, 0] = tokens.ids[mask.source[swapped], 0]
    return tokens._replace(values=values, ids=ids)
