"""Models that earlier versions saved load under the present names of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modalities.text import Text
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.model.weights import RENAMED, current_name, load_pretrained
from pipeline.run import load_model
from pipeline.training.checkpoint import _current_tensor_name

FORMER = {
    "input_embeddings.kind.type_embedding": "entries.kind.kind",
    "input_embeddings.kind.mask_token": "entries.kind.hidden",
    "decoder.drop_token": "decoder.dropped",
    "decoder.position.weight": "decoder.place.weight",
}
"""Former names of some parameters of a model whose modality is called `kind`, by present names."""


def former_name(name: str) -> str:
    """The name of a parameter in the first version."""
    return FORMER.get(name) or name.replace("input_embeddings.", "entries.")


@pytest.fixture
def model() -> SensoriumModel:
    """A model of one text modality."""
    texts = Text(vocabulary=300, length=8).fit(["a wasp", "a moth", "the beetle"] * 10)
    torch.manual_seed(0)
    return SensoriumModel(SensoriumConfig({"kind": texts.to_json()}, dim=16, depth=1, heads=2, decoder_dim=12))


def test_a_model_of_an_earlier_version_loads_and_is_saved_with_current_names(
    model: SensoriumModel, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    assert set(FORMER) <= weights.keys()
    save_file({former_name(name): value for name, value in weights.items()}, path, {"format": "pt"})
    loaded = load_pretrained(tmp_path)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights.keys()


@pytest.mark.parametrize("key", ["std", "deviation"])
def test_a_head_of_an_earlier_version_predicts(model: SensoriumModel, tmp_path: Path, key: str) -> None:
    head = {"kind": "regression", "classes": [], "mean": 3.0, key: 2.0, "modalities": ["kind"], "features": "pooled"}
    config = SensoriumConfig(**{**model.config.to_dict(), "head": head})
    torch.manual_seed(0)
    SensoriumModel(config).save_pretrained(tmp_path)
    loaded = load_model(tmp_path).eval()
    tokens = loaded.modalities["kind"].tokenize("a wasp")
    batch = loaded.pack([{"kind": tokens}])
    assert loaded.head is not None
    output = loaded.head(loaded.features(batch, ["kind"], layers=False))[:, 0]
    assert torch.allclose(loaded.predict(batch), output.double() * 2 + 3)


def test_names_in_modalities_and_objectives_of_other_packages_stay() -> None:
    for name in ("input_embeddings.kind.embedding.place.weight", "input_embeddings.kind.embedding.band.weight"):
        assert current_name(name) == name
    assert _current_tensor_name("exp_avg:objectives.other.place.weight") == "exp_avg:objectives.other.place.weight"
    assert _current_tensor_name("parameter:objectives.regression.place.bias").endswith(".regression.position.bias")


def test_every_parameter_name_is_restored(model: SensoriumModel) -> None:
    for name in model.state_dict():
        assert current_name(former_name(name)) == current_name(name) == name


def test_patterns_have_one_group() -> None:
    """Transformers replaces no group but the first, and leaves others of a name uninitialized."""
    assert not [new for new in RENAMED.values() if r"\2" in new]
    assert current_name("entries.a.embedding.place.w") == "input_embeddings.a.embedding.position.w"
    assert current_name("entries.a.embedding.band.w") == "input_embeddings.a.embedding.channel.w"
