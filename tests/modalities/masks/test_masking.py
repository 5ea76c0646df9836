from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modalities.masks.draw import corrupt, draw_mask
from modalities.masks.masking import Action, Mask, Masking, MaskRules
from modalities.masks.modes import MODES
from modalities.tokens import Axes, Tokens, maskable

KINDS = ("random", "span", "block")
seeds = st.integers(0, 2**32 - 1)
ratios = st.floats(0, 1)


def grid(rows: int, columns: int, special: np.ndarray | None = None, width: int = 3, seed: int = 0) -> Tokens:
    """Tokens on a grid with random content; those of `special` have content id 0."""
    rng = np.random.default_rng(seed)
    coords = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    ids = rng.integers(2, 9, (len(coords), 2))
    if special is not None:
        ids[special, 0] = 0
    values = rng.standard_normal((len(coords), width)).astype(np.float32)
    return Tokens(values, ids, coords.astype(np.float32))


def masked(tokens: Tokens, seed: int = 0, step: int = 0, num_ids: int = 9, **masking: Any) -> Mask:
    """The mask of one modality on its own."""
    return draw_mask(tokens, np.random.default_rng(seed), step, MaskRules((Masking(**masking),), num_ids))


@st.composite
def samples(draw: st.DrawFn) -> Tokens:
    rows, columns = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    special = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return grid(rows, columns, np.array(special), width=draw(st.integers(0, 3)), seed=draw(st.integers(0, 9)))


@given(samples(), st.sampled_from(KINDS), st.sampled_from(sorted(MODES)), ratios, st.integers(1, 4), seeds)
def test_properties_of_every_mask(tokens: Tokens, kind: str, mode: str, ratio: float, span: int, seed: int) -> None:
    mask = masked(tokens, seed, kind=kind, mode=mode, ratio=ratio, span=span)
    n = tokens.size
    assert [(part.shape, part.dtype) for part in mask] == [((n,), np.bool_), ((n,), np.int8), ((n,), np.int64)]

    exact = ratio * maskable(tokens).sum()
    room = n - 1 if mode == "drop" else n
    assert mask.target.sum() in {min(int(np.floor(exact)), room), min(int(np.ceil(exact)), room)}
    assert not mask.target[tokens.ids[:, 0] == 0].any()

    assert (mask.action[~mask.target] == Action.KEEP).all()
    allowed = {action for action, _ in MODES[mode].shares} | ({Action.MASK} if mode == "corrupt" else set())
    assert set(mask.action[mask.target].tolist()) <= allowed
    if mode == "drop":
        assert (mask.action == Action.KEEP).any()

    random, swap = mask.action == Action.RANDOM, mask.action == Action.SWAP
    assert ((mask.source[random] >= 2) & (mask.source[random] < 9)).all()
    assert maskable(tokens)[mask.source[swap]].all()
    assert (mask.source[~random & ~swap] == np.flatnonzero(~random & ~swap)).all()

    again = masked(tokens, seed, kind=kind, mode=mode, ratio=ratio, span=span)
    assert all((a == b).all() for a, b in zip(mask, again, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 0.13, 0.5, 0.77, 1.0])
def test_ratio_is_exact_on_average(kind: str, ratio: float) -> None:
    tokens = grid(3, 4, np.arange(12) == 5)
    counts = [masked(tokens, seed, kind=kind, ratio=ratio).target.sum() for seed in range(1500)]
    assert abs(np.mean(counts) - ratio * 11) < 5 * 0.5 / len(counts) ** 0.5
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_may_become_a_target_and_seeds_differ(kind: str) -> None:
    tokens = grid(6, 7)
    targets = np.array([masked(tokens, seed, kind=kind, ratio=0.3).target for seed in range(300)])
    assert targets.any(0).all()
    assert len(np.unique(targets, axis=0)) > 250


