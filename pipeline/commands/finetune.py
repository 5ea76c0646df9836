"""Fine-tuning on a user's own labels, beside the same model from scratch and a classical baseline."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from modalities.base import Modality
from modalities.tokens import Tokens
from pipeline.data import labelled
from pipeline.data.labelled import Labelled, Task, task_of
from pipeline.evaluation import baseline
from pipeline.evaluation.measures import classification, paired_difference, regression
from pipeline.machine import environment, keep_freed_memory
from pipeline.model.modeling import SensoriumModel
from pipeline.run import VERSIONS, Run
from shards.files import atomic_folder, write_json
from shards.split import assign

Mode = Literal["full", "linear", "lora"]
Features = Literal["pooled", "layers"]
_ADAPTED = r"model\.(trunk|fusion|decoder\.blocks)\.blocks\.\d+\.(attention\.qkv|attention\.out|mlp\.0|mlp\.2)"
"""Layers that LoRA adapts, by their whole names in a `Predictor`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to fine-tune: a ridge probe on frozen features first, then gradient steps from it (LP-FT, Kumar et al. 2022).

    features: what the head reads, the pooled tokens after the trunk or those of every layer, for what a task needs
    often stands in earlier layers (Peters et al. 2018). pretrained_share: weight of the
    pretrained weights in their mean with the tuned ones, because the mean does better on groups that training has not
    seen (WiSE-FT, Wortsman et al. 2022); 0 from scratch. labels: number of training labels used, all by default.
    test: share of samples held out by group.
    """

    mode: Mode = "full"
    features: Features = "layers"
    pretrained_share: float = 0.5
    labels: int | None = None
    test: float = 0.3
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels < 2:
            raise ValueError(f"{self.labels} labels were asked for, but a task is learned from at least 2")
        if not 0 < self.test < 1:
            raise ValueError(f"a share of {self.test:g} cannot be held out for the test: it lies between 0 and 1")


def finetune(
    run: str | Path,
    data: str | Path,
    label: str,
    *,
    out: str | Path | None = None,
    modalities: Sequence[str] | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    task: str = "auto",
    seeds: int = 1,
    compare: bool = True,
    skip_invalid: bool = False,
    settings: Settings = Settings(),
) -> dict[str, Any]:
    """Fine-tune a run's model on labels; returns the figures, which `result.json` of `out` holds too.

    Each seed draws its own split by group, labels and initial head; pretrained, from scratch and the baseline see the
    same ones. Samples that pretraining saw, or whose group it saw, never stand in a test set. The model kept is the
    first seed's, and so are the sizes told: `labels`, `test` and `seen`, what was left out of its test set.

    Raises:
        ValueError: unusable data, label or split, or too few samples.
    """
    source = Run.existing(Path(run))
    held = source.modalities()
    assert held is not None
    chosen = _chosen(held, modalities)
    target = _target(source, out, label)
    samples = labelled.load(
        data,
        chosen,
        label=label,
        by=split,
        columns=columns,
        skip_invalid=skip_invalid,
        recipe=source.recipe(),
    )
    source.compare_versions(data, *samples.versions)
    chosen = {name: chosen[name] for name in samples.modalities}
    usable = [i for i in range(len(samples)) if samples.labels[i] is not None]
    posed = task_of(label, [samples.labels[i] for i in usable], task)
    seen = source.trained_on()
    scores: dict[str, list[dict[str, float]]] = {}
    sizes: dict[str, int] = {}
    keep_freed_memory()
    for seed in tqdm(range(seeds), unit="seed", file=sys.stderr, disable=seeds == 1):
        train, test, left_out = divide(samples, usable, settings, seed, seen)
        sizes = sizes or {"labels": len(train), "test": len(test), "seen": left_out}
        here = posed.fitted([samples.labels[i] for i in train])
        for start in ("pretrained", "scratch") if compare else ("pretrained",):
            predictor = Predictor(_model(source, start, seed), tuple(chosen), here.outputs, settings.features)
            fit(
                predictor,
                samples,
                train,
                here,
                settings if start == "pretrained" else replace(settings, pretrained_share=0),
                seed,
            )
            scores.setdefault(start, []).append(score(here, predict(predictor, samples, test), samples, test))
            if start == "pretrained" and seed == 0:
                save(predictor, here, source, target)
        if compare:
            predicted = _classical(samples, train, test, here, chosen)
            scores.setdefault("baseline", []).append(score(here, predicted, samples, test))
    result = summarise(scores, "spearman" if posed.kind == "regression" else "balanced_accuracy")
    result |= {
        "label": label,
        "task": posed.kind,
        **sizes,
        "split": samples.by,
        "modalities": list(chosen),
        "mode": settings.mode,
        "skipped": len(samples.skipped),
    }
    Run(target).add_result(finetune=result)
    return {**result, "path": str(target)}


def _target(source: Run, out: str | Path | None, label: str) -> Path:
    """The folder of the fine-tuned run."""
    word = re.sub(r"[^\w.-]+", "_", label)
    target = Path(out) if out is not None else source.folder.with_name(f"{source.folder.name}-{word}")
    if label == "key":
        raise ValueError("a label 'key' would stand where the keys of predictions do: rename the column")
    if target.exists() and any(target.iterdir()) and not Run(target).fine_tuned:
        raise ValueError(f"{target} holds something else than a fine-tuned run: give another --out")
    return target


def _classical(
    samples: Labelled, train: Sequence[int], test: Sequence[int], task: Task, modalities: Mapping[str, Modality]
) -> np.ndarray:
    """The baseline's predictions of a test set."""
    x = baseline.features([(samples.members(i), samples.tokens(i)) for i in (*train, *test)], modalities)
    y = task.encode([samples.labels[i] for i in train])
    return baseline.predict(task, x[: len(train)], y, x[len(train) :])


