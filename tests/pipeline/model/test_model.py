"""The model against plain references, and what may and what may not influence what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modalities.base import Modality
from modalities.masks.masking import Action, Mask
from modalities.tokens import Tokens
from pipeline.model.batch import Batch, layout, pack
from pipeline.model.blocks import Attention, Blocks, segment_mean
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel

Sample = dict[str, Tokens]
Draw = Callable[[int], list[Sample]]
CLOSE = {"rtol": 0, "atol": 1e-5}


def make(kinds: dict[str, Modality], **sizes: Any) -> SensoriumModel:
    """A small model of random weights, larger than at initialisation so that little is near zero."""
    torch.manual_seed(0)
    small = {"dim": 32, "depth": 2, "heads": 4, "embedding": 16}
    small |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    config = SensoriumConfig(modalities={name: m.to_json() for name, m in kinds.items()}, **{**small, **sizes})
    model = SensoriumModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "fusion"])
def model(request: pytest.FixtureRequest, kinds: dict[str, Modality]) -> SensoriumModel:
    return make(kinds, fusion_depth=request.param)


def hidden(tokens: Tokens, action: Action) -> Mask:
    """Every second token, from the first, is a target with one action."""
    target = np.arange(tokens.size) % 2 == 0
    return Mask(target, np.where(target, action, Action.KEEP).astype(np.int8), np.arange(tokens.size))


def batch_of(model: SensoriumModel, samples: list[Sample], action: Action | None = None) -> Batch:
    """A batch, masked by one action or not at all."""
    widths = {name: modality.widths for name, modality in model.modalities.items()}
    if action is None:
        return pack(samples, widths)
    masks = [{name: hidden(tokens, action) for name, tokens in sample.items()} for sample in samples]
    return pack(samples, widths, masks, samples)


def change(batch: Batch, name: str, which: torch.Tensor) -> Batch:
    """The batch with other content in some tokens of one modality."""
    content = batch.packs[name]
    values, ids = content.values.clone(), content.ids.clone()
    values[which] = values[which] * -2 + 3
    ids[which, 0] = torch.where(ids[which, 0] == 2, 3, 2) if name != "image" else ids[which, 0]
    other = dataclasses.replace(content, values=values, ids=ids, input_values=values, input_ids=ids)
    return dataclasses.replace(batch, packs={**batch.packs, name: other})


@torch.no_grad()
def encode(model: SensoriumModel, batch: Batch, view: str = "full") -> Any:
    """One view of a batch, with predictions where masks were applied."""
    return model(batch, views=(view,), decode=view == "visible")[view]


def assert_same(
    ours: Any, theirs: Any, rows: list[int] | slice = slice(None), order: list[int] | slice = slice(None)
) -> None:
    """Sample-wise outputs agree."""
    for name in ours.embeddings:
        torch.testing.assert_close(ours.embeddings[name][rows], theirs.embeddings[name][order], **CLOSE)
        torch.testing.assert_close(ours.pooled[name][rows], theirs.pooled[name][order], **CLOSE)
    torch.testing.assert_close(ours.fused[rows], theirs.fused[order], **CLOSE)


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-3)


def plain_attention(attention: Attention, x: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
    """Softmax attention, one segment and one head after the other."""
    q, k, v = (attention.qkv.weight @ x.T).T.chunk(3, dim=1)
    width = x.shape[1] // attention.heads
    mixed = torch.zeros_like(x)
    for number in segment.unique():
        in_segment = segment == number
        for head in range(attention.heads):
            cut = slice(head * width, (head + 1) * width)
            scores = q[in_segment, cut] @ k[in_segment, cut].T / math.sqrt(width)
            mixed[in_segment, cut] = scores.softmax(1) @ v[in_segment, cut]
    return attention.out(mixed)


def test_packed_attention_is_attention_within_each_segment() -> None:
    torch.manual_seed(0)
    segment = torch.tensor([3, 0, 3, 7, 0, 3, 9, 7, 8, 8, 3])
    x, attention = torch.randn(len(segment), 24), Attention(24, 3)
    order, inverse, groups = layout(segment)
    ours = attention(x[order], groups)[inverse]
    torch.testing.assert_close(ours, plain_attention(attention, x, segment), **CLOSE)


def test_blocks_are_pre_norm_transformer_blocks() -> None:
    torch.manual_seed(0)
    segment = torch.tensor([1, 1, 0, 2, 0, 1, 4])
    x, blocks = torch.randn(len(segment), 16), Blocks(16, 3, 2, 2.0)
    expected = x
    for block in blocks.blocks:
        expected = expected + plain_attention(block.attention, block.norm_attention(expected), segment)
        expected = expected + block.mlp(block.norm_mlp(expected))
    torch.testing.assert_close(blocks(x, segment), blocks.norm(expected), **CLOSE)


def test_segment_mean() -> None:
    x = torch.tensor([[1.0], [3.0], [5.0]])
    assert segment_mean(x, torch.tensor([2, 0, 2]), 4).flatten().tolist() == [3, 0, 3, 0]


def test_attention_has_no_key_bias(model: SensoriumModel) -> None:
    assert not [name for name, _ in model.named_parameters() if "qkv" in name and name.endswith("bias")]


def test_a_sample_is_encoded_as_if_it_were_alone(model: SensoriumModel, draw: Draw) -> None:
    samples = draw(7)
    together = encode(model, batch_of(model, samples))
    for number, sample in enumerate(samples):
        assert_same(encode(model, batch_of(model, [sample])), together, [0], [number])


def test_the_order_of_samples_and_modalities_does_not_matter(model: SensoriumModel, draw: Draw) -> None:
    samples = draw(5)
    order = [3, 0, 4, 1, 2]
    backwards = [dict(reversed(samples[i].items())) for i in order]
    assert_same(encode(model, batch_of(model, backwards)), encode(model, batch_of(model, samples)), order=order)


def test_a_modality_is_embedded_as_if_it_were_alone(model: SensoriumModel, draw: Draw) -> None:
    samples = draw(3)
    together = encode(model, batch_of(model, samples))
    for name in model.modalities:
        alone = encode(model, batch_of(model, [{name: sample[name]} for sample in samples]))
        torch.testing.assert_close(alone.embeddings[name], together.embeddings[name], **CLOSE)


def test_embeddings_have_unit_length_and_differ(model: SensoriumModel, draw: Draw) -> None:
    encoded = encode(model, batch_of(model, draw(4)))
    for embedding in encoded.embeddings.values():
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4), **CLOSE)
        assert differs(embedding[0], embedding[1])


def test_views_are_equal_if_nothing_is_masked(model: SensoriumModel, draw: Draw) -> None:
    batch = batch_of(model, draw(4))
    full, visible = encode(model, batch), encode(model, batch, "visible")
    assert_same(visible, full)
    for name in full.tokens:
        torch.testing.assert_close(visible.tokens[name], full.tokens[name], **CLOSE)


def test_two_views_in_one_call_equal_two_calls(model: SensoriumModel, draw: Draw) -> None:
    batch = batch_of(model, draw(4), Action.DROP)
    with torch.no_grad():
        both = model(batch, views=("full", "visible"), decode=True)
    for view in ("full", "visible"):
        alone = encode(model, batch, view)
        assert_same(both[view], alone)
        for name, prediction in alone.predictions.items():
            torch.testing.assert_close(both[view].predictions[name], prediction, **CLOSE)
    assert not both["full"].predictions
    assert differs(both["full"].embeddings["image"], both["visible"].embeddings["image"])


@pytest.mark.parametrize("action", [Action.DROP, Action.MASK])
@pytest.mark.parametrize("name", ["smiles", "image", "table"])
def test_hidden_content_has_no_influence(model: SensoriumModel, draw: Draw, action: Action, name: str) -> None:
    batch = batch_of(model, draw(4), action)
    changed = change(batch, name, batch.packs[name].target)
    ours, theirs = encode(model, batch, "visible"), encode(model, changed, "visible")
    assert_same(ours, theirs)
    for kind in model.modalities:
        assert torch.equal(ours.predictions[kind], theirs.predictions[kind])
    assert differs(encode(model, batch).embeddings[name], encode(model, changed).embeddings[name])


@pytest.mark.parametrize("action", [Action.DROP, Action.MASK])
def test_the_position_of_a_hidden_token_matters(model: SensoriumModel, draw: Draw, action: Action) -> None:
    """Two hidden patches of one image get different predictions, so the decoder knows which is which."""
    prediction = encode(model, batch_of(model, draw(1), action), "visible").predictions["image"]
    assert differs(prediction[0], prediction[1])


def test_a_modality_informs_predictions_only_within_its_sample(model: SensoriumModel, draw: Draw) -> None:
    batch = batch_of(model, draw(3), Action.DROP)
    table = batch.packs["table"]
    changed = change(batch, "table", (table.sample == 0) & ~table.target)
    ours, theirs = (encode(model, b, "visible").predictions["image"] for b in (batch, changed))
    owner = batch.packs["image"].sample[batch.packs["image"].target]
    assert differs(ours[:-1][owner == 0], theirs[:-1][owner == 0])
    torch.testing.assert_close(ours[:-1][owner != 0], theirs[:-1][owner != 0], **CLOSE)
    torch.testing.assert_close(ours[-1], theirs[-1], **CLOSE)


def test_fusion_attends_across_modalities(kinds: dict[str, Modality], draw: Draw) -> None:
    for depth, sees in ((0, False), (1, True)):
        model = make(kinds, fusion_depth=depth)
        batch = batch_of(model, draw(2))
        changed = change(batch, "table", batch.packs["table"].sample < 2)
        a, b = encode(model, batch), encode(model, changed)
        assert differs(a.tokens["image"][:-1], b.tokens["image"][:-1]) == sees
        torch.testing.assert_close(a.embeddings["image"], b.embeddings["image"], **CLOSE)
        assert differs(a.fused, b.fused)


def test_dropped_tokens_have_no_influence(model: SensoriumModel, draw: Draw) -> None:
    samples = draw(3)
    fewer = [{name: Tokens(*(part[1::2] for part in tokens)) for name, tokens in s.items()} for s in samples]
    dropped = batch_of(model, samples, Action.DROP)
    ours, theirs = encode(model, dropped, "visible"), encode(model, batch_of(model, fewer))
    torch.testing.assert_close(ours.fused, theirs.fused, **CLOSE)
    for name, content in dropped.packs.items():
        gone = content.action == Action.DROP
        assert gone.any()
        assert not ours.tokens[name][gone].any()
        assert ours.tokens[name][~gone].any()


def test_tokens_before_fusion_depend_on_one_modality(kinds: dict[str, Modality], draw: Draw) -> None:
    model = make(kinds, fusion_depth=2)
    batch = batch_of(model, draw(2))
    a, b = encode(model, batch), encode(model, change(batch, "table", batch.packs["table"].sample < 2))
    assert differs(a.tokens["image"], b.tokens["image"])
    torch.testing.assert_close(a.unimodal_tokens["image"], b.unimodal_tokens["image"], **CLOSE)


def test_a_batch_is_moved_to_the_device_of_the_model(
    model: SensoriumModel, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[torch.device] = []
    to = Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, device: moved.append(device) or to(self, device))
    model(batch_of(model, draw(1)))
    assert moved == [model.device]


def test_fused_features_without_fusion_are_the_mean_over_modalities(kinds: dict[str, Modality], draw: Draw) -> None:
    model = make(kinds)
    first, second = draw(2)
    del second["image"]
    encoded = encode(model, batch_of(model, [first, second]))
    for slot, names in ((0, ("smiles", "image", "table")), (1, ("smiles", "table"))):
        mean = torch.stack([encoded.pooled[name][slot] for name in names]).mean(0)
        torch.testing.assert_close(encoded.fused[slot], mean, **CLOSE)


def test_there_is_one_prediction_per_target_and_one_dummy(model: SensoriumModel, draw: Draw) -> None:
    batch = batch_of(model, draw(4), Action.MASK)
    encoded = encode(model, batch, "visible")
    for name, content in batch.packs.items():
        assert len(encoded.predictions[name]) == content.target.sum() + 1
        assert encoded.tokens[name].shape == (len(content.target), 32)


@pytest.mark.parametrize("action", [None, Action.DROP])
def test_an_absent_modality_gives_zeros_without_nan(model: SensoriumModel, draw: Draw, action: Action | None) -> None:
    first, second, third = draw(3)
    samples: list[Sample] = [first, {"smiles": second["smiles"]}, {}, {"table": third["table"]}]
    batch = batch_of(model, samples, action).to("cpu")
    encoded = model(batch, views=("visible",), decode=True)["visible"]
    for name in model.modalities:
        present = [name in sample for sample in samples]
        assert (encoded.embeddings[name].norm(dim=1) > 0.5).tolist() == present
        assert (encoded.pooled[name].abs().sum(1) > 0).tolist() == present
    assert not encoded.fused[2].any()
    outputs = [*encoded.embeddings.values(), *encoded.predictions.values(), *encoded.tokens.values(), encoded.fused]
    sum(output.square().sum() for output in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.zero_grad()


def test_samples_can_be_passed_as_arrays(model: SensoriumModel, draw: Draw) -> None:
    samples = draw(3)
    with torch.no_grad():
        output = model([{name: tuple(tokens) for name, tokens in sample.items()} for sample in samples])
    assert_same(output, encode(model, batch_of(model, samples)))


def test_a_model_round_trips_through_save_and_load(model: SensoriumModel, draw: Draw, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = SensoriumModel.from_pretrained(tmp_path).eval()
    assert loaded.modalities == model.modalities
    batch = batch_of(model, draw(4), Action.DROP)
    for view in ("full", "visible"):
        ours, theirs = encode(model, batch, view), encode(loaded, batch, view)
        for name in model.modalities:
            assert torch.equal(ours.embeddings[name], theirs.embeddings[name])
        assert torch.equal(ours.fused, theirs.fused)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_initialization_depends_only_on_the_seed(kinds: dict[str, Modality]) -> None:
    a, b = make(kinds).state_dict(), make(kinds).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_layer_features_are_mean_inputs_of_each_block(model: SensoriumModel, draw: Draw) -> None:
    batch = batch_of(model, draw(3))
    met: list[torch.Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, arguments: met.append(arguments[0])) for block in model.trunk.blocks
    ]
    with torch.no_grad():
        encoded = model(batch, views=("full",), layers=True)["full"]
    for hook in hooks:
        hook.remove()
    segment = torch.cat([i * (batch.size + 1) + batch.packs[name].sample for i, name in enumerate(model.modalities)])
    back = layout(segment).inverse
    for i, name in enumerate(model.modalities):
        for slot in range(batch.size):
            in_segment = segment == i * (batch.size + 1) + slot
            expected = (
                [x[back][in_segment].mean(0) for x in met] if in_segment.any() else [torch.zeros(32) for _ in met]
            )
            expected.append(encoded.pooled[name][slot])
            torch.testing.assert_close(encoded.layers[name][slot], torch.cat(expected), **CLOSE)
    with torch.no_grad():
        assert model(batch, views=("full",))["full"].layers == {}
