"""Fine-tune on a user's own labels, compared with the same model from scratch and a classical baseline."""

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
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from modalities.base import Modality
from pipeline.commands.result import Result
from pipeline.data import labelled
from pipeline.data.labelled import Labelled
from pipeline.data.task import Task, task_of
from pipeline.evaluation import baseline
from pipeline.evaluation.measures import classification, paired_difference, regression
from pipeline.evaluation.predictor import Predictor, Settings, fit, predict
from pipeline.machine import environment, keep_freed_memory
from pipeline.model.modeling import SensoriumModel
from pipeline.recipe.upgrade import upgrade_head
from pipeline.run import VERSIONS, Run
from shards.files import atomic_folder, write_json
from shards.split import assign

Scores = dict[str, int | float]
"""The number of `seeds`, and `METRIC_mean` and `METRIC_std` over them."""


@dataclass(frozen=True, kw_only=True)
class FinetuneResult(Result):
    """Metrics on test sets, over seeds. The saved model and the sizes are those of the first seed.

    path: folder of the fine-tuned run. labels, test: numbers of training and test samples. left_out: samples left out
    of the test set because pretraining saw them. skipped: samples that cannot be used. split: kind of the groups that
    a split keeps together, None if samples are split one by one. metric: the main metric.
    difference, interval95: of pretrained minus scratch in the main metric; the interval is None for a single seed.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"pretrained", "scratch", "baseline", "difference"})
    path: str
    label: str
    task: str
    labels: int
    test: int
    left_out: int
    split: str | None
    modalities: list[str]
    mode: str
    skipped: int
    metric: str
    pretrained: Scores | None = None
    scratch: Scores | None = None
    baseline: Scores | None = None
    difference: float | None = None
    interval95: tuple[float, float] | None = None

    def lines(self) -> list[str]:
        return [*self.metric_lines(), f"run: {self.path}"]

    def metric_lines(self) -> list[str]:
        """The metrics, without the path."""
        seeds = int(self.pretrained["seeds"]) if self.pretrained else 0
        first = " (sizes of the first seed)" if seeds > 1 else ""
        lines = [f"{self.task} of {self.labels:,} training labels, {self.test:,} test samples{first}"]
        if self.left_out:
            lines.append(f"{self.left_out:,} samples left out of the test set because pretraining saw them")
        if self.skipped:
            lines.append(f"{self.skipped:,} unusable samples skipped")
        for name, row in (("pretrained", self.pretrained), ("scratch", self.scratch), ("baseline", self.baseline)):
            if row is not None:
                metrics = [key.removesuffix("_mean") for key in row if key.endswith("_mean")]
                text = ", ".join(f"{key} {row[key + '_mean']:.3f} ± {row[key + '_std']:.3f}" for key in metrics)
                lines.append(f"{self.label}, {name}: {text}")
        if self.interval95:
            low, high = self.interval95
            lines.append(
                f"pretrained minus scratch in {self.metric}: {self.difference:+.3f} "
                f"(95% interval {low:+.3f} to {high:+.3f})"
            )
        return lines


class Sizes(NamedTuple):
    """Numbers of training and test samples, and of test samples left out because pretraining saw them."""

    labels: int
    test: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Data and settings that all seeds of a fine-tuning share.

    usable: indices of the samples that have a label. task: of all labels, before it is fitted to training labels.
    """

    source: Run
    target: Path
    samples: Labelled
    types: Mapping[str, Modality]
    usable: Sequence[int]
    task: Task
    settings: Settings
    compare: bool

    def run(self, seeds: int) -> FinetuneResult:
        """Fine-tune and evaluate by each seed from 0 on, and summarize."""
        scores: dict[str, list[dict[str, float]]] = {}
        sizes = []
        keep_freed_memory()
        for seed in tqdm(range(seeds), unit="seed", file=sys.stderr, disable=seeds == 1):
            seed_sizes, seed_scores = self._run_seed(seed)
            sizes.append(seed_sizes)
            for start, row in seed_scores.items():
                scores.setdefault(start, []).append(row)
        return FinetuneResult(
            path=str(self.target),
            label=self.task.label,
            task=self.task.kind,
            labels=sizes[0].labels,
            test=sizes[0].test,
            left_out=sizes[0].left_out,
            split=self.samples.by,
            modalities=list(self.types),
            mode=self.settings.mode,
            skipped=len(self.samples.skipped),
            **summarize(scores, "spearman" if self.task.kind == "regression" else "balanced_accuracy"),
        )

    def _run_seed(self, seed: int) -> tuple[Sizes, dict[str, dict[str, float]]]:
        """Fine-tune and evaluate by one seed, and save the pretrained start's model if the seed is 0.

        Returns:
            sizes of the sets, and the metrics of each start.
        """
        samples, settings, scores = self.samples, self.settings, dict[str, dict[str, float]]()
        train, test, left_out = divide(samples, self.usable, settings, seed, self.source.trained_on())
        task = self.task.fitted([samples.labels[i] for i in train])
        for start in ("pretrained", "scratch") if self.compare else ("pretrained",):
            model = _model(self.source, start, seed)
            predictor = Predictor(model, tuple(self.types), task.outputs, settings.features)
            share = settings.pretrained_share if start == "pretrained" else 0
            fit(predictor, samples, train, task, replace(settings, pretrained_share=share), seed)
            scores[start] = score(task, predict(predictor, samples, test), samples, test)
            if start == "pretrained" and seed == 0:
                save(predictor, task, self.source, self.target)
        if self.compare:
            predicted = _predict_baseline(samples, train, test, task, self.types)
            scores["baseline"] = score(task, predicted, samples, test)
        return Sizes(len(train), len(test), left_out), scores


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
    settings: Settings | None = None,
) -> FinetuneResult:
    """Fine-tune a run's model on labels and write a new run with the figures in its `result.json`.

    Each seed draws a split by group, the training labels and an initial head; the pretrained model, the model from
    scratch and the baseline share them. Samples that pretraining saw, or whose group it saw, are left out of test
    sets. The model of the first seed is saved.

    Raises:
        ValueError: unusable data, label or split, or too few samples.
    """
    settings = settings or Settings()
    source = Run.existing(Path(run))
    types = _select(source, modalities)
    target = _target(source, out, label)
    samples = labelled.load(
        data, types, label=label, by=split, columns=columns, skip_invalid=skip_invalid, recipe=source.recipe()
    )
    source.compare_versions(data, *samples.versions)
    usable = [i for i in range(len(samples)) if samples.labels[i] is not None]
    experiment = Experiment(
        source=source,
        target=target,
        samples=samples,
        types={name: types[name] for name in samples.modalities},
        usable=usable,
        task=task_of(label, [samples.labels[i] for i in usable], task),
        settings=settings,
        compare=compare,
    )
    result = experiment.run(seeds)
    Run(target).add_result(finetune=result.figures())
    return result


