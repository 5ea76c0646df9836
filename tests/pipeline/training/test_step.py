"""The training step against plain references, checkpoints, and what happens when things go wrong."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.data.fit import fit_modalities
from pipeline.data.loader import TrainingBatches
from pipeline.data.sets import open_sets
from pipeline.recipe.load import load
from pipeline.recipe.schema import Recipe, Schedule
from pipeline.training import checkpoint, launch
from pipeline.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from pipeline.training.launch import create_accelerator
from pipeline.training.module import build_module
from pipeline.training.schedule import learning_rate, parameter_groups
from pipeline.training.step import Engine


def create(recipe: dict[str, Any], tmp_path: Path, **train: Any) -> tuple[Recipe, Engine, TrainingBatches]:
    """An engine and the stream that feeds it."""
    checked = load({**recipe, "train": {**recipe["train"], **train}})
    sets = open_sets(checked, "train", verify=False)
    fitted = fit_modalities(checked, sets)
    torch.manual_seed(0)
    module = build_module(checked, fitted)
    engine = Engine(module, checked.train, create_accelerator(checked.train, tmp_path))
    size = checked.train.micro_batch_size or checked.train.batch_size
    stream = TrainingBatches(
        sets=sets,
        modalities=fitted,
        seed=checked.train.seed,
        block=checked.data.shuffle_block,
        batch_size=checked.train.batch_size,
        micro_batch_size=size,
    )
    return checked, engine, stream


def plain_gradients(engine: Engine, batch: Any) -> dict[str, torch.Tensor]:
    """Gradients of the mean of every term, by autograd and nothing else."""
    engine.unwrapped.zero_grad()
    terms = engine.unwrapped(batch)
    sum(term.sum / term.count for term in terms.values()).backward()
    gradients = {name: p.grad.clone() for name, p in engine.unwrapped.named_parameters()}
    engine.unwrapped.zero_grad()
    return gradients


def test_a_step_is_adamw_on_the_mean_of_every_term(recipe: dict[str, Any], tmp_path: Path) -> None:
    checked, engine, stream = create(recipe, tmp_path, gradient_clip=1e9)
    batch = stream[0]
    gradients = plain_gradients(engine, batch)
    assert all(gradient is not None for gradient in gradients.values())
    reference = build_module(checked, engine.unwrapped.model.modalities)
    reference.load_state_dict(engine.unwrapped.state_dict())
    optimizer = torch.optim.AdamW(parameter_groups(reference, checked.train.weight_decay), betas=checked.train.betas)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    for name, parameter in reference.named_parameters():
        parameter.grad = gradients[name]
    optimizer.step()
    report = engine.step([batch], 1e-3)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
    assert report.gradient_norm == pytest.approx(norm, rel=1e-4)
    for (name, ours), theirs in zip(engine.unwrapped.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6, msg=name)


def test_two_micro_batches_of_masked_modeling_equal_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Sums are divided by the count of the whole step, so cutting a batch changes nothing."""
    recipe = {**recipe, "objectives": {"masked": {}}}
    _, single, stream = create(recipe, tmp_path)
    _, halves, cut = create(recipe, tmp_path, micro_batch_size=8)
    one = single.step([stream[0]], 1e-3)
    two = halves.step([cut[0], cut[1]], 1e-3)
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.terms == pytest.approx(one.terms, rel=1e-5)
    for (name, a), b in zip(single.unwrapped.named_parameters(), halves.unwrapped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=name)


def test_no_gradient_is_none_when_modalities_are_absent(recipe: dict[str, Any], tmp_path: Path) -> None:
    """A batch of SMILES alone still runs every module, by the dummy rows."""
    _, engine, stream = create(recipe, tmp_path)
    from pipeline.model.batch import pack

    samples, masks = [], []
    for position in range(4):
        _, tokens, mask, _ = stream.sample(stream.order.locate(position), 0)
        samples.append({"smiles": tokens["smiles"]})
        masks.append({"smiles": mask["smiles"]})
    widths = {name: m.widths for name, m in engine.unwrapped.model.modalities.items()}
    batch = pack(samples, widths, masks, samples)
    terms = engine.unwrapped(batch)
    sum(term.sum for term in terms.values()).backward()
    assert all(p.grad is not None for p in engine.unwrapped.parameters())
    assert terms["masked/image"].sum.item() == 0
    assert terms["contrastive/smiles-image"].sum.item() == 0
    engine.unwrapped.zero_grad()
    assert engine.step([batch], 1e-3).applied


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_step_leaves_no_trace(recipe: dict[str, Any], tmp_path: Path, bad: float) -> None:
    _, engine, stream = create(recipe, tmp_path)
    engine.step([stream[0]], 1e-3)
    before = {name: p.detach().clone() for name, p in engine.unwrapped.named_parameters()}
    batch = stream[1]
    batch.packs["table"].values[0] = bad
    report = engine.step([batch], 1e-3)
    assert not report.applied
    assert engine.updates == 1
    for name, p in engine.unwrapped.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None or not p.grad.abs().sum()
    again = engine.step([stream[2]], 1e-3)
    _, other, _ = create(recipe, tmp_path)
    other.step([stream[0]], 1e-3)
    assert other.step([stream[2]], 1e-3).loss == again.loss


def test_a_checkpoint_restores_everything(recipe: dict[str, Any], tmp_path: Path) -> None:
    _, engine, stream = create(recipe, tmp_path)
    for i in range(3):
        engine.step([stream[i]], 1e-3)
    save_checkpoint(engine, tmp_path / "c", {"position": 48})
    losses = [engine.step([stream[i]], 1e-3).loss for i in range(3, 6)]
    _, other, _ = create(recipe, tmp_path)
    assert load_checkpoint(other, tmp_path / "c")["position"] == 48
    assert [other.step([stream[i]], 1e-3).loss for i in range(3, 6)] == losses


