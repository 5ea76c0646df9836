"""One self-contained HTML page of a run: curves, reconstructions, a map, retrieval, tables."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import polars as pl
import torch

from modalities.base import TEXT_EXTENSIONS, Modality
from modalities.files.reading import lazy_import
from modalities.masks.plan import MaskPlan
from modalities.tokens import Tokens
from pipeline.commands.evaluate import encode, labels_of, ranked, shown
from pipeline.data.labelled import task_of
from pipeline.data.loader import SampleError, TrainingBatches
from pipeline.evaluation.embed import Embedded
from pipeline.model.batch import pack
from pipeline.model.modeling import SensoriumModel
from pipeline.run import Run
from shards.files import write_text
from shards.read import Members, Split
from shards.sources.drafting.columns import is_nearly_unique, why_not_amount

Kind = Literal["numbers", "classes", "none"]
EXAMPLES = 4
HITS = 4
COLOURS = ("#3b6fb6", "#d9822b", "#4a9d6e", "#a05195", "#c0504d", "#6b7a8f")
CLASS_COLORS = ("#3b6fb6", "#d9822b", "#4a9d6e", "#a05195", "#c0504d", "#2aa5b8", "#b59a2c", "#8c6d4f")
"""Of the most frequent classes, each its own; others are grey."""
OTHER_COLOR, MISSING_COLOR = "#aab4bf", "#e6eaee"


def report(run: str | Path, finetuned: str | Path | None = None) -> Path:
    """Write `report.html` of a run that has a model; returns its path.

    finetuned: a run that was fine-tuned from it, whose figures are shown too.

    Raises:
        ValueError: no model, or its shards are gone, or Matplotlib is not installed.
    """
    lazy_import("matplotlib", "matplotlib")  # before the minutes that embedding may take
    held = Run.existing(Path(run))
    recipe = held.recipe()
    model = held.load_model()
    fitted = model.modalities
    split = shown(recipe)
    gallery = ranked(split)[: recipe.evaluate.gallery]
    encoded = encode(model, split, gallery)
    label = recipe.evaluate.probe
    values = labels_of(split, gallery, label) if label is not None else None
    result = held.result()
    if finetuned is not None:
        result["finetune"] = Run(Path(finetuned)).result().get("finetune")
        if result["finetune"] is None:
            raise ValueError(f"{finetuned} is no fine-tuned run: give the folder that finetune wrote")
    template = Path(__file__).parent / "templates" / "report.html.j2"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    metrics = [row for row in held.metrics() if row.get("split", "train") == "train"]
    page = environment.from_string(template.read_text()).render(
        name=recipe.name,
        recipe=recipe,
        parameters=sum(p.numel() for p in model.parameters()),
        manifest=split.manifest,
        split=split.split,
        result=result,
        last=metrics[-1] if metrics else {},
        curves=curves(metrics),
        reconstructions=reconstructions(model, recipe.train.seed, split, recipe.masking),
        picture=embedding_map(encoded, values, label),
        label=label,
        uncolored=values is not None and kind_of_label(str(label), values) == "none",
        retrieval=retrieval_examples(encoded, split, gallery, fitted),
    )
    path = held.folder / "report.html"
    write_text(path, page)
    return path


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True)
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)  # dates and links
    return text[text.index("<svg") :]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    lazy_import("matplotlib", "matplotlib").rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            "font.family": "sans-serif",
        }
    )
    figure = lazy_import("matplotlib.figure", "matplotlib").Figure(figsize=(width, height))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """SVG of the loss terms over steps, one panel an objective."""
    terms = sorted({name for row in metrics for name in row if "/" in name})
    objectives = sorted({name.split("/")[0] for name in terms})
    if not objectives:
        return ""
    figure, axes = _figure(5.2 * len(objectives), 3.0, len(objectives))
    for axis, objective in zip(axes, objectives, strict=True):
        own = [name for name in terms if name.startswith(objective + "/")]
        for colour, name in zip(COLOURS * len(own), own, strict=False):
            steps = [row["step"] for row in metrics if name in row]
            axis.plot(steps, [row[name] for row in metrics if name in row], color=colour, label=name.split("/")[1])
        axis.set(title=objective, xlabel="step", ylabel="loss", ylim=(0, None))
        axis.legend(frameon=False)
    return _svg(figure)


def kind_of_label(label: str, values: Sequence[Any]) -> Kind:
    """How a label colors points: `numbers` by a color bar, `classes` by a legend, `none` where it names samples.

    Whole numbers of few kinds are classes, as they are for a probe, and so are codes that samples share.
    """
    known = [value for value in values if value is not None]
    if len(set(map(str, known))) < 2:
        return "classes" if known else "none"
    if not all(isinstance(value, (int, float)) for value in known) or task_of(label, known).kind == "classification":
        return "none" if is_nearly_unique(label, pl.Series(list(map(str, known)))) else "classes"
    numbers = pl.Series(known, strict=False)
    if not why_not_amount(label, numbers):
        return "numbers"
    return "none" if numbers.n_unique() > 0.5 * len(numbers) else "classes"


def embedding_map(encoded: Embedded, values: Sequence[Any] | None, label: str | None) -> str:
    """SVG of all embeddings in two dimensions by t-SNE: by modality, and by label unless that names samples."""
    from sklearn.manifold import TSNE

    names = list(encoded.embeddings)
    points = np.concatenate([encoded.embeddings[name][encoded.present[name]] for name in names])
    owner = np.concatenate([np.full(int(encoded.present[name].sum()), i) for i, name in enumerate(names)])
    if len(points) < 10:
        return ""
    flat = TSNE(perplexity=min(30, len(points) // 4), init="pca", random_state=0).fit_transform(points)
    kind = "none" if values is None else kind_of_label(str(label), values)
    figure, axes = _figure(4.8 if kind == "none" else 9.6, 4.4, 1 if kind == "none" else 2)
    for i, name in enumerate(names):
        axes[0].scatter(*flat[owner == i].T, s=7, color=COLOURS[i % len(COLOURS)], label=name, linewidths=0, alpha=0.7)
    axes[0].set_title("by modality")
    axes[0].legend(frameon=False, markerscale=2)
    if kind != "none" and values is not None:
        each = [values[i] for name in names for i in np.flatnonzero(encoded.present[name]).tolist()]
        axes[1].set_title(f"by {label}", parse_math=False)
        if kind == "numbers":
            numbers = np.array([np.nan if value is None else float(value) for value in each])
            axes[1].scatter(*flat[np.isnan(numbers)].T, s=7, color=MISSING_COLOR, linewidths=0)
            dots = axes[1].scatter(*flat.T, s=7, c=numbers, cmap="viridis", linewidths=0, alpha=0.8)
            figure.colorbar(dots, ax=axes[1], shrink=0.8).set_label(str(label), parse_math=False)
        else:
            _draw_classes(axes[1], flat, each, values)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set_visible(False)
    return _svg(figure)


def _draw_classes(axis: Any, points: np.ndarray, labels: Sequence[Any], samples: Sequence[Any]) -> None:
    """Points `(N, 2)` in the colors of their classes, with a legend of those that most samples have."""
    counts = Counter(str(value) for value in samples if value is not None)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    top = dict(zip(ranked, CLASS_COLORS, strict=False))
    names = ["missing" if value is None else str(value) for value in labels]
    colors = [
        MISSING_COLOR if value is None else top.get(name, OTHER_COLOR)
        for name, value in zip(names, labels, strict=True)
    ]
    back = np.argsort([color in top.values() for color in colors], kind="stable")  # classes lie above grey points
    axis.scatter(*points[back].T, s=7, color=[colors[i] for i in back], linewidths=0, alpha=0.8)
    entries = [
        (color, f"{name if len(name) <= 30 else name[:29] + '…'} ({counts[name]:,})") for name, color in top.items()
    ]
    if others := ranked[len(top) :]:
        kinds = "1 other class" if len(others) == 1 else f"{len(others):,} other classes"
        entries.append((OTHER_COLOR, f"{kinds} ({sum(counts[name] for name in others):,})"))
    if missing := sum(value is None for value in samples):
        entries.append((MISSING_COLOR, f"no label ({missing:,})"))
    handles = [axis.scatter([], [], s=28, color=color, linewidths=0) for color, _ in entries]
    legend = axis.legend(handles, ["class"] * len(handles), frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for text, (_, name) in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


@torch.inference_mode()
def reconstructions(
    model: SensoriumModel, seed: int, split: Split, masking: MaskPlan
) -> dict[str, list[dict[str, str]]]:
    """Original, masked and reconstructed examples of each modality, as HTML, masked by a recipe's plan.

    They are the first that can be used in the order of training.
    """
    stream = TrainingBatches((split,), model.modalities, seed, 1024, EXAMPLES, EXAMPLES, masking=masking)
    found = []
    for position in range(len(split)):
        with suppress(SampleError):
            found.append(stream.sample(stream.order.locate(position), step=0))
        if len(found) == EXAMPLES:
            break
    if not found:
        return {}
    widths = {name: modality.widths for name, modality in model.modalities.items()}
    keys, samples, masks, seen = (list(column) for column in zip(*found, strict=True))
    batch = pack(samples, widths, masks, seen, keys)
    encoding = model(batch, views=("visible",), decode=True)["visible"]
    shown: dict[str, list[dict[str, str]]] = {}
    for name, modality in model.modalities.items():
        content = batch.packs[name]
        owner, target = content.sample.numpy(), content.target.numpy()
        predicted = np.zeros((len(owner), encoding.predictions[name].shape[1]), np.float32)
        predicted[target] = encoding.predictions[name][:-1].float().numpy()
        shown[name] = []
        for i in range(batch.size):
            own = owner == i
            if own.any():
                tokens = Tokens(content.values.numpy()[own], content.ids.numpy()[own], content.coords.numpy()[own])
                shown[name].append(modality.show(tokens, target[own], modality.reconstruct(predicted[own], tokens)))
    return shown


def retrieval_examples(
    encoded: Embedded, split: Split, places: Sequence[tuple[int, int]], fitted: Mapping[str, Modality]
) -> list[dict[str, Any]]:
    """For each pair of modalities some queries, what was found, and whether it was the right one."""
    pairs = []
    names = list(fitted)
    for query in names:
        for answer in names:
            if query == answer:
                continue
            both = np.flatnonzero(encoded.present[query] & encoded.present[answer])
            rows = []
            for i in both[:EXAMPLES]:
                scores = encoded.embeddings[answer][both] @ encoded.embeddings[query][i]
                found = both[np.argsort(-scores, kind="stable")[:HITS]]
                rank = int((scores > scores[np.flatnonzero(both == i)[0]]).sum()) + 1
                rows.append(
                    {
                        "query": thumbnail(split.read(*places[i]), query, fitted),
                        "found": [
                            {"html": thumbnail(split.read(*places[j]), answer, fitted), "right": bool(i == j)}
                            for j in found
                        ],
                        "rank": rank,
                    }
                )
            pairs.append({"query": query, "answer": answer, "rows": rows, "gallery": len(both)})
    return pairs


def thumbnail(members: Members, name: str, fitted: Mapping[str, Modality]) -> str:
    """A sample's modality as small HTML; texts and tables come with a picture of the sample if it has one."""
    content = fitted[name].thumbnail(members[name])
    if next(iter(members[name])) not in TEXT_EXTENSIONS:
        return content
    picture = next((other for other, modality in fitted.items() if modality.illustrates and other in members), None)
    return content if picture is None else fitted[picture].thumbnail(members[picture]) + content
