"""Embeddings and predictions for a user's own data, written as Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.commands.finetune import load_predictor
from pipeline.commands.finetune import predict as predictions
from pipeline.data import labelled
from pipeline.data.labelled import Labelled, first_of
from pipeline.evaluation.embed import embed
from pipeline.model.batch import Batch, pack
from pipeline.run import Run
from shards.files import atomic_file

BATCH = 64


def embed_file(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
) -> dict[str, Any]:
    """Write the contrastive embedding of each modality and the fused features of each row or sample.

    Raises:
        ValueError: unusable data, no sample that can be used, or an `out` that is no .parquet.
    """
    _refuse_other(out)
    held = Run.existing(Path(run))
    model = held.load_model()
    samples = labelled.load(data, model.modalities, columns=columns, skip_invalid=skip_invalid, recipe=held.recipe())
    held.compare_versions(data, *samples.versions)
    widths = {name: modality.widths for name, modality in model.modalities.items()}
    keys: list[str] = []

    def batches() -> Iterator[Batch]:
        for part in _parts(samples):
            keys.extend(samples.keys[i] for i in part)
            yield pack([samples.tokens(i) for i in part], widths)

    with labelled.printed_changes(data):
        encoded = embed(model, batches())
    frame: dict[str, Any] = {"key": keys}
    for name, values in encoded.embeddings.items():
        if encoded.present[name].any():
            frame[name] = [
                row.tolist() if here else None for row, here in zip(values, encoded.present[name], strict=True)
            ]
    frame["fused"] = encoded.fused.tolist()
    return _write(frame, Path(out), samples.skipped)


def predict_file(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
) -> dict[str, Any]:
    """Write a fine-tuned run's prediction of each row or sample: a number, or a class and the classes' probabilities.

    Raises:
        ValueError: a run that was not fine-tuned, unusable data, or an `out` that is no .parquet.
    """
    _refuse_other(out)
    held = Run.existing(Path(run))
    predictor, task = load_predictor(held)
    chosen = {name: predictor.model.modalities[name] for name in predictor.names}
    samples = labelled.load(
        data, chosen, leave=task.label, columns=columns, skip_invalid=skip_invalid, recipe=held.recipe()
    )
    held.compare_versions(data, *samples.versions)
    with labelled.printed_changes(data):
        parts = [(part, predictions(predictor, samples, part)) for part in _parts(samples)]
    output = np.concatenate([values for _, values in parts])
    frame: dict[str, Any] = {"key": [samples.keys[i] for part, _ in parts for i in part]}
    if task.kind == "regression":
        frame[task.label] = task.decode(output).tolist()
    else:
        frame[task.label] = [task.classes[i] for i in output.argmax(1)]
        frame |= {f"probability_{name}": output[:, i].tolist() for i, name in enumerate(task.classes)}
    return _write(frame, Path(out), samples.skipped)


def _refuse_other(out: str | Path) -> None:
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):  # of a URL a path keeps one slash
        raise ValueError(f"{out} looks like a URL: write to a file and copy it there")
    if Path(out).suffix != ".parquet":
        raise ValueError(f"{out} would be a Parquet file: let its name end in .parquet")


def _parts(samples: Labelled) -> Iterator[list[int]]:
    """Batches of samples that can be used, none of them empty.

    Raises:
        ValueError: there is none.
    """
    some = False
    for start in range(0, len(samples), BATCH):
        if part := [i for i in range(start, min(start + BATCH, len(samples))) if samples.usable(i)]:
            some = True
            yield part
    if not some:
        raise ValueError(f"none of {len(samples):,} samples can be used{first_of(samples.skipped)}")


def _write(frame: Mapping[str, Sequence[Any]], out: Path, skipped: Mapping[str, str]) -> dict[str, Any]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary:
        pl.DataFrame(frame).write_parquet(temporary)
    return {
        "path": str(out),
        "rows": len(frame["key"]),
        "skipped": [f"{where}: {reason}" for where, reason in skipped.items()],
    }
