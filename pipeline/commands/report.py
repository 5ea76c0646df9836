"""Write one self-contained HTML page of a run: curves, reconstructions, a map, retrieval, tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pydantic
import torch

from modalities.base import Modality, is_text
from modalities.files.reading import lazy_import
from modalities.masks.plan import MaskPlan
from modalities.tokens import Tokens
from pipeline.commands.evaluate import EvaluateResult
from pipeline.commands.finetune import FinetuneResult
from pipeline.commands.result import Result
from pipeline.data.loader import SampleError, TrainingBatches
from pipeline.evaluation.embed import Embedded, encode
from pipeline.evaluation.gallery import by_key_hash, example_split, labels_of
from pipeline.evaluation.plots import curves, embedding_map, kind_of_label
from pipeline.model.batch import pack
from pipeline.model.modeling import SensoriumModel
from pipeline.run import Run
from shards.files import write_text
from shards.read import Members, Split

EXAMPLES = 4
HITS = 4
"""Retrieved samples shown for each query."""


@dataclass(frozen=True, kw_only=True)
class ReportResult(Result):
    """The HTML file of a report."""

    path: str

    def lines(self) -> list[str]:
        return [f"report: {self.path}"]


def report(run: str | Path, finetuned: str | Path | None = None) -> ReportResult:
    """Write `report.html` of a run that has a model.

    finetuned: a run that was fine-tuned from it, whose figures the report also shows.

    Raises:
        ValueError: no model, missing shards, or Matplotlib is not installed.
    """
    lazy_import("matplotlib", "matplotlib")  # before the minutes that embedding may take
    trained = Run.existing(Path(run))
    recipe = trained.recipe()
    model = trained.load_model()
    split = example_split(recipe)
    gallery = by_key_hash(split)[: recipe.evaluate.gallery]
    encoded = encode(model, split, gallery)
    label = recipe.evaluate.probe
    values = labels_of(split, gallery, label) if label is not None else None
    evaluated, tuned = stored_results(trained, finetuned)
    template = Path(__file__).parent / "templates" / "report.html.j2"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    metrics = [row for row in trained.metrics() if row.get("split", "train") == "train"]
    page = environment.from_string(template.read_text()).render(
        recipe=recipe,
        parameters=sum(p.numel() for p in model.parameters()),
        manifest=split.manifest,
        split=split.split,
        evaluated=evaluated,
        tuned=tuned,
        metrics=metric_names(tuned.task) if tuned else (),
        last=metrics[-1] if metrics else {},
        curves=curves(metrics),
        reconstructions=reconstructions(model, recipe.train.seed, split, recipe.masking),
        picture=embedding_map(encoded, values, label),
        label=label,
        uncolored=values is not None and kind_of_label(str(label), values) == "none",
        retrieval=retrieval_examples(encoded, split, gallery, model.modalities),
    )
    path = trained.folder / "report.html"
    write_text(path, page)
    return ReportResult(path=str(path))


def stored_results(
    run: Run, finetuned: str | Path | None = None
) -> tuple[EvaluateResult | None, FinetuneResult | None]:
    """The results of `evaluate` and `finetune` stored in a run, or the latter in the run `finetuned`.

    Raises:
        ValueError: `finetuned` is not a fine-tuned run, or results are unreadable.
    """
    stored = run.result()
    evaluated, tuned = stored.get("evaluate"), stored.get("finetune")
    if finetuned is not None:
        tuned = Run(Path(finetuned)).result().get("finetune")
        if tuned is None:
            raise ValueError(f"{finetuned} is not a fine-tuned run: give the folder that finetune wrote")
    try:
        return evaluated and EvaluateResult.from_json(evaluated), tuned and FinetuneResult.from_json(tuned)
    except pydantic.ValidationError as error:
        folder = run.folder if finetuned is None else f"{run.folder} or {finetuned}"
        raise ValueError(
            f"result.json in {folder} has results of another version: run evaluate and finetune again"
        ) from error


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics that reports and model cards show for a kind of task."""
    return ("rmse", "spearman") if task == "regression" else ("accuracy", "balanced_accuracy", "auroc")


@torch.inference_mode()
def reconstructions(
    model: SensoriumModel, seed: int, split: Split, masking: MaskPlan
) -> dict[str, list[dict[str, str]]]:
    """HTML of `original`, `masked` and `reconstructed` examples by modality, masked by a recipe's plan.

    The examples are the first usable samples in the order of training.
    """
    stream = TrainingBatches(
        sets=(split,),
        modalities=model.modalities,
        seed=seed,
        block=1024,
        batch_size=EXAMPLES,
        micro_batch_size=EXAMPLES,
        masking=masking,
    )
    examples = []
    for position in range(len(split)):
        with suppress(SampleError):
            examples.append(stream.sample(stream.order.locate(position), step=0))
        if len(examples) == EXAMPLES:
            break
    if not examples:
        return {}
    widths = {name: modality.widths for name, modality in model.modalities.items()}
    keys, samples, masks, visible = (list(column) for column in zip(*examples, strict=True))
    batch = pack(samples, widths, masks, visible, keys)
    encoding = model(batch, views=("visible",), decode=True)["visible"]
    rows: dict[str, list[dict[str, str]]] = {}
    for name, modality in model.modalities.items():
        content = batch.packs[name]
        owner, target = content.sample.numpy(), content.target.numpy()
        predicted = np.zeros((len(owner), encoding.predictions[name].shape[1]), np.float32)
        predicted[target] = encoding.predictions[name][:-1].float().numpy()
        rows[name] = []
        for i in range(batch.size):
            is_own = owner == i
            if is_own.any():
                parts = (content.values, content.ids, content.coords)
                tokens = Tokens(*(part.numpy()[is_own] for part in parts))
                reconstructed = modality.reconstruct(predicted[is_own], tokens)
                rows[name].append(modality.show(tokens, target[is_own], reconstructed))
    return rows


def retrieval_examples(
    encoded: Embedded, split: Split, locations: Sequence[tuple[int, int]], fitted: Mapping[str, Modality]
) -> list[dict[str, Any]]:
    """For each pair of modalities a few queries, their nearest samples, and whether a hit is the same sample."""
    pairs = []
    for query, answer in itertools.permutations(fitted, 2):
        both = np.flatnonzero(encoded.present[query] & encoded.present[answer])
        rows = []
        for i in both[:EXAMPLES]:
            scores = encoded.embeddings[answer][both] @ encoded.embeddings[query][i]
            hits = both[np.argsort(-scores, kind="stable")[:HITS]]
            rows.append(
                {
                    "query": thumbnail(split.read(*locations[i]), query, fitted),
                    "hits": [
                        {"html": thumbnail(split.read(*locations[j]), answer, fitted), "right": bool(i == j)}
                        for j in hits
                    ],
                    "rank": int((scores > scores[np.flatnonzero(both == i)[0]]).sum()) + 1,
                }
            )
        pairs.append({"query": query, "answer": answer, "rows": rows, "gallery": len(both)})
    return pairs


def thumbnail(members: Members, name: str, fitted: Mapping[str, Modality]) -> str:
    """A sample's modality as small HTML; texts and tables come with a picture of the sample if it has one."""
    content = fitted[name].thumbnail(members[name])
    if not is_text(members[name]):
        return content
    picture = next((other for other, modality in fitted.items() if modality.illustrates and other in members), None)
    return content if picture is None else fitted[picture].thumbnail(members[picture]) + content
