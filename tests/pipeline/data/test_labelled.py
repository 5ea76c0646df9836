"""A user's own samples and labels, and the task they pose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import Modality
from modalities.dna import Dna
from modalities.image import Image, Picture
from modalities.smiles import Smiles
from modalities.table import Table
from modalities.text import Text
from pipeline.data.hashes import content_hash, joint_hash, short_hashes
from pipeline.data.labelled import Labelled, load
from pipeline.data.task import Task, task_of
from pipeline.recipe.load import load as checked
from shards.build import SplitBy, build
from shards.sources.rows import Rows

ROWS = "SMILES,weight,Colour,toxic\nOCC,46,red,1\nCCN,45,,0\nCc1ccccc1,92,blue,\n"


@pytest.fixture(scope="module")
def modalities() -> dict[str, Modality]:
    table = Table().fit([{"weight": 40.0, "Colour": "red"}, {"weight": 60.0, "Colour": "red"}])
    image = Image(size=16, patch=8).fit([Picture(np.random.default_rng(0).random((16, 16, 1), np.float32), ("grey",))])
    return {"smiles": Smiles().fit(["C"]), "image": image, "table": table}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text(ROWS)
    return tmp_path / "data.csv"


@pytest.fixture
def shards(tmp_path: Path, modalities: dict[str, Modality]) -> Path:
    """Six rows of which the last has no label, in three splits."""
    lines = [f"{'C' * n}O,{n},{n % 2 if n < 6 else ''}" for n in range(1, 7)]
    (tmp_path / "raw.csv").write_text("\n".join(["SMILES,weight,toxic", *lines]))
    source = Rows(columns={"smiles": "SMILES", "table": ("weight",)}, labels=("toxic",))
    split = SplitBy(validation=0.1, test=0.3, large=1.0)
    build(source, modalities, split, tmp_path / "raw.csv", tmp_path / "shards")
    return tmp_path / "shards"


def hashes(samples: Labelled) -> list[frozenset[str]]:
    """The hashes of all samples."""
    return [samples.hashes(i) for i in range(len(samples))]


def test_columns_are_matched_by_names_of_modalities_and_tables(data: Path, modalities: dict[str, Modality]) -> None:
    samples = load(data, modalities, label="toxic")
    assert len(samples) == 3
    assert samples.labels == (1, 0, None)
    assert samples.keys == ("1", "2", "3")
    assert (samples.split, samples.skipped) == (("",) * 3, {})
    tokens = samples.tokens(0)
    assert tokens.keys() == {"smiles", "table"}
    assert isinstance(smiles := modalities["smiles"], Smiles)
    assert smiles.join(tokens["smiles"].ids[:, 0]) == "CCO", "SMILES are made canonical, as in shards"
    assert tokens["table"].size == 2
    assert samples.members(1)["smiles"] == {"txt": b"CCN"}


def test_the_label_is_never_input(data: Path, modalities: dict[str, Modality]) -> None:
    samples = load(data, modalities, label="weight")
    assert samples.labels == (46, 45, 92)
    assert samples.tokens(0)["table"].size == 1
    assert "weight" not in samples.members(0)["table"]["json"].decode()


def test_columns_are_mapped_by_an_option(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    ImageOps.expand(Pillow.new("L", (14, 14)), 1, 99).save(tmp_path / "a.png")
    path = tmp_path / "own.tsv"
    path.write_text("structure\tphoto\tscore\nCCO\ta.png\t0.5\nCCN\t\t1.5\n")
    samples = load(path, modalities, label="score", columns={"smiles": "structure", "image": "photo"})
    assert [sorted(samples.tokens(i)) for i in range(2)] == [["image", "smiles"], ["smiles"]]
    assert samples.labels == (0.5, 1.5)
    with pytest.raises(ValueError, match="'smile', which is not a modality here: did you mean 'smiles'"):
        load(path, modalities, columns={"smile": "structure"})
    with pytest.raises(ValueError, match="has no column 'structures'; it has structure, photo, score"):
        load(path, modalities, columns={"smiles": "structures"})
    with pytest.raises(ValueError, match=r"has no column for smiles, image, table.*--columns modality=column"):
        load(path, modalities)


def test_columns_are_those_in_the_recipe(
    tmp_path: Path, modalities: dict[str, Modality], capsys: pytest.CaptureFixture[str]
) -> None:
    ImageOps.expand(Pillow.new("L", (14, 14)), 1, 99).save(tmp_path / "a.png")
    (tmp_path / "own.csv").write_text("structure,photo,weight\nCCO,a.png,46\n")
    source = {"type": "rows", "columns": {"smiles": "structure", "image": "photo", "table": ["weight"]}}
    recipe = checked(
        {
            "name": "own",
            "size": "tiny",
            "data": {"source": source, "shards": [{"path": "shards"}]},
            "modalities": {"smiles": {"type": "smiles"}, "image": {"type": "image"}, "table": {"type": "table"}},
            "objectives": {"masked": {}},
            "train": {"steps": 1},
        }
    )
    samples = load(tmp_path / "own.csv", modalities, recipe=recipe)
    assert samples.modalities == ("smiles", "image", "table")
    assert set(samples.tokens(0)) == {"smiles", "image", "table"}
    assert capsys.readouterr().err == ""
    (tmp_path / "new.csv").write_text("photo,weight,SMILES\na.png,46,CCO\n")
    assert load(tmp_path / "new.csv", modalities, recipe=recipe).modalities == ("smiles", "image", "table")
    (tmp_path / "few.csv").write_text("weight,SMILES\n46,CCO\n")
    assert load(tmp_path / "few.csv", modalities, recipe=recipe).modalities == ("smiles", "table")
    assert "no column for image: if there is one" in capsys.readouterr().err


def test_molecules_are_read_from_the_column_of_their_source(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    (tmp_path / "own.csv").write_text("Structure,y\nCCO,1\nCCN,2\n")
    recipe = checked(
        {
            "name": "own",
            "size": "tiny",
            "data": {"source": {"type": "molecules", "smiles": "Structure"}, "shards": [{"path": "shards"}]},
            "modalities": {"smiles": {"type": "smiles"}},
            "objectives": {"masked": {}},
            "train": {"steps": 1},
        }
    )
    smiles = {"smiles": modalities["smiles"]}
    assert load(tmp_path / "own.csv", smiles, label="y", recipe=recipe).modalities == ("smiles",)


def test_a_text_may_use_several_columns(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    (tmp_path / "own.csv").write_text("genus,species\nTurdus,merula\nLarus,\n")
    text: dict[str, Modality] = {"taxonomy": Text().fit(["Turdus merula Larus canus"] * 9)}
    samples = load(tmp_path / "own.csv", text, columns={"taxonomy": "genus+species"})
    assert [samples.members(i)["taxonomy"]["txt"] for i in range(2)] == [b"Turdus merula", b"Larus"]
    with pytest.raises(ValueError, match="gives the label 'genus' to 'taxonomy'"):
        load(tmp_path / "own.csv", text, label="genus", columns={"taxonomy": "genus"})
    with pytest.raises(ValueError, match="gives 'smiles' 2 columns, but only tables and texts"):
        load(tmp_path / "own.csv", modalities, columns={"smiles": "genus+species"})


def test_the_predicted_column_is_not_read(data: Path, modalities: dict[str, Modality]) -> None:
    assert load(data, modalities, excluded="weight").tokens(0)["table"].size == 1
    with pytest.raises(ValueError, match="gives the label 'weight' to 'table'"):
        load(data, modalities, excluded="weight", columns={"table": "weight"})


def test_the_first_of_many_new_columns_are_named(
    tmp_path: Path, modalities: dict[str, Modality], capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"smiles": ["CCO"], **{f"gene {number}": [1.0] for number in range(999)}}).write_csv(
        tmp_path / "own.csv"
    )
    load(tmp_path / "own.csv", {name: modalities[name] for name in ("smiles", "table")})
    assert "gene 29 and 969 more; to use them pass them as --columns table=a+b" in capsys.readouterr().err


def test_new_numeric_columns_are_reported_and_used_only_if_named(
    tmp_path: Path, modalities: dict[str, Modality], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("smiles,weight,mass_g,site,score\nCCO,46,1.5,Peru,1\nCCN,45,2.5,Cuba,2\n")
    modalities = {name: modality for name, modality in modalities.items() if name != "image"}
    assert load(path, modalities, label="score").tokens(0)["table"].size == 1
    message = "left out as new to 'table': mass_g; to use them pass --columns table=weight+mass_g"
    assert capsys.readouterr().err.splitlines() == [message]
    samples = load(path, modalities, label="score", columns={"table": "weight+mass_g"})
    assert json.loads(samples.members(1)["table"]["json"]) == {"weight": 45, "mass_g": 2.5}
    tokens = samples.tokens(0)["table"]
    assert tokens.ids[:, 0].tolist() == [2, 2]
    assert tokens.values[1, 0] == pytest.approx(np.log1p(1.5))
    assert capsys.readouterr().err == ""
    for columns, message in (
        ("weight+site", "only numbers from new columns, and 'site' is not numeric"),
        ("weight+score", "gives the label 'score' to 'table'"),
        ("weight+mass", "has no column 'mass'; it has smiles"),
    ):
        with pytest.raises(ValueError, match=message):
            load(path, modalities, label="score", columns={"table": columns})


def test_an_invalid_row_is_named_or_skipped(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    path = tmp_path / "data.csv"
    path.write_text("smiles,y\nCCO,1\nC1CC,2\nCCN,3\nnonsense,4\n")
    with pytest.raises(ValueError, match=r"data\.csv, row 2: invalid SMILES \('C1CC'\); correct it or"):
        load(path, modalities, label="y")
    samples = load(path, modalities, label="y", skip_invalid=True)
    assert samples.keys == ("1", "3")
    assert samples.labels == (1, 3)
    assert samples.skipped == {"row 2": "invalid SMILES", "row 4": "invalid SMILES"}
    path.write_text("smiles\nC1CC\n")
    with pytest.raises(ValueError, match=r"no usable row in .* \(row 1: invalid SMILES\)"):
        load(path, modalities, skip_invalid=True)


def test_a_missing_label_lists_the_columns(data: Path, modalities: dict[str, Modality]) -> None:
    with pytest.raises(ValueError, match=r"data\.csv has no column 'qed'; it has SMILES, weight, Colour, toxic"):
        load(data, modalities, label="qed")


def test_groups(data: Path, modalities: dict[str, Modality]) -> None:
    assert load(data, modalities).groups == ("row 1", "row 2", "row 3")
    assert load(data, modalities, by="scaffold").groups == ("", "", "c1ccccc1")
    assert load(data, modalities, by="Colour").groups == ("red", "", "blue")
    with pytest.raises(ValueError, match="cannot split by 'scaffolds': did you mean 'scaffold'"):
        load(data, modalities, by="scaffolds")


def test_rows_without_smiles_are_accepted_in_a_scaffold_split(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    (tmp_path / "data.csv").write_text("smiles,weight\nCc1ccccc1,92\n,40\n")
    assert load(tmp_path / "data.csv", modalities, by="scaffold").groups == ("c1ccccc1", "")


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_other_formats(tmp_path: Path, data: Path, modalities: dict[str, Modality], suffix: str) -> None:
    frame, path = pl.read_csv(data), tmp_path / f"data.{suffix}"
    if suffix == "tsv":
        frame.write_csv(path, separator="\t")
    else:
        frame.write_parquet(path)
    first, second = load(data, modalities, label="toxic"), load(path, modalities, label="toxic")
    assert (first.labels, first.groups, hashes(first)) == (second.labels, second.groups, hashes(second))


def test_files_without_data_are_refused(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(ValueError, match="folder without manifest"):
        load(tmp_path, modalities)
    with pytest.raises(ValueError, match="neither a folder of shards nor a file of"):
        load(tmp_path / "a.pdf", modalities)
    with pytest.raises(ValueError, match=r"no file .*none\.csv"):
        load(tmp_path / "none.csv", modalities)


def test_shards_are_loaded_with_all_splits_and_labels(shards: Path, modalities: dict[str, Modality]) -> None:
    samples = load(shards, modalities, label="toxic")
    assert sorted(samples.split) == ["test"] * 2 + ["train"] * 3 + ["validation"]
    by_smiles = {
        samples.members(i)["smiles"]["txt"].decode(): (samples.labels[i], samples.split[i]) for i in range(len(samples))
    }
    assert {smiles: label for smiles, (label, _) in by_smiles.items()} == {
        "CO": 1, "CCO": 0, "CCCO": 1, "CCCCO": 0, "CCCCCO": 1, "CCCCCCO": None,
    }  # fmt: skip
    assert samples.tokens(0).keys() == {"smiles", "table"}
    assert load(shards, modalities).labels == (None,) * 6
    with pytest.raises(ValueError, match="has no label 'toxik': did you mean 'toxic'"):
        load(shards, modalities, label="toxik")


def test_shards_without_any_of_the_modalities_are_refused(shards: Path, modalities: dict[str, Modality]) -> None:
    assert load(shards, modalities, label="toxic").modalities == ("smiles", "table")
    with pytest.raises(ValueError, match=r"has no members of image; it has labels\.json, smiles\.txt, table\.json"):
        load(shards, {"image": modalities["image"]}, label="toxic")


def test_shards_may_lack_splits_and_labels(tmp_path: Path, modalities: dict[str, Modality]) -> None:
    (tmp_path / "raw.csv").write_text("smiles\nCCO\nCCN\n")
    source = Rows(columns={"smiles": "smiles"})
    build(source, modalities, SplitBy(validation=0, test=0), tmp_path / "raw.csv", tmp_path / "shards")
    assert load(tmp_path / "shards", modalities).split == ("train", "train")
    with pytest.raises(ValueError, match="has no label 'qed'"):
        load(tmp_path / "shards", modalities, label="qed")


def test_equal_content_has_equal_hashes_in_tables_and_shards(
    shards: Path, tmp_path: Path, modalities: dict[str, Modality]
) -> None:
    smiles_only = {"smiles": modalities["smiles"]}
    rows = load(tmp_path / "raw.csv", smiles_only, label="toxic", by="SMILES")
    content = {h for of_sample in hashes(rows) for h in of_sample if h.startswith("smiles:")}
    stored = load(shards, modalities)
    assert content == {h for of_sample in hashes(stored) for h in of_sample if h.startswith("smiles:")}
    assert not any(h.startswith("labels:") for of_sample in hashes(stored) for h in of_sample)


def test_a_common_table_row_does_not_identify_a_sample(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("dna,place,taxon\nACGTACGT,Peru,Aves\nTTTTGGGG,Peru,Aves\n")
    place = Table(min_count=1).fit([{"place": "Peru"}])
    taxon = Text().fit(["Aves"])
    first, second = hashes(load(tmp_path / "raw.csv", {"dna": Dna(), "table": place, "taxon": taxon}))
    assert {h.partition(":")[0] for h in first} == {"dna"}
    assert first.isdisjoint(second)
    first, second = hashes(load(tmp_path / "raw.csv", {"table": place}))
    assert {h.partition(":")[0] for h in first & second} == {"table"}


def test_signals_with_equal_channels_have_different_hashes() -> None:
    one, same, other = (
        joint_hash(short_hashes({"ecg": {"npy": samples, "json": b"{}"}})["ecg"]) for samples in (b"1", b"1", b"2")
    )
    assert one == same != other
    assert joint_hash(short_hashes({"smiles": {"txt": b"CCO"}})["smiles"]) == content_hash(b"CCO")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, 1.5, 2.25], "regression"),
        ([1, 2.5], "regression"),
        (list(range(30)), "regression"),
        ([0, 1, 1, 0], "classification"),
        ([0.0, 1.0, 1.0], "classification"),
        ([True, False], "classification"),
        (["a", "b"], "classification"),
        ([f"species {i}" for i in range(40)] * 2, "classification"),
    ],
)
def test_the_task_is_inferred_from_labels(values: list[object], kind: str) -> None:
    task = task_of("y", values)
    assert task.kind == kind
    assert task.outputs == (1 if kind == "regression" else len(set(values)))


def test_the_task_can_be_set() -> None:
    assert task_of("y", [0, 1, 2], "regression").kind == "regression"
    assert task_of("y", [0.5, 1.5], "classification").classes == ("0.5", "1.5")
    with pytest.raises(ValueError, match="'y' is not a number: use --task classification"):
        task_of("y", ["a", "b"], "regression")


@pytest.mark.parametrize("values", [[1.5, 1.5], ["a", "a"], [3], []])
def test_a_constant_label_is_refused(values: list[object]) -> None:
    with pytest.raises(ValueError, match="one value only"):
        task_of("y", values)


def test_encoded_labels() -> None:
    values = [1.0, 2.5, 6.0]
    task = task_of("y", values)
    encoded = task.encode(values)
    assert encoded.dtype == np.float32
    assert encoded.mean() == pytest.approx(0, abs=1e-6)
    assert encoded.std() == pytest.approx(1, abs=1e-6)
    assert encoded * task.std + task.mean == pytest.approx(values)
    classes = task_of("y", ["b", "a", "c", "a"])
    assert classes == Task(label="y", kind="classification", classes=("a", "b", "c"))
    assert classes.encode(["c", "a"]).tolist() == [2, 0]


def test_labels_with_some_non_numeric_values_are_refused() -> None:
    values = [*range(50), ">10000", ">10000", "ND"]
    message = (
        r"label 'ic50': 50 of 53 cells are numbers, 3 are not \(>10000, ND\): give these numbers, leave them empty"
    )
    for kind in ("auto", "regression"):
        with pytest.raises(ValueError, match=message):
            task_of("ic50", values, kind)
    assert task_of("ic50", values, "classification").kind == "classification"


def test_single_sample_classes_are_questioned() -> None:
    values = [f"text {n}" for n in range(30)]
    with pytest.raises(
        ValueError, match="label 'y': 30 of 30 samples have a class that no other sample has: is it a key"
    ):
        task_of("y", values)
    assert len(task_of("y", values, "classification").classes) == 30


def test_a_new_file_is_read_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells are read by the type of the fitted column, whatever a file of few rows makes of them."""
    rows = [{"plate": p, "treated": t, "mass": m} for p, t, m in [("007", "True", 1.5), ("A12", "unknown", 2.5)] * 2]
    table = Table().fit(rows)
    path = tmp_path / "new.csv"
    path.write_text("plate,treated,mass\n007,True,7\nB7,True,heavy\n")
    samples = load(path, {"table": table})
    entries = [[table.vocabulary.entries[i] for i in samples.tokens(n)["table"].ids[:, 0]] for n in range(2)]
    assert entries == [["plate=007", "treated=True", "<number>"], ["<unknown>", "treated=True", "<missing>"]]
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: plate: cells that training did not have are unknown (1)",
        f"{path}: mass: cells that are no numbers are missing (1)",
    ]


