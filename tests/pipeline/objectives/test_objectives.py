"""Objectives against plain references, and that together they can learn a batch by heart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import Modality
from modalities.masks.masking import Action
from modalities.tokens import MISSING, Tokens
from pipeline.data.fit import fit_modalities
from pipeline.data.loader import TrainingBatches
from pipeline.data.sets import open_sets
from pipeline.model.batch import Batch, pack
from pipeline.model.modeling import Encoding
from pipeline.objectives import base
from pipeline.objectives.base import Objective, ObjectiveConfig, Term
from pipeline.objectives.contrastive import MAX_LOG_SCALE, Bounded, Contrastive, ContrastiveObjective
from pipeline.objectives.regression import Regression
from pipeline.recipe.load import load
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.launch import create_accelerator
from pipeline.training.module import Pretraining, build_module
from pipeline.training.step import Engine

Draw = Callable[[int], list[dict[str, Tokens]]]
NAMES = ("smiles", "image", "table")


def prepared(recipe: dict[str, Any], **changes: Any) -> tuple[Pretraining, TrainingBatches]:
    """The module a recipe describes and the batches for it."""
    checked = load({**recipe, **changes})
    sets = open_sets(checked, "train", verify=False)
    fitted = fit_modalities(checked, sets)
    torch.manual_seed(0)
    size = checked.train.batch_size
    return build_module(checked, fitted), TrainingBatches(
        sets=sets, modalities=fitted, seed=0, block=checked.data.shuffle_block, batch_size=size, micro_batch_size=size
    )


@pytest.fixture
def holes(kinds: dict[str, Modality], draw: Draw) -> Batch:
    """Eight slots: some lack one modality, one lacks two, one is empty."""
    absent = {1: ("image",), 2: ("smiles",), 4: ("image", "table"), 6: NAMES}
    samples = [{k: v for k, v in s.items() if k not in absent.get(i, ())} for i, s in enumerate(draw(8))]
    return pack(samples, {name: modality.widths for name, modality in kinds.items()})


def embedded(batch: Batch, seed: int = 0) -> Encoding:
    """Random unit embeddings that need gradients, zero where a slot lacks the modality."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {}
    for name, present in batch.present.items():
        rows = F.normalize(torch.randn(batch.size, 6, generator=generator), dim=1) * present.unsqueeze(1)
        embeddings[name] = rows.requires_grad_()
    return Encoding(pooled={}, embeddings=embeddings, tokens={}, fused=torch.zeros(batch.size, 6))