@pytest.mark.parametrize(
    ("mode", "shares"),
    [
        ("drop", {Action.DROP: 1}),
        ("mask", {Action.MASK: 1}),
        ("bert", {Action.MASK: 0.8, Action.RANDOM: 0.1, Action.KEEP: 0.1}),
        ("corrupt", {Action.ZERO: 0.35, Action.NOISE: 0.3, Action.SWAP: 0.35}),
    ],
)
def test_actions_have_their_shares(mode: str, shares: dict[Action, float]) -> None:
    mask = masked(grid(150, 150), mode=mode, ratio=0.9)
    action = mask.action[mask.target]
    assert sum(shares.values()) == pytest.approx(1)
    for kind, share in shares.items():
        spread = (share * (1 - share) / len(action)) ** 0.5
        assert abs((action == kind).mean() - share) <= 5 * spread


def test_replacements_are_drawn_from_all_content_ids_only() -> None:
    tokens = grid(40, 40, np.arange(1600) % 3 == 0)
    mask = masked(tokens, mode="bert", ratio=1.0, num_ids=7)
    assert set(mask.source[mask.action == Action.RANDOM].tolist()) == {2, 3, 4, 5, 6}
    mask = masked(tokens, mode="corrupt", ratio=1.0)
    sources = mask.source[mask.action == Action.SWAP]
    assert maskable(tokens)[sources].all()
    assert len(set(sources.tolist())) > 200


def test_a_lone_token_is_never_dropped() -> None:
    assert not masked(grid(1, 1), mode="drop", ratio=1.0).target.any()
    assert masked(grid(1, 1), mode="mask", ratio=1.0).target.all()
    assert (masked(grid(5, 5), mode="drop", ratio=1.0).action == Action.KEEP).sum() == 1


@pytest.mark.parametrize("mode", sorted(MODES))
def test_samples_without_maskable_tokens_have_no_targets(mode: str) -> None:
    assert not masked(grid(2, 3, np.ones(6, bool)), mode=mode, ratio=1.0).target.any()


def test_without_a_vocabulary_a_random_replacement_is_masked() -> None:
    for num_ids in (0, 2):
        action = masked(grid(30, 30), mode="bert", ratio=1.0, num_ids=num_ids).action
        assert set(action.tolist()) == {Action.MASK, Action.KEEP}


def test_tokens_without_identity_are_all_maskable() -> None:
    tokens = grid(2, 2)._replace(ids=np.zeros((4, 0), np.int64))
    assert maskable(tokens).all()
    assert masked(tokens, ratio=1.0).target.all()


@given(st.integers(2, 80), st.integers(1, 6), ratios, seeds, st.data())
def test_spans_are_runs_of_neighbors(n: int, span: int, ratio: float, seed: int, data: st.DataObject) -> None:
    special = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    assume(not special.all())
    target = masked(grid(n, 1, special), seed, kind="span", span=span, ratio=ratio).target[~special]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], target.astype(int), [0]])))
    runs = list(zip(edges[::2], edges[1::2], strict=True))
    short = [run for run in runs if run[1] - run[0] < span and run[1] < len(target)]
    assert len(short) <= 1  # the last one targets is cut so that the count is exact


@given(st.integers(2, 10), st.integers(2, 10), st.integers(1, 4), ratios, seeds)
def test_blocks_are_squares_on_the_grid(rows: int, columns: int, side: int, ratio: float, seed: int) -> None:
    target = masked(grid(rows, columns), seed, kind="block", span=side, ratio=ratio).target.reshape(rows, columns)
    covered = np.zeros_like(target)
    for r in range(rows):
        for c in range(columns):
            square = np.s_[r : r + side, c : c + side]
            if target[square].all():
                covered[square] = True
    assert (target & ~covered).sum() < side**2  # the last square is cut so that the count is exact


def test_a_block_masks_all_bands_of_a_position() -> None:
    one = grid(6, 6)
    both = Tokens(*(np.concatenate([part, part]) for part in one))
    for seed in range(20):
        target = masked(both, seed, kind="block", span=3, ratio=0.5).target.reshape(2, 36)
        assert (target[0] ^ target[1]).sum() <= 9  # the last square is cut so that the count is exact


@pytest.mark.parametrize("width", [0, 1])
def test_block_without_a_grid_is_refused(width: int) -> None:
    tokens = grid(3, 3)
    with pytest.raises(ValueError, match="grid"):
        masked(tokens._replace(coords=tokens.coords[:, :width]), kind="block")


