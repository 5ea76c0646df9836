"""Export to a Hugging Face folder that loads without this project."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar

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
from pipeline.commands.finetune import load_predictor
from pipeline.commands.report import metric_names, stored_results
from pipeline.commands.result import Result
from pipeline.data.loader import tokenize
from pipeline.data.task import Task
from pipeline.evaluation.embed import encode
from pipeline.evaluation.gallery import by_key_hash, example_split
from pipeline.evaluation.predictor import Predictor
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
"""Modules in every export, in addition to the modules of its modalities and their imports."""
EXAMPLES = 8
SUFFIXES = (".py", ".json", ".safetensors")
"""Suffixes of exported files."""


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """An exported folder.

    max_difference: largest difference between its outputs in a fresh process (embeddings and predictions) and those of
    the run; predicted numbers are divided by the std of the label. pushed: name of the Hub repository, None if it was
    not pushed.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"pushed"})
    path: str
    max_difference: float
    pushed: str | None = None

    def lines(self) -> list[str]:
        lines = [f"exported: {self.path} (embeddings equal to {self.max_difference:.1e})"]
        return [*lines, *([f"pushed: {self.pushed}"] if self.pushed else [])]


def export(run: str | Path, out: str | Path | None = None, push: str | None = None) -> ExportResult:
    """Write a run's model as a Hugging Face folder, check it in a fresh process, and push it on request.

    The folder has the weights (with the head of a fine-tuned run), a processor, a model card with the run's figures,
    the code as flat files, and a few samples as tokens with their embeddings and predictions.

    Raises:
        ValueError: no model, or a folder with other files.
        RuntimeError: the exported folder does not reproduce the run's embeddings or predictions.
    """
    trained = Run.existing(Path(run))
    target = Path(out) if out is not None else trained.folder.with_name(trained.folder.name + "-export")
    if names := _foreign_files(target):
        raise ValueError(f"{target} is not an exported model, it has {format_names(names)}: choose another folder")
    fitted = trained.modalities()
    assert fitted is not None
    tuned = load_predictor(trained) if trained.fine_tuned else None
    model = tuned[0].model if tuned else trained.load_model()
    with atomic_folder(target) as temporary:
        _write_examples(example_split(trained.recipe()), model, tuned, temporary)
        _write_weights(trained, model, tuned, temporary)
        write_code(temporary, list(fitted.values()))
        (temporary / "README.md").write_text(card(trained, fitted, tuned[1] if tuned else None))
        difference = check(temporary, {_top_package(type(modality).__module__) for modality in fitted.values()})
        if not difference <= 1e-5:  # also rejects NaN
            raise RuntimeError(f"outputs of the exported model differ by {difference:.1e} from those of the run")
    result = ExportResult(path=str(target), max_difference=difference)
    trained.add_result(export=result.to_json())
    if push is not None:
        _push(target, push)
        result = replace(result, pushed=push)
        trained.add_result(export=result.to_json())
    return result