def test_a_checkpoint_of_an_earlier_version_resumes(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Parameters had other names: `entries.NAME.kind` is now `input_embeddings.NAME.type_embedding`."""
    objectives = {"masked": {}, "regression": {"target": "table"}}
    _, engine, stream = create({**recipe, "objectives": objectives}, tmp_path)
    engine.step([stream[0]], 1e-3)
    save_checkpoint(engine, tmp_path / "c", {"position": 16})
    tensors = read_checkpoint(tmp_path / "c")
    (path,) = (tmp_path / "c").glob("*.safetensors")
    pairs = [("input_embeddings.", "entries."), (".type_embedding", ".kind"), (".mask_token", ".hidden")]
    pairs += [("decoder.drop_token", "decoder.dropped"), (".position.", ".place.")]
    former = {}
    for name, value in tensors.items():
        for new, old in pairs:
            name = name.replace(new, old)
        former[name] = value
    assert {"parameter:model.entries.smiles.kind", "exp_avg:objectives.regression.place.weight"} < former.keys()
    save_file(former, path)
    assert read_checkpoint(tmp_path / "c").keys() == tensors.keys()
    loss = engine.step([stream[1]], 1e-3).loss
    _, other, _ = create({**recipe, "objectives": objectives}, tmp_path)
    load_checkpoint(other, tmp_path / "c")
    assert other.step([stream[1]], 1e-3).loss == loss


def test_a_checkpoint_without_a_parameter_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    _, engine, _ = create(recipe, tmp_path)
    save_checkpoint(engine, tmp_path / "c", {})
    (path,) = (tmp_path / "c").glob("*.safetensors")
    save_file({k: v for k, v in load_file(path).items() if k != "parameter:model.decoder.drop_token"}, path)
    with pytest.raises(ValueError, match=r"has no parameter model\.decoder\.drop_token: another version"):
        load_checkpoint(engine, tmp_path / "c")


def test_a_checkpoint_stores_parameters_and_moments_by_name(recipe: dict[str, Any], tmp_path: Path) -> None:
    _, engine, stream = create(recipe, tmp_path)
    engine.step([stream[0]], 1e-3)
    save_checkpoint(engine, tmp_path / "c", {})
    state = read_checkpoint(tmp_path / "c")
    names = [name for name, _ in engine.unwrapped.named_parameters()]
    assert {f"{part}:{name}" for name in names for part in ("parameter", "exp_avg", "exp_avg_sq")} == set(state)
    assert not list(tmp_path.glob("*.writing"))
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".safetensors", ".json"}


def test_a_full_disk_leaves_the_previous_checkpoint_complete(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, engine, stream = create(recipe, tmp_path)
    engine.step([stream[0]], 1e-3)
    save_checkpoint(engine, tmp_path / "c", {"position": 16})
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}

    def full(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save_file", full)
    engine.step([stream[1]], 1e-3)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(engine, tmp_path / "c", {"position": 32})
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
    assert json.loads(before["state.json"])["position"] == 16


def test_a_missing_part_of_a_checkpoint_is_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    _, engine, _ = create(recipe, tmp_path)
    save_checkpoint(engine, tmp_path / "c", {})
    next((tmp_path / "c").glob("*.safetensors")).rename(tmp_path / "c" / "state-00000-of-00002.safetensors")
    with pytest.raises(ValueError, match="1 of 2 parts"):
        read_checkpoint(tmp_path / "c")


def test_learning_rate_schedules() -> None:
    def rates(kind: str, **kwargs: Any) -> list[float]:
        schedule = Schedule(kind=kind, **kwargs)  # type: ignore[arg-type]
        return [learning_rate(step, 1.0, schedule, 100) for step in range(100)]

    cosine = rates("cosine", warmup=10)
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[9] == cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert cosine[-1] < 0.001
    wsd = rates("wsd", warmup=10, decay=0.2, final=0.1)
    assert set(wsd[10:80]) == {1.0}
    assert wsd[90] == pytest.approx(0.1 + 0.9 * 0.5)
    assert wsd[-1] > 0.1
    assert set(rates("constant")) == {1.0}


def test_weight_decay_excludes_norms_biases_and_tables(recipe: dict[str, Any], tmp_path: Path) -> None:
    _, engine, _ = create(recipe, tmp_path)
    decayed, without_decay = parameter_groups(engine.unwrapped, 0.1)
    undecayed = {id(p) for p in without_decay["params"]}
    names = {name for name, p in engine.unwrapped.named_parameters() if id(p) in undecayed}
    assert "model.input_embeddings.smiles.embedding.content.weight" in names
    assert "model.trunk.blocks.0.norm_mlp.weight" in names
    assert "objectives.contrastive.log_scale" in names
    assert "model.trunk.blocks.0.attention.qkv.weight" not in names
    assert decayed["weight_decay"] == 0.1
    assert len(decayed["params"]) + len(without_decay["params"]) == len(list(engine.unwrapped.parameters()))


def test_a_batch_that_ranks_cannot_divide_is_refused(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="16 samples cannot be divided among 3 ranks"):
        create_accelerator(load(recipe).train, Path("unused"))


def test_auto_precision_follows_the_hardware(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    auto = SimpleNamespace(precision="auto")
    for fast in (True, False):
        monkeypatch.setattr(launch, "fast_bf16", lambda fast=fast: fast)
        assert launch.uses_bf16(auto) is fast  # type: ignore[arg-type]
    assert launch.uses_bf16(SimpleNamespace(precision="bf16"))  # type: ignore[arg-type]
