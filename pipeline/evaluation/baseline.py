"""Classical features and models, a baseline for pretrained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modalities.base import Modality
from modalities.tokens import Tokens
from pipeline.data.task import Task
from shards.read import Members


def features(samples: Sequence[tuple[Members, dict[str, Tokens]]], modalities: Mapping[str, Modality]) -> np.ndarray:
    """Classical features `(N, F)` of all modalities, concatenated; zeros for a modality that a sample lacks.

    samples: members and tokens of each sample, by modality.
    """
    parts = []
    for name, modality in modalities.items():
        rows = {
            i: modality.plain(modality.decode(dict(members[name])))
            for i, (members, tokens) in enumerate(samples)
            if name in tokens
        }
        part = np.zeros((len(samples), len(next(iter(rows.values()))) if rows else 0), np.float32)
        for i, row in rows.items():
            part[i] = row
        parts.append(part)
    return np.concatenate(parts, axis=1)


def predict(task: Task, x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Fit a ridge or logistic regression on the training rows `x`, `y` and predict the rows `x_test`.

    The ridge penalty is selected by cross-validation. If all training rows have the same class, it is predicted.

    Returns:
        standardized numbers `(N,)` or probabilities `(N, classes)`.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.preprocessing import StandardScaler

    if task.kind == "regression":
        return RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(x, y).predict(x_test)
    if (y == y[0]).all():
        return np.tile(np.eye(task.outputs)[y[0]], (len(x_test), 1))
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
    probabilities = np.zeros((len(x_test), task.outputs))
    probabilities[:, model.classes_] = model.predict_proba(scaler.transform(x_test))
    return probabilities
