"""Retrieval, probes and the report of a finished run."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as Pillow

from modalities.files.recording import Recording, to_members
from modalities.image import Image
from modalities.masks.plan import MaskPlan
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.text import Text
from pipeline.commands.doctor import doctor
from pipeline.commands.evaluate import EvaluateResult
from pipeline.commands.plan import memory
from pipeline.commands.report import reconstructions, thumbnail
from pipeline.commands.result import plain
from pipeline.data.task import Task
from pipeline.evaluation.embed import Embedded
from pipeline.evaluation.gallery import by_key_hash, labels_of
from pipeline.evaluation.probe import neighbors, probe
from pipeline.model.modeling import SensoriumModel
from pipeline.run import Run
from sensorium import evaluate, plan, report
from shards.read import Split
from shards.split import sample_key


@pytest.fixture
def run_copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may write to."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def test_the_gallery_is_ordered_by_sha256_of_canonical_smiles(shards: Path) -> None:
    split = Split(shards, "test")
    smiles = [split.read(*place)["smiles"]["txt"].decode() for place in by_key_hash(split)]
    assert [sample_key(text) for text in smiles] == sorted(sample_key(text) for text in smiles)
    assert len(smiles) == len(split)


def test_six_retrieval_directions_with_chance_levels(run_copy: Path) -> None:
    result = evaluate(run_copy)
    assert len(result.retrieval) == 6
    for row in result.retrieval.values():
        assert row["n"] == 20
        assert row["chance_r10"] == 0.5
        assert 0 <= row["r1"] <= row["r10"] <= 1
    assert set(result.rankme) == {"smiles", "image", "table"}
    assert all(1 <= value <= 32 for value in result.rankme.values())
    assert Run(run_copy).result()["evaluate"] == json.loads(json.dumps(result.figures()))
    assert EvaluateResult.from_json(result.figures(), path=str(run_copy)) == result


def test_probe_of_a_label(run_copy: Path, shards: Path) -> None:
    result = evaluate(run_copy, shards, label="qed")
    for name in ("smiles", "image", "table"):
        assert {"rmse", "spearman", "r2"} == set(result.probe.modalities[name].linear)
    with pytest.raises(ValueError, match="no label 'colour'; it has qed"):
        evaluate(run_copy, shards, label="colour")


def test_an_empty_split_is_named(run_copy: Path, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    state = json.loads((copy / "manifest.json").read_text())
    state["shards"] = [shard for shard in state["shards"] if shard["split"] != "test"]
    (copy / "manifest.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"the test split of .* is empty"):
        evaluate(run_copy, copy)


def test_nonfinite_labels_are_missing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(shards, "test")
    cells = iter([b'{"y": Infinity}', b'{"y": 1.5}', b'{"y": NaN}'])
    monkeypatch.setattr(Split, "read", lambda self, *place: {"labels": {"json": next(cells)}})
    assert labels_of(split, [(0, 0)] * 3, "y") == [None, 1.5, None]


def test_labels_are_read_in_order(shards: Path) -> None:
    split = Split(shards, "test")
    places = by_key_hash(split)[:5]
    values = labels_of(split, places, "qed")
    assert values == [json.loads(split.read(*place)["labels"]["json"])["qed"] for place in places]


def test_nearest_neighbors_of_two_clusters() -> None:
    x = np.concatenate([np.tile([1.0, 0.0], (30, 1)), np.tile([0.0, 1.0], (30, 1))])
    y = np.repeat([0.0, 1.0], 30)
    predictions = neighbors(Task(label="y", kind="regression"), x, y, np.array([[2.0, 0.1], [0.1, 2.0]]))
    assert predictions.tolist() == [0.0, 1.0]


def test_a_modality_with_one_class_predicts_that_class(run_copy: Path) -> None:
    rng = np.random.default_rng(0)

    def encoded(count: int) -> Embedded:
        values = {name: rng.standard_normal((count, 4)).astype(np.float32) for name in "mn"}
        present = {"m": np.ones(count, bool), "n": np.arange(count) % 2 == 0}
        return Embedded(
            keys=[""] * count, embeddings=values, pooled=values, present=present, fused=values["m"], faults=[]
        )

    probed = probe("genus", (encoded(12), ["a", "b"] * 6), (encoded(6), ["a", "b"] * 3))
    assert probed.modalities["n"].linear["accuracy"] == 1


def test_a_constant_label_does_not_lose_the_other_metrics(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[evaluate.__module__], "labels_of", lambda split, places, name: [1.5] * len(places))
    with pytest.raises(ValueError, match="'qed' has one value only"):
        evaluate(run_copy)
    assert Run(run_copy).result()["evaluate"].keys() > {"retrieval", "rankme"}


def test_classes_absent_from_training_are_counted() -> None:
    rng = np.random.default_rng(0)

    def encoded(count: int) -> Embedded:
        values = {"m": rng.standard_normal((count, 4)).astype(np.float32)}
        return Embedded(
            keys=[""] * count,
            embeddings=values,
            pooled=values,
            present={"m": np.ones(count, bool)},
            fused=values["m"],
            faults=[],
        )

    probed = probe("genus", (encoded(12), ["a", "b"] * 6), (encoded(5), ["a", "b", "c", None, "c"]))
    assert (probed.unseen, probed.unseen_classes, probed.modalities["m"].linear.keys() > set()) == (2, ["c"], True)
    assert probed.modalities["m"].n == 2
    nothing = probe("genus", (encoded(12), ["a", "b"] * 6), (encoded(2), ["c", "d"]))
    assert (nothing.unseen, nothing.unseen_classes) == (2, ["c", "d"])
    assert nothing.modalities == {}
    numbers = probe("mass", (encoded(4), [0.5, 1.5, 2.5, 3.5]), (encoded(2), [0.1, 9.0]))
    assert "unseen" not in plain(numbers)


def test_a_report_is_one_self_contained_file(run_copy: Path) -> None:
    evaluate(run_copy)
    page = Path(report(run_copy).path).read_text()
    assert "http" not in re.sub(
        r'https?://www\.w3\.org/[^"\']*|http://purl\.org[^"\']*|https?://matplotlib[^"\'<]*', "", page
    )
    assert page.count("<svg") >= 2
    assert page.count("data:image/png;base64,") > 20
    for word in ("smiles", "image", "table", "contrastive", "masked", "Retrieval", "qed"):
        assert word in page
    assert not list(run_copy.glob("*.writing"))
    assert Smiles.type in page


def test_the_report_masks_by_the_plan_in_the_recipe(run_copy: Path, shards: Path) -> None:
    recipe = yaml.safe_load((run_copy / "recipe.yaml").read_text())
    recipe["masking"] = {"kind": "hide", "probability": 1.0, "modality": "image"}
    recipe["objectives"]["contrastive"]["reads"] = "full"
    (run_copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    plans = []

    def record_plan(
        model: SensoriumModel, seed: int, split: Split, masking: MaskPlan
    ) -> dict[str, list[dict[str, str]]]:
        plans.append(masking)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[reconstructions.__module__], "reconstructions", record_plan)
        report(run_copy)
    assert plans == [MaskPlan(kind="hide", probability=1.0, modality="image")]
    hidden = reconstructions(Run(run_copy).load_model(), 0, Split(shards, "test"), plans[0])
    assert len({row["original"] for row in hidden["image"]}) > 1
    assert len({row["masked"] for row in hidden["image"]}) == 1, "nothing of any image is seen"


def test_plan_counts_parameters_tokens_and_samples(shards: Path, recipe: dict, run: Path) -> None:
    result = plan(recipe)
    parameters = sum(p.numel() for p in Run(run).load_model().parameters())
    assert result.parameters["total"] == parameters + 1  # the logit scale
    assert result.tokens_per_sample["table"] == 6
    assert result.tokens_per_sample["image"] == 9
    assert result.data.training_samples == len(Split(shards, "train"))
    assert result.memory_gib_by_zero_stage["0"] == pytest.approx(16 * result.parameters["total"] / 2**30)


def test_plan_reports_the_number_of_inspected_samples(shards: Path, recipe: dict) -> None:
    assert plan(recipe).data.unusable_of_sampled == (0, len(Split(shards, "train")))


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "npy"])
def test_thumbnails_have_formats_that_browsers_display(extension: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    if extension == "npy":
        np.save(file, pixels)
    else:
        Pillow.fromarray(pixels).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(extension, extension))
    members = {"image": {extension: file.getvalue()}, "name": {"txt": b"finch"}}
    image = Image(size=32, patch=8).fit([Image().decode(members["image"])])
    fitted = {"image": image, "name": Text(vocabulary=300).fit(["finch"])}
    expected = "jpeg" if extension == "jpg" else "png"
    for name in fitted:
        images = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', thumbnail(members, name, fitted))
        assert [kind for kind, _ in images] == [expected]
        assert Pillow.open(io.BytesIO(base64.b64decode(images[0][1]))).format == expected.upper()


def test_a_description_in_json_is_no_thumbnail_of_a_recording() -> None:
    samples = np.random.default_rng(0).standard_normal((1, 400)).astype(np.float32)
    described = to_members(Recording(samples, ("I",), ("mV",), 200.0))
    for extensions in (("npy", "json"), ("json", "npy")):  # as built, and as sorted tars of others have them
        members = {"ecg": {extension: described[extension] for extension in extensions}, "name": {"txt": b"finch"}}
        fitted = {"ecg": Signal().fit([Signal().decode(described)])}
        assert thumbnail(members, "ecg", fitted).startswith("<svg")


def test_memory_decreases_with_the_zero_stage() -> None:
    by_stage = memory(10**9, 8)
    assert by_stage["1"] > by_stage["2"] > by_stage["3"]
    assert by_stage["3"] == pytest.approx(20 * 10**9 / 8 / 2**30)


def test_doctor_explains_what_a_missing_parser_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "pyedflib":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    [line] = [line for line in doctor().missing if "pyedflib" in line]
    assert line.startswith("pyedflib is not installed (edf: ")
    assert line.endswith("pip install 'sensorium[biosignals]' or pip install pyedflib")


def test_doctor_finds_the_packages_of_the_tests() -> None:
    result = doctor()
    assert all(result.packages[name] for name in ("torch", "deepspeed", "peft"))
    parsers = result.parsers
    assert parsers.keys() >= {"rdkit", "pillow", "wfdb", "pyedflib", "soundfile", "mne", "biopython", "datasets"}
    assert parsers.keys() >= {name for kind in (Image, Signal, Spectrogram, Text) for name in kind.requires}
    assert all(parser.version and parser.uses for parser in parsers.values())
    assert any(use.startswith("waveforms: Recordings in WFDB records") for use in parsers["wfdb"].uses)
    assert result.cores >= 1
    assert isinstance(result.missing, list)