def _chosen(held: Mapping[str, Modality], names: Sequence[str] | None) -> dict[str, Modality]:
    for name in names or ():
        if name not in held:
            raise ValueError(f"the run has no modality {name!r}; it has {', '.join(held)}")
    return {name: modality for name, modality in held.items() if not names or name in names}


def _model(run: Run, start: str, seed: int) -> SensoriumModel:
    """The run's model, or one of the same shape that learned nothing."""
    torch.manual_seed(seed)
    if start == "pretrained":
        return run.load_model()
    return run.untrained_model()


def divide(
    samples: Labelled, usable: Sequence[int], settings: Settings, seed: int, seen: set[str]
) -> tuple[list[int], list[int], int]:
    """Training and test samples of a seed: the shards' own splits, or whole groups drawn by the seed.

    What pretraining saw is left out of the test set, which is counted, and what cannot be used of both.

    Raises:
        ValueError: nothing left on one side.
    """
    if any(samples.split):
        sides = {i: samples.split[i] for i in usable}
    else:
        drawn = assign(Counter(samples.groups[i] for i in usable), 0.0, settings.test, seed=seed)
        sides = {i: drawn[samples.groups[i]] for i in usable}
    pool, held_out = ([i for i in usable if sides[i] == name] for name in ("train", "test"))
    test = [i for i in held_out if samples.hashes(i).isdisjoint(seen)]
    known = len(held_out) - len(test)
    if len(test) < 2 <= len(held_out):
        raise ValueError(f"{known:,} of {len(held_out):,} test samples were seen in pretraining: use another test set")
    if settings.labels is not None and settings.labels > len(pool):
        raise ValueError(f"{settings.labels} labels were asked for, but only {len(pool)} training samples have one")
    shuffled = np.random.default_rng([seed, 1]).permutation(pool).tolist()
    train = list(islice(filter(samples.usable, shuffled), settings.labels))
    test = list(filter(samples.usable, test))
    if len(train) < 2 or len(test) < 2:
        unusable = labelled.first_of(samples.skipped)
        raise ValueError(f"{len(train)} training and {len(test)} test samples: the split leaves too little{unusable}")
    return train, test, known


class Predictor(nn.Module):
    """The model and a linear head on features of the chosen modalities."""

    def __init__(self, model: SensoriumModel, modalities: tuple[str, ...], outputs: int, features: Features):
        super().__init__()
        self.model = model
        self.names = modalities
        self.read: Features = features
        self.head = nn.Linear(model.features_width(modalities, features == "layers"), outputs)

    def features(self, samples: Sequence[dict[str, Tokens]]) -> torch.Tensor:
        """`(B, F)`, see `SensoriumModel.features`."""
        return self.model.features(self.model.pack(samples), self.names, self.read == "layers")

    def forward(self, samples: Sequence[dict[str, Tokens]]) -> torch.Tensor:
        """`(B, outputs)`."""
        return self.head(self.features(samples))

    @torch.inference_mode()
    def predict(self, samples: Sequence[dict[str, Tokens]]) -> np.ndarray:
        """Standardised numbers `(B,)` or probabilities `(B, classes)`."""
        output = self(samples)
        return (output[:, 0] if output.shape[1] == 1 else output.softmax(1)).float().numpy()


