"""Export to a Hugging Face folder that loads without this project."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import numpy as np
import torch
from safetensors.torch import save_file

import modalities.base
import modalities.masks.masking
import modalities.strings.vocabulary
import pipeline.model.batch
import pipeline.model.blocks
import pipeline.model.configuration
import pipeline.model.modeling
import pipeline.model.processing
from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.names import format_names
from modalities.tokens import Tokens
from pipeline.commands.evaluate import encode, ranked, shown
from pipeline.commands.finetune import Predictor, load_predictor
from pipeline.data.labelled import Task
from pipeline.data.loader import tokenize
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.run import Run
from shards.files import atomic_folder, write_json
from shards.read import Split

SHARED: tuple[ModuleType, ...] = (
    modalities.base,
    modalities.masks.masking,
    modalities.strings.vocabulary,
    pipeline.model.batch,
    pipeline.model.blocks,
    pipeline.model.configuration,
    pipeline.model.modeling,
    pipeline.model.processing,
)
"""Modules every exported model needs; those of its modalities, and what they import, are added."""
EXAMPLES = 8
WRITTEN = (".py", ".json", ".safetensors")
"""How names of files of an export end."""


def export(run: str | Path, out: str | Path | None = None, push: str | None = None) -> dict[str, Any]:
    """Write a run's model as a Hugging Face folder, check it in a fresh process, push it if asked.

    The folder holds the weights, of a fine-tuned run with its head, a processor, a model card with the run's figures,
    the code as flat files, and a few samples as tokens with the embeddings and predictions they must give. Returns its
    path and the largest difference found between those of the fresh process and the run's own, predicted numbers in
    deviations of the label.

    Raises:
        ValueError: no model, or a folder that holds something else.
        RuntimeError: the exported folder does not reproduce the run's embeddings or predictions.
    """
    held = Run.existing(Path(run))
    target = Path(out) if out is not None else held.folder.with_name(held.folder.name + "-export")
    if others := _others(target):
        raise ValueError(f"{target} holds what is no exported model ({format_names(others)}): choose another folder")
    fitted = held.modalities()
    assert fitted is not None
    tuned = load_predictor(held) if held.fine_tuned else None
    model = tuned[0].model if tuned else held.load_model()
    with atomic_folder(target) as aside:
        _write_examples(shown(held.recipe()), model, tuned, aside)
        _write_weights(held, model, tuned, aside)
        write_code(aside, list(fitted.values()))
        (aside / "README.md").write_text(card(held, fitted, tuned[1] if tuned else None))
        difference = check(aside)
        if not difference <= 1e-5:  # nor is what is not a number
            raise RuntimeError(f"what the exported model gives differs by {difference:.1e} from what the run gives")
    result = {"path": str(target), "max_difference": difference}
    held.add_result(export=result)
    if push is not None:
        _push(target, push)
        result["pushed"] = push
        held.add_result(export=result)
    return result


def _others(folder: Path) -> list[str]:
    """What stands in a folder that no export has written, all where it holds no exported model."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    with suppress(ValueError, OSError):
        if json.loads((folder / "config.json").read_text())["model_type"] == SensoriumConfig.model_type:
            known = ("README.md", "requirements.txt", "__pycache__")
            return [name for name in names if name not in known and Path(name).suffix not in WRITTEN]
    return names


