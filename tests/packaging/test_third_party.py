"""A modality, a source and an objective of an installed package go through all commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "field-counts"
version = "1"
[tool.setuptools]
packages = ["field_counts"]
[project.entry-points."sensorium.modalities"]
counts = "field_counts.counts:Counts"
[project.entry-points."sensorium.sources"]
transects = "field_counts.transects:Transects"
[project.entry-points."sensorium.objectives"]
center = "field_counts.center:CenterConfig"
"""
SCALING = """
import numpy as np

def compress(counts):
    return np.log1p(np.asarray(counts, np.float32))
"""
COUNTS = '''
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from modalities.base import Modality, fitted, register
from modalities.files.reading import ContentError
from modalities.layers.positions import SineCosine
from modalities.tokens import Tokens

from .scaling import compress


@register
@dataclass(frozen=True, kw_only=True)
class Counts(Modality):
    """Animals counted along a transect, one token per section."""

    type: ClassVar[str] = "counts"
    extensions: ClassVar[tuple[str, ...]] = ("txt",)
    factor: float = 1.0
    std: float = fitted(1.0)

    @property
    def widths(self):
        return 1, 1, 1

    def fit(self, raws):
        values = np.concatenate([compress(raw) for raw in raws])
        return dataclasses.replace(self, std=float(values.std()) or 1.0)

    def decode(self, members):
        return self.parse(members["txt"].decode())

    def parse(self, value):
        try:
            return [int(number) for number in value.split()]
        except ValueError as error:
            raise ContentError("counts that are not whole numbers") from error

    def tokenize(self, raw, rng=None):
        values = self.factor * compress(raw)[:, None] / np.float32(self.std)
        coords = np.arange(len(raw), dtype=np.float32)[:, None]
        return Tokens(values, np.full((len(raw), 1), 2), coords)

    def embedding(self, dim):
        return CountEmbedding(dim)

    def head(self, dim):
        return nn.Linear(dim, 1)

    def loss(self, prediction, values, ids):
        return (prediction.float() - values.float()).square().mean(1)

    def reconstruct(self, prediction, tokens):
        return tokens._replace(values=prediction)

    def show(self, tokens, target, reconstructed):
        def text(values):
            return " ".join("?" if np.isnan(value) else f"{value:.1f}" for value in values[:, 0])

        masked = np.where(target[:, None], np.nan, tokens.values)
        filled = np.where(target[:, None], reconstructed.values, tokens.values)
        return {"original": text(tokens.values), "masked": text(masked), "reconstructed": text(filled)}


class CountEmbedding(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.content = nn.Linear(1, dim)
        self.place = SineCosine(1, dim)

    def forward(self, values, ids, coords):
        return self.content(values), self.place(coords)
'''
TRANSECTS = '''
from dataclasses import dataclass
from typing import ClassVar

from shards.sources.base import Sample, Source, register


@register
@dataclass(frozen=True, kw_only=True)
class Transects(Source):
    """Files `SITE.transects`: per line a name, the species richness and the counts, separated by semicolons."""

    type: ClassVar[str] = "transects"
    modality: str = "counts"

    def items(self, raw):
        for path in sorted(raw.glob("*.transects")):
            yield from ((path.stem, line) for line in path.read_text().splitlines())

    def make(self, item, modalities):
        site, line = item
        name, richness, counts = line.split(";")
        members = {
            f"{self.modality}.txt": counts.encode(),
            "note.txt": f"transect {name} of {site}".encode(),
            "labels.json": f'{{"richness": {richness}}}'.encode(),
        }
        return Sample(identity=f"{site}/{name}", members=members, groups={"site": site})
'''
CENTER = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipeline.objectives.base import Objective, ObjectiveConfig, Term, register


@register
@dataclass(frozen=True, kw_only=True)
class CenterConfig(ObjectiveConfig):
    """Pulls the fused features towards 0."""

    name: ClassVar[str] = "center"

    def check(self, modalities):
        if "counts" not in modalities:
            raise ValueError("objectives.center needs the modality counts")

    def build(self, modalities, dim):
        return Center()


