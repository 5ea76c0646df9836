"""What a run trained on is never what it is judged on without saying so, and what cannot be used stops no verb."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from modalities.masks.plan import MaskPlan
from pipeline.commands.build import build_shards
from pipeline.commands.embed import embed_file
from pipeline.commands.predict import predict_file
from pipeline.commands.report import reconstructions
from pipeline.evaluation.gallery import by_key_hash, example_split
from pipeline.evaluation.predictor import Settings
from pipeline.run import Run
from runs import pretrained as pretrain
from sensorium import evaluate, export, finetune, report
from shards.read import Split

QUICK = Settings(mode="linear", labels=20)
SITES = tuple(f"site{number}" for number in range(30))
Write = Callable[..., Path]


def small(shards: Path) -> dict[str, Any]:
    """A recipe of barcodes and names, split by site."""
    return {
        "name": "finds",
        "model": {"dim": 16, "depth": 1, "heads": 2, "embedding": 8, "decoder": {"dim": 8, "depth": 1, "heads": 2}},
        "data": {
            "source": {"type": "rows", "columns": {"dna": "dna", "taxon": "taxon"}, "labels": ["mass"]},
            "split": {"by": "site", "validation": 0.1, "test": 0.2},
            "shards": [{"path": str(shards)}],
        },
        "modalities": {"dna": {"type": "dna"}, "taxon": {"type": "text", "vocabulary": 300, "length": 20}},
        "objectives": {"contrastive": {}},
        "train": {"steps": 2, "batch_size": 16, "precision": "fp32", "workers": 0},
        "evaluate": {"gallery": 20},
    }


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes shards of new finds of given sites."""

    def shards(seed: int, sites: Sequence[str] = SITES, *overrides: str, spoilt: int = 0) -> Path:
        folder, rng = tmp_path_factory.mktemp("finds"), np.random.default_rng(seed)
        (folder / "raw").mkdir()
        dna = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(4 * len(sites))]
        rows = {
            "dna": [text if number >= spoilt else "AC" for number, text in enumerate(dna)],
            "taxon": [f"Genus{number % 7} species{seed}" for number in range(len(dna))],
            "site": [sites[number % len(sites)] for number in range(len(dna))],
            "mass": rng.random(len(dna)),
        }
        pl.DataFrame(rows).write_csv(folder / "raw" / "finds.csv")
        if spoilt:  # k-mers short enough for the build, not for the run
            overrides = (*overrides, "modalities.dna.kmer=2")
        build_shards(small(folder / "shards"), folder / "raw", folder / "shards", overrides, workers=1)
        return folder / "shards"

    return shards


@pytest.fixture(scope="module")
def shards(write: Write) -> Path:
    return write(0)


@pytest.fixture
def finds(shards: Path, tmp_path: Path) -> Path:
    """A run of the sites' training split."""
    return pretrain(small(shards), out=tmp_path / "run")


def test_new_samples_of_training_groups_are_excluded(finds: Path, write: Write, tmp_path: Path) -> None:
    other = write(1, SITES, "data.split.seed=1")
    trained = {group for _, group, _, _ in Split(shards_of(finds), "train").locations()}
    judged = [group for _, group, _, _ in Split(other, "test").locations()]
    trained_count = sum(group in trained for group in judged)
    assert 0 < trained_count < len(judged)
    result = finetune(finds, other, "mass", out=tmp_path / "t", compare=False, settings=QUICK)
    assert (result.left_out, result.test, result.split) == (trained_count, len(judged) - trained_count, "site")
    trained_shards = write(2, sorted(trained))
    with pytest.raises(ValueError, match="test samples: use another test set"):
        finetune(finds, trained_shards, "mass", out=tmp_path / "u", compare=False, settings=QUICK)


def test_groups_of_another_column_are_not_compared(finds: Path, write: Write, tmp_path: Path) -> None:
    single = write(3, SITES, "data.split.by=null")
    result = finetune(finds, single, "mass", out=tmp_path / "t", compare=False, settings=QUICK)
    assert (result.left_out, result.split) == (0, None)


def test_evaluation_excludes_training_samples(finds: Path, write: Write) -> None:
    same_data = evaluate(finds)
    assert (same_data.trained_on, same_data.samples) == (0, 20)
    shards = Path(shards_of(finds))
    assert evaluate(finds, shards.parent / "raw" / ".." / shards.name) == same_data
    other = write(1, SITES, "data.split.seed=1")
    trained = {group for _, group, _, _ in Split(shards_of(finds), "train").locations()}
    judged = [group in trained for _, group, _, _ in Split(other, "test").locations()]
    new_data = evaluate(finds, other)
    assert (new_data.left_out, new_data.samples) == (sum(judged), len(judged) - sum(judged))
    with pytest.raises(ValueError, match=r"the run was trained on all \d+ samples of the test split"):
        evaluate(finds, write(2, sorted(trained)))


