"""A source that contradicts the recipe's modalities is one line when the recipe is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modalities.dna import Dna
from modalities.table import Table
from pipeline.recipe.load import load
from shards.build import build
from shards.sources.fasta import Fasta
from shards.split import SplitBy

TABLE = {"type": "table"}
IMAGE = {"type": "image"}
AUDIO = {"type": "spectrogram"}
DNA = {"type": "dna"}
TEXT = {"type": "text"}
SMILES = {"type": "smiles"}
ECG = {"type": "signal", "montage": "ecg", "unit": "mV", "sample_rate_hz": 100, "patch_s": 0.1}
UNDEFINED = "refers to modality {name!r}, but the recipe defines none by that name"


def recipe(source: dict[str, Any], modalities: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "data": {"source": source}, "modalities": modalities, "objectives": {"masked": {}}}


GOOD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "images", "columns": {"table": ["a"]}, "pattern": "{a}"}, {"image": IMAGE, "table": TABLE}),
    ({"type": "audio", "modality": "call"}, {"call": AUDIO}),
    ({"type": "images", "modality": "call", "files": "*.npy"}, {"call": AUDIO}),
    ({"type": "bioscan"}, {"image": IMAGE, "dna": DNA}),
    ({"type": "bioscan"}, {"dna": DNA, "taxonomy": TEXT}),
    ({"type": "edf"}, {"ecg": ECG}),
    ({"type": "wfdb", "columns": {"table": ["Age"]}}, {"ecg": ECG, "table": TABLE}),
    ({"type": "ptbxl", "columns": {"table": ["age"]}}, {"ecg": ECG, "table": TABLE}),
    ({"type": "fasta"}, {"dna": DNA}),
    ({"type": "hub", "dataset": "csv", "columns": {"text": "a", "table": ["b"]}}, {"text": TEXT, "table": TABLE}),
    ({"type": "rows", "columns": {"text": ["a", "b"], "image": "photo"}}, {"text": TEXT, "image": IMAGE}),
    ({"type": "molecules"}, {"smiles": SMILES}),
    ({"type": "molecules", "descriptors": ["qed"]}, {"smiles": SMILES, "image": IMAGE, "table": TABLE}),
    (
        {"type": "join", "by": "id", "sources": [{"type": "fasta"}, {"type": "rows", "columns": {"table": ["a"]}}]},
        {"dna": DNA, "table": TABLE},
    ),
]


@pytest.mark.parametrize(("source", "modalities"), GOOD, ids=lambda part: part.get("type", ",".join(part)))
def test_sources_that_match_their_modalities_are_read(source: dict[str, Any], modalities: dict[str, Any]) -> None:
    loaded = load(recipe(source, modalities))
    assert loaded.data.source is not None
    assert loaded.data.source.writes(loaded.modalities) <= loaded.modalities.keys() | {"taxonomy"}


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"type": "images"}, {"photo": IMAGE}, "data.source.modality " + UNDEFINED.format(name="image")),
    ({"type": "images"}, {"image": AUDIO}, "data.source.modality: 'image' is of type spectrogram, which does not read"),
    ({"type": "images", "modality": "ecg"}, {"ecg": ECG}, "data.source.modality: 'ecg' is of type signal, which does"),
    ({"type": "audio", "modality": "cal"}, {"call": AUDIO}, UNDEFINED.format(name="cal") + ": did you mean 'call'?"),
    ({"type": "audio"}, {"audio": IMAGE}, "data.source.modality: 'audio' is of type image, which does not read wav"),
    (
        {"type": "images", "pattern": "{a}", "columns": {"tabel": ["a"]}},
        {"image": IMAGE, "table": TABLE},
        "data.source.columns " + UNDEFINED.format(name="tabel") + ": did you mean 'table'?",
    ),
    (
        {"type": "audio", "pattern": "{a}", "columns": {"text": ["a"]}},
        {"audio": AUDIO, "text": TEXT},
        "data.source.columns: 'text' is of type text, but must be a table",
    ),
    ({"type": "bioscan"}, {"photo": IMAGE}, "data.source of type bioscan needs a modality 'image' or 'dna'"),
    (
        {"type": "bioscan"},
        {"image": DNA},
        "modality 'image' is of type dna, which does not read jpg files",
    ),
    (
        {"type": "bioscan"},
        {"dna": IMAGE},
        "modality 'dna' is of type image, which does not read txt files",
    ),
    (
        {"type": "bioscan", "columns": {"place": ["country"]}},
        {"dna": DNA},
        "data.source.columns " + UNDEFINED.format(name="place"),
    ),
    (
        {"type": "bioscan"},
        {"dna": DNA, "taxonomy": IMAGE},
        "data.source.columns: 'taxonomy' is of type image, but must be a table or a text",
    ),
    ({"type": "edf"}, {"smiles": SMILES}, "data.source of type edf needs a modality of type signal"),
    ({"type": "wfdb", "window_s": 5}, {"text": TEXT}, "data.source of type wfdb needs a modality of type signal"),
    ({"type": "ptbxl"}, {"ecg": TABLE}, "needs a modality of type signal; the recipe has ecg (table)"),
    *(
        (
            {"type": kind, "columns": {"rows": ["Age"]}},
            {"ecg": ECG, "table": TABLE},
            "data.source.columns " + UNDEFINED.format(name="rows"),
        )
        for kind in ("edf", "wfdb", "ptbxl")
    ),
    *(
        (
            {"type": kind, "columns": {"ecg": ["Age"]}},
            {"ecg": ECG},
            "data.source.columns: 'ecg' is of type signal, but must be a table",
        )
        for kind in ("edf", "wfdb", "ptbxl")
    ),
    (
        {"type": "edf", "table": "a.csv", "join": {"id": "{persn}"}, "pattern": "{person}.edf"},
        {"ecg": ECG},
        "data.source.join '{persn}' uses the field 'persn', which is not in the pattern",
    ),
    (
        {"type": "edf", "annotations": "overlap", "annotation_file": "{night}.edf"},
        {"ecg": ECG},
        "data.source.annotation_file '{night}.edf' uses the field 'night', which is not in the pattern",
    ),
    ({"type": "fasta"}, {"gene": DNA}, "data.source.dna " + UNDEFINED.format(name="dna")),
    (
        {"type": "fasta", "dna": "ecg"},
        {"ecg": ECG},
        "data.source.dna: 'ecg' is of type signal, which does not",
    ),
    (
        {"type": "fasta", "table": "a.csv", "columns": {"table": ["a"]}},
        {"dna": DNA},
        "data.source.columns " + UNDEFINED.format(name="table"),
    ),
    (
        {"type": "fasta", "table": "a.csv", "columns": {"image": "a"}},
        {"dna": DNA, "image": IMAGE},
        "data.source.columns: 'image' is of type image, but must be a table or a text",
    ),
    (
        {"type": "hub", "dataset": "csv", "columns": {"photo": "a"}},
        {"image": IMAGE},
        "data.source.columns " + UNDEFINED.format(name="photo"),
    ),
    (
        {"type": "hub", "dataset": "csv", "columns": {"image": ["a", "b"]}},
        {"image": IMAGE},
        "data.source.columns, which lists several columns: 'image' is of type image, but must be a table or a text",
    ),
    (
        {"type": "hub", "dataset": "csv", "columns": {"ecg": "leads"}},
        {"ecg": ECG},
        "data.source.signals.ecg is missing: give the sample_rate_hz, unit and channels",
    ),
    (
        {"type": "hub", "dataset": "csv", "columns": {"a": "b"}, "signals": {"a": {"sample_rate_hz": 500}}},
        {"a": TABLE},
        "data.source.signals.a: 'a' is of type table, not signal",
    ),
    ({"type": "rows"}, {"table": TABLE}, "data.source.columns is empty"),
    (
        {"type": "rows", "columns": {"dna": "sequence"}},
        {"table": TABLE},
        "data.source.columns " + UNDEFINED.format(name="dna"),
    ),
    (
        {"type": "rows", "columns": {"image": ["a", "b"]}},
        {"image": IMAGE},
        "data.source.columns, which lists several columns: 'image' is of type image, but must be a table or a text",
    ),
    ({"type": "molecules"}, {"mol": SMILES}, "data.source of type molecules needs a modality smiles, image or table"),
    ({"type": "molecules"}, {"smiles": IMAGE}, "modality 'smiles' is of type image, which does not read txt files"),
    ({"type": "molecules"}, {"image": SMILES}, "modality 'image' is of type smiles, which does not read png files"),
    ({"type": "molecules"}, {"table": TEXT}, "modality 'table' is of type text, which does not read json files"),
    (
        {"type": "join", "by": "id", "sources": [{"type": "fasta"}, {"type": "rows", "columns": {"tab": ["a"]}}]},
        {"dna": DNA},
        "data.source.sources.1.columns " + UNDEFINED.format(name="tab"),
    ),
    (
        {
            "type": "join",
            "by": "id",
            "sources": [
                {"type": "rows", "columns": {"table": ["a"]}},
                {"type": "rows", "columns": {"table": ["b"]}},
            ],
        },
        {"table": TABLE},
        "data.source.sources 0 and 1 both make the modality 'table': remove it from one",
    ),
]


@pytest.mark.parametrize(
    ("source", "modalities", "message"), BAD, ids=[f"{n}-{case[0]['type']}" for n, case in enumerate(BAD)]
)
def test_a_source_that_contradicts_the_modalities_is_refused_with_the_recipe(
    source: dict[str, Any], modalities: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^data\.source") as caught:
        load(recipe(source, modalities))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "how"),
    [
        ([{"type": "rows", "columns": {"table": ["a"]}}, {"type": "molecules", "properties": ["pIC50"]}], "inner"),
        ([{"type": "rows", "columns": {"table": ["a"]}}, {"type": "molecules", "labels": ["TPSA"]}], "inner"),
        (
            [
                {"type": "rows", "columns": {"table": ["a"]}},
                {"type": "rows", "file": "x.csv", "columns": {"image": "a"}},
                {"type": "rows", "file": "y.csv", "columns": {"image": "a"}},
            ],
            "left",
        ),
    ],
)
def test_a_join_may_take_labels_alone_and_complementary_partners(sources: list[dict[str, Any]], how: str) -> None:
    modalities = {"table": TABLE} | ({"image": IMAGE} if how == "left" else {})
    if "molecules" in {source["type"] for source in sources}:
        modalities = {"cells": TABLE}
        sources[0]["columns"] = {"cells": ["a"]}
    loaded = load(recipe({"type": "join", "by": "id", "how": how, "sources": sources}, modalities))
    assert loaded.data.source is not None
    assert [part.type for part in loaded.data.source.parts] == [source["type"] for source in sources]  # type: ignore[attr-defined]


def test_a_build_checks_before_it_opens_raw_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.source\.dna refers to modality 'dna'"):
        build(Fasta(), {"table": Table()}, SplitBy(), tmp_path / "none", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match=r"^no file \*\.fasta\* in"):
        build(Fasta(), {"dna": Dna()}, SplitBy(), tmp_path / "raw", tmp_path / "out")