def test_masked_loss_is_the_sum_over_targets(recipe: dict[str, Any]) -> None:
    module, stream = prepared(recipe, objectives={"masked": {"weights": {"table": 0.25}}})
    batch = stream[0]
    encodings = module.model(batch, views=("visible",), decode=True)
    terms = module.objectives["masked"](encodings, batch)
    predictions = encodings["visible"].predictions
    expected = dict.fromkeys(NAMES, 0.0)
    for name, content in batch.packs.items():
        targets = content.target.nonzero().flatten().tolist()
        for row, token in enumerate(targets):
            guess = predictions[name][row]
            if name == "smiles":
                expected[name] += F.cross_entropy(guess, content.ids[token, 0]).item()
            elif name == "image":
                expected[name] += (guess - content.values[token]).square().mean().item()
            else:
                expected[name] += 0.25 * F.smooth_l1_loss(guess[0], content.values[token, 0]).item()
        assert terms[name].count == len(targets) > 0
    assert {name: term.sum.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_masked_loss_ignores_tokens_that_are_not_targets(recipe: dict[str, Any]) -> None:
    module, stream = prepared(recipe, objectives={"masked": {}})
    batch = stream[0]
    encodings = module.model(batch, views=("visible",), decode=True)
    before = module.objectives["masked"](encodings, batch)
    packs = {}
    for name, content in batch.packs.items():
        values = torch.where(content.target.unsqueeze(1), content.values, content.values + 5)
        packs[name] = dataclasses.replace(content, values=values)
    after = module.objectives["masked"](encodings, dataclasses.replace(batch, packs=packs))
    assert {name: term.sum.item() for name, term in before.items()} == {n: t.sum.item() for n, t in after.items()}


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_infonce_is_cross_entropy_over_samples_with_both_modalities(holes: Batch, scale: float) -> None:
    objective = ContrastiveObjective((("smiles", "image"), ("image", "table")), "full", scale)
    ours, theirs = embedded(holes), embedded(holes)
    terms = objective({"full": ours}, holes)
    log_scale = torch.tensor(math.log(scale), requires_grad=True)
    total = torch.zeros(())
    for a, b in objective.pairs:
        both = holes.present[a] & holes.present[b]
        logits = log_scale.exp() * theirs.embeddings[a][both] @ theirs.embeddings[b][both].T
        answers = torch.arange(int(both.sum()))
        reference = sum(F.cross_entropy(x, answers, reduction="sum") for x in (logits, logits.T))
        torch.testing.assert_close(terms[f"{a}-{b}"].sum, reference, rtol=1e-5, atol=1e-4)
        assert terms[f"{a}-{b}"].count == 2 * both.sum()
        total = total + reference
    sum(term.sum for term in terms.values()).backward()
    total.backward()
    for name in NAMES:
        torch.testing.assert_close(ours.embeddings[name].grad, theirs.embeddings[name].grad, rtol=1e-4, atol=1e-4)
        assert not ours.embeddings[name].grad[~holes.present[name]].any()
    inward = log_scale.grad if 1 < scale < 100 else None
    if inward is not None:
        torch.testing.assert_close(objective.log_scale.grad[0], inward, rtol=1e-4, atol=1e-3)


def test_infonce_of_absent_pairs_is_zero_and_finite(kinds: dict[str, Modality], draw: Draw) -> None:
    alone = [{"smiles": sample["smiles"]} for sample in draw(4)]
    batch = pack(alone, {name: modality.widths for name, modality in kinds.items()})
    objective = Contrastive().build(kinds, 32)
    encoding = embedded(batch)
    terms = objective({"full": encoding}, batch)
    assert set(terms) == {"smiles-image", "smiles-table", "image-table"}
    assert all(term.sum == 0 and term.count == 0 for term in terms.values())
    sum(term.sum for term in terms.values()).backward()
    assert not any(embedding.grad.any() for embedding in encoding.embeddings.values())


def test_counts_depend_only_on_the_batch(recipe: dict[str, Any], holes: Batch, kinds: dict[str, Modality]) -> None:
    module, stream = prepared(recipe)
    batch = stream[0]
    counted = module.count(batch)
    terms = module(batch)
    assert list(counted) == list(terms)
    for name, term in terms.items():
        assert counted[name] == term.count
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert module.count(batch) == counted
    contrast = Contrastive().build(kinds, 32).count(holes)
    assert {name: n.item() for name, n in contrast.items()} == {
        "smiles-image": 8,
        "smiles-table": 10,
        "image-table": 10,
    }


def test_pairs_and_reads_follow_the_recipe(kinds: dict[str, Modality], holes: Batch) -> None:
    objective = Contrastive(pairs=(("table", "image"),), reads="visible").build(kinds, 32)
    assert objective.views == ("visible",)
    assert list(objective.count(holes)) == ["table-image"]


@pytest.mark.parametrize(("start", "uphill", "stays"), [(MAX_LOG_SCALE, True, True), (MAX_LOG_SCALE, False, False),
                                                        (0.0, False, True), (0.0, True, False)])  # fmt: skip
def test_at_a_bound_the_gradient_only_points_inward(start: float, uphill: bool, stays: bool) -> None:
    x = torch.tensor([start], requires_grad=True)
    loss = Bounded.apply(x, 0.0, MAX_LOG_SCALE).sum() * (-1 if uphill else 1)
    loss.backward()
    assert bool(x.grad == 0) == stays


def test_outside_a_bound_the_value_is_clamped_and_can_return() -> None:
    x = torch.tensor([MAX_LOG_SCALE + 0.5], requires_grad=True)
    bounded = Bounded.apply(x, 0.0, MAX_LOG_SCALE)
    assert bounded.item() == pytest.approx(MAX_LOG_SCALE)
    bounded.sum().backward()
    assert x.grad == 1


@pytest.mark.parametrize("aligned", [True, False])
def test_the_logit_scale_stays_within_bounds(kinds: dict[str, Modality], draw: Draw, aligned: bool) -> None:
    """Perfect embeddings push the scale up for ever, opposite ones down."""
    batch = pack(draw(4), {name: modality.widths for name, modality in kinds.items()})
    objective = Contrastive(pairs=(("smiles", "image"),), scale=2.0).build(kinds, 32)
    rows = torch.eye(4)
    encoding = Encoding(
        pooled={}, embeddings={"smiles": rows, "image": rows if aligned else -rows}, tokens={}, fused=rows
    )
    optimizer = torch.optim.SGD(objective.parameters(), lr=50.0)
    for _ in range(40):
        term = objective({"full": encoding}, batch)["smiles-image"]
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
    scale = min(max(objective.log_scale.exp().item(), 1.0), 100.0)
    assert scale == pytest.approx(100.0 if aligned else 1.0)
    reference = F.cross_entropy(scale * encoding.embeddings["smiles"] @ encoding.embeddings["image"].T, torch.arange(4))
    again = objective({"full": encoding}, batch)["smiles-image"]
    torch.testing.assert_close(again.sum / again.count, reference)


class PullObjective(Objective):
    """A toy objective: pull the fused features to a learned point, and count the steps."""

    views = ("full",)

    def __init__(self, to: float):
        super().__init__()
        self.point = nn.Parameter(torch.tensor([to]))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"fused": torch.tensor(float(batch.size))}

    def forward(self, encodings: Mapping[str, Encoding], batch: Batch) -> dict[str, Term]:
        loss = (encodings["full"].fused - self.point).square().mean(1).sum()
        return {"fused": Term(loss, self.count(batch)["fused"])}

    def after_step(self) -> None:
        self.steps += 1


