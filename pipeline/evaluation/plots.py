"""Plots of a run as SVG: loss curves and a map of the embeddings."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from modalities.files.reading import lazy_import
from pipeline.data.task import task_of
from pipeline.evaluation.embed import Embedded
from shards.identifiers import is_nearly_unique, not_amount_reason

LabelKind = Literal["numbers", "classes", "none"]
COLORS = ("#3b6fb6", "#d9822b", "#4a9d6e", "#a05195", "#c0504d", "#6b7a8f")
CLASS_COLORS = ("#3b6fb6", "#d9822b", "#4a9d6e", "#a05195", "#c0504d", "#2aa5b8", "#b59a2c", "#8c6d4f")
"""One for each of the most frequent classes; the others are grey."""
OTHER_COLOR, MISSING_COLOR = "#aab4bf", "#e6eaee"


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
    """SVG of the loss terms over steps, one panel per objective."""
    terms = sorted({name for row in metrics for name in row if "/" in name})
    objectives = sorted({name.split("/")[0] for name in terms})
    if not objectives:
        return ""
    figure, axes = _figure(5.2 * len(objectives), 3.0, len(objectives))
    for axis, objective in zip(axes, objectives, strict=True):
        names = [name for name in terms if name.startswith(objective + "/")]
        for color, name in zip(COLORS * len(names), names, strict=False):
            steps = [row["step"] for row in metrics if name in row]
            axis.plot(steps, [row[name] for row in metrics if name in row], color=color, label=name.split("/")[1])
        axis.set(title=objective, xlabel="step", ylabel="loss", ylim=(0, None))
        axis.legend(frameon=False)
    return _svg(figure)


def kind_of_label(label: str, values: Sequence[Any]) -> LabelKind:
    """How a label colors points: `numbers` by a color bar, `classes` by a legend, `none` if it identifies samples.

    Integers with few distinct values are classes, as for a probe, and so are codes that several samples share.
    """
    present = [value for value in values if value is not None]
    if len(set(map(str, present))) < 2:
        return "classes" if present else "none"
    if (
        not all(isinstance(value, (int, float)) for value in present)
        or task_of(label, present).kind == "classification"
    ):
        return "none" if is_nearly_unique(label, pl.Series(list(map(str, present)))) else "classes"
    numbers = pl.Series(present, strict=False)
    if not not_amount_reason(label, numbers):
        return "numbers"
    return "none" if numbers.n_unique() > 0.5 * len(numbers) else "classes"


def embedding_map(encoded: Embedded, values: Sequence[Any] | None, label: str | None) -> str:
    """SVG of all embeddings in two dimensions by t-SNE, colored by modality, and by label unless it identifies samples.

    Empty if there are fewer than 10 embeddings.
    """
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
        axes[0].scatter(*flat[owner == i].T, s=7, color=COLORS[i % len(COLORS)], label=name, linewidths=0, alpha=0.7)
    axes[0].set_title("by modality")
    axes[0].legend(frameon=False, markerscale=2)
    if kind != "none" and values is not None:
        labels = [values[i] for name in names for i in np.flatnonzero(encoded.present[name]).tolist()]
        axes[1].set_title(f"by {label}", parse_math=False)
        if kind == "numbers":
            _draw_numbers(figure, axes[1], flat, labels, str(label))
        else:
            _draw_classes(axes[1], flat, labels, values)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set_visible(False)
    return _svg(figure)


def _draw_numbers(figure: Any, axis: Any, points: np.ndarray, labels: Sequence[Any], name: str) -> None:
    """Draw points `(N, 2)` in the colors of their numbers, with a color bar."""
    numbers = np.array([np.nan if value is None else float(value) for value in labels])
    axis.scatter(*points[np.isnan(numbers)].T, s=7, color=MISSING_COLOR, linewidths=0)
    dots = axis.scatter(*points.T, s=7, c=numbers, cmap="viridis", linewidths=0, alpha=0.8)
    figure.colorbar(dots, ax=axis, shrink=0.8).set_label(name, parse_math=False)


def _draw_classes(axis: Any, points: np.ndarray, labels: Sequence[Any], samples: Sequence[Any]) -> None:
    """Draw points `(N, 2)` in the colors of their classes, with a legend of the most frequent classes.

    labels: of the points. samples: labels of the samples, which may have several points each.
    """
    counts = Counter(str(value) for value in samples if value is not None)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    top = dict(zip(ranked, CLASS_COLORS, strict=False))
    names = ["missing" if value is None else str(value) for value in labels]
    colors = [
        MISSING_COLOR if value is None else top.get(name, OTHER_COLOR)
        for name, value in zip(names, labels, strict=True)
    ]
    back = np.argsort([color in top.values() for color in colors], kind="stable")  # draw classes above grey points
    axis.scatter(*points[back].T, s=7, color=[colors[i] for i in back], linewidths=0, alpha=0.8)
    entries = [
        (color, f"{name if len(name) <= 30 else name[:29] + '…'} ({counts[name]:,})") for name, color in top.items()
    ]
    if rest := ranked[len(top) :]:
        kinds = "1 other class" if len(rest) == 1 else f"{len(rest):,} other classes"
        entries.append((OTHER_COLOR, f"{kinds} ({sum(counts[name] for name in rest):,})"))
    if missing := sum(value is None for value in samples):
        entries.append((MISSING_COLOR, f"no label ({missing:,})"))
    handles = [axis.scatter([], [], s=28, color=color, linewidths=0) for color, _ in entries]
    legend = axis.legend(handles, ["class"] * len(handles), frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for text, (_, name) in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
