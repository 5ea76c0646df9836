"""Figures of merit against scipy, scikit-learn and sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from pipeline.evaluation.measures import classification, paired_difference, rankme, regression, retrieval


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_retrieval_equals_ranks_by_sorting() -> None:
    rng = np.random.default_rng(0)
    a = unit(rng.normal(size=(40, 5)))
    b = unit(a + rng.normal(size=(40, 5)))
    present = {"a": rng.random(40) < 0.8, "b": rng.random(40) < 0.9}
    both = np.flatnonzero(present["a"] & present["b"])
    scores = retrieval({"a": a, "b": b}, present)
    assert set(scores) == {"a->b", "b->a"}
    for name, query, gallery in (("a->b", a, b), ("b->a", b, a)):
        ranks = [sorted(both, key=lambda j: -(query[i] @ gallery[j])).index(i) for i in both]
        row = scores[name]
        assert row["n"] == len(both)
        assert row["r1"] == pytest.approx(np.mean([rank == 0 for rank in ranks]))
        assert row["r10"] == pytest.approx(np.mean([rank < 10 for rank in ranks]))
        assert row["chance_r1"] == pytest.approx(1 / len(both))
        assert row["chance_r10"] == pytest.approx(10 / len(both))
        assert row["r1"] < row["r10"] <= 1


def test_retrieval_is_perfect_for_equal_and_zero_for_constant_embeddings() -> None:
    rows, everyone = np.eye(12), np.ones(12, bool)
    assert retrieval({"a": rows, "b": rows}, {"a": everyone, "b": everyone})["a->b"]["r1"] == 1
    flat = np.ones((12, 3)) / math.sqrt(3)
    row = retrieval({"a": flat, "b": flat}, {"a": everyone, "b": everyone})["a->b"]
    assert (row["r1"], row["r10"]) == (0, 0)


def test_retrieval_needs_two_samples_with_both() -> None:
    rows = np.eye(3)
    assert retrieval({"a": rows, "b": rows}, {"a": np.ones(3, bool), "b": np.array([True, False, False])}) == {}
    few = retrieval({"a": rows, "b": rows}, {"a": np.ones(3, bool), "b": np.array([True, True, False])})
    assert few["a->b"]["chance_r10"] == 1


def test_rankme_counts_used_dimensions() -> None:
    assert rankme(np.eye(8)) == pytest.approx(8, rel=1e-4)
    assert rankme(np.ones((50, 8))) == pytest.approx(1, rel=1e-4)
    rows = np.random.default_rng(0).normal(size=(100, 6)) * [5, 4, 3, 2, 1, 1e-9]
    shares = np.sqrt(np.linalg.eigvalsh(rows.T @ rows).clip(0))
    assert rankme(rows.astype(np.float32)) == pytest.approx(math.exp(stats.entropy(shares)), rel=1e-3)
    assert rankme(rows) == pytest.approx(rankme(7 * rows))


def test_regression() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(3, 2, 60)
    predicted = true + rng.normal(size=60)
    scores = regression(predicted, true)
    assert scores == pytest.approx({
        "rmse": metrics.root_mean_squared_error(true, predicted),
        "spearman": stats.spearmanr(true, predicted).statistic,
        "r2": metrics.r2_score(true, predicted),
    })  # fmt: skip
    mean = regression(np.full(60, true.mean()), true)
    assert mean["spearman"] == 0
    assert mean["r2"] == pytest.approx(0)
    assert mean["rmse"] == pytest.approx(true.std())


def test_classification() -> None:
    rng = np.random.default_rng(0)
    true = rng.choice(3, 90, p=[0.6, 0.3, 0.1])
    scores = rng.random((90, 3)) + np.eye(3)[true] * 0.4
    probabilities = scores / scores.sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    measured = classification(probabilities, true)
    assert measured["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted))
    recalls = [(predicted[true == c] == c).mean() for c in range(3)]
    assert measured["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    auroc = metrics.roc_auc_score(true, probabilities, multi_class="ovr", average="macro")
    assert measured["auroc"] == pytest.approx(auroc)


@pytest.mark.filterwarnings("error")
def test_classification_with_absent_classes() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    measured = classification(probabilities, np.array([0, 1, 1]))
    assert measured["accuracy"] == pytest.approx(2 / 3)
    assert measured["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert measured["auroc"] == pytest.approx(1)
    assert classification(probabilities, np.array([0, 0, 0]))["auroc"] == 0.5


def test_paired_difference_is_a_t_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 12), rng.normal(0, 1, 12)
    mean, (low, high) = paired_difference(a, b)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx(((a - b).mean(), interval.low, interval.high))
    assert paired_difference(np.array([2.0]), np.array([1.0])) == (1.0, (-math.inf, math.inf))
