"""Probes: linear and nearest-neighbor models of a label on frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.data.task import Task, task_of
from pipeline.evaluation import baseline
from pipeline.evaluation.embed import Embedded
from pipeline.evaluation.measures import classification, regression

NEIGHBORS = 20


@dataclass(frozen=True, kw_only=True)
class ModalityProbe:
    """Metrics of one modality's probes, and the number `n` of test samples."""

    linear: dict[str, float]
    knn: dict[str, float]
    n: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Probes of one label from each modality.

    unseen: number of test samples left out because their class is not in the training samples; `unseen_classes` names
        these classes. None for regression.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"unseen", "unseen_classes"})
    label: str
    task: str
    unseen: int | None = None
    unseen_classes: list[str] | None = None
    modalities: dict[str, ModalityProbe]

    def lines(self) -> list[str]:
        """The metrics of the linear probes, a line for each modality."""
        lines = []
        if self.unseen and self.unseen_classes:
            classes = ", ".join(self.unseen_classes[:5])
            lines.append(
                f"probe: {self.unseen:,} samples left out because training has no sample of their class: {classes}"
            )
        for name, row in self.modalities.items():
            metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in row.linear.items())
            lines.append(f"probe of {self.label} from {name}: {metrics}")
        return lines


def probe(label: str, training: tuple[Embedded, list[Any]], test: tuple[Embedded, list[Any]]) -> Probe:
    """Linear and nearest-neighbor probes of each modality's frozen pooled features, given as (features, labels).

    Linear: ridge or logistic regression on standardized features. knn: mean label or class of the nearest training
    samples by cosine similarity. Test samples of a class without training samples are left out and counted.
    """
    task = task_of(label, [value for value in training[1] if value is not None])
    unseen_values = None
    if task.kind == "classification":
        unseen_values = [str(value) for value in test[1] if value is not None and str(value) not in task.classes]
    rows = {}
    for modality in training[0].pooled:
        x, y = _select(*training, modality, task)
        new, true = _select(*test, modality, task)
        if len(y) < 2 or len(true) < 2:
            continue
        mean, std = x.mean(0), x.std(0) + 1e-6
        x, new = (x - mean) / std, (new - mean) / std
        rows[modality] = ModalityProbe(
            linear=_score(task, baseline.predict(task, x, y, new), true),
            knn=_score(task, neighbors(task, x, y, new), true),
            n=len(true),
        )
    return Probe(
        label=label,
        task=task.kind,
        unseen=None if unseen_values is None else len(unseen_values),
        unseen_classes=None if unseen_values is None else sorted(set(unseen_values)),
        modalities=rows,
    )


def _select(encoded: Embedded, labels: list[Any], modality: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, dim)` and encoded labels `(N,)` of the samples that have both."""
    labelled = np.array(
        [label is not None and (task.kind == "regression" or str(label) in task.classes) for label in labels]
    )
    indices = np.flatnonzero(labelled & encoded.present[modality])
    return encoded.pooled[modality][indices], task.encode([labels[i] for i in indices])


def neighbors(task: Task, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Mean label `(N,)` or class shares `(N, classes)` of the nearest training rows by cosine similarity."""
    x, new = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9) for rows in (x, new))
    nearest = np.argsort(-(new @ x.T), axis=1, kind="stable")[:, :NEIGHBORS]
    if task.kind == "regression":
        return y[nearest].mean(1)
    return np.eye(task.outputs)[y[nearest]].mean(1)


def _score(task: Task, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if task.kind == "classification":
        return classification(predicted, true)
    return regression(task.decode(predicted), task.decode(true))
