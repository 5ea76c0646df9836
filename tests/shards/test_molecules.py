"""Molecules from SMILES files: what becomes of them, what is refused."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from rdkit import Chem
from rdkit.Chem import AllChem

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.strings.chemistry import canonical, scaffold
from modalities.table import Table
from shards.build import SplitBy, build
from shards.sources.molecules import Molecules, Record

ALL: dict[str, Modality] = {"smiles": Smiles(), "image": Image(), "table": Table()}


def items(source: Molecules, raw: Path) -> list[str | Record]:
    return list(source.items(raw))


def picture(smiles: str, **options: float) -> np.ndarray:
    sample = Molecules(**options).make(smiles, ALL)  # type: ignore[arg-type]
    image = Pillow.open(io.BytesIO(sample.members["image.png"]))
    assert image.mode == "L"
    return np.asarray(image)


def test_smi_files_are_read_by_the_first_word_of_each_line(tmp_path: Path) -> None:
    (tmp_path / "b.smi").write_text("CCO ethanol\n\nCCN\tethylamine\r\n")
    (tmp_path / "a.smi").write_text("C methane")
    (tmp_path / "c.txt").write_text("CCC")
    assert items(Molecules(), tmp_path) == ["C", "CCO", "CCN"]
    assert items(Molecules(), tmp_path / "b.smi") == ["CCO", "CCN"]
    assert items(Molecules(files="*.txt"), tmp_path) == ["CCC"]


def test_csv_files_are_read_by_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,structure\n1,CCO\n2,\n3,"CC(=O)O"\n')
    source = Molecules(files="*.csv", smiles="structure")
    assert items(source, tmp_path) == ["CCO", "", "CC(=O)O"]
    with pytest.raises(ValueError, match=r"a\.csv has no column 'smiles'; it has id, structure"):
        items(Molecules(files="*.csv"), tmp_path)


def test_bytes_around_the_smiles_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_bytes("\ufeffCCO \N{GREEK SMALL LETTER ALPHA}\nCCN ".encode() + b"\xe9thyl\nC\xe9C\n")
    (tmp_path / "a.csv").write_bytes("\ufeffsmiles\r\nCCO\r\n".encode())
    assert items(Molecules(), tmp_path) == ["CCO", "CCN", "C\ufffdC"]
    assert items(Molecules(files="*.csv"), tmp_path) == ["CCO"]


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file \*\.smi in"):
        items(Molecules(), tmp_path)


@pytest.mark.parametrize("smiles", ["", "C1CC", "hello", "C\ufffdC", "C(C", "c1cccc1", "[Xx]", "C(C)(C)(C)(C)C"])
def test_invalid_smiles_are_content_errors(smiles: str) -> None:
    with pytest.raises(ContentError) as caught:
        Molecules().make(smiles, ALL)
    assert caught.value.reason == "invalid SMILES"


def test_members_of_a_molecule() -> None:
    source = Molecules(descriptors=("MolWt", "NumHDonors"), labels=("qed",))
    sample = source.make("OC(=O)c1ccccc1", ALL)
    assert sample.identity == "O=C(O)c1ccccc1"
    assert sample.groups == {"scaffold": "c1ccccc1"}
    assert sample.members.keys() == {"smiles.txt", "image.png", "table.json", "labels.json"}
    assert sample.members["smiles.txt"] == b"O=C(O)c1ccccc1"
    assert json.loads(sample.members["table.json"]) == {"MolWt": pytest.approx(122.12, abs=0.01), "NumHDonors": 1}
    assert 0 < json.loads(sample.members["labels.json"])["qed"] < 1
    assert Molecules().make("CCO", ALL).members.keys() == {"smiles.txt", "image.png"}


def test_equal_molecules_have_one_identity() -> None:
    spellings = ["OCC", "C(O)C", "[CH3][CH2][OH]", "CCO"]
    assert {Molecules().make(smiles, ALL).identity for smiles in spellings} == {"CCO"}
    assert canonical("C[C@H](N)O") != canonical("C[C@@H](N)O")


def test_scaffolds() -> None:
    scaffolds = [scaffold(Chem.MolFromSmiles(smiles)) for smiles in ("CCCC", "Cc1ccccc1CCO", "c1ccccc1")]
    assert scaffolds == ["", "c1ccccc1", "c1ccccc1"]


def test_only_modalities_in_the_recipe_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_drawing(*_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr("shards.sources.molecules.draw", refuse_drawing)
    source = Molecules(descriptors=("MolWt",), labels=("qed",))
    assert source.make("CCO", {"smiles": Smiles()}).members.keys() == {"smiles.txt", "labels.json"}
    assert source.make("CCO", {"table": Table()}).members.keys() == {"table.json", "labels.json"}


@pytest.mark.parametrize("side", [16, 48, 96])
def test_drawings_are_gray_squares_of_the_configured_size(side: int) -> None:
    pixels = picture("c1ccccc1O", drawing_px=side)
    assert pixels.shape == (side, side)
    assert pixels.dtype == np.uint8
    assert pixels.max() == 255
    assert pixels.min() < 128
    assert (pixels > 250).mean() > 0.3, "paper is white"


def test_drawings_are_to_scale_and_reproducible() -> None:
    widths = []
    for ring in ("C1CCCCC1", "C1CCC2CCCCC2C1"):
        columns = np.flatnonzero((picture(ring) < 200).any(0))
        widths.append(columns[-1] - columns[0])
        assert (picture(ring) == picture(ring)).all()
    assert 1.4 < widths[1] / widths[0] < 2.2
    longest = picture("C" * 80)
    assert (longest[:, 0] > 200).all(), "a long molecule is shrunk to fit"
    assert (longest[:, -1] > 200).all()


@pytest.mark.parametrize("name", ["NoSuchThing", "rdMolDescriptors", "CalcMolDescriptors"])
def test_an_unknown_descriptor_stops_the_build_immediately(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.smi").write_text("CCO\n" * 3)
    for source in (Molecules(descriptors=("MolWt", name)), Molecules(labels=(name,))):
        with pytest.raises(ValueError, match=f"RDKit has no descriptor '{name}'"):
            build(source, {"smiles": Smiles()}, SplitBy(), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nonfinite_descriptors_are_missing() -> None:
    sample = Molecules(descriptors=("MaxPartialCharge", "MolWt")).make("C[Hg]C", ALL)
    row = json.loads(sample.members["table.json"])
    assert row["MolWt"] > 0
    assert row["MaxPartialCharge"] is None


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("smiles,y,y\nCCO,1,9\n")
    with pytest.raises(ValueError, match=r"a\.csv has the column 'y' twice"):
        list(Molecules(files="*.csv", properties=("y",)).items(tmp_path))


def test_columns_of_a_table_become_labels(tmp_path: Path) -> None:
    header = "name\tstructure\tactivity\tclass\n"
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as file:
        file.write(header + "x\tOCC\t1.5\tactive\ny\tCCN\tNA\t\n")
    source = Molecules(files="*.gz", smiles="structure", properties=("activity", "class"), labels=("qed",))
    first, second = (source.make(item, ALL) for item in source.items(tmp_path))
    assert json.loads(first.members["labels.json"]) == {
        "activity": 1.5, "class": "active", "qed": pytest.approx(0.41, abs=0.01),
    }  # fmt: skip
    assert first.groups == {"activity": "1.5", "class": "active", "scaffold": ""}
    assert json.loads(second.members["labels.json"])["activity"] is None
    with pytest.raises(ValueError, match=r"no table in .* has a column 'toxic'; there are name, structure"):
        items(Molecules(files="*.gz", smiles="structure", properties=("toxic",)), tmp_path)
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"structure\nCCC\n"))
    source = Molecules(files="*.gz", smiles="structure", properties=("activity",))
    assert [Molecules.make(source, item, ALL).groups["activity"] for item in source.items(tmp_path)] == [
        "1.5",
        "",
        "",
    ]
    (tmp_path / "a.smi").write_text("CCO")
    with pytest.raises(ValueError, match="SMILES alone"):
        items(Molecules(properties=("x",)), tmp_path)


def write_sdf(path: Path, smiles: list[str], **fields: str) -> None:
    """Molecules with 2-D coordinates, as RDKit writes them."""
    with Chem.SDWriter(str(path)) as writer:
        for spelling in smiles:
            molecule = Chem.MolFromSmiles(spelling)
            AllChem.Compute2DCoords(molecule)
            for name, value in fields.items():
                molecule.SetProp(name, value)
            writer.write(molecule)


def test_sdf_files_contain_molecules_and_data_fields(tmp_path: Path) -> None:
    spellings = ["OCC", "C[C@H](N)C(=O)O", "C/C=C/C", "[Na+].[Cl-]", "c1ccc2[nH]ccc2c1"]
    write_sdf(tmp_path / "a.sdf", spellings, activity="7.25", note="two\nlines", other="x")
    source = Molecules(files="*.sdf", properties=("activity", "note", "gone"))
    samples = [source.make(item, ALL) for item in source.items(tmp_path)]
    assert [sample.identity for sample in samples] == [canonical(spelling) for spelling in spellings]
    labels = {"activity": 7.25, "note": "two\nlines", "gone": None}
    assert all(json.loads(sample.members["labels.json"]) == labels for sample in samples)
    assert samples[0].members.keys() == {"smiles.txt", "image.png", "labels.json"}
    plain = [Molecules(files="*.sdf").make(item, ALL) for item in items(Molecules(files="*.sdf"), tmp_path)]
    assert all("labels.json" not in sample.members for sample in plain)


def test_broken_molecule_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sdf(tmp_path / "a.sdf", ["CCO", "CCN", "CCC", "C" * 40])
    text = (tmp_path / "a.sdf").read_text().replace("N   0", "Qq  0", 1)
    (tmp_path / "a.sdf").write_text(text.removesuffix("$$$$\n"))
    (tmp_path / "b.sdf").write_text("hello\n$$$$\n\n")
    with gzip.open(tmp_path / "c.sdf.gz", "wt") as file:
        file.write(text)
    (tmp_path / "d.sdf.gz").write_bytes((tmp_path / "c.sdf.gz").read_bytes()[:-200])
    (tmp_path / "e.csv.gz").write_text("smiles")
    monkeypatch.setattr("shards.sources.molecules._LONGEST", 1500)
    manifest = build(Molecules(files="[a-c]*"), {"smiles": Smiles()}, SplitBy(), tmp_path, tmp_path / "out")
    assert manifest.fields["smiles.txt"] == 2
    assert manifest.skipped == {
        "SDF record of more than 1,500 characters": 2, "duplicate": 2, "invalid SDF record": 3,
    }  # fmt: skip
    unreadable = Record(fault="file of molecules that cannot be read to its end")
    for name in ("d.sdf.gz", "e.csv.gz"):
        *_, last = items(Molecules(), tmp_path / name)
        assert last == unreadable


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.smi", b"", "file of molecules that is empty"),
        ("a.sdf", b"", "file of molecules that is empty"),
        ("a.sdf", b"\n\n", "file of molecules that is empty"),
        ("a.csv", b"smiles,y\n", "file of molecules that is empty"),
        ("a.smi", b"\x89PNG\r\n\x1a\n", "invalid SMILES"),
        ("a.sdf", b"\x89PNG\r\n\x1a\n", "invalid SDF record"),
        ("a.sdf.gz", b"$$$$", "file of molecules that cannot be read to its end"),
    ],
)
def test_files_without_a_molecule_are_counted(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"no usable sample in .*{reason}"):
        build(Molecules(files="*"), {"smiles": Smiles()}, SplitBy(), raw, tmp_path / "none")
    (raw / "good.smi").write_text("CCO\n")
    manifest = build(Molecules(files="*"), {"smiles": Smiles()}, SplitBy(), raw, tmp_path / "out")
    assert (manifest.fields["smiles.txt"], set(manifest.skipped)) == (1, {reason})