def test_an_objective_is_one_file(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.OBJECTIVE_TYPES, "_classes", dict(base.OBJECTIVE_TYPES))

    @base.register
    @dataclass(frozen=True, kw_only=True)
    class Pull(ObjectiveConfig):
        name: ClassVar[str] = "pull"
        to: float = 0.5

        def check(self, modalities: Mapping[str, Modality]) -> None:
            assert modalities

        def build(self, modalities: Mapping[str, Modality], dim: int) -> Objective:
            return PullObjective(self.to)

    checked = load({**recipe, "objectives": {"pull": {"to": 0.25, "weight": 2.0}, "masked": {}}})
    assert load(checked.to_dict()) == checked
    with pytest.raises(ValueError, match="did you mean 'to'"):
        load({**recipe, "objectives": {"pull": {"too": 1}}})
    module, stream = prepared(recipe, objectives={"pull": {"to": 0.25, "weight": 2.0}, "masked": {}})
    assert set(module.views) == {"full", "visible"}
    engine = Engine(module, checked.train, create_accelerator(checked.train, tmp_path))
    reports = [engine.step([stream[0]], 1e-2) for _ in range(4)]
    terms = reports[0].terms
    assert reports[-1].terms["pull/fused"] < terms["pull/fused"]
    assert reports[0].loss == pytest.approx(2 * terms["pull/fused"] + sum(terms[f"masked/{n}"] for n in NAMES))
    pull: Any = engine.unwrapped.objectives["pull"]
    assert pull.steps == 4
    assert pull.point.item() != 0.25
    save_checkpoint(engine, tmp_path / "c", {})
    engine.step([stream[0]], 1e-2)
    load_checkpoint(engine, tmp_path / "c")
    assert pull.steps == 4, "checkpoints hold buffers"


