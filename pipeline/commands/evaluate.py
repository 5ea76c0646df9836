"""What a pretrained model knows: retrieval between modalities, probes on frozen features, RankMe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modalities.base import Modality
from modalities.names import format_names
from pipeline.data.labelled import Task, finite, hashes_in, task_of
from pipeline.data.loader import FixedBatches
from pipeline.data.workers import prefetch
from pipeline.evaluation import baseline
from pipeline.evaluation.embed import Embedded, embed
from pipeline.evaluation.measures import classification, rankme, regression, retrieval
from pipeline.model.modeling import SensoriumModel
from pipeline.recipe.schema import Recipe
from pipeline.run import Run
from shards.manifest import Manifest
from shards.read import Split
from shards.remote import Store, open_store
from shards.split import SPLITS, sample_key
from shards.versions import installed_versions, required_packages

NEIGHBOURS = 20


def evaluate(
    run: str | Path,
    shards: str | Path | None = None,
    *,
    label: str | None = None,
    split: str = "test",
    workers: int = 1,
) -> dict[str, Any]:
    """Evaluate a run on a split; returns the figures, which `result.json` holds too.

    shards: folder of shards or its URL, the recipe's first by default. label: what to probe, the recipe's
    `evaluate.probe` by default. The gallery of retrieval is the split's first `evaluate.gallery` samples by the sha256
    of their identity. Of shards other than the run's own, samples that it trained on, or whose group it trained on,
    are left out, and counted as `left_out`; of its own, which its split divided, all stay, and `trained_on` says how
    many of them it trained on.

    Raises:
        ValueError: no run, no shards, an empty split, one of samples seen in training alone or no such label.
    """
    held = Run.existing(Path(run))
    recipe = held.recipe()
    where = shards if shards is not None else recipe.data.paths[0]
    model = held.load_model()
    unseen = Split(where, split, recipe.data.verify, recipe.data.cache)
    held.compare_versions(
        unseen.folder, unseen.manifest.versions, installed_versions(required_packages(model.modalities))
    )
    own = _at(unseen.store) in {_at(open_store(path, recipe.data.cache)) for path in recipe.data.paths}
    gallery, seen = drawn(unseen, recipe.evaluate.gallery, held.trained_on(), model.modalities, own)
    encoded = encode(model, unseen, gallery, workers)
    result: dict[str, Any] = {
        "split": split,
        "samples": len(gallery),
        "trained_on" if own else "left_out": seen,
        "retrieval": retrieval(encoded.embeddings, encoded.present),
        "rankme": {
            name: rankme(values[encoded.present[name]])
            for name, values in encoded.pooled.items()
            if encoded.present[name].any()
        },
        "skipped": len(encoded.faults),
    }
    name = label or recipe.evaluate.probe
    if name is None:
        held.add_result(evaluate=result)
        return result
    training = Split(where, "train", cache=recipe.data.cache)
    places = ranked(training)[: recipe.evaluate.probe_samples]
    known, true = labels_of(training, places, name), labels_of(unseen, gallery, name)
    held.add_result(evaluate=result)  # so that a label that nothing can be learned from leaves this much
    result["probe"] = probe(name, (encode(model, training, places, workers), known), (encoded, true))
    held.add_result(evaluate=result)
    return result


def _at(store: Store) -> Path | str:
    """Where shards lie, however a path to them is written."""
    return store.location.resolve() if isinstance(store.location, Path) else store.location


def ranked(split: Split) -> list[tuple[int, int]]:
    """(shard, number) of all samples by the sha256 of their identity, which is what keys made by `build` are."""

    def rank(key: str) -> str:
        return key if re.fullmatch(r"[0-9a-f]{32}", key) else sample_key(key)

    return [(shard, number) for _, shard, number in sorted((rank(k), s, n) for k, _, s, n in split.locations())]


def drawn(
    split: Split, count: int, trained_on: set[str], modalities: Mapping[str, Modality], keep: bool
) -> tuple[list[tuple[int, int]], int]:
    """The first `count` samples by `ranked`, and how many met on the way were trained on, which are left out or kept.

    Raises:
        ValueError: all are left out.
    """
    known = {place for place, hashes in hashes_in(split, modalities) if not hashes.isdisjoint(trained_on)}
    places: list[tuple[int, int]] = []
    seen = 0
    for place in ranked(split):
        if len(places) == count:
            break
        seen += place in known
        if keep or place not in known:
            places.append(place)
    if not places:
        raise ValueError(f"pretraining saw all {seen:,} samples of the {split.split} split of {split.folder}")
    return places, seen


def shown(recipe: Recipe) -> Split:
    """What examples are taken from: the test split of a recipe's first shards, or the next one where that is empty."""
    cache = recipe.data.cache
    counts = Manifest.read(open_store(recipe.data.paths[0], cache)).counts()
    return Split(recipe.data.paths[0], next(name for name in reversed(SPLITS) if counts[name]), cache=cache)