def _foreign_files(folder: Path) -> list[str]:
    """Names of files in a folder that no export writes; all names if the folder is not an exported model."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    with suppress(ValueError, OSError):
        if json.loads((folder / "config.json").read_text())["model_type"] == SensoriumConfig.model_type:
            expected = ("README.md", "requirements.txt", "__pycache__")
            return [name for name in names if name not in expected and Path(name).suffix not in SUFFIXES]
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
    except Exception as error:  # huggingface_hub does not define which HTTP client's errors it raises
        raise ValueError(
            f"{folder} is written, but could not be pushed to {name} ({error}): check the connection to the Hub, run "
            "`hf auth login` and run the same command again"
        ) from error


def _write_weights(trained: Run, model: SensoriumModel, tuned: tuple[Predictor, Task] | None, folder: Path) -> None:
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
    write_json(folder / "recipe.json", trained.recipe().to_dict())
    packages = sorted({package for modality in model.modalities.values() for package in modality.requires})
    (folder / "requirements.txt").write_text("".join(f"{package}\n" for package in packages))


def write_code(folder: Path, fitted: list[Modality]) -> list[Path]:
    """Write the model's modules as flat files with rewritten imports; only the types of `fitted` are registered.

    `modalities.files.magic` becomes `files_magic.py` and `pipeline.model.batch` becomes `batch.py`.
    """
    types = dict.fromkeys(sys.modules[type(modality).__module__] for modality in fitted)
    modules = list(_with_imports([*SHARED, *types]))
    names = {module.__name__: _flat_name(module.__name__) for module in modules}
    assert len(set(names.values())) == len(names), "two exported modules have the same name"
    paths = []
    for module in modules:
        source = flatten(inspect.getsource(module), names, module.__package__ or "")
        if module is pipeline.model.modeling or module is pipeline.model.processing:
            # Importing a modality registers it; in the project the package `modalities` does that.
            imports = "\n".join(f"from .{names[m.__name__]} import *  # noqa: F403" for m in types)
            source = source.replace(
                "from __future__ import annotations\n", f"from __future__ import annotations\n\n{imports}\n", 1
            )
        path = folder / f"{names[module.__name__]}.py"
        path.write_text(source)
        paths.append(path)
    # transformers identifies a model's code by its configuration: other code in the same process needs another file
    code = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    with (folder / f"{names[pipeline.model.configuration.__name__]}.py").open("a") as file:
        file.write(f"\n# code: {code}\n")
    return paths


def _flat_name(module: str) -> str:
    return module.removeprefix("pipeline.model.").removeprefix("modalities.").replace(".", "_")


def _with_imports(modules: Iterable[ModuleType]) -> dict[ModuleType, None]:
    """The modules and all that they import of `modalities` or of their own package, in a fixed order."""
    collected: dict[ModuleType, None] = {}
    pending = list(modules)
    while pending:
        module = pending.pop(0)
        if module in collected:
            continue
        collected[module] = None
        packages = {"modalities", _top_package(module.__name__)} - {"pipeline"}
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom):
                name = _imported_module(node, module.__package__ or "")
                if "." in name and _top_package(name) in packages:
                    pending.append(importlib.import_module(name))
    return collected


def _top_package(module: str) -> str:
    return module.partition(".")[0]


def _imported_module(node: ast.ImportFrom, package: str) -> str:
    """Absolute name of the module that a statement in a module of `package` imports from."""
    if not node.level:
        return node.module or ""
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def flatten(source: str, names: dict[str, str], package: str = "") -> str:
    """Rewrite imports of exported modules as relative imports of flat files; `source` is a module of `package`.

    Raises:
        ValueError: an import of a module that is not exported, of the project or of the module's own package.
    """
    lines = source.splitlines(keepends=True)
    exported_packages = {_top_package(name) for name in names}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = _imported_module(node, package)
            if _top_package(module) not in exported_packages:
                continue
            if module not in names:
                raise ValueError(f"{module} is imported by exported code but not exported: import names from modules")
            statement = f"from {'.' * node.level}{node.module or ''} import"
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(statement, f"from .{names[module]} import")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _top_package(alias.name) in exported_packages:
                    raise ValueError(f"exported code must import names from {alias.name}, not the module")
    return "".join(lines)


def _write_examples(split: Split, model: SensoriumModel, tuned: tuple[Predictor, Task] | None, folder: Path) -> None:
    """Write a few samples as tokens, with their embeddings and, of a fine-tuned run, predictions."""
    samples: list[dict[str, Tokens]] = []
    locations = []
    for location in by_key_hash(split):
        with suppress(ContentError):
            samples.append(tokenize(split.read(*location), model.modalities))
            locations.append(location)
        if len(locations) == EXAMPLES:
            break
    if not locations:
        raise ValueError(f"no sample of the {split.split} split of {split.folder} can be used as an example")
    tensors: dict[str, torch.Tensor] = {}
    for number, sample in enumerate(samples):
        for name, tokens in sample.items():
            for part, values in zip(tokens._fields, tokens, strict=True):
                tensors[f"{number}.{name}.{part}"] = torch.from_numpy(np.ascontiguousarray(values))
    for name, values in encode(model, split, locations).embeddings.items():
        tensors[f"embeddings.{name}"] = torch.from_numpy(values)
    if tuned:
        predictor, task = tuned
        tensors["predictions"] = torch.from_numpy(task.decode(predictor.predict(samples)))
    save_file(tensors, folder / "examples.safetensors")


CHECK = """
import json, sys
class Blocker:
    blocked = set(json.loads(sys.argv[2]))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ImportError(f"{name} is not part of the exported model")
sys.meta_path.insert(0, Blocker())
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
"""Loads an exported folder in a process that can import neither this project nor its parsers."""

BLOCKED = ("pipeline", "modalities", "shards", "recipes", "rdkit", "tifffile", "imagecodecs", "polars", "typer")
"""Packages that the fresh process cannot import: the project, and parsers that transformers never imports."""


def check(folder: Path, packages: Iterable[str] = ()) -> float:
    """Largest difference between the outputs of the run and of the exported folder in a fresh process.

    packages: further packages that the process cannot import, because they define the modalities.

    Raises:
        RuntimeError: the folder does not load there.
    """
    with tempfile.TemporaryDirectory() as cache:
        process = subprocess.run(
            [sys.executable, "-c", CHECK, str(folder.resolve()), json.dumps([*BLOCKED, *packages])],
            capture_output=True,
            text=True,
            cwd=cache,
            env={**os.environ, "HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
    if process.returncode:
        raise RuntimeError(f"the exported model does not load in a fresh process:\n{process.stderr[-2000:]}")
    return float(process.stdout.strip().splitlines()[-1])


def card(trained: Run, fitted: dict[str, Modality], task: Task | None) -> str:
    """The model card: what the model is, how to use it, its figures."""
    template = Path(__file__).parent / "templates" / "card.md.j2"
    environment = jinja2.Environment(keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    recipe = trained.recipe()
    evaluated, tuned = stored_results(trained)
    split = Split(recipe.data.paths[0], "train", cache=recipe.data.cache)
    return environment.from_string(template.read_text()).render(
        recipe=recipe,
        modalities=fitted,
        split=example_split(recipe).split,
        manifest=split.manifest,
        evaluated=evaluated,
        tuned=tuned,
        head=task,
        probe_metrics=metric_names(evaluated.probe.task) if evaluated and evaluated.probe else (),
        tuned_metrics=metric_names(tuned.task) if tuned else (),
        environment=json.loads((trained.folder / "environment.json").read_text()),
    )
