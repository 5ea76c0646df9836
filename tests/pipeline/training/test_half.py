"""Exported models in bfloat16 and float16, for every kind of data: the documented call works, nearly as in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modalities.base import MODALITY_TYPES, Modality
from modalities.dna import Dna
from modalities.image import Image
from modalities.lightcurve import LightCurve
from modalities.masks.masking import Action, Mask
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from modalities.text import Text
from pipeline.commands.export import write_code
from pipeline.model.batch import Batch, pack
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.model.processing import SensoriumProcessor

TYPES = [torch.bfloat16, torch.float16]
KINDS: dict[str, Modality] = {
    "image": Image(size=16, patch=8, window=3),
    "sound": Spectrogram(sample_rate_hz=8000, mel_bands=16, patch=(8, 4)),
    "eeg": Signal(montage="eeg", sample_rate_hz=50, patch_s=0.2, stem="spectral", target="spectrum"),
    "curve": LightCurve(errors=True, patch_points=5, normalize="mad", target="normalized", stem="mlp"),
    "smiles": Smiles(min_count=1, window=3),
    "dna": Dna(kmer=3),
    "text": Text(vocabulary=300, kind="bpe", length=20),
    "table": Table(min_count=1),
}


def raw_data(number: int) -> dict[str, Any]:
    """What a user hands over, by modality."""
    rng = np.random.default_rng(number)
    waves = rng.standard_normal((2, 100)).astype(np.float32)
    described = {"samples": waves, "unit": "uV"}
    return {
        "image": rng.integers(0, 255, (16, 24, 3), np.uint8),
        "sound": (waves[0] * 0.1, 1600 + 100 * number),
        "eeg": {**described, "sample_rate_hz": 100.0, "channels": ["Fp1", "Cz"]},
        "curve": {**described, "times": np.cumsum(rng.random(100) + 0.1), "channels": ["flux", "flux_error"]},
        "smiles": ("CC(=O)O", "c1cc[nH]c1")[number],
        "dna": ("ACGTTGCANNRT", "GATTACAGATTACA")[number],
        "text": ("Insecta Diptera", "Aves Passeriformes")[number],
        "table": {"mass": 10.5 * number, "day": f"2015-11-0{number + 1}", "sex": "fm"[number]},
    }


@pytest.fixture(scope="module")
def fitted() -> dict[str, Modality]:
    return {name: kind.fit([kind.parse(raw_data(i)[name]) for i in range(2)]) for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def folder(fitted: dict[str, Modality], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with a fine-tuned head, of random weights."""
    path = tmp_path_factory.mktemp("half") / "model"
    torch.manual_seed(0)
    states = {name: modality.to_json() for name, modality in fitted.items()}
    head = {"kind": "regression", "classes": [], "mean": 20.0, "std": 5.0, "modalities": ["sound", "table"]}
    sizes = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "fusion_depth": 1}
    config = SensoriumConfig(states, 32, 2, 4, embedding=16, head={**head, "features": "layers"}, **sizes)
    model = SensoriumModel(config)
    model.config.auto_map = {"AutoConfig": "configuration.SensoriumConfig", "AutoModel": "modeling.SensoriumModel"}
    model.save_pretrained(path)
    SensoriumProcessor(states).save_pretrained(path)
    write_code(path, list(fitted.values()))
    return path


def loaded(folder: Path, **options: Any) -> Any:
    return AutoModel.from_pretrained(folder, trust_remote_code=True, **options).eval()


def test_every_kind_of_data_is_tested_here() -> None:
    assert {kind.type for kind in KINDS.values()} == set(MODALITY_TYPES)


@pytest.mark.parametrize("way", ["dtype", "to"])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_documented_call_gives_nearly_equal_embeddings(folder: Path, dtype: torch.dtype, way: str) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(**{name: [raw_data(i)[name] for i in range(2)] for name in KINDS})
    model = loaded(folder, dtype=dtype) if way == "dtype" else loaded(folder, dtype=torch.float32).to(dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    full_precision = loaded(folder, dtype=torch.float32)
    with torch.inference_mode():
        output, expected = model(**inputs), full_precision(**inputs)
    close = 0.03 if dtype == torch.bfloat16 else 0.004
    for name in KINDS:
        assert output.embeddings[name].dtype == output.pooled[name].dtype == torch.float32
        assert (output.embeddings[name] - expected.embeddings[name]).norm(dim=1).max() < close
        assert (output.pooled[name] - expected.pooled[name]).abs().max() < close
    assert (output.fused - expected.fused).abs().max() < close
    assert model.predict(**inputs).sub(full_precision.predict(**inputs)).abs().max() < close * 5


@pytest.mark.parametrize("dtype", TYPES)
def test_losses_stay_float32_and_gradients_reach_all_weights(
    folder: Path, fitted: dict[str, Modality], dtype: torch.dtype
) -> None:
    samples = [{name: kind.tokenize(kind.parse(raw_data(i)[name])) for name, kind in fitted.items()} for i in range(2)]
    masks = []
    for sample in samples:
        targets = {name: np.arange(tokens.size) % 2 == 0 for name, tokens in sample.items()}
        masks.append(
            {
                name: Mask(target, np.where(target, Action.MASK, Action.KEEP).astype(np.int8), np.arange(len(target)))
                for name, target in targets.items()
            }
        )
    batch = pack(samples, {name: kind.widths for name, kind in fitted.items()}, masks, samples)
    actual, expected = (losses(loaded(folder, dtype=kind), fitted, batch) for kind in (dtype, torch.float32))
    for name, loss in actual.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.02, atol=0.02)


def losses(model: Any, fitted: dict[str, Modality], batch: Batch) -> dict[str, torch.Tensor]:
    """Loss of each masked token by modality; the decoder and what is before it get gradients."""
    predictions = model(batch, views=("visible",), decode=True)["visible"].predictions
    dtypes = {}
    for name, kind in fitted.items():
        content = batch.packs[name]
        dtypes[name] = kind.loss(predictions[name][:-1], content.values[content.target], content.ids[content.target])
    torch.cat(list(dtypes.values())).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(
        grad is not None and torch.isfinite(grad).all()
        for name, grad in grads.items()
        if not name.startswith(("projections", "head"))
    )
    return {name: loss.detach() for name, loss in dtypes.items()}


def test_long_coordinates_keep_their_resolution(folder: Path) -> None:
    """Neighbours 500,000 patches from the origin have one place in bfloat16, and float16 ends at 65,504."""
    model = loaded(folder, dtype=torch.bfloat16)
    kind = model.modalities["eeg"]
    described = {"unit": "uV", "sample_rate_hz": 50.0, "channels": ["Fp1"]}
    tokens = kind.tokenize(kind.parse({**described, "samples": np.ones((1, 20)) * np.arange(20), "start_s": 100_000.0}))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        _, places = model.input_embeddings["eeg"].embedding(*map(torch.from_numpy, tokens))
    assert not torch.equal(places[0], places[1])
