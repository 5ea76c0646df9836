"""Signals in the columns of data sets that `datasets` wrote, as the modality decodes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.files.recording import Recording
from modalities.lightcurve import LightCurve
from modalities.signal import Signal
from pipeline.recipe.load import load
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.hub import Hub, Row
from shards.sources.signal_columns import Column, SignalColumns

LEADS = ("I", "II", "V1")
ECG: dict[str, Modality] = {"ecg": Signal(montage="ecg", sample_rate_hz=100, patch_s=0.1, unit="mV")}
FLOATS = datasets.List(datasets.Value("float32"))
GRID = datasets.List(FLOATS)


def waves(row: int, channels: int = 3, count: int = 50) -> np.ndarray:
    """Samples `(channels, count)` in mV."""
    return np.random.default_rng(row).standard_normal((channels, count)).astype(np.float32)


def decoded(
    rows: dict[str, list[Any]], features: dict[str, Any], source: dict[str, Any], modality: Modality, folder: Path
) -> list[Recording]:
    """What the modality reads of shards that a recipe builds from a Parquet file of such rows, by the first sample."""
    (folder / "raw").mkdir()
    rows, features = {"id": [f"r{i}" for i in range(2)], **rows}, {"id": datasets.Value("string"), **features}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(folder / "raw" / "signals.parquet")
    recipe = load(
        {
            "name": "signals",
            "data": {"source": {"type": "hub", "dataset": "parquet", "files": "*.parquet", "key": "id", **source}},
            "modalities": {"ecg": {"type": "signal"}},
            "objectives": {"masked": {}},
        }
    )
    assert load(recipe.to_dict()) == recipe
    assert isinstance(recipe.data.source, Hub)
    manifest = build(
        recipe.data.source, {"ecg": modality}, SplitBy(validation=0, test=0), folder / "raw", folder / "out", workers=1
    )
    assert not manifest.skipped
    split = Split(folder / "out", "train")
    recordings = [modality.decode(split.read(shard, i)["ecg"]) for _, _, shard, i in split.locations()]
    return sorted(recordings, key=lambda recording: float(recording.samples[0, 0]))


@pytest.mark.parametrize("kind", ["lists", "array", "time first", "leads"])
def test_values_units_and_rates_for_all_rows(kind: str, tmp_path: Path) -> None:
    """Samples in µV and a rate for all rows; a recipe's unit is mV."""
    samples = [waves(i) * 1000 for i in range(2)]
    signal: dict[str, Any] = {"sample_rate_hz": 250, "unit": "uV", "channels": list(LEADS)}
    columns: Any = "samples"
    if kind == "leads":
        columns = ["lead_one", "lead_two", "chest"]
        rows = {column: [array[c].tolist() for array in samples] for c, column in enumerate(columns)}
        features: dict[str, Any] = dict.fromkeys(columns, FLOATS)
    else:
        turned = [array.T if kind == "time first" else array for array in samples]
        rows = {"samples": [array.tolist() for array in turned]}
        features = {"samples": datasets.Array2D((3, 50), "float32") if kind == "array" else GRID}
        signal |= {"time_first": True} if kind == "time first" else {}
    source = {"columns": {"ecg": columns}, "signals": {"ecg": signal}}
    recordings = decoded(rows, features, source, ECG["ecg"], tmp_path)
    for recording, array in zip(recordings, sorted(samples, key=lambda a: a[0, 0]), strict=True):
        np.testing.assert_allclose(recording.samples, array / 1000, rtol=1e-6)
        assert (recording.channels, recording.units, recording.rate_hz) == (LEADS, ("mV",) * 3, 250.0)


def test_each_row_may_state_its_rate_unit_and_channels(tmp_path: Path) -> None:
    samples = [waves(0), waves(1, 2, 90)]
    rows = {
        "x": [array.tolist() for array in samples],
        "fs": [100, 500],
        "unit": ["mV", "mV"],
        "names": [["I", "II", "V1"], ["V2", "aVF"]],
    }
    strings = datasets.Value("string")
    features = {"x": GRID, "fs": datasets.Value("int32"), "unit": strings, "names": datasets.List(strings)}
    columns = {"sample_rate_hz": {"column": "fs"}, "unit": {"column": "unit"}, "channels": {"column": "names"}}
    source = {"columns": {"ecg": "x"}, "signals": {"ecg": columns}}
    recordings = {r.rate_hz: r for r in decoded(rows, features, source, ECG["ecg"], tmp_path)}
    np.testing.assert_array_equal(recordings[100.0].samples, samples[0])
    assert recordings[100.0].channels == LEADS
    rows_of = [recordings[500.0].channels.index(name) for name in ("V2", "aVF")]
    assert np.array_equal(recordings[500.0].samples[rows_of], samples[1])


