"""Classical features and models, to hold beside what was pretrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modalities.base import Modality
from modalities.tokens import Tokens
from pipeline.data.task import Task
from shards.read import Members


def features(samples: Sequence[tuple[Members, dict[str, Tokens]]], modalities: Mapping[str, Modality]) -> np.ndarray:
    """Plain features `(N, F)` of all modalities side by side; zero if a sample lacks one.

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


def predict(task: Task, x: np.ndarray, y: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Fit ridge, its strength chosen by cross-validation on the training rows, or logistic regression.

    Returns standardised numbers `(N,)` or probabilities `(N, classes)` for `unseen`. Where all rows are of one class
    that is what is predicted.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.preprocessing import StandardScaler

    if task.kind == "regression":
        return RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(x, y).predict(unseen)
    if (y == y[0]).all():
        return np.tile(np.eye(task.outputs)[y[0]], (len(unseen), 1))
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
    probabilities = np.zeros((len(unseen), task.outputs))
    probabilities[:, model.classes_] = model.predict_proba(scaler.transform(unseen))
    return probabilities