def fit(
    predictor: Predictor, samples: Labelled, train: Sequence[int], task: Task, settings: Settings, seed: int
) -> None:
    """Fit the head by ridge on frozen features, then, unless the mode is linear, everything by AdamW."""
    rng = np.random.default_rng([seed, 2])
    targets = torch.from_numpy(task.encode([samples.labels[i] for i in train]))
    with torch.no_grad():
        x = torch.cat([predictor.features([samples.tokens(i) for i in part]) for part in _batches(train, 64)]).double()
        _ridge_head(predictor.head, x, targets, task)
    if settings.mode == "linear":
        return
    trained: Any = predictor
    before = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    if settings.mode == "lora":
        trained = with_lora(predictor)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    warmup = 0.1 if steps != 10 else 0.0  # OneCycleLR divides by zero where its warm-up is one step exactly
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=warmup
    )
    trained.train()
    for _ in range(settings.epochs):
        for part in _batches(rng.permutation(len(train)).tolist(), settings.batch_size):
            output = trained([samples.tokens(train[i]) for i in part])
            loss = (
                F.cross_entropy(output, targets[part])
                if task.kind == "classification"
                else F.mse_loss(output[:, 0], targets[part])
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    if settings.mode == "lora":
        predictor.load_state_dict(trained.merge_and_unload().state_dict())
    with torch.no_grad():  # after the merge: the mean of weights is not that of their factors
        for name, parameter in predictor.named_parameters():
            parameter.lerp_(before[name], settings.pretrained_share)
    predictor.eval()


def with_lora(predictor: Predictor) -> Any:
    """The predictor with adapters (LoRA, Hu et al. 2022) on the blocks' linear maps; they and the head alone learn.

    peft matches the names in `modules_to_save` by how they end: `head` would train the embedding, the projection and
    the decoder's head of a modality named `forehead` too.
    """
    from peft import LoraConfig, get_peft_model

    trained = get_peft_model(predictor, LoraConfig(r=8, target_modules=_ADAPTED))
    predictor.head.requires_grad_(True)
    return trained


def _batches(items: Sequence[int], size: int) -> list[list[int]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _ridge_head(head: nn.Linear, x: torch.Tensor, targets: torch.Tensor, task: Task) -> None:
    """Set a linear head to the ridge solution on standardised features; classes are fitted as +-1."""
    from sklearn.linear_model import RidgeCV

    mean, std = x.mean(0), x.std(0) + 1e-6
    y = targets.double().numpy()
    if task.kind == "classification":
        y = np.where(np.eye(task.outputs)[targets.numpy()] > 0, 1.0, -1.0)
    ridge = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(((x - mean) / std).numpy(), y)
    weight = torch.from_numpy(np.atleast_2d(ridge.coef_)) / std
    bias = torch.from_numpy(np.atleast_1d(ridge.intercept_)) - weight @ mean
    head.weight.copy_(weight.float())
    head.bias.copy_(bias.float())


def predict(predictor: Predictor, samples: Labelled, which: Sequence[int]) -> np.ndarray:
    """Standardised numbers `(N,)` or probabilities `(N, classes)`."""
    predictor.eval()
    return np.concatenate([predictor.predict([samples.tokens(i) for i in part]) for part in _batches(which, 64)])


def score(task: Task, predicted: np.ndarray, samples: Labelled, which: Sequence[int]) -> dict[str, float]:
    """Figures on a test set, in the label's own unit."""
    true = [samples.labels[i] for i in which]
    if task.kind == "classification":
        return classification(predicted, task.encode(true))
    return regression(task.decode(predicted), np.array(true, np.float64))


def summarise(scores: Mapping[str, list[dict[str, float]]], metric: str) -> dict[str, Any]:
    """Mean and std over seeds, and the paired difference of pretrained and scratch in one metric."""
    result: dict[str, Any] = {"metric": metric}
    for start, rows in scores.items():
        if rows:
            result[start] = {"seeds": len(rows)}
            for name in rows[0]:
                values = np.array([row[name] for row in rows])
                result[start][f"{name}_mean"] = float(values.mean())
                result[start][f"{name}_sd"] = float(values.std(ddof=1)) if len(rows) > 1 else 0.0
    if scores.get("scratch"):
        ours, theirs = ([row[metric] for row in scores[start]] for start in ("pretrained", "scratch"))
        result["difference"], result["interval95"] = paired_difference(np.array(ours), np.array(theirs))
        if len(ours) < 2:
            result["interval95"] = None
    return result


def save(predictor: Predictor, task: Task, source: Run, target: Path) -> None:
    """Write a fine-tuned run: model, head, modalities, recipe."""
    with atomic_folder(target) as aside:
        predictor.model.save_pretrained(aside / "model")
        head = {name: value.contiguous() for name, value in predictor.head.state_dict().items()}
        save_file(head, aside / "head.safetensors")
        reads = {"modalities": list(predictor.names), "features": predictor.read}
        write_json(aside / "head.json", {"task": asdict(task), **reads})
        for name in ("recipe.yaml", "modalities.json", "trained_on.json"):
            shutil.copy(source.folder / name, aside / name)
        if source.versions():  # of runs of before there are none
            shutil.copy(source.folder / VERSIONS, aside / VERSIONS)
        write_json(aside / "environment.json", environment())


def load_predictor(run: Run) -> tuple[Predictor, Task]:
    """The fine-tuned model of a run.

    Raises:
        ValueError: the run was not fine-tuned.
    """
    if not run.fine_tuned:
        raise ValueError(f"{run.folder} was not fine-tuned: predict needs what `sensorium finetune` wrote")
    state = json.loads((run.folder / "head.json").read_text())
    task = Task(**{**state["task"], "classes": tuple(state["task"]["classes"])})
    predictor = Predictor(run.load_model(), tuple(state["modalities"]), task.outputs, state["features"])
    predictor.head.load_state_dict(load_file(run.folder / "head.safetensors"))
    return predictor.eval(), task


__all__ = ["Settings", "finetune", "load_predictor", "predict"]