def _push(folder: Path, name: str) -> None:
    """Upload a folder to the Hub.

    Raises:
        ValueError: the Hub cannot be reached or refuses it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # of whichever HTTP client the Hub's library is built on
        raise ValueError(
            f"{folder} is written, but was not pushed to {name} ({error}): see that the Hub can be reached and that "
            "`hf auth login` was run, then do the same again"
        ) from error


def _write_weights(held: Run, model: SensoriumModel, tuned: tuple[Predictor, Task] | None, folder: Path) -> None:
    if tuned:
        predictor, task = tuned
        model.head = predictor.head
        model.config.head = {**asdict(task), "modalities": list(predictor.names), "features": predictor.read}
    model.config.auto_map = {
        "AutoConfig": "configuration.SensoriumConfig",
        "AutoModel": "modeling.SensoriumModel",
    }
    model.save_pretrained(folder)
    states = {name: modality.to_json() for name, modality in model.modalities.items()}
    pipeline.model.processing.SensoriumProcessor(states).save_pretrained(folder)
    write_json(folder / "recipe.json", held.recipe().to_dict())
    packages = sorted({package for modality in model.modalities.values() for package in modality.requires})
    (folder / "requirements.txt").write_text("".join(f"{package}\n" for package in packages))


def write_code(folder: Path, fitted: list[Modality]) -> list[Path]:
    """The model's modules as flat files, imports rewritten, only the given kinds of modalities registered.

    `modalities.files.magic` becomes `files_magic.py` and `pipeline.model.batch` becomes `batch.py`.
    """
    own = dict.fromkeys(sys.modules[type(modality).__module__] for modality in fitted)
    modules = list(_with_imports([*SHARED, *own]))
    names = {module.__name__: _flat_name(module.__name__) for module in modules}
    assert len(set(names.values())) == len(names), "two exported modules bear the same name"
    paths = []
    for module in modules:
        source = flatten(inspect.getsource(module), names)
        if module is pipeline.model.modeling or module is pipeline.model.processing:
            # The registry is filled by importing the modalities; in the project their package does that.
            used = "\n".join(f"from .{names[m.__name__]} import *  # noqa: F403" for m in own)
            source = source.replace(
                "from __future__ import annotations\n", f"from __future__ import annotations\n\n{used}\n", 1
            )
        path = folder / f"{names[module.__name__]}.py"
        path.write_text(source)
        paths.append(path)
    # transformers knows a model's code by its configuration's class: other code needs another one in one process
    code = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    with (folder / f"{names[pipeline.model.configuration.__name__]}.py").open("a") as file:
        file.write(f"\n# code: {code}\n")
    return paths


def _flat_name(module: str) -> str:
    return module.removeprefix("pipeline.model.").removeprefix("modalities.").replace(".", "_")


def _with_imports(modules: Iterable[ModuleType]) -> dict[ModuleType, None]:
    """The modules, and those of the package `modalities` that they import, directly or not, in a fixed order."""
    found: dict[ModuleType, None] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop(0)
        if module not in found:
            found[module] = None
            nodes = ast.walk(ast.parse(inspect.getsource(module)))
            names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
            waiting += [sys.modules[name] for name in names if name.startswith("modalities.")]
    return found


def flatten(source: str, names: dict[str, str]) -> str:
    """Rewrite imports of the project's modules as relative imports of flat files.

    Raises:
        ValueError: an import of a project module that is not exported.
    """
    lines = source.splitlines(keepends=True)
    ours = {name.partition(".")[0] for name in names}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in ours:
            if node.module not in names:
                raise ValueError(f"{node.module} is imported by exported code but not exported")
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"from {node.module} import", f"from .{names[node.module]} import")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in ours:
                    raise ValueError(f"exported code must import names from {alias.name}, not the module")
    return "".join(lines)


def _write_examples(split: Split, model: SensoriumModel, tuned: tuple[Predictor, Task] | None, folder: Path) -> None:
    """A few samples as tokens, and what the run's own code makes of them: embeddings, predictions if fine-tuned."""
    samples: list[dict[str, Tokens]] = []
    places = []
    for place in ranked(split):
        with suppress(ContentError):
            samples.append(tokenize(split.read(*place), model.modalities))
            places.append(place)
        if len(places) == EXAMPLES:
            break
    if not places:
        raise ValueError(f"no sample of the {split.split} split of {split.folder} can be used as an example")
    tensors: dict[str, torch.Tensor] = {}
    for number, sample in enumerate(samples):
        for name, tokens in sample.items():
            for part, values in zip(tokens._fields, tokens, strict=True):
                tensors[f"{number}.{name}.{part}"] = torch.from_numpy(np.ascontiguousarray(values))
    for name, values in encode(model, split, places).embeddings.items():
        tensors[f"embeddings.{name}"] = torch.from_numpy(values)
    if tuned:
        predictor, task = tuned
        tensors["predictions"] = torch.from_numpy(task.decode(predictor.predict(samples)))
    save_file(tensors, folder / "examples.safetensors")


CHECK = """
import json, sys
class Stranger:
    allowed = set(json.loads(sys.argv[2]))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.allowed:
            raise ImportError(f"{name} is not part of the exported model")
sys.meta_path.insert(0, Stranger())
import torch
from safetensors.torch import load_file
from transformers import AutoModel
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
stored = load_file(f"{folder}/examples.safetensors")
samples = {}
for name, value in stored.items():
    number, modality, part = (name.split(".") + ["", ""])[:3]
    if number.isdigit():
        samples.setdefault(int(number), {}).setdefault(modality, {})[part] = value.numpy()
batch = [{m: (t["values"], t["ids"], t["coords"]) for m, t in samples[i].items()} for i in sorted(samples)]
with torch.inference_mode():
    output = model(batch)
differences = [(output.embeddings[m] - stored[f"embeddings.{m}"]).abs().max() for m in output.embeddings]
if "predictions" in stored:
    differences.append((model.predict(batch) - stored["predictions"]).abs().max() / model.config.head["std"])
print(json.dumps(max(differences).item()))
"""
"""Loads an exported folder as a stranger would, where this project and its parsers cannot be imported."""

STRANGERS = ("pipeline", "modalities", "shards", "recipes", "rdkit", "tifffile", "imagecodecs", "polars", "typer")
"""What the fresh process may not import: the project, and parsers that transformers itself never looks for."""


def check(folder: Path) -> float:
    """Largest difference of embeddings and predictions between the run and the exported folder in a fresh process.

    Raises:
        RuntimeError: the folder does not load there.
    """
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(folder.resolve()), json.dumps(STRANGERS)],
            capture_output=True,
            text=True,
            cwd=cache,
            env={**os.environ, "HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the exported model does not load in a fresh process:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def card(held: Run, fitted: dict[str, Modality], task: Task | None) -> str:
    """The model card: what the model is, how to use it, its figures."""
    template = Path(__file__).parent / "templates" / "card.md.j2"
    environment = jinja2.Environment(keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    recipe, result = held.recipe(), held.result()
    split = Split(recipe.data.paths[0], "train", cache=recipe.data.cache)
    return environment.from_string(template.read_text()).render(
        recipe=recipe,
        modalities=fitted,
        split=shown(recipe).split,
        manifest=split.manifest,
        result=result,
        head=task,
        finetune=result.get("finetune"),
        probe_metrics=metrics(result.get("evaluate", {}).get("probe", {}).get("task")),
        finetune_metrics=metrics(result.get("finetune", {}).get("task")),
        environment=json.loads((held.folder / "environment.json").read_text()),
    )


def metrics(task: str | None) -> tuple[str, ...]:
    """The figures shown of a task."""
    return ("rmse", "spearman") if task == "regression" else ("accuracy", "balanced_accuracy", "auroc")