class Center(Objective):
    views = ("full",)

    def count(self, batch):
        return {"fused": torch.tensor(float(batch.size))}

    def forward(self, encodings, batch):
        return {"fused": Term(encodings["full"].fused.square().mean(1).sum(), self.count(batch)["fused"])}
'''
RECIPE: dict[str, Any] = {
    "name": "field",
    "model": {"dim": 16, "depth": 1, "heads": 2, "embedding": 8, "decoder": {"dim": 8, "depth": 1, "heads": 2}},
    "data": {
        "source": {"type": "transects"},
        "split": {"by": "site", "validation": 0.2, "test": 0.3},
        "shards": [{"path": "shards"}],
    },
    "modalities": {
        "counts": {"type": "counts", "factor": 2.0, "mask": {"ratio": 0.3}},
        "note": {"type": "text", "vocabulary": 300, "mask": {"ratio": 0.3}},
    },
    "objectives": {"masked": {}, "center": {"weight": 0.1}},
    "train": {
        "steps": 3,
        "batch_size": 8,
        "precision": "fp32",
        "workers": 1,
        "log_every": 1,
        "checkpoint_every": 3,
    },
    "evaluate": {"gallery": 10, "probe": "richness", "probe_samples": 40},
}

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in `site`, raw files in `raw` and the recipe."""
    folder = tmp_path_factory.mktemp("third")
    project = folder / "project"
    (project / "field_counts").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    modules = {"counts": COUNTS, "scaling": SCALING, "transects": TRANSECTS, "center": CENTER, "__init__": ""}
    for name, code in modules.items():
        (project / "field_counts" / f"{name}.py").write_text(code)
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", folder / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, project], check=True)
    (folder / "raw").mkdir()
    for site in range(12):
        lines = [f"t{n};{(site + n) % 5};{' '.join(str((n * k + site) % 7) for k in range(6 + n))}" for n in range(6)]
        (folder / "raw" / f"site{site}.transects").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module")
def call(work: Path) -> Call:
    """Run a command in a process that has the package on its path."""
    path = os.pathsep.join([str(ROOT), str(work / "site")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def trained(call: Call, work: Path) -> Path:
    for words in (
        ("shards", "build", "recipe.yaml", "--raw", "raw", "--out", "shards"),
        ("pretrain", "recipe.yaml", "--out", "run"),
    ):
        done = call(*words)
        assert done.returncode == 0, done.stderr
    return work / "run"


def test_third_party_classes_train(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    assert {"masked/counts", "center/fused"} <= rows[-1].keys()
    fitted = json.loads((trained / "modalities.json").read_text())["counts"]
    assert fitted["factor"] == 2.0
    assert fitted["std"] != 1.0


def test_a_third_party_run_is_evaluated_reported_and_finetuned(call: Call, trained: Path, work: Path) -> None:
    done = call("evaluate", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert "counts" in done.stdout
    done = call("report", "run")
    assert done.returncode == 0, done.stderr
    assert "transect" in (trained / "report.html").read_text()
    words = ("finetune", "run", "--data", "shards", "--label", "richness", "--seeds", "1", "--out", "tuned", "--json")
    done = call(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "richness"


def test_the_third_party_file_is_exported(call: Call, trained: Path, work: Path) -> None:
    done = call("export", "run", "--out", "exported", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["max_difference"] <= 1e-5
    names = {path.name for path in (work / "exported").glob("*.py")}
    assert {"field_counts_counts.py", "field_counts_scaling.py"} <= names
    assert not {"image.py", "table.py", "field_counts_transects.py"} & names
    code = (
        "import sys; from transformers import AutoModel, AutoProcessor\n"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(model(**processor(counts=['3 1 4 1 5'])).embeddings['counts'].shape)\n"
        "assert 'field_counts' not in sys.modules and 'modalities' not in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(work / "exported")],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch.Size([1, 8])" in done.stdout


def test_without_the_package_its_names_are_unknown(work: Path, call: Call) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "plan", "recipe.yaml"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 2
    assert "'transects'" in done.stderr or "'counts'" in done.stderr