def _target(source: Run, out: str | Path | None, label: str) -> Path:
    """The folder of the fine-tuned run.

    Raises:
        ValueError: it holds other files, or the label has a reserved name.
    """
    word = re.sub(r"[^\w.-]+", "_", label)
    target = Path(out) if out is not None else source.folder.with_name(f"{source.folder.name}-{word}")
    if label == "key":
        raise ValueError("the label cannot be named 'key', as the column of keys in predictions is: rename it")
    if target.exists() and any(target.iterdir()) and not Run(target).fine_tuned:
        raise ValueError(f"{target} is not empty and not a fine-tuned run: give another --out")
    return target


def _predict_baseline(
    samples: Labelled, train: Sequence[int], test: Sequence[int], task: Task, modalities: Mapping[str, Modality]
) -> np.ndarray:
    """The baseline's predictions of the test samples."""
    x = baseline.features([(samples.members(i), samples.tokens(i)) for i in (*train, *test)], modalities)
    y = task.encode([samples.labels[i] for i in train])
    return baseline.predict(task, x[: len(train)], y, x[len(train) :])


def _select(run: Run, names: Sequence[str] | None) -> dict[str, Modality]:
    """The fitted modalities of a run that are named, all by default.

    Raises:
        ValueError: the run has no modality of that name.
    """
    fitted = run.modalities()
    assert fitted is not None
    for name in names or ():
        if name not in fitted:
            raise ValueError(f"the run has no modality {name!r}; it has {', '.join(fitted)}")
    return {name: modality for name, modality in fitted.items() if not names or name in names}


def _model(run: Run, start: str, seed: int) -> SensoriumModel:
    """The run's pretrained model, or an untrained one of the same shape."""
    torch.manual_seed(seed)
    if start == "pretrained":
        return run.load_model()
    return run.untrained_model()