@given(ratios, ratios, st.integers(1, 1000))
def test_ratio_schedules(first: float, last: float, steps: int) -> None:
    masking = Masking(ratio=first, final_ratio=last, ratio_steps=steps)
    course = [masking.ratio_at(step) for step in range(0, 2 * steps, max(steps // 10, 1))]
    assert masking.ratio_at(0) == first
    assert masking.ratio_at(steps) == masking.ratio_at(10 * steps) == pytest.approx(last)
    assert course == pytest.approx(sorted(course, reverse=last < first))
    assert Masking(ratio=first).ratio_at(steps) == first


def test_schedule_reaches_the_plan() -> None:
    tokens = grid(10, 10)
    targets = [
        masked(tokens, step=step, ratio=0.1, final_ratio=0.5, ratio_steps=100).target.sum() for step in (0, 50, 999)
    ]
    assert targets == [10, 30, 50]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": -0.1},
        {"ratio": 1.1},
        {"span": 0},
        {"span": [5, 3]},
        {"final_ratio": 2.0, "ratio_steps": 1},
        {"final_ratio": 0.5},
    ],
)
def test_unusable_maskings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Masking(**wrong)


@pytest.mark.parametrize("mode", ["mask", "drop"])
def test_hidden_tokens_are_not_copied(mode: str) -> None:
    tokens = grid(4, 4)
    assert corrupt(tokens, masked(tokens, mode=mode, ratio=0.5), np.random.default_rng(0)) is tokens


@given(samples(), st.sampled_from(["bert", "corrupt"]), ratios, seeds)
def test_corruption_follows_the_actions(tokens: Tokens, mode: str, ratio: float, seed: int) -> None:
    before = [part.copy() for part in tokens]
    mask = masked(tokens, seed, mode=mode, ratio=ratio)
    corrupted = corrupt(tokens, mask, np.random.default_rng(seed))

    assert all((a == b).all() for a, b in zip(tokens, before, strict=True))
    assert [part.dtype for part in corrupted] == [part.dtype for part in tokens]
    assert corrupted.coords is tokens.coords
    assert (corrupted.ids[:, 1:] == tokens.ids[:, 1:]).all()

    for action in Action:
        at = mask.action == action
        values, content = corrupted.values[at], corrupted.ids[at, 0]
        source = mask.source[at]
        if action == Action.RANDOM:
            assert (content == source).all()
        elif action == Action.SWAP:
            assert (content == tokens.ids[source, 0]).all()
        else:
            assert (content == tokens.ids[at, 0]).all()
        if action == Action.ZERO:
            assert (values == 0).all()
        elif action == Action.NOISE:
            assert (values != tokens.values[at]).any(1).all()
        elif action == Action.SWAP:
            assert (values == tokens.values[source]).all()
        else:
            assert (values == tokens.values[at]).all()


def test_corruption_never_shows_content_ids() -> None:
    tokens = grid(20, 20, width=0)
    mask = masked(tokens, mode="corrupt", ratio=1.0)
    assert set(mask.action.tolist()) == {Action.MASK, Action.SWAP}


def recording(channels: int, times: int, special: np.ndarray | None = None) -> Tokens:
    """Tokens of several channels over time, the channel in the second id."""
    tokens = grid(channels, times, special)
    ids = np.column_stack([tokens.ids[:, 0], tokens.coords[:, 0].astype(np.int64)])
    return tokens._replace(ids=ids, coords=tokens.coords[:, 1:] * np.float32(0.1))


AXES: Axes = {"channel": ("ids", 1), "time": ("coords", 0)}


@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from(sorted(AXES)), st.integers(1, 3), ratios, seeds)
def test_an_axis_is_masked_by_complete_positions(
    channels: int, times: int, axis: str, span: int, ratio: float, seed: int
) -> None:
    tokens = recording(channels, times)
    mask = draw_mask(
        tokens,
        np.random.default_rng(seed),
        0,
        MaskRules((Masking(kind=axis, ratio=ratio, span=span),), 9, AXES, row_axis="channel"),
    )
    shape = mask.target.reshape(channels, times)
    values = shape if axis == "channel" else shape.T
    assert (values.all(1) | ~values.any(1)).all()
    assert values.all(1).sum() in {int(np.floor(ratio * len(values))), int(np.ceil(ratio * len(values)))}
    runs = np.flatnonzero(np.diff(np.concatenate([[0], values[:, 0].astype(int), [0]])))
    short = [end for start, end in zip(runs[::2], runs[1::2], strict=True) if end - start < span and end < len(values)]
    assert len(short) <= 1


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4), ratios, seeds, st.booleans())
def test_spans_stay_within_a_channel(
    channels: int, times: int, span: int, ratio: float, seed: int, by_time: bool
) -> None:
    tokens = recording(channels, times)
    if by_time:  # tokens in another order: all channels of a time, then the next
        order = np.arange(channels * times).reshape(channels, times).T.ravel()
        tokens = Tokens(*(part[order] for part in tokens))
    rules = MaskRules((Masking(kind="span", ratio=ratio, span=span),), 9, AXES, row_axis="channel")
    mask = draw_mask(tokens, np.random.default_rng(seed), 0, rules)
    rows = mask.target.reshape(times, channels).T if by_time else mask.target.reshape(channels, times)
    short = 0
    for row in rows:
        runs = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        short += sum(b - a < span and b < times for a, b in zip(runs[::2], runs[1::2], strict=True))
    assert short <= 1


