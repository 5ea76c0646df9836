"""Which tokens a model must fill in, and what it sees in their place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from modalities.tokens import Axes, Tokens, column, maskable


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


SHAPES = ("random", "span", "block")


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How one modality is masked: a recipe's `mask:` key, which may also be a list of them, applied in turn.

    kind: random tokens; spans of about `span` neighbours in a row, within a channel where there are several;
    rectangular blocks of side `span` on the grid of the first two coordinates; or the name of one of the modality's
    axes (time, frequency, channel), whose values become targets whole, `span` neighbouring values at a time.
    span: one length or the range that lengths are drawn from (SSAST's clusters: [3, 5]); 3 if not given, along an
    axis 1. ratio: share of the maskable tokens (or of an axis's values) that become targets, moving to `final_ratio`
    over `ratio_steps` steps.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    kind: str = "random"
    ratio: float = 0.15
    mode: Literal["drop", "mask", "bert", "corrupt"] = "mask"
    span: int | tuple[int, int] | None = None
    final_ratio: float | None = None
    ratio_steps: int = 0

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), ("final_ratio", self.final_ratio)):
            if ratio is not None and not 0 <= ratio <= 1:
                raise ValueError(f"mask {name} is {ratio}, but a share lies between 0 and 1")
        low, high = self.lengths
        if not 1 <= low <= high:
            raise ValueError(
                f"mask span is {self.span}, but a span has at least 1 token and a range its lower end first"
            )
        if self.final_ratio is not None and self.ratio_steps < 1:
            raise ValueError("mask final_ratio needs ratio_steps of 1 or more")

    @property
    def lengths(self) -> tuple[int, int]:
        """Shortest and longest span."""
        if isinstance(self.span, int):
            return self.span, self.span
        return self.span or ((3, 3) if self.kind in SHAPES else (1, 1))

    def ratio_at(self, step: int) -> float:
        """The ratio in force at a training step."""
        if self.final_ratio is None:
            return self.ratio
        return self.ratio + (self.final_ratio - self.ratio) * min(step / self.ratio_steps, 1.0)


class Rules(NamedTuple):
    """What masks of a modality depend on.

    entries: how many content ids a random replacement may draw from; without any, a token that would be replaced at
    random is masked instead. overlap: how many neighbours on either side share content with a token: they are hidden
    with it, so that no target can be read off them, but are no targets themselves (k-mers; DNABERT, Ji et al. 2021).
    """

    maskings: tuple[Masking, ...]
    entries: int = 0
    axes: Axes = MappingProxyType({})
    overlap: int = 0


def mask(tokens: Tokens, rng: np.random.Generator, step: int, rules: Rules) -> Mask:
    """The mask of one modality of one sample: the union of its maskings, the first to hide a token saying how."""
    whole = _mask(tokens, rng, step, rules.maskings[0], rules)
    for masking in rules.maskings[1:]:
        more = _mask(tokens, rng, step, masking, rules)
        new = more.target & ~whole.target | (more.action != Action.KEEP) & (whole.action == Action.KEEP) & ~whole.target
        whole = Mask(
            whole.target | more.target,
            np.where(new, more.action, whole.action),
            np.where(new, more.source, whole.source),
        )
    return something_left(whole, rng)


def something_left(mask: Mask, rng: np.random.Generator) -> Mask:
    """The mask with one token kept where all would be dropped: something must remain to be encoded."""
    if len(mask.action) and (mask.action == Action.DROP).all():
        kept = rng.integers(len(mask.action))
        mask.target[kept], mask.action[kept] = False, Action.KEEP
    return mask


def _mask(tokens: Tokens, rng: np.random.Generator, step: int, masking: Masking, rules: Rules) -> Mask:
    allowed = np.flatnonzero(maskable(tokens))
    size, ratio = len(tokens.ids), masking.ratio_at(step)
    if masking.kind in SHAPES:
        wanted = int(np.floor(ratio * len(allowed) + rng.random()))  # stochastic rounding: exact on average
        if masking.mode == "drop":
            wanted = min(wanted, size - 1)
        draw = {"random": _random, "span": _span, "block": _block}[masking.kind]
        chosen = draw(tokens, allowed, wanted, masking, rules.axes, rng)
    else:
        chosen = _along(tokens, allowed, ratio, masking, rules.axes, rng)
    target = np.zeros(size, bool)
    target[chosen] = True
    action = np.zeros(size, np.int8)
    source = np.arange(size, dtype=np.int64)
    shares = MODES[masking.mode]
    if len(shares) == 1:
        action[chosen] = shares[0][0]
    else:
        _share_out(tokens, chosen, allowed, shares, action, source, rules.entries, rng)
    if rules.overlap:
        beside = np.convolve(target, np.ones(2 * rules.overlap + 1), "full")[rules.overlap : size + rules.overlap] > 0
        action[beside & ~target & maskable(tokens)] = Action.DROP if masking.mode == "drop" else Action.MASK
    return Mask(target, action, source)


def _share_out(
    tokens: Tokens,
    chosen: np.ndarray,
    allowed: np.ndarray,
    shares: tuple[tuple[Action, float], ...],
    action: np.ndarray,
    source: np.ndarray,
    entries: int,
    rng: np.random.Generator,
) -> None:
    """Give each chosen token one of several actions, by their shares, and its source."""
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


def _random(
    _: Tokens, allowed: np.ndarray, wanted: int, __: Masking, ___: Axes, rng: np.random.Generator
) -> np.ndarray:
    return rng.permutation(allowed)[:wanted]


def _runs(row: np.ndarray, masking: Masking, rng: np.random.Generator) -> np.ndarray:
    """Places `(M,)` of runs of neighbours from random starts, in the order drawn; none crosses into another row."""
    starts = rng.permutation(len(row))
    low, high = masking.lengths
    lengths = rng.integers(low, high + 1, len(row)) if low < high else np.full(len(row), low)
    steps = np.arange(high)
    places = starts[:, None] + steps
    inside = (places < len(row)) & (steps < lengths[:, None])
    inside &= row[np.minimum(places, len(row) - 1)] == row[starts][:, None]
    return places[inside]


def _span(
    tokens: Tokens, allowed: np.ndarray, wanted: int, masking: Masking, axes: Axes, rng: np.random.Generator
) -> np.ndarray:
    """Runs of neighbours, the last one cut so that the count is exact."""
    row = column(tokens, axes["channel"])[allowed] if "channel" in axes else np.zeros(len(allowed))
    order = np.argsort(row, kind="stable")
    return allowed[order][_first(_runs(row[order], masking, rng), wanted)] if len(allowed) else allowed


def _block(
    tokens: Tokens, allowed: np.ndarray, wanted: int, masking: Masking, _: Axes, rng: np.random.Generator
) -> np.ndarray:
    """Squares on the grid of the first two coordinates, the last one cut so that the count is exact."""
    if tokens.coords.shape[1] < 2:
        raise ValueError("mask kind 'block' needs tokens on a grid: use 'random' or 'span'")
    cells = np.stack([_steps(tokens.coords[allowed, axis]) for axis in range(2)], 1)
    low, high = masking.lengths
    sides = rng.integers(low, high + 1, len(allowed)) if low < high else np.full(len(allowed), low)
    hidden, count = np.zeros(len(allowed), bool), 0
    for start, side in zip(rng.permutation(len(allowed)), sides, strict=True):
        if count == wanted:
            break
        offset = cells - cells[start]
        inside = ((offset >= 0) & (offset < side)).all(1) & ~hidden
        new = np.flatnonzero(inside)[: wanted - count]
        hidden[new] = True
        count += len(new)
    return allowed[hidden]


def _steps(values: np.ndarray) -> np.ndarray:
    """Coordinates as whole steps of their own grid."""
    held = np.unique(values)
    return np.rint((values - held[:1]) / (np.diff(held).min() if len(held) > 1 else 1.0)).astype(np.int64)


def _along(
    tokens: Tokens, allowed: np.ndarray, ratio: float, masking: Masking, axes: Axes, rng: np.random.Generator
) -> np.ndarray:
    """All tokens at some of an axis's values."""
    values, group = np.unique(column(tokens, axes[masking.kind])[allowed], return_inverse=True)
    wanted = int(np.floor(ratio * len(values) + rng.random()))
    picked = _first(_runs(np.zeros(len(values)), masking, rng), wanted) if len(values) else values
    return allowed[np.isin(group, picked)]


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