def divide(
    samples: Labelled, usable: Sequence[int], settings: Settings, seed: int, trained_on: set[str]
) -> tuple[list[int], list[int], int]:
    """Training and test samples of a seed: the shards' own splits, or whole groups drawn by the seed.

    Returns:
        indices of training and test samples, and the number of test samples left out because pretraining saw them.

    Raises:
        ValueError: too few samples on one side.
    """
    if any(samples.split):
        sides = {i: samples.split[i] for i in usable}
    else:
        side_of = assign(Counter(samples.groups[i] for i in usable), 0.0, settings.test, seed=seed)
        sides = {i: side_of[samples.groups[i]] for i in usable}
    pool, candidates = ([i for i in usable if sides[i] == name] for name in ("train", "test"))
    test = [i for i in candidates if samples.hashes(i).isdisjoint(trained_on)]
    left_out = len(candidates) - len(test)
    if len(test) < 2 <= len(candidates):
        raise ValueError(f"pretraining saw {left_out:,} of {len(candidates):,} test samples: use another test set")
    if settings.labels is not None and settings.labels > len(pool):
        raise ValueError(f"--labels is {settings.labels}, but only {len(pool)} training samples have a label")
    shuffled = np.random.default_rng([seed, 1]).permutation(pool).tolist()
    train = list(islice(filter(samples.usable, shuffled), settings.labels))
    test = list(filter(samples.usable, test))
    if len(train) < 2 or len(test) < 2:
        reason = labelled.first_skipped(samples.skipped)
        raise ValueError(
            f"the split leaves {len(train)} training and {len(test)} test samples, each needs at least 2{reason}"
        )
    return train, test, left_out


def score(task: Task, predicted: np.ndarray, samples: Labelled, indices: Sequence[int]) -> dict[str, float]:
    """Metrics of predictions of the samples at `indices`, in the unit of the label."""
    true = [samples.labels[i] for i in indices]
    if task.kind == "classification":
        return classification(predicted, task.encode(true))
    return regression(task.decode(predicted), np.array(true, np.float64))


def summarize(scores: Mapping[str, list[dict[str, float]]], metric: str) -> dict[str, Any]:
    """Mean and std over seeds, and the paired difference of pretrained and scratch in one metric."""
    result: dict[str, Any] = {"metric": metric}
    for start, rows in scores.items():
        if rows:
            result[start] = {"seeds": len(rows)}
            for name in rows[0]:
                values = np.array([row[name] for row in rows])
                result[start][f"{name}_mean"] = float(values.mean())
                result[start][f"{name}_std"] = float(values.std(ddof=1)) if len(rows) > 1 else 0.0
    if scores.get("scratch"):
        pretrained, scratch = ([row[metric] for row in scores[start]] for start in ("pretrained", "scratch"))
        result["difference"], interval = paired_difference(np.array(pretrained), np.array(scratch))
        result["interval95"] = interval if len(pretrained) > 1 else None
    return result


def save(predictor: Predictor, task: Task, source: Run, target: Path) -> None:
    """Write a fine-tuned run: model, head, modalities, recipe."""
    with atomic_folder(target) as temporary:
        predictor.model.save_pretrained(temporary / "model")
        head = {name: value.contiguous() for name, value in predictor.head.state_dict().items()}
        save_file(head, temporary / "head.safetensors")
        reads = {"modalities": list(predictor.names), "features": predictor.read}
        write_json(temporary / "head.json", {"task": asdict(task), **reads})
        for name in ("recipe.yaml", "modalities.json", "trained_on.json"):
            shutil.copy(source.folder / name, temporary / name)
        if source.versions():  # runs of earlier versions have none
            shutil.copy(source.folder / VERSIONS, temporary / VERSIONS)
        write_json(temporary / "environment.json", environment())


def load_predictor(run: Run) -> tuple[Predictor, Task]:
    """The fine-tuned model of a run.

    Raises:
        ValueError: the run was not fine-tuned.
    """
    if not run.fine_tuned:
        raise ValueError(f"{run.folder} is not a fine-tuned run: run `sensorium finetune` first and give its folder")
    state = upgrade_head(json.loads((run.folder / "head.json").read_text()))
    task = Task(**{**state["task"], "classes": tuple(state["task"]["classes"])})
    predictor = Predictor(run.load_model(), tuple(state["modalities"]), task.outputs, state["features"])
    predictor.head.load_state_dict(load_file(run.folder / "head.safetensors"))
    return predictor.eval(), task
