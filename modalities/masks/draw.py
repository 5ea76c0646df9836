"""Draw the mask of one modality of one sample, and apply it to its tokens."""

from __future__ import annotations

import numpy as np

from modalities.masks.axis import mask_axis
from modalities.masks.masking import Action, Mask, Masking, MaskRules
from modalities.masks.modes import MODES
from modalities.masks.shapes import SHAPES, MaskRequest
from modalities.tokens import Tokens, maskable


def draw_mask(tokens: Tokens, rng: np.random.Generator, step: int, rules: MaskRules) -> Mask:
    """Draw the mask of one modality: the union of its maskings; where they overlap the first one's action wins.

    Raises:
        ValueError: a mask kind or mode that is unknown or needs more coordinates.
    """
    union = _draw_one(tokens, rng, step, rules.maskings[0], rules)
    for masking in rules.maskings[1:]:
        mask = _draw_one(tokens, rng, step, masking, rules)
        new = mask.target & ~union.target | (mask.action != Action.KEEP) & (union.action == Action.KEEP) & ~union.target
        union = Mask(
            union.target | mask.target,
            np.where(new, mask.action, union.action),
            np.where(new, mask.source, union.source),
        )
    return keep_one(union, rng)


def keep_one(mask: Mask, rng: np.random.Generator) -> Mask:
    """Keep a random token if a mask drops all, because the encoder needs at least one; `mask` is changed in place."""
    if len(mask.action) and (mask.action == Action.DROP).all():
        index = rng.integers(len(mask.action))
        mask.target[index], mask.action[index] = False, Action.KEEP
    return mask


def _draw_one(tokens: Tokens, rng: np.random.Generator, step: int, masking: Masking, rules: MaskRules) -> Mask:
    candidates = np.flatnonzero(maskable(tokens))
    indices = _select(tokens, candidates, step, masking, rules, rng)
    size = tokens.size
    target = np.zeros(size, bool)
    target[indices] = True
    action, source = assign_actions(tokens, indices, candidates, masking, rules, rng)
    if rules.overlap:
        near = np.convolve(target, np.ones(2 * rules.overlap + 1), "full")[rules.overlap : size + rules.overlap] > 0
        action[near & ~target & maskable(tokens)] = Action.DROP if masking.mode == "drop" else Action.MASK
    return Mask(target, action, source)


def _select(
    tokens: Tokens,
    candidates: np.ndarray,
    step: int,
    masking: Masking,
    rules: MaskRules,
    rng: np.random.Generator,
) -> np.ndarray:
    """Indices of the targets, by the shape or the axis that `masking.kind` names."""
    ratio = masking.ratio_at(step)
    if masking.kind not in SHAPES and masking.kind in rules.axes:
        return mask_axis(tokens, candidates, ratio, masking, rules.axes[masking.kind], rng)
    shape = SHAPES.find(masking.kind, "mask.kind")()
    if tokens.coords.shape[1] < shape.coordinates:
        raise ValueError(f"mask kind '{masking.kind}' needs tokens on a grid: use 'random' or 'span'")
    count = int(np.floor(ratio * len(candidates) + rng.random()))  # stochastic rounding: exact on average
    if masking.mode == "drop":
        count = min(count, tokens.size - 1)
    return shape.select(MaskRequest(tokens, candidates, count, masking, rules), rng)


def assign_actions(
    tokens: Tokens,
    indices: np.ndarray,
    candidates: np.ndarray,
    masking: Masking,
    rules: MaskRules,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Actions `(N,)` int8 and sources `(N,)` int64 of all tokens; targets `indices` get the actions of the mode."""
    action, source = np.zeros(tokens.size, np.int8), np.arange(tokens.size, dtype=np.int64)
    shares = MODES.find(masking.mode, "mask.mode").shares
    if len(shares) == 1 and shares[0][0] in (Action.DROP, Action.MASK):  # no random numbers, no content to replace
        action[indices] = shares[0][0]
        return action, source
    ends = np.cumsum([share for _, share in shares])
    action[indices] = np.array([a for a, _ in shares], np.int8)[np.searchsorted(ends[:-1], rng.random(len(indices)))]
    random = np.flatnonzero(action == Action.RANDOM)
    if rules.num_ids > 2:
        source[random] = rng.integers(2, rules.num_ids, len(random))
    else:
        action[random] = Action.MASK
    empty = ~tokens.values.any(1) & ((action == Action.ZERO) | (action == Action.NOISE))
    action[empty] = Action.MASK  # zeros and noise in values would leave content in ids visible
    swap = np.flatnonzero(action == Action.SWAP)
    source[swap] = candidates[rng.integers(0, max(len(candidates), 1), len(swap))]
    return action, source


def corrupt(tokens: Tokens, mask: Mask, rng: np.random.Generator) -> Tokens:
    """Replace content as the mask says; returns the same arrays if no content is replaced."""
    if not (mask.action >= Action.RANDOM).any():
        return tokens
    values, ids = tokens.values.copy(), tokens.ids.copy()
    random, zero, noise, swap = (
        mask.action == action for action in (Action.RANDOM, Action.ZERO, Action.NOISE, Action.SWAP)
    )
    ids[random, 0] = mask.source[random]
    values[zero] = 0
    values[noise] = rng.standard_normal((int(noise.sum()), values.shape[1]))
    values[swap] = tokens.values[mask.source[swap]]
    ids[swap, 0] = tokens.ids[mask.source[swap], 0]
    return tokens._replace(values=values, ids=ids)
