"""Predict a fine-tuned label for a user's own data, written as Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.embed import RowsResult, batches_of_indices, check_output, write_rows
from pipeline.commands.finetune import load_predictor
from pipeline.data import labelled
from pipeline.evaluation.predictor import predict
from pipeline.run import Run


@dataclass(frozen=True, kw_only=True)
class PredictResult(RowsResult):
    """A Parquet file of predictions."""

    verb = "predicted"


def predict_file(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
) -> PredictResult:
    """Write a fine-tuned run's prediction for each row or sample: a number, or a class and the classes' probabilities.

    Raises:
        ValueError: a run that was not fine-tuned, unusable data, or an `out` that is not a .parquet file.
    """
    check_output(out)
    tuned = Run.existing(Path(run))
    predictor, task = load_predictor(tuned)
    types = {name: predictor.model.modalities[name] for name in predictor.names}
    samples = labelled.load(
        data, types, excluded=task.label, columns=columns, skip_invalid=skip_invalid, recipe=tuned.recipe()
    )
    tuned.compare_versions(data, *samples.versions)
    with labelled.printed_changes(data):
        parts = [(indices, predict(predictor, samples, indices)) for indices in batches_of_indices(samples)]
    output = np.concatenate([values for _, values in parts])
    table: dict[str, Any] = {"key": [samples.keys[i] for indices, _ in parts for i in indices]}
    if task.kind == "regression":
        table[task.label] = task.decode(output).tolist()
    else:
        table[task.label] = [task.classes[i] for i in output.argmax(1)]
        table |= {f"probability_{name}": output[:, i].tolist() for i, name in enumerate(task.classes)}
    return PredictResult(path=str(out), rows=len(table["key"]), skipped=write_rows(table, Path(out), samples))