@given(st.integers(2, 40), st.integers(1, 4), st.sampled_from(["random", "span"]), st.floats(0, 0.6), seeds, st.data())
def test_tokens_that_overlap_a_target_are_hidden(
    n: int, overlap: int, kind: str, ratio: float, seed: int, data: st.DataObject
) -> None:
    special = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    tokens = grid(n, 1, special)
    mode = data.draw(st.sampled_from(["mask", "drop"]))
    rules = MaskRules((Masking(kind=kind, ratio=ratio, mode=mode),), 9, {}, overlap)
    mask = draw_mask(tokens, np.random.default_rng(seed), 0, rules)
    hidden = mask.action != Action.KEEP
    plain = draw_mask(tokens, np.random.default_rng(seed), 0, rules._replace(overlap=0))
    kept_one = mode == "drop" and (~hidden).sum() == 1
    for place in np.flatnonzero(mask.target):
        beside = np.arange(max(place - overlap, 0), min(place + overlap + 1, n))
        assert kept_one or hidden[beside][~special[beside]].all()
    assert kept_one or (mask.target == plain.target).all()
    assert not hidden[special].any()


def test_successive_maskings_form_a_union() -> None:
    tokens = recording(12, 20)
    leads, spans = Masking(kind="channel", ratio=0.5), Masking(kind="span", ratio=0.2, mode="drop", span=(2, 4))
    mask = draw_mask(tokens, np.random.default_rng(0), 0, MaskRules((leads, spans), 9, AXES, row_axis="channel"))
    rows = mask.target.reshape(12, 20)
    complete = (mask.action.reshape(12, 20) == Action.MASK).all(1)
    assert complete.sum() == 6
    assert rows[complete].all()
    dropped = mask.action.reshape(12, 20) == Action.DROP
    assert dropped[~complete].any()
    assert not dropped[complete].any()
    assert (rows == (mask.action.reshape(12, 20) != Action.KEEP)).all()


def test_lengths_of_spans_are_drawn_from_a_range() -> None:
    lengths = set()
    for seed in range(200):
        target = masked(grid(60, 1), seed, kind="span", ratio=0.1, span=(2, 5)).target
        runs = np.flatnonzero(np.diff(np.concatenate([[0], target.astype(int), [0]])))
        lengths.add(int(runs[1] - runs[0]))
    assert {2, 3, 4, 5} <= lengths


def test_blocks_are_counted_in_steps_of_the_grid() -> None:
    tokens = grid(6, 6)
    scaled = tokens._replace(coords=tokens.coords * np.array([0.08, 16.0], np.float32))
    for seed in range(20):
        ours, theirs = (masked(t, seed, kind="block", span=3, ratio=0.4).target for t in (scaled, tokens))
        assert (ours == theirs).all()
