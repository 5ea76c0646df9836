"""Metrics, as functions of arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from scipy import stats


def retrieval(
    embeddings: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
) -> dict[str, dict[str, int | float]]:
    """Recall at 1 and 10 from each modality to each other, among the samples that have both.

    embeddings: `(N, E)` of unit length by modality. present: `(N,)` bool by modality. The gallery is the other modality
    of the same samples. A tie counts against the true sample, so that constant embeddings have a recall of 0.
    """
    results: dict[str, dict[str, int | float]] = {}
    for a, b in itertools.permutations(embeddings, 2):
        both = present[a] & present[b]
        count = int(both.sum())
        if count < 2:
            continue
        scores = embeddings[a][both] @ embeddings[b][both].T
        ranks = (scores >= np.diag(scores)[:, None]).sum(1) - 1
        results[f"{a}->{b}"] = {
            "r1": float((ranks < 1).mean()),
            "r10": float((ranks < 10).mean()),
            "chance_r1": 1 / count,
            "chance_r10": min(10 / count, 1.0),
            "n": count,
        }
    return results


def rankme(embeddings: np.ndarray) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the normalized singular values of `(N, D)`."""
    values = np.linalg.svd(embeddings.astype(np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def regression(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """RMSE, Spearman's correlation (0 if the prediction is constant) and R2."""
    error = predicted - true
    constant = np.ptp(predicted) == 0 or np.ptp(true) == 0
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "spearman": 0.0 if constant else float(stats.spearmanr(predicted, true).statistic),
        "r2": float(1 - (error**2).sum() / max(((true - true.mean()) ** 2).sum(), 1e-12)),
    }


def classification(probabilities: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy and macro AUROC (over the classes present) of `(N, classes)`."""
    from sklearn.metrics import recall_score, roc_auc_score

    predicted = probabilities.argmax(1)
    areas = [
        roc_auc_score(true == number, probabilities[:, number])
        for number in np.unique(true)
        if 0 < (true == number).sum() < len(true)
    ]
    return {
        "accuracy": float((predicted == true).mean()),
        "balanced_accuracy": float(recall_score(true, predicted, labels=np.unique(true), average="macro")),
        "auroc": float(np.mean(areas)) if areas else 0.5,
    }


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean of a - b and its 95% interval by Student's t over the pairs."""
    difference = np.asarray(a) - np.asarray(b)
    mean, count = float(difference.mean()), len(difference)
    if count < 2:
        return mean, (float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.975, count - 1) * difference.std(ddof=1) / np.sqrt(count))
    return mean, (mean - half, mean + half)