def test_light_curves_have_their_own_times(tmp_path: Path) -> None:
    times = [np.cumsum(np.random.default_rng(i).random(30) + 0.1).tolist() for i in range(2)]
    fluxes = [waves(i, 1, 30)[0] for i in range(2)]
    rows = {"t": times, "g": [flux.tolist() for flux in fluxes]}
    features = {"t": datasets.List(datasets.Value("float64")), "g": FLOATS}
    source = {"columns": {"ecg": "g"}, "signals": {"ecg": {"times": {"column": "t"}}}}
    modality = LightCurve(patch_points=5, channels=("g",))
    recordings = decoded(rows, features, source, modality, tmp_path)
    curves = sorted(zip(fluxes, times, strict=True), key=lambda curve: float(curve[0][0]))
    for recording, (flux, time) in zip(recordings, curves, strict=True):
        np.testing.assert_array_equal(recording.samples, flux[None])
        np.testing.assert_array_equal(recording.times, time)
        assert (recording.channels, recording.units) == (("g",), ("",))


def make_recording(cells: dict[str, Any], columns: Any = "x", **signal: Any) -> tuple[Recording, dict[str, int]]:
    """The recording of a row of such cells, and what it lost."""
    signal_columns = SignalColumns(**{"sample_rate_hz": 100.0, "unit": "mV", **signal})
    source = Hub(dataset="json", columns={"ecg": columns}, signals={"ecg": signal_columns})
    with counted_changes() as changes:
        members = source.make(Row(1, cells), ECG).members
    return ECG["ecg"].decode({name.partition(".")[2]: data for name, data in members.items()}), dict(changes)


def test_a_lead_without_samples_is_excluded_and_counted() -> None:
    wave = waves(0, 1)[0].tolist()
    recording, changes = make_recording({"I": wave, "II": None, "V1": wave}, LEADS, unit=("mV", "uV", "V"))
    assert recording.channels == ("I", "V1")
    np.testing.assert_allclose(recording.samples[1], recording.samples[0] * 1000, rtol=1e-6)
    assert changes == {"ecg: channel II left out: no samples": 1}


@pytest.mark.parametrize(
    ("cells", "signal", "reason"),
    [
        ({"x": None}, {}, "row without content"),
        ({"x": []}, {}, "row without content"),
        ({"x": "words"}, {}, "cells that are not lists of numbers"),
        ({"x": [[1.0, 2.0], [3.0]]}, {}, "cells that are not lists of numbers of one length"),
        ({"x": [[[1.0]]]}, {}, r"cells that are not \(channels, time\)"),
        ({"x": waves(0).T.tolist()}, {"channels": LEADS}, "ecg of 50 channels with 3 names"),
        ({"x": waves(0, 1).tolist(), "fs": None}, {"sample_rate_hz": Column(column="fs")}, "without a sample rate"),
        ({"x": waves(0, 1).tolist(), "fs": 0}, {"sample_rate_hz": Column(column="fs")}, "sample rate of 0 or less"),
        (
            {"x": waves(0, 1).tolist(), "t": None},
            {"sample_rate_hz": None, "times": Column(column="t")},
            "without times",
        ),
        ({"x": waves(0, 1).tolist(), "c": None}, {"channels": Column(column="c")}, "ecg without names of channels"),
        ({"x": waves(0).tolist()}, {"channels": LEADS, "unit": ("mV", "uV")}, "names or units do not match"),
    ],
)
def test_rows_without_signals_are_skipped_with_a_reason(
    cells: dict[str, Any], signal: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ContentError, match=reason):
        make_recording(cells, **signal)


def test_leads_of_unequal_length_are_excluded() -> None:
    with pytest.raises(ContentError, match="channels that are not lists of one length"):
        make_recording({"I": [1.0, 2.0], "II": [1.0]}, ("I", "II"))


def refused(source: dict[str, Any]) -> str:
    base = {"type": "hub", "dataset": "json", "columns": {"ecg": "x"}}
    recipe = {"name": "a", "modalities": {"ecg": {"type": "signal"}}, "objectives": {"masked": {}}}
    with pytest.raises(ValueError, match=r".") as caught:
        load({**recipe, "data": {"source": {**base, **source}}})
    return str(caught.value)


def test_mistakes_in_recipes_are_reported() -> None:
    assert "signals needs either sample_rate_hz or times" in refused({"signals": {"ecg": {"unit": "mV"}}})
    assert "signals.eeg is not a modality of data.source.columns" in refused(
        {"signals": {"eeg": {"sample_rate_hz": 1}}}
    )
    assert "unknown key 'data.source.signals.ecg.rate'" in refused({"signals": {"ecg": {"rate": 1}}})
    assert "without quotes as false" in refused({"signals": {"ecg": {"sample_rate_hz": 1, "channels": [False]}}})
    with pytest.raises(ValueError, match="needs channels: the column 'x' has 3 without names"):
        make_recording({"x": waves(0).tolist()})


def test_missing_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"x": [1.0, 2.0]}))
    columns = SignalColumns(sample_rate_hz=Column(column="fs"))
    source = Hub(dataset="json", files="*.jsonl", columns={"ecg": "x"}, signals={"ecg": columns})
    with pytest.raises(ValueError, match="data set json has no column 'fs'"):
        list(source.items(tmp_path))
