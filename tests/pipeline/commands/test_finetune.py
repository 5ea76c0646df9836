"""Fine-tuning from a table file and from shards, its safeguards, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from modalities.base import Modality
from modalities.tokens import Tokens
from pipeline.commands.embed import embed_file
from pipeline.commands.finetune import divide, load_predictor, summarize
from pipeline.commands.predict import predict_file
from pipeline.data import labelled
from pipeline.data.labelled import Labelled
from pipeline.evaluation.predictor import Predictor, Settings, predict, with_lora
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.run import Run
from sensorium import finetune
from shards.read import Members

QUICK = Settings(labels=24, epochs=2, batch_size=8, test=0.3)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules that pretraining did not see, with a number and a class."""
    from rdkit import Chem, RDConfig

    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    lines = (Path(RDConfig.RDContribDir) / "FreeWilson" / "data" / "CHEMBL2321810.smi").read_text().splitlines()[:80]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["structure", "atoms", "fluorinated"])
        for line in lines:
            smiles = line.split()[0]
            atoms = Chem.MolFromSmiles(smiles).GetNumAtoms()
            writer.writerow([smiles, atoms + 0.5, "yes" if "F" in smiles else "no"])
    return path


def tuned(run: Path, table: Path, out: Path, label: str = "atoms", **options: Any) -> dict[str, Any]:
    """Fine-tune on SMILES alone."""
    return finetune(
        run,
        table,
        label,
        out=out,
        modalities=["smiles"],
        columns={"smiles": "structure"},
        **{"settings": QUICK, "split": "scaffold", **options},
    )


def test_regression_compared_with_scratch_and_baseline(run: Path, table: Path, tmp_path: Path) -> None:
    result = tuned(run, table, tmp_path / "t", seeds=2)
    for start in ("pretrained", "scratch", "baseline"):
        assert getattr(result, start)["seeds"] == 2
        assert {"rmse_mean", "rmse_std", "spearman_mean", "spearman_std"} <= set(getattr(result, start))
    low, high = result.interval95
    assert low < result.difference < high
    assert result.labels == 24
    assert Run(tmp_path / "t").result()["finetune"]["pretrained"] == result.pretrained


def test_the_same_seed_gives_the_same_result(run: Path, table: Path, tmp_path: Path) -> None:
    first = tuned(run, table, tmp_path / "a", compare=False)
    second = tuned(run, table, tmp_path / "b", compare=False)
    assert first.pretrained == second.pretrained


@pytest.mark.parametrize("mode", ["linear", "lora", "full"])
def test_modes(run: Path, table: Path, tmp_path: Path, mode: str) -> None:
    settings = Settings(mode=mode, labels=24, epochs=1, batch_size=8)  # type: ignore[arg-type]
    tuned(run, table, tmp_path / "t", compare=False, settings=settings)
    before, after = (Run(path).load_model().state_dict() for path in (run, tmp_path / "t"))
    assert set(before) == set(after)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    if mode == "linear":
        assert not changed
    elif mode == "lora":
        assert changed
        assert all(any(part in name for part in ("qkv", "attention.out", "mlp")) for name in changed)
    else:
        assert "trunk.blocks.0.norm_mlp.weight" in changed


def adapters_and_head(names: tuple[str, ...], kinds: dict[str, Modality], fusion: int = 0) -> set[str]:
    """Names of the parameters that LoRA trains, in a model whose modalities have these names."""
    config = SensoriumConfig(
        dict(zip(names, (kind.to_json() for kind in kinds.values()), strict=True)), 32, 2, 2, fusion_depth=fusion
    )
    trained = with_lora(Predictor(SensoriumModel(config), (names[0],), 1, "pooled"))
    trainable = {name.removeprefix("base_model.model.") for name, p in trained.named_parameters() if p.requires_grad}
    assert len(trainable) == sum(p.requires_grad for p in trained.parameters())
    return trainable


