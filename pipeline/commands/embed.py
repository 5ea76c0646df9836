"""Embed a user's own data, written as Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from pipeline.commands.result import Result
from pipeline.data import labelled
from pipeline.data.labelled import Labelled, first_skipped
from pipeline.evaluation.embed import embed
from pipeline.model.batch import Batch, pack
from pipeline.run import Run
from shards.files import atomic_file

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class RowsResult(Result):
    """A Parquet file with a row for each usable sample; `skipped` lists the others with the reason."""

    verb: ClassVar[str]
    """Verb for the rows in the printed line, such as `embedded`."""
    path: str
    rows: int
    skipped: list[str]

    def lines(self) -> list[str]:
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        return [f"{self.rows:,} rows {self.verb}{skipped}: {self.path}"]


@dataclass(frozen=True, kw_only=True)
class EmbedResult(RowsResult):
    """A Parquet file of embeddings."""

    verb = "embedded"


def embed_file(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
) -> EmbedResult:
    """Write the contrastive embedding of each modality and the fused features for each row or sample.

    Raises:
        ValueError: unusable data, no usable sample, or an `out` that is not a .parquet file.
    """
    check_output(out)
    trained = Run.existing(Path(run))
    model = trained.load_model()
    samples = labelled.load(data, model.modalities, columns=columns, skip_invalid=skip_invalid, recipe=trained.recipe())
    trained.compare_versions(data, *samples.versions)
    widths = {name: modality.widths for name, modality in model.modalities.items()}
    keys: list[str] = []

    def batches() -> Iterator[Batch]:
        for indices in batches_of_indices(samples):
            keys.extend(samples.keys[i] for i in indices)
            yield pack([samples.tokens(i) for i in indices], widths)

    with labelled.printed_changes(data):
        encoded = embed(model, batches())
    table: dict[str, Any] = {"key": keys}
    for name, values in encoded.embeddings.items():
        present = encoded.present[name]
        if present.any():
            table[name] = [row.tolist() if exists else None for row, exists in zip(values, present, strict=True)]
    table["fused"] = encoded.fused.tolist()
    return EmbedResult(path=str(out), rows=len(keys), skipped=write_rows(table, Path(out), samples))


def check_output(out: str | Path) -> None:
    """Check that `out` is a local Parquet file.

    Raises:
        ValueError: it is a URL or another kind of file.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):  # a Path keeps one slash of a URL
        raise ValueError(f"{out} looks like a URL: write to a file and copy it there")
    if Path(out).suffix != ".parquet":
        raise ValueError(f"{out} is not a Parquet file: use a name that ends in .parquet")


def batches_of_indices(samples: Labelled) -> Iterator[list[int]]:
    """Batches of the indices of usable samples, none of them empty.

    Raises:
        ValueError: no sample is usable.
    """
    empty = True
    for start in range(0, len(samples), BATCH_SIZE):
        if indices := [i for i in range(start, min(start + BATCH_SIZE, len(samples))) if samples.usable(i)]:
            empty = False
            yield indices
    if empty:
        raise ValueError(f"none of {len(samples):,} samples can be used{first_skipped(samples.skipped)}")


def write_rows(table: Mapping[str, Sequence[Any]], out: Path, samples: Labelled) -> list[str]:
    """Write a Parquet file; returns the samples skipped, with the reason."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary:
        pl.DataFrame(table).write_parquet(temporary)
    return [f"{key}: {reason}" for key, reason in samples.skipped.items()]