def encode(model: SensoriumModel, split: Split, places: Sequence[tuple[int, int]], workers: int = 0) -> Embedded:
    """Embeddings of samples of a split."""
    held = FixedBatches(split, places, model.modalities)
    return embed(model, prefetch(held, range(len(held)), workers))


def labels_of(split: Split, places: Sequence[tuple[int, int]], name: str) -> list[Any]:
    """One label of samples, None where it is missing or not finite.

    Raises:
        ValueError: no sample has it.
    """
    found = [json.loads(split.read(*place).get("labels", {}).get("json", b"{}")) for place in places]
    if not any(name in row for row in found):
        known = sorted({key for row in found for key in row})
        raise ValueError(f"{split.folder} has no label {name!r}; it has {format_names(known, name)}")
    return [finite(row.get(name)) for row in found]


def probe(name: str, training: tuple[Embedded, list[Any]], unseen: tuple[Embedded, list[Any]]) -> dict[str, Any]:
    """Linear and nearest-neighbour probes of each modality's frozen pooled features.

    Ridge or logistic regression on standardised features; the mean label or class of the nearest neighbours by cosine.
    Samples of a class that training has not are left out, and counted as `unseen`.
    """
    task = task_of(name, [value for value in training[1] if value is not None])
    result: dict[str, Any] = {"label": name, "task": task.kind}
    if task.kind == "classification":
        strange = [str(value) for value in unseen[1] if value is not None and str(value) not in task.classes]
        result |= {"unseen": len(strange), "unseen_classes": sorted(set(strange))}
    for modality in training[0].pooled:
        x, y = _labelled(*training, modality, task)
        new, true = _labelled(*unseen, modality, task)
        if len(y) < 2 or len(true) < 2:
            continue
        mean, std = x.mean(0), x.std(0) + 1e-6
        x, new = (x - mean) / std, (new - mean) / std
        result[modality] = {
            "linear": _score(task, baseline.predict(task, x, y, new), true),
            "knn": _score(task, neighbours(task, x, y, new), true),
            "n": len(true),
        }
    return result


def _labelled(encoded: Embedded, labels: list[Any], modality: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
    known = np.array(
        [label is not None and (task.kind == "regression" or str(label) in task.classes) for label in labels]
    )
    use = np.flatnonzero(known & encoded.present[modality])
    return encoded.pooled[modality][use], task.encode([labels[i] for i in use])


def neighbours(task: Task, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Mean label or class shares of the nearest training rows by cosine."""
    x, new = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9) for rows in (x, new))
    nearest = np.argsort(-(new @ x.T), axis=1, kind="stable")[:, :NEIGHBOURS]
    if task.kind == "regression":
        return y[nearest].mean(1)
    return np.eye(task.outputs)[y[nearest]].mean(1)


def _score(task: Task, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if task.kind == "classification":
        return classification(predicted, true)
    return regression(task.decode(predicted), task.decode(true))