def test_a_batch_can_be_overfitted(recipe: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"dim": 64, "depth": 2, "heads": 4, "embedding": 32, "decoder": {"dim": 64, "depth": 1, "heads": 4}}
    module, stream = prepared(recipe, model=sizes, train={**recipe["train"], "batch_size": 8, "weight_decay": 0.0})
    batch = stream[0]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    means = {"start": math.inf}
    for _ in range(300):
        terms = module(batch)
        losses = {name: term.sum / term.count for name, term in terms.items()}
        means = {name: loss.item() for name, loss in losses.items()}
        learned = [means["masked/smiles"], *(value for name, value in means.items() if name.startswith("contrastive"))]
        if max(learned) < 0.04:
            break
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    assert max(learned) < 0.05, means
    assert means["masked/table"] < 0.1


def test_regression_loss_is_a_sum_over_tokens(kinds: dict[str, Modality], draw: Draw) -> None:
    """What two molecules' tokens in one sample read is the sum of what each reads alone; dropped ones add nothing."""
    torch.manual_seed(0)
    regression = Regression(reads="visible").build(kinds, 32)
    alone = [{"smiles": sample["smiles"]} for sample in draw(2)]
    joined = Tokens(*(np.concatenate(parts) for parts in zip(*(sample["smiles"] for sample in alone), strict=True)))
    widths = {name: modality.widths for name, modality in kinds.items()}
    apart, together = pack(alone, widths), pack([{"smiles": joined}], widths)
    tokens = torch.randn(len(apart.packs["smiles"].sample), 32)
    apart_sum, joint_sum = (regression._sum("smiles", tokens, batch) for batch in (apart, together))
    torch.testing.assert_close(joint_sum[0], apart_sum[:2].sum(0), rtol=0, atol=1e-5)
    together.packs["smiles"].action[0] = Action.DROP
    less = regression._sum("smiles", tokens, together)
    torch.testing.assert_close(less[0], joint_sum[0] - regression.features["smiles"](tokens[0]) / 16, rtol=0, atol=1e-5)


def test_regression_and_its_gradient_equal_a_simple_reference(recipe: dict[str, Any]) -> None:
    module, stream = prepared(recipe, objectives={"regression": {}})
    objective, batch = module.objectives["regression"], stream[0]
    encoding = module.model(batch, views=("full",))["full"]
    terms = objective({"full": encoding}, batch)
    table = batch.packs["table"]
    for source in ("smiles", "image"):
        total, cells = torch.zeros(()), 0
        for cell in range(len(table.sample) - 1):
            slot = int(table.sample[cell])
            if table.ids[cell, 0] == MISSING or not batch.present[source][slot]:
                continue
            in_slot = batch.packs[source].sample == slot
            features = objective.features[source](encoding.tokens[source][in_slot]).sum(0) / 16
            place = objective.position(encoding.position_embeddings["table"][cell])
            guess = objective.head(features * place)[0]
            total = total + F.smooth_l1_loss(guess, table.values[cell, 0])
            cells += 1
        term = terms[f"{source}->table"]
        assert term.count == cells > 0
        torch.testing.assert_close(term.sum, total, rtol=1e-4, atol=1e-4)
        parameters = [*objective.features[source].parameters(), module.model.trunk.norm.weight]
        ours, theirs = (torch.autograd.grad(x, parameters, retain_graph=True) for x in (term.sum, total))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_gradients_do_not_depend_on_thread_order(kinds: dict[str, Modality], draw: Draw) -> None:
    torch.manual_seed(0)
    regression, (sample,) = Regression().build(kinds, 64), draw(1)
    cells = Tokens(*(np.tile(part, (1000, 1)) for part in sample["table"]))
    batch = pack([{**sample, "table": cells}], {name: modality.widths for name, modality in kinds.items()})
    tokens = {name: torch.randn(len(content.sample), 64) for name, content in batch.packs.items()}
    encoding = Encoding(
        pooled={},
        embeddings={},
        tokens={},
        fused=torch.zeros(1, 64),
        unimodal_tokens=tokens,
        position_embeddings={"table": torch.randn(len(cells.ids) + 1, 64)},
    )
    weight = regression.features["smiles"][0].weight
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        terms = [regression({"full": encoding}, batch)["smiles->table"].sum for _ in range(40)]
        first, *other_gradients = [torch.autograd.grad(term, weight)[0] for term in terms]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in other_gradients)
