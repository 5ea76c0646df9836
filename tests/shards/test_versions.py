"""Manifests say by which versions of parsers their shards were made, and no build mixes two."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from modalities.base import Modality
from modalities.image import Image
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from shards.build import SplitBy, build
from shards.manifest import Manifest
from shards.sources.audio import AudioFolder
from shards.sources.base import Sample, Source
from shards.sources.bioscan import Bioscan
from shards.sources.edf import Edf
from shards.sources.hub import Hub
from shards.sources.images import ImageFolder
from shards.sources.join import Join
from shards.sources.molecules import Molecules
from shards.sources.rows import Rows
from shards.versions import installed_versions, relevant_versions, required_packages, version_differences

SIGNAL = Signal(montage="eeg", unit="uV", sample_rate_hz=100, patch_s=1.0)
CHEMISTRY = ("chembl_structure_pipeline", "rdkit")
SMILES: dict[str, Modality] = {"smiles": Smiles()}
NO_SPLIT = SplitBy(validation=0, test=0)


def version(name: str) -> str:
    return importlib.metadata.version(name)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that other versions of packages are installed."""
    real = importlib.metadata.version

    def pretended(**versions: str) -> None:
        monkeypatch.setattr("importlib.metadata.version", lambda name: versions.get(name) or real(name))

    return pretended


@pytest.mark.parametrize(
    ("source", "modalities", "expected"),
    [
        (Molecules(), SMILES, CHEMISTRY),
        (Rows(columns={"smiles": "s"}), SMILES, ("chembl_structure_pipeline", "polars", "rdkit")),
        (Rows(columns={"table": ("a",)}), {"table": Table()}, ("polars",)),
        (Edf(), {"eeg": SIGNAL}, ("pyedflib", "scipy")),
        (Rows(columns={"eeg": "file"}), {"eeg": SIGNAL}, ("polars", "pyedflib", "scipy", "wfdb")),
        (AudioFolder(modality="audio"), {"audio": Spectrogram()}, ("soundfile", "torchaudio")),
        (Hub(dataset="csv", columns={"table": "a"}), {"table": Table()}, ("datasets", "pyarrow")),
        (Bioscan(), {"table": Table()}, ()),
        (Join(sources=({"type": "edf"}, {"type": "rows", "columns": {"table": ["age"]}}), by="subject"),
         {"eeg": SIGNAL, "table": Table()}, ("polars", "pyedflib", "scipy")),
    ],
)  # fmt: skip
def test_only_what_a_build_uses_is_recorded(
    source: Source, modalities: Mapping[str, Modality], expected: tuple[str, ...]
) -> None:
    assert required_packages(modalities, source) == expected


def test_comparison_methods_and_tables_need_packages() -> None:
    assert required_packages({"table": Table()}, Bioscan(), ["exact", "perceptual"]) == ("imagehash", "pillow", "scipy")
    table = Edf(table="people.csv", join={"subject": "person"}, pattern="{subject}.edf")
    assert "polars" in required_packages({"eeg": SIGNAL}, table)
    assert required_packages(SMILES) == (), "reading shards of SMILES takes no chemistry"


def test_versions_of_unused_formats_do_not_matter() -> None:
    versions = dict.fromkeys(("imagecodecs", "pillow", "simplejpeg", "tifffile"), "1")
    assert relevant_versions(versions, ["image.png", "labels.json"]) == {"imagecodecs": "1", "pillow": "1"}
    assert relevant_versions(versions, ["a.image.JPG"]).keys() == {"pillow", "simplejpeg"}
    assert relevant_versions(versions, ["image.tif"]).keys() == {"imagecodecs", "pillow", "tifffile"}


def test_a_package_that_is_not_installed_has_no_version() -> None:
    installed_now = installed_versions(["no-such-package", "soundfile"])
    assert installed_now == {"soundfile": version("soundfile"), "libsndfile": soundfile.__libsndfile_version__}
    assert version_differences({"a": "1", "b": "1", "c": "1"}, {"b": "1", "c": "2", "d": "1"}) == [("c", "1", "2")]


def test_a_manifest_names_the_versions(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "x").mkdir(parents=True)
    Pillow.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(raw / "x" / "a.png")
    images: dict[str, Modality] = {"image": Image(size=32, patch=16)}
    manifest = build(ImageFolder(modality="image", pattern="{class}/{i}"), images, NO_SPLIT, raw, tmp_path / "images")
    assert manifest.versions == {name: version(name) for name in ("imagecodecs", "pillow")}
    (raw / "a.smi").write_text("CCO")
    with_image: dict[str, Modality] = {**SMILES, "image": Image(size=96, patch=12)}
    manifest = build(Molecules(), with_image, NO_SPLIT, raw, tmp_path / "molecules")
    assert manifest.versions == {name: version(name) for name in (*CHEMISTRY, "imagecodecs", "pillow")}
    assert Manifest.read(tmp_path / "molecules").versions == manifest.versions


def test_tars_do_not_depend_on_the_versions(tmp_path: Path, pretend: Any) -> None:
    (tmp_path / "a.smi").write_text("CCO\nCCN\nc1ccccc1")
    first = build(Molecules(), SMILES, NO_SPLIT, tmp_path / "a.smi", tmp_path / "one")
    pretend(rdkit="2025.3.6")
    second = build(Molecules(), SMILES, NO_SPLIT, tmp_path / "a.smi", tmp_path / "two")
    assert second.versions["rdkit"] == "2025.3.6" != first.versions["rdkit"]
    assert first.shards == second.shards


class Stopping(Molecules):
    """Is interrupted at the second chunk."""

    type = "stopping"
    stop = True

    def make(self, item: Any, modalities: Mapping[str, Modality]) -> Sample:
        if self.stop and item == "O" * 3:
            raise KeyboardInterrupt
        return super().make(item, modalities)


def test_a_build_with_other_versions_starts_over(tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.smi").write_text("\n".join([*("C" * n for n in range(1, 70)), "OOO"]))
    messages: list[str] = []

    def go() -> Manifest:
        return build(Stopping(), SMILES, NO_SPLIT, tmp_path / "a.smi", tmp_path / "out", report=messages.append)

    pretend(rdkit="2025.3.6")
    with pytest.raises(KeyboardInterrupt):
        go()
    with pytest.raises(KeyboardInterrupt):
        go()
    aside = tmp_path / "out.building"
    assert messages == [f"resuming in {aside}: 1 chunks of 64 items and 0 shards are done"]
    pretend()
    monkeypatch.setattr(Stopping, "stop", False)
    manifest = go()
    installed = version("rdkit")
    assert messages[1:] == [f"{aside} was begun with rdkit 2025.3.6, now {installed}: starting again"]
    assert manifest.versions["rdkit"] == installed
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["versions"]["rdkit"] == installed
