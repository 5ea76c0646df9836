"""What a label looks like on the report's map: classes by a legend, numbers by a color bar, identifiers not at all."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.embed import Embedded
from pipeline.evaluation.plots import CLASS_COLORS, OTHER_COLOR, embedding_map, kind_of_label


def encoded(count: int) -> Embedded:
    """Random embeddings of two modalities, of which the last sample lacks one."""
    rng = np.random.default_rng(0)
    present = {name: np.ones(count, bool) for name in ("dna", "table")}
    present["dna"][-1] = False
    values = {name: rng.standard_normal((count, 8)).astype(np.float32) for name in present}
    return Embedded(keys=[], embeddings=values, pooled=values, present=present, fused=np.zeros((count, 8)), faults=[])


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(
    ("label", "values", "kind"),
    [
        ("species", ["owl", "jay", "owl", None] * 10, "classes"),
        ("digit", [3, 1, 2, 3] * 10, "classes"),
        ("toxic", [True, False] * 20, "classes"),
        ("qed", np.linspace(0, 1, 40).tolist(), "numbers"),
        ("eggs", list(range(100, 180, 2)), "numbers"),
        ("NO", [10 * i + i % 3 for i in range(40)], "numbers"),
        ("catalog", [20150000 + 37 * i for i in range(40)], "none"),
        ("voucher_id", [float(7 + i * i) for i in range(40)], "none"),
        ("gbif", [2015000000 + 37 * i for i in range(40)], "none"),
        ("accession", [f"JN{i}" for i in range(40)], "none"),
        ("family_id", [i // 2 + 100 for i in range(60)], "classes"),
        ("species", ["owl"] * 40, "classes"),
        ("species", [None] * 40, "none"),
    ],
)
def test_label_types_select_point_colors(label: str, values: list[Any], kind: str) -> None:
    assert kind_of_label(label, values) == kind


def test_the_legend_lists_classes_by_frequency_and_rare_ones_in_gray() -> None:
    values = ["owl"] * 12 + ["$jay & <co>$"] * 9 + ["_x"] * 5 + [f"rare {i}" for i in range(9)] + [None, None]
    svg = embedding_map(encoded(len(values)), values, "species")
    labels = texts(svg)
    first = labels.index("owl (12)")
    assert labels[first : first + 3] == ["owl (12)", "$jay &amp; &lt;co&gt;$ (9)", "_x (5)"]
    named = len(CLASS_COLORS) - 3
    assert labels[first + 3 : first + 3 + named] == [f"rare {i} (1)" for i in range(named)]
    assert labels[first + 3 + named :][:2] == [f"{9 - named} other classes ({9 - named})", "no label (2)"]
    assert "by species" in labels
    assert not {"0.0", "2.5", "5.0", "0", "5", "10"} & set(labels), "a color bar has numbers"
    first_modality = len(values) - 1 + 1  # its points on the map beside and its legend have that color too
    assert svg.count(f"fill: {CLASS_COLORS[0]}") == 2 * 12 + 1 + first_modality
    assert svg.count(f"fill: {OTHER_COLOR}") == 2 * (9 - named) + 1


def test_numbers_have_a_color_bar() -> None:
    labels = texts(embedding_map(encoded(40), [None, *np.linspace(10, 50, 39).tolist()], "mass_g"))
    assert {"by mass_g", "mass_g", "20", "30", "40"} <= set(labels)


def test_identifiers_do_not_color_points() -> None:
    labels = texts(embedding_map(encoded(40), [20150000 + 37 * i for i in range(40)], "catalog"))
    assert labels == ["by modality", "dna", "table"]