def test_an_evaluation_of_training_samples_is_labeled_as_such(finds: Path, tmp_path: Path) -> None:
    assert evaluate(finds, split="train").trained_on == 20
    export(finds, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Retrieval on the train split (**pretraining saw 20 of these 20 samples**):" in card
    assert "did not see" not in card
    evaluate(finds)
    export(finds, tmp_path / "model")
    assert "Retrieval on the test split (not seen in pretraining):" in (tmp_path / "model" / "README.md").read_text()


def test_unusable_samples_in_shards_are_skipped_and_counted(
    finds: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "DNA shorter than a k-mer of 4"
    faulty = write(4, [f"new{number}" for number in range(30)], spoilt=12)
    keys = {split: {key for key, *_ in Split(faulty, split).locations()} for split in ("train", "validation", "test")}
    spoilt = {
        split: {key for key, _, *place in Split(faulty, split).locations() if is_spoilt(Split(faulty, split), place)}
        for split in keys
    }
    assert [len(spoilt[split]) > 0 for split in ("train", "test")] == [True, True]
    result = finetune(finds, faulty, "mass", out=tmp_path / "t", settings=Settings(mode="linear"))
    assert result.labels == len(keys["train"] - spoilt["train"])
    assert result.test == len(keys["test"] - spoilt["test"])
    assert result.skipped == len(spoilt["train"] | spoilt["test"])
    messages = capsys.readouterr().err
    assert all(f"skipped a sample: {reason} ({key})" in messages for key in spoilt["train"] | spoilt["test"])
    usable = set().union(*keys.values()) - set().union(*spoilt.values())
    for output in (
        embed_file(finds, faulty, tmp_path / "e.parquet"),
        predict_file(tmp_path / "t", faulty, tmp_path / "p.parquet"),
    ):
        assert set(pl.read_parquet(output.path)["key"]) == usable
        assert sorted(output.skipped) == sorted(f"{key}: {reason}" for key in set().union(*spoilt.values()))
    with pytest.raises(ValueError, match=r"none of 12 samples can be used \([0-9a-f]{32}: DNA shorter"):
        embed_file(finds, write(5, ["a", "b", "c"], spoilt=12), tmp_path / "none.parquet")


def is_spoilt(split: Split, place: Sequence[int]) -> bool:
    shard, number = place
    return split.read(shard, number)["dna"] == {"txt": b"AC"}


def test_few_labels_are_drawn_from_usable_samples(finds: Path, write: Write, tmp_path: Path) -> None:
    faulty = write(4, [f"new{number}" for number in range(30)], spoilt=50)
    result = finetune(finds, faulty, "mass", out=tmp_path / "t", compare=False, settings=QUICK)
    assert result.labels == 20
    assert result.skipped > 0


def test_shards_have_their_own_split_and_columns(finds: Path, shards: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"split": "nonsense"}, "--split is for"),
        ({"columns": {"dna": "x"}}, "--columns is for"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(finds, shards, "mass", out=tmp_path / "t", settings=QUICK, **options)
    assert not (tmp_path / "t").exists()


def test_shards_are_read_once(finds: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, counts = Split.read, Counter[tuple[str, int, int]]()

    def counted(self: Split, shard: int, number: int) -> Any:
        counts[self.split, shard, number] += 1
        return read(self, shard, number)

    finetune(finds, shards, "mass", out=tmp_path / "t", compare=False, settings=QUICK)
    monkeypatch.setattr(Split, "read", counted)
    embed_file(finds, shards, tmp_path / "e.parquet")
    predict_file(tmp_path / "t", shards, tmp_path / "p.parquet")
    assert len(counts) == 120
    assert set(counts.values()) == {2}


def test_export_and_report_skip_unusable_samples(write: Write, tmp_path: Path) -> None:
    faulty = write(6, [f"new{number}" for number in range(30)], spoilt=50)
    split = Split(faulty, "test")
    assert any(is_spoilt(split, place) for place in by_key_hash(split)[:8])
    run = pretrain(small(faulty), ["data.max_skipped=1.0"], tmp_path / "run")
    assert export(run, tmp_path / "model").max_difference <= 1e-5
    assert Path(report(run).path).read_text().count("original</div>") == 2
    reconstructed = reconstructions(Run(run).load_model(), 0, split, MaskPlan())
    assert {name: len(examples) for name, examples in reconstructed.items()} == {"dna": 4, "taxon": 4}


@pytest.mark.parametrize(("shares", "expected"), [((0, 0.1), "validation"), ((0, 0), "train")])
def test_examples_come_from_an_existing_split(
    write: Write, tmp_path: Path, shares: tuple[float, float], expected: str
) -> None:
    overrides = [f"data.split.{name}={share}" for name, share in zip(("test", "validation"), shares, strict=True)]
    run = pretrain(small(write(7, SITES, *overrides)), overrides, tmp_path / "run")
    assert example_split(Run(run).recipe()).split == expected
    if expected == "train":
        export(run, tmp_path / "model")
        assert "has a few samples of the train\nsplit" in (tmp_path / "model" / "README.md").read_text()
        assert "Samples of the train split, masked" in Path(report(run).path).read_text()


def shards_of(run: Path) -> str:
    return Run(run).recipe().data.paths[0]