def test_codes_for_missing_values_apply_to_new_files_and_labels(tmp_path: Path) -> None:
    recipe = checked(
        {
            "name": "own",
            "size": "tiny",
            "data": {
                "source": {
                    "type": "rows",
                    "columns": {"table": ["iron", "age"]},
                    "missing": {"iron": [-999], "age": [300]},
                },
                "shards": [{"path": "shards"}],
            },
            "modalities": {"table": {"type": "table"}},
            "objectives": {"masked": {}},
            "train": {"steps": 1},
        }
    )
    table = recipe.modalities["table"].fit([{"iron": float(n), "age": n} for n in range(30)])
    assert table.missing == {"iron": (-999,), "age": (300,)}, "so that an exported model knows them too"
    path = tmp_path / "new.csv"
    path.write_text("iron,age,y\n-999,40,1\n5,300,2\n")
    samples = load(path, {"table": table}, recipe=recipe)
    assert [samples.tokens(n)["table"].ids[:, 0].tolist() for n in range(2)] == [[0, 2], [2, 0]]
    path.write_text("iron,age\n6,40\n5,300\n")
    assert load(path, {"table": table}, label="age", recipe=recipe).labels == (40, None)


@pytest.mark.parametrize(
    "values",
    [[f"{4 + n / 10:.1f}" for n in range(40)] * 5 + ["ND"] * 36, [f"{n / 10:.1f} mg" for n in range(40)] * 5],
    ids=["more than a tenth no numbers", "units"],
)
def test_labels_with_many_non_numeric_values_are_refused(values: list[str]) -> None:
    with pytest.raises(ValueError, match=r"label 'y': \d+ of \d+ cells are numbers, \d+ are not \("):
        task_of("y", values)
    assert task_of("y", [f"{n:03}" for n in range(40)] * 5).kind == "classification", "codes with leading zeros"


def test_codes_among_labels_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table().fit([{"iron": 1.0}, {"iron": 2.0}])
    path = tmp_path / "new.csv"
    path.write_text("iron,y\n" + "".join(f"1,{7 + n / 100}\n" for n in range(100)) + "1,-999\n" * 9)
    load(path, {"table": table}, label="y")
    assert f"{path}: label y: 9 of 109 cells are -999, far from all others" in capsys.readouterr().err