@pytest.mark.parametrize("names", [("forehead", "image_head", "table"), ("qkv", "head", "out"), ("a", "b", "c")])
@pytest.mark.parametrize("fusion", [0, 1])
def test_lora_trains_block_adapters_and_the_head_for_any_modality_names(
    names: tuple[str, ...], fusion: int, kinds: dict[str, Modality]
) -> None:
    blocks = [f"trunk.blocks.{i}" for i in range(2)] + [f"decoder.blocks.blocks.{i}" for i in range(2)]
    blocks += [f"fusion.blocks.{i}" for i in range(fusion)]
    layers = [f"model.{block}.{layer}" for block in blocks for layer in ("attention.qkv", "attention.out")]
    layers += [f"model.{block}.{layer}" for block in blocks for layer in ("mlp.0", "mlp.2")]
    adapters = {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    assert adapters_and_head(names, kinds, fusion) == adapters | {"head.weight", "head.bias"}


def test_lora_equals_target_modules_given_by_suffix(
    run: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(mode="lora", labels=24, epochs=2, batch_size=8)
    tuned(run, table, tmp_path / "whole", compare=False, settings=settings)
    ends = LoraConfig(r=8, target_modules=["qkv", "attention.out", "mlp.0", "mlp.2"], modules_to_save=["head"])
    module = sys.modules[Predictor.__module__]
    monkeypatch.setattr(module, "with_lora", lambda predictor: get_peft_model(predictor, ends))
    tuned(run, table, tmp_path / "ends", compare=False, settings=settings)
    for file in ("model/model.safetensors", "head.safetensors"):
        by_name, by_suffix = (load_file(tmp_path / name / file) for name in ("whole", "ends"))
        assert by_name.keys() == by_suffix.keys()
        for name, weights in by_name.items():
            torch.testing.assert_close(weights, by_suffix[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_weights_are_interpolated_between_pretrained_and_tuned(
    run: Path, table: Path, tmp_path: Path, mode: str
) -> None:
    for keep in (0.0, 0.25, 1.0):
        settings = Settings(mode=mode, pretrained_share=keep, labels=24, epochs=2, batch_size=8)  # type: ignore[arg-type]
        tuned(run, table, tmp_path / f"{keep}", compare=False, settings=settings)
    after, between, before = (Run(tmp_path / f"{keep}").load_model().state_dict() for keep in (0.0, 0.25, 1.0))
    started = Run(run).load_model().state_dict()
    for name in started:
        np.testing.assert_array_equal(before[name], started[name])
        np.testing.assert_allclose(between[name], 0.75 * after[name] + 0.25 * before[name], atol=1e-6)
    assert any(not np.array_equal(after[name], before[name]) for name in started)


def test_classification_and_predictions(run: Path, table: Path, tmp_path: Path) -> None:
    result = tuned(run, table, tmp_path / "t", "fluorinated", split=None)
    assert result.task == "classification"
    assert 0 <= result.pretrained["balanced_accuracy_mean"] <= 1
    predict_file(tmp_path / "t", table, tmp_path / "p.parquet", columns={"smiles": "structure"})
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert len(frame) == 80
    assert set(frame["fluorinated"]) <= {"yes", "no"}
    total = (frame["probability_no"] + frame["probability_yes"]).to_numpy()
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_a_saved_model_predicts_as_in_memory(run: Path, table: Path, tmp_path: Path) -> None:
    tuned(run, table, tmp_path / "t", compare=False)
    predictor, task = load_predictor(Run.existing(tmp_path / "t"))
    modalities = {"smiles": predictor.model.modalities["smiles"]}
    samples = labelled.load(table, modalities, columns={"smiles": "structure"})
    expected = predict(predictor, samples, range(80)) * task.std + task.mean
    predict_file(tmp_path / "t", table, tmp_path / "p.parquet", columns={"smiles": "structure"})
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "p.parquet")["atoms"].to_numpy(), expected, rtol=1e-5)
    head = tmp_path / "t" / "head.json"
    head.write_text(head.read_text().replace('"std"', '"deviation"'))
    assert load_predictor(Run.existing(tmp_path / "t"))[1] == task  # the key of earlier versions


def test_embeddings_of_a_file(run: Path, table: Path, tmp_path: Path) -> None:
    embed_file(run, table, tmp_path / "e.parquet", columns={"smiles": "structure"})
    frame = pl.read_parquet(tmp_path / "e.parquet")
    assert frame.columns == ["key", "smiles", "fused"]
    np.testing.assert_allclose(np.linalg.norm(np.stack(frame["smiles"].to_list()), axis=1), 1, atol=1e-5)


def test_from_shards_with_their_own_split(run: Path, shards: Path, tmp_path: Path) -> None:
    result = finetune(run, shards, "qed", out=tmp_path / "t", compare=False, settings=QUICK)
    assert result.modalities == ["smiles", "image", "table"]
    assert result.test > 10


def test_test_samples_used_in_pretraining_are_excluded_and_counted(
    run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = labelled.load(shards, Run(run).modalities() or {}, label="qed")
    test = [i for i in range(len(samples)) if samples.split[i] == "test"]
    trained_on = Run.trained_on
    content = {h for i in test[:3] for h in samples.hashes(i) if h.startswith("smiles:")}
    monkeypatch.setattr(Run, "trained_on", lambda self: trained_on(self) | content)
    result = finetune(run, shards, "qed", out=tmp_path / "t", compare=False, settings=QUICK)
    assert (result.left_out, result.test) == (3, len(test) - 3)
    _, test_indices, count = divide(samples, range(len(samples)), QUICK, 0, content)
    assert (test_indices, count) == (test[3:], 3)
    few = set().union(*(samples.hashes(i) for i in test[1:]))
    with pytest.raises(ValueError, match=f"{len(test) - 1} of {len(test)} test samples: use another test set"):
        divide(samples, range(len(samples)), QUICK, 0, few)


def test_a_test_set_used_in_pretraining_is_refused(run: Path, shards: Path, tmp_path: Path) -> None:
    samples = labelled.load(shards, Run(run).modalities() or {}, label="qed")
    everyone = set().union(*map(samples.hashes, range(len(samples))))
    with pytest.raises(ValueError, match="use another test set"):
        divide(samples, range(len(samples)), QUICK, 0, everyone)


def test_a_random_test_set_excludes_samples_used_in_pretraining() -> None:
    class Samples(Labelled):
        """Samples of content and group, without tokens."""

        def tokens(self, index: int) -> dict[str, Tokens]:
            return {}

        def members(self, index: int) -> Members:
            return {}

        def hashes(self, index: int) -> frozenset[str]:
            return frozenset({f"smiles:{index}", f"group:{index % 20}"})

    samples = Samples(
        types={},
        modalities=(),
        keys=tuple(map(str, range(100))),
        labels=tuple(range(100)),
        groups=tuple(str(i % 25) for i in range(100)),
        by=None,
        split=("",) * 100,
    )
    trained_on = {f"smiles:{i}" for i in range(0, 100, 2)}
    train, test, _ = divide(samples, range(100), Settings(), 0, trained_on)
    assert all(i % 2 for i in test)
    assert not set(train) & set(test)
    assert {samples.groups[i] for i in train}.isdisjoint({samples.groups[i] for i in test})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": Settings(labels=1000)}, "--labels is 1000, but only"),
        ({"label": "mass"}, "no column 'mass'"),
        ({"split": "scafold"}, "did you mean 'scaffold'"),
        ({"columns": {"smiles": "nothing"}}, "no column 'nothing'"),
    ],
)
def test_mistakes_are_reported(run: Path, table: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "label": "atoms",
        "split": "scaffold",
        "columns": {"smiles": "structure"},
        "settings": QUICK,
        **options,
    }
    label = arguments.pop("label")
    with pytest.raises(ValueError, match=message):
        finetune(run, table, label, out=tmp_path / "t", modalities=["smiles"], **arguments)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(("labels", "epochs"), [(20, 10), (8, 10), (8, 1)])
def test_a_schedule_of_few_steps(run: Path, table: Path, tmp_path: Path, labels: int, epochs: int) -> None:
    settings = Settings(labels=labels, epochs=epochs, batch_size=32)
    assert tuned(run, table, tmp_path / "t", compare=False, settings=settings).labels == labels


@pytest.mark.parametrize("labels", [-5, 0, 1])
def test_too_few_labels_are_refused(labels: int) -> None:
    with pytest.raises(ValueError, match=f"--labels is {labels}: a task needs at least 2"):
        Settings(labels=labels)


def test_a_pretraining_run_is_not_overwritten(run: Path, table: Path) -> None:
    with pytest.raises(ValueError, match="is not empty and not a fine-tuned run"):
        tuned(run, table, run)
    assert json.loads((run / "model" / "config.json").read_text())["model_type"] == "sensorium"


def test_paired_differences_use_equal_seeds() -> None:
    scores = {"pretrained": [{"spearman": 0.5}, {"spearman": 0.7}], "scratch": [{"spearman": 0.4}, {"spearman": 0.5}]}
    result = summarize(scores, "spearman")
    assert result["difference"] == pytest.approx(0.15)
    assert result["interval95"][0] == pytest.approx(0.15 - 12.706 * 0.05, rel=1e-3)
