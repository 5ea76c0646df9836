"""Embeddings and predictions for a user's own data, written as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import labelled
from pipeline.batch import pack
from pipeline.embed import embed
from pipeline.finetune import load_predictor
from pipeline.finetune import predict as predictions
from pipeline.run import Run

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
        ValueError: unusable data.
    """
    held = Run.existing(Path(run))
    model = held.load_model()
    samples = labelled.load(
        data, model.modalities, columns=columns, skip_invalid=skip_invalid, cache=held.recipe().data.cache
    )
    widths = {name: modality.widths for name, modality in model.modalities.items()}
    starts = range(0, len(samples), BATCH)
    encoded = embed(
        model,
        (pack([samples.tokens(i) for i in range(s, min(s + BATCH, len(samples)))], widths) for s in starts),
    )
    frame: dict[str, Any] = {"key": list(samples.keys)}
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
        ValueError: a run that was not fine-tuned, or unusable data.
    """
    held = Run.existing(Path(run))
    predictor, task = load_predictor(held)
    chosen = {name: predictor.model.modalities[name] for name in predictor.names}
    samples = labelled.load(data, chosen, columns=columns, skip_invalid=skip_invalid, cache=held.recipe().data.cache)
    output = predictions(predictor, samples, range(len(samples)))
    frame: dict[str, Any] = {"key": list(samples.keys)}
    if task.kind == "regression":
        frame[task.label] = (output * task.deviation + task.mean).tolist()
    else:
        frame[task.label] = [task.classes[i] for i in output.argmax(1)]
        frame |= {f"probability_{name}": output[:, i].tolist() for i, name in enumerate(task.classes)}
    return _write(frame, Path(out), samples.skipped)


def _write(frame: Mapping[str, Sequence[Any]], out: Path, skipped: Sequence[str]) -> dict[str, Any]:
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".writing")
    pl.DataFrame(frame).write_parquet(aside)
    aside.replace(out)
    return {"path": str(out), "rows": len(frame["key"]), "skipped": list(skipped)}
