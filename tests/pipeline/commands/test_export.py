"""What is exported loads without this project and gives the run's own embeddings."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modalities.table import Table
from pipeline.commands.export import BLOCKED, CHECK, flatten
from pipeline.commands.predict import predict_file
from pipeline.evaluation.predictor import Settings
from pipeline.run import Run
from runs import pretrained as pretrain
from sensorium import export as export_run
from sensorium import finetune


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    """An exported folder, what `export` said of it, and the run it came from."""
    copy = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(run, copy)
    result = export_run(copy, copy.parent / "model")
    return copy.parent / "model", result, copy


def test_a_fresh_process_gives_the_same_embeddings(exported: tuple[Path, dict[str, Any], Path]) -> None:
    folder, result, run = exported
    assert result.max_difference <= 1e-5
    assert result.path == str(folder)
    assert Run(run).result()["export"] == result.to_json()
    assert not list(folder.parent.glob("*.writing"))


def test_the_folder_is_flat_and_imports_nothing_from_the_project(exported: tuple[Path, dict[str, Any], Path]) -> None:
    folder, _, _ = exported
    assert all(path.is_file() for path in folder.iterdir())
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md", "requirements.txt"} <= names
    present = {path.stem for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert (node.module in present) if node.level else node.module.split(".")[0] not in BLOCKED
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & set(BLOCKED)
    assert (folder / "requirements.txt").read_text().split() == ["imagecodecs", "pillow", "simplejpeg", "tifffile"]
    json.loads((folder / "config.json").read_text())


def test_processor_and_model_from_raw_data(exported: tuple[Path, dict[str, Any], Path]) -> None:
    folder, _, _ = exported
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules")
    picture = np.full((40, 60), 255, np.uint8)
    with pytest.raises(ValueError, match="unknown modality"):
        processor(sound=[1])
    with pytest.raises(ValueError, match="one item per sample"):
        processor(smiles=["C", "CC"], image=[picture])
    inputs = processor(smiles=["CCO", None], image=[None, picture], table=[{"MolWt": 46.0, "new": 1}, None])
    with torch.inference_mode():
        output = model(**inputs)
    norms = output.embeddings["smiles"].norm(dim=1)
    assert norms[0].item() == pytest.approx(1.0, abs=1e-5)
    assert output.embeddings["image"].shape == (2, 16)
    assert torch.isfinite(output.fused).all()


def test_the_card_runs_and_has_the_metrics(exported: tuple[Path, dict[str, Any], Path]) -> None:
    folder, _, run = exported
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    assert "AutoModel.from_pretrained" in text
    assert "{{" not in text
    assert "{%" not in text
    code = text.split("```python\n")[1].split("```")[0]
    fitted = Run(run).modalities()
    assert fitted is not None
    table = fitted["table"]
    assert isinstance(table, Table)
    assert any(f"table=[{{{column!r}: " in code for column in table.columns)
    code = code.replace('folder = "."', f"folder = {str(folder)!r}").replace('"picture.png"', "numpy_picture")
    scope: dict[str, Any] = {"numpy_picture": np.zeros((48, 48), np.uint8)}
    exec(code, scope)
    assert scope["output"].embeddings["smiles"].shape == (1, 16)


def test_only_modalities_in_the_recipe_are_exported(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["modalities"] = {name: recipe["modalities"][name] for name in ("smiles", "table")}
    recipe["train"]["steps"] = 1
    run = pretrain(recipe, out=tmp_path / "run")
    result = export_run(run, tmp_path / "model")
    assert not (tmp_path / "model" / "image.py").exists()
    assert (tmp_path / "model" / "requirements.txt").read_text() == ""
    assert result.max_difference <= 1e-5


def test_imports_of_a_modality_are_exported_with_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    from pipeline.commands.build import build_shards

    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(0)
    barcodes = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(40)]
    (tmp_path / "raw" / "a.fasta").write_text("".join(f">s{i}\n{dna}\n" for i, dna in enumerate(barcodes)))
    rows = "".join(f"s{i},Genus{i % 9} species{i}\n" for i in range(40))
    (tmp_path / "raw" / "a.csv").write_text(f"id,name\n{rows}")
    recipe["data"] = {
        "source": {"type": "fasta", "table": "a.csv", "columns": {"taxon": "name"}},
        "split": {"validation": 0.2, "test": 0.2},
        "shards": [{"path": str(tmp_path / "shards")}],
    }
    recipe["modalities"] = {
        "dna": {"type": "dna", "vocabulary": "learned", "vocabulary_size": 64},
        "taxon": {"type": "text", "vocabulary": 400, "length": 20},
    }
    recipe["train"]["steps"] = 1
    del recipe["evaluate"]["probe"]
    build_shards(recipe, tmp_path / "raw", tmp_path / "shards", workers=1)
    result = export_run(pretrain(recipe, out=tmp_path / "run"), tmp_path / "model")
    assert result.max_difference <= 1e-5
    names = {path.name for path in (tmp_path / "model").glob("*.py")}
    assert {"dna.py", "text.py", "strings_sequence.py", "strings_subwords.py"} <= names
    assert (tmp_path / "model" / "requirements.txt").read_text() == "sentencepiece\n"
    processor = AutoProcessor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    model = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    with torch.inference_mode():
        output = model(**processor(dna=["acgtacgtNNac"], taxon=["Genus1 species4"]))
    assert torch.isfinite(output.fused).all()


PREDICT = """
import json, sys
from transformers import AutoModel, AutoProcessor
folder, smiles = sys.argv[1], json.loads(sys.argv[2])
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert not {"pipeline", "modalities", "shards", "rdkit"} & set(sys.modules)
print(json.dumps([model.config.head["classes"], model.predict(**processor(smiles=smiles)).tolist()]))
"""


@pytest.mark.parametrize("label", ["mass", "kind"])
def test_a_fine_tuned_run_is_exported_with_its_head(run: Path, tmp_path: Path, label: str) -> None:
    smiles = [f"{'C' * count}{end}" for count in range(1, 13) for end in ("O", "N", "F")]
    rows = {"smiles": smiles, "mass": [150.5 * len(text) for text in smiles], "kind": [text[-1] for text in smiles]}
    pl.DataFrame(rows).write_csv(tmp_path / "data.csv")
    settings = Settings(epochs=1)
    tuned = finetune(run, tmp_path / "data.csv", label, out=tmp_path / "t", modalities=["smiles"], settings=settings)
    result = export_run(tmp_path / "t", tmp_path / "model")
    assert result.max_difference <= 1e-5
    predict_file(tmp_path / "t", tmp_path / "data.csv", tmp_path / "p.parquet")
    frame = pl.read_parquet(tmp_path / "p.parquet")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_MODULES_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(tmp_path / "model"), json.dumps(smiles)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    classes, outputs = json.loads(done.stdout)
    expected = frame[[f"probability_{name}" for name in classes]] if classes else frame["mass"]
    np.testing.assert_allclose(outputs, expected.to_numpy(), rtol=1e-5, atol=1e-5)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"fine-tuned to predict `{label}`, " + ("one of F, N, O" if classes else "a number in the unit") in card
    metric = "balanced_accuracy" if classes else "rmse"
    assert f"{tuned.pretrained[metric + '_mean']:.3f} ± 0.000" in card
    assert "model.predict(**inputs)" in card


def test_a_pretrained_export_has_no_head(run: Path) -> None:
    with pytest.raises(ValueError, match="the model has no head: it was not fine-tuned"):
        Run(run).load_model().predict([])


def test_a_failed_export_leaves_no_files(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[export_run.__module__], "check", lambda folder, packages: 0.1)
    with pytest.raises(RuntimeError, match="differ by"):
        export_run(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lab/finds", "no name/at all"])
def test_a_failed_push_is_reported_in_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(sys.modules[export_run.__module__], "check", lambda folder, packages: 0.0)
    with pytest.raises(ValueError, match=rf"model is written, but could not be pushed to {name}"):
        export_run(run, tmp_path / "model", push=name)
    assert (tmp_path / "model" / "config.json").is_file()


@pytest.mark.parametrize("kind", ["llama", "sensorium"])
def test_an_unrelated_model_or_repository_is_not_overwritten(run: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / ".git").mkdir()
    with pytest.raises(ValueError, match=r"is not an exported model, it has .*\.git.*: choose another folder"):
        export_run(run, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unrelated_folder_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="choose another folder"):
        export_run(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_flatten_refuses_imports_that_would_not_load() -> None:
    names = {"modalities.base": "base"}
    assert flatten("from modalities.base import Tokens\n", names) == "from .base import Tokens\n"
    with pytest.raises(ValueError, match="not exported"):
        flatten("from modalities.other import x\n", names)
    with pytest.raises(ValueError, match="import names from"):
        flatten("import modalities.base\n", names)


@pytest.mark.slow
def test_an_export_loads_with_only_torch_and_transformers(
    exported: tuple[Path, dict[str, Any], Path], tmp_path: Path
) -> None:
    folder, _, _ = exported
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    constraints = Path(__file__).parents[3] / "constraints.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, "torch", "transformers"], check=True)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", CHECK, str(folder), json.dumps(BLOCKED)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.splitlines()[-1]) <= 1e-5
    requirements = folder / "requirements.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, "-r", requirements], check=True)
    code = (
        "import sys; from transformers import AutoModel, AutoProcessor; f = sys.argv[1]\n"
        "m = AutoModel.from_pretrained(f, trust_remote_code=True)\n"
        "p = AutoProcessor.from_pretrained(f, trust_remote_code=True)\n"
        "from PIL import Image\n"
        "print(m(**p(smiles=['CCO'], image=[Image.new('L', (48, 48))])).embeddings['image'].shape)\n"
    )
    done = subprocess.run(
        [python, "-c", code, str(folder)], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sys.executable != str(python)
