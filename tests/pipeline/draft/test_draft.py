"""Drafts of recipes: for each kind of raw folder, what the draft says and that it builds shards unchanged."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyedflib
import pytest
import soundfile
import wfdb
import yaml
from PIL import Image
from rdkit import Chem

from modalities.base import Modality
from pipeline.draft import draft_recipe
from pipeline.recipe.load import load
from runs import built as build_shards
from shards.manifest import Manifest
from shards.sources.base import Sample, Source, register
from shards.sources.drafting import survey
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft
from shards.sources.drafting.survey import Survey
from shards.sources.paths import find_files

RNG = np.random.default_rng(0)
MOLECULES = (
    *("CC(=O)OCC", "c1ccccc1O", "CC(=O)N", "C1CCCCC1", "CCN(CC)CC", "OCC(O)CO", "Cc1ccccc1", "CC#N", "C1=CNC=C1"),
    *("CC(C)O", "c1ccncc1", "O=C1CCCC1"),
)
SPECIES = ("bream", "chub", "perch")


def image(path: Path, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def sound(path: Path, rate_hz: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, RNG.normal(0, 0.1, rate_hz // 2), rate_hz)


def table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])


def record(folder: Path, name: str, leads: Sequence[str] = ("I", "II", "V1"), comments: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=200,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        p_signal=RNG.normal(0, 1, (800, len(leads))),
        fmt=["16"] * len(leads),
        comments=list(comments),
        write_dir=str(folder),
    )


def edf(path: Path, labels: Sequence[str] = ("EEG Fp1", "EEG O2", "ECG ECG", "Temp"), seconds: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyedflib.EdfWriter(str(path), len(labels), file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for number, label in enumerate(labels):
            unit = "mV" if "ECG" in label else "uV"
            limits = {"physical_max": 8.0, "physical_min": -8.0, "digital_max": 32767, "digital_min": -32768}
            header = {"label": label, "dimension": unit, "sample_frequency": 200, "transducer": "", "prefilter": ""}
            file.setSignalHeader(number, {**header, **limits})
        file.writeSamples([RNG.standard_normal(seconds * 200) for _ in labels])


def dna(length: int = 240) -> str:
    return "".join(RNG.choice(list("ACGT"), length))


DraftAndShards = tuple[dict[str, Any], str, Manifest]
Make = Callable[..., DraftAndShards]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def make(raw: Path, tmp_path: Path) -> Make:
    """Draft a recipe for the raw folder and build its shards: the recipe, the comments, what was built."""

    def draft_and_build() -> DraftAndShards:
        path = tmp_path / "drafted.yaml"
        drafted = draft_recipe(raw, path)
        state, comments = yaml.safe_load(path.read_text()), path.read_text().partition("\nname:")[0]
        assert drafted.name == state["name"] == "drafted"
        assert all(line.startswith("#") for line in comments.splitlines())
        comments = re.sub(r"\n# +", " ", comments)
        manifest = build_shards(path, raw, tmp_path / "shards", workers=1)
        assert set(state["modalities"]) <= {member.partition(".")[0] for member in manifest.fields}
        assert state["objectives"].keys() >= {"masked", *(("contrastive",) if len(state["modalities"]) > 1 else ())}
        return state, comments, manifest

    return draft_and_build


def total(manifest: Manifest) -> int:
    return sum(manifest.counts().values())


def test_images_in_folders_of_classes(raw: Path, make: Make) -> None:
    for name in SPECIES:
        for number in range(5):
            image(raw / name / f"{name}{number}.png", (60, 30 + number))
    state, comments, manifest = make()
    assert state["data"]["source"]["type"] == "images"
    assert state["data"]["source"]["labels"] == ["class"]
    assert state["evaluate"]["probe"] == "class"
    assert (state["modalities"]["image"]["size"], state["modalities"]["image"]["patch"]) == (60, 12)
    assert "15 images" in comments
    assert "bream, chub, perch" in comments
    assert "shards build" in comments
    assert total(manifest) == 15


def test_images_that_a_table_names_by_path(raw: Path, make: Make) -> None:
    rows = []
    for number in range(24):
        name = f"photos/{number:03}.jpg"
        image(raw / name)
        where = ("lake", "river")[number % 2]
        rows.append([number, name, SPECIES[number % 3], f"v{number // 3}", 100 + number * 7 % 50, where])
    table(raw / "fish.csv", ["id", "photo", "species", "video", "length_mm", "habitat"], rows)
    sound(raw / "notes.wav")
    state, comments, manifest = make()
    source = state["data"]["source"]
    assert source["type"] == "rows"
    assert source["columns"] == {"image": "photo", "table": ["length_mm", "habitat"]}
    assert source["labels"] == ["species"]
    assert source["key"] == "id"
    assert state["data"]["split"]["by"] == "video"
    assert "1 recording" in comments.partition("not used, because")[2]
    assert (total(manifest), manifest.skipped) == (24, {})


def test_images_that_a_table_names_by_stem(raw: Path, make: Make) -> None:
    for number in range(12):
        image(raw / "pictures" / f"{number:04}.png")
    rows = [[f"{n:04}", SPECIES[n % 3], n / 2 + n % 3] for n in range(12)]
    table(raw / "data.csv", ["specimen", "species", "mass_g"], rows)
    state, _, manifest = make()
    source = state["data"]["source"]
    assert (source["type"], source["table"], source["filename"]) == ("images", "data.csv", "specimen")
    assert source["columns"] == {"table": ["mass_g"]}
    assert source["labels"] == ["species"]
    assert (total(manifest), manifest.skipped) == (12, {})


def test_sounds_with_structured_names(raw: Path, make: Make) -> None:
    for digit in range(3):
        for speaker in ("ann", "bob", "eve", "joe"):
            for take in range(4):
                sound(raw / "recordings" / f"{digit}_{speaker}_{take}.wav")
    state, comments, manifest = make()
    source = state["data"]["source"]
    assert source["pattern"] == "{digit}_{speaker}_{take}"
    assert source["labels"] == ["digit", "speaker"]
    assert state["data"]["split"] == {"by": "speaker", "validation": 0, "test": 0.25}
    assert state["modalities"]["audio"]["sample_rate_hz"] == 8000
    assert "by guess" in comments
    assert manifest.counts() == {"train": 36, "validation": 0, "test": 12}


def test_sounds_in_folders_of_classes(raw: Path, make: Make) -> None:
    for name in ("yes", "no"):
        for number in range(4):
            sound(raw / name / f"clip {number}.flac", 22_050)
    state, _, manifest = make()
    assert state["data"]["source"]["pattern"] == "{folder}/clip {clip}"
    assert state["data"]["source"]["labels"] == ["folder"]
    assert state["modalities"]["audio"]["sample_rate_hz"] == 16_000
    assert total(manifest) == 8


def test_wfdb_records_with_comments(raw: Path, make: Make) -> None:
    for number in range(10):
        sex = "Male" if number % 2 else "Female"
        comments = [f"Age: {60 + number % 4}", f"Sex: {sex}", f"Dx: {42 + 3 * number}"]
        record(raw / "a", f"E{number:05}", ("I", "II", "PLETH"), comments)
    state, comments, manifest = make()
    source = state["data"]["source"]
    assert source["columns"] == {"table": ["Age", "Sex"]}
    assert source["labels"] == ["Dx"]
    assert source["exclude"] == ["PLETH"]
    assert "PLETH" in comments
    ecg = state["modalities"]["ecg"]
    assert (ecg["montage"], ecg["channels"], ecg["unit"], ecg["sample_rate_hz"]) == ("ecg", ["I", "II"], "mV", 100)
    assert state["data"]["split"]["by"] == "record"
    assert (total(manifest), manifest.skipped) == (10, {})


def test_segments_of_a_wfdb_record_are_one_record(raw: Path, make: Make) -> None:
    for master in ("p", "q"):
        for number in range(3):
            record(raw, f"{master}{'abc'[number]}", ("I", "II"))
        (raw / f"{master}.hea").write_text(f"{master}/3 2 200 2400\n{master}a 800\n{master}b 800\n{master}c 800\n")
    state, comments, manifest = make()
    assert state["data"]["split"]["by"] == "record"
    assert "split by record (2 values)" in comments
    assert "about 6 samples" in comments
    assert (total(manifest), manifest.skipped) == (6, {"WFDB record of several segments": 2})


def test_wfdb_records_that_a_table_names(raw: Path, make: Make) -> None:
    for number in range(8):
        record(raw, f"r{number}")
    rows = [[f"r{n}", f"p{n // 2}", 50 + n % 3, ("AF", "SR")[n % 2]] for n in range(8)]
    table(raw / "patients.csv", ["record_name", "patient_id", "age", "diagnosis"], rows)
    state, _, manifest = make()
    source = state["data"]["source"]
    assert (source["type"], source["by"]) == ("join", ["record", "record_name"])
    assert set(state["modalities"]) == {"ecg", "table"}
    assert state["data"]["split"]["by"] == "patient_id"
    assert (total(manifest), manifest.skipped) == (8, {})


def test_edf_with_a_table_of_subjects(raw: Path, make: Make) -> None:
    for person in range(6):
        for part in (1, 2):
            edf(raw / f"Subject{person:02}_{part}.edf")
    rows = [[f"Subject{n:02}", 20 + n % 4, "FM"[n % 2], "x"] for n in range(6)]
    table(raw / "info.csv", ["Subject", "Age", "Gender", "Site"], rows)
    state, comments, manifest = make()
    source = state["data"]["source"]
    assert source["pattern"] == "Subject{subject}_{part2}.edf"
    assert source["join"] == {"Subject": "Subject{subject}"}
    assert source["columns"] == {"table": ["Age", "Gender"]}
    assert source["labels"] == ["part2"]
    assert source["exclude"] == ["Temp"]
    assert source["window_s"] == 5
    assert state["data"]["split"]["by"] == "subject"
    assert state["objectives"]["contrastive"]["pairs"] == [["eeg", "ecg"]]
    assert state["modalities"]["eeg"]["channels"] == ["Fp1", "O2"]
    assert "always the same: Site" in comments
    assert (total(manifest), manifest.skipped) == (24, {})


def test_channels_other_than_eeg_and_ecg(raw: Path, make: Make) -> None:
    edf(raw / "wind.bdf", ("north", "east"), seconds=8)
    edf(raw / "rain.bdf", ("north", "east"), seconds=8)
    state, _, manifest = make()
    assert state["modalities"]["signal"]["sample_rate_hz"] == 200
    assert total(manifest) == 2


def test_fasta_alone(raw: Path, make: Make) -> None:
    (raw / "a.fa").write_text("".join(f">s{n} COI\n{dna(230 + n)}\n" for n in range(10)))
    state, _, manifest = make()
    assert state["data"]["source"] == {"type": "fasta", "files": "a.fa"}
    assert state["data"]["split"]["by"] == "sequence"
    assert state["modalities"]["dna"]["length"] == 240
    assert total(manifest) == 10


def test_fasta_and_a_table_that_share_ids(raw: Path, make: Make) -> None:
    (raw / "seqs").mkdir()
    (raw / "seqs" / "b.fasta").write_text("".join(f">gb|X{n}|COI\n{dna()}\n" for n in range(12)))
    genera = ("Parus", "Sitta", "Turdus")
    rows = [[f"X{n}", f"{genera[n % 3]} minor", f"{20 + n}.5 S {n}.25 W", n % 4 + 0.5] for n in range(12)]
    table(raw / "birds.tsv", ["accession", "scientific_name", "lat_lon", "mass"], rows)
    state, comments, manifest = make()
    source = state["data"]["source"]
    assert (source["key"], source["pattern"]) == ("accession", r"\|([^|\s]+)")
    assert source["labels"] == ["genus", "scientific_name"]
    assert source["columns"] == {"table": ["mass", "latitude", "longitude"]}
    assert state["data"]["split"]["by"] == "genus"
    assert "first word" in comments
    assert (total(manifest), manifest.skipped) == (12, {})


def test_proteins_are_not_dna(raw: Path) -> None:
    (raw / "p.fasta").write_text(">a\nMEEPQSDPSVEPPLSQETFSDLWKLLPENNVLS\n")
    with pytest.raises(ValueError, match="nothing usable"):
        draft_recipe(raw, raw / "x.yaml")


def test_smi(raw: Path, make: Make) -> None:
    (raw / "m.smi").write_text("\n".join(MOLECULES))
    state, _, manifest = make()
    assert (state["data"]["source"]["type"], state["data"]["source"]["files"]) == ("molecules", "m.smi")
    assert state["data"]["split"]["by"] == "scaffold"
    assert set(state["modalities"]) == {"smiles", "image", "table"}
    assert total(manifest) == 12


def test_sdf_with_properties(raw: Path, make: Make) -> None:
    with Chem.SDWriter(str(raw / "m.sdf")) as writer:
        for number, smiles in enumerate(MOLECULES[:10]):
            molecule = Chem.MolFromSmiles(smiles)
            molecule.SetProp("pIC50", f"{5 + number % 4}.5")
            molecule.SetProp("code", f"M-{number}")
            writer.write(molecule)
    state, _, manifest = make()
    assert state["data"]["source"]["properties"] == ["pIC50"]
    assert manifest.fields["labels.json"] == total(manifest) == 10


def test_table_of_smiles_and_a_label(raw: Path, make: Make) -> None:
    rows = [[f"C{n}", n % 5 + 0.25, smiles] for n, smiles in enumerate(MOLECULES)]
    table(raw / "lipo.csv", ["CMPD_CHEMBLID", "exp", "smiles"], rows)
    state, _, manifest = make()
    source = state["data"]["source"]
    assert (source["type"], source["smiles"], source["properties"]) == ("molecules", "smiles", ["exp"])
    assert (total(manifest), manifest.skipped) == (12, {})


def test_table_of_smiles_and_measurements(raw: Path, make: Make) -> None:
    rows = [[smiles, n % 2, n / 2, n % 7, n * n] for n, smiles in enumerate(MOLECULES)]
    table(raw / "assays.tsv", ["structure", "active", "melting_C", "pH", "yield_mg"], rows)
    state, _, manifest = make()
    source = state["data"]["source"]
    assert source["columns"] == {"smiles": "structure", "table": ["melting_C", "pH", "yield_mg"]}
    assert source["labels"] == ["active"]
    assert state["data"]["split"]["by"] == "scaffold"
    assert (total(manifest), manifest.skipped) == (12, {})


def test_words_that_rdkit_parses_are_not_smiles(raw: Path, make: Make) -> None:
    table(raw / "t.csv", ["country", "size"], [[("CN", "NO", "IN", "CO")[n % 4], n / 3] for n in range(12)])
    state, comments, _ = make()
    assert state["data"]["source"]["columns"] == {"table": ["country", "size"]}
    assert "no column looks like a label" in comments
    assert "country" in comments


def test_table(raw: Path, make: Make) -> None:
    header = ["rowid", "Species", "island", "mass_g", "tagged", "Individual ID", "fold", "empty", "notes"]
    rows = []
    for n in range(20):
        cells = [n, ("Adelie", "Gentoo")[n % 2], ("Biscoe", "Dream", "NA")[n % 3], 3000 + 7 * n, f"2007-11-{n + 1:02}"]
        rows.append([*cells, f"N{n // 4}", ("train", "test")[n % 2], "", f"free words {n}"])
    table(raw / "sub" / "p[1].csv", header, rows)
    state, comments, manifest = make()
    source = state["data"]["source"]
    assert source["columns"] == {"table": ["island", "mass_g", "tagged"]}
    assert (source["labels"], source["key"]) == (["Species"], "rowid")
    assert state["data"]["split"]["by"] == "Individual ID"
    assert "a split that came with the data: fold" in comments
    assert "nearly empty: empty" in comments
    assert (total(manifest), manifest.skipped) == (20, {})


def test_integer_identifiers_are_not_content(raw: Path, make: Make) -> None:
    """Ids with a gap or among floats, codes that rows share, dates without hyphens; nitric oxide is an amount."""
    header = ["catalog", "voucher_id", "station_id", "gbif", "day", "when", "NO", "eggs", "mass"]
    rows = [
        (
            *(20150000 + 37 * n, "" if n == 3 else f"{7 + n * n}.0", 2015000 + n % 4, 2015000000 + 37 * n),
            *(n % 9 + 1, 20150101 + n % 28, 10 * n + n % 3, 100 + n * 2, 10 + n / 7),
        )
        for n in range(40)
    ]
    table(raw / "finds.csv", header, rows)
    state, comments, manifest = make()
    assert state["data"]["source"]["columns"] == {"table": ["day", "NO", "eggs", "mass"]}
    text = " ".join(comments.replace("#", " ").split())
    assert "left out, identifies rows: catalog, voucher_id, gbif" in text
    assert "left out, whole numbers that are codes, not amounts: station_id" in text
    assert "write them as 2015-11-05: when" in text
    assert total(manifest) == 40


def test_tables_with_equal_columns_are_merged(raw: Path, make: Make) -> None:
    for month in range(3):
        table(raw / f"{month}.csv", ["a", "b"], [[n / 7 + month, n % 3] for n in range(6)])
    state, _, manifest = make()
    assert state["data"]["source"]["file"] == "*.csv"
    assert total(manifest) == 18


def test_parquet_with_text(raw: Path, make: Make) -> None:
    words = ["a quiet small bird with a long tail", "seen near the river on a cold day"]
    reports = [f"{words[n % 2]} number {n}" for n in range(12)]
    frame = pl.DataFrame({"report": reports, "mass": np.arange(12.0), "vectors": [[1, 2]] * 12})
    frame.write_parquet(raw / "r.parquet")
    state, comments, manifest = make()
    assert state["data"]["source"]["columns"] == {"text": "report", "table": ["mass"]}
    assert "neither text nor numbers: vectors" in comments
    assert total(manifest) == 12


def test_columns_with_names_that_modalities_cannot_have(raw: Path, make: Make) -> None:
    words = ["a red bird with a short bill", "two grey birds on a wire", "the nest of a wren in the ivy"]
    names = ("Values", "Type", "Note 1", "Note-1")
    frame = {name: [f"{words[i % 3]} {name} {i}" for i in range(60)] for name in names}
    pl.DataFrame(frame).write_parquet(raw / "notes.parquet")
    state, *_ = make()
    assert set(state["modalities"]) == {"text_values", "text_type", "note_1", "note_1_2"}


def test_circular_links_are_followed_once(raw: Path, make: Make) -> None:
    (raw / "notes.csv").write_text("smiles,activity\n" + "".join(f"{'C' * n}O,{n / 7}\n" for n in range(1, 40)))
    (raw / "again").symlink_to(raw)
    _, _, manifest = make()
    assert total(manifest) == 39


def test_ptbxl(raw: Path, make: Make) -> None:
    leads = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    rows = []
    for number in range(1, 9):
        record(raw / "records500", f"{number:05}_hr", leads)
        person = [number // 2, 50 + number, number % 2]
        rows.append([number, *person, "{'NORM': 100.0, 'SR': 0.0}", number % 10, "", f"records500/{number:05}_hr"])
    header = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
    table(raw / "ptbxl_database.csv", header, rows)
    table(raw / "scp_statements.csv", ["", "diagnostic", "diagnostic_class"], [["NORM", 1, "NORM"]])
    state, comments, manifest = make()
    assert state["data"]["source"] == {
        "type": "ptbxl",
        "sample_rate_hz": 500,
        "columns": {"table": ["age", "sex"]},
        "labels": ["diagnostic_class"],
    }
    assert state["data"]["split"]["by"] == "patient_id"
    assert "PTB-XL" in comments
    assert (total(manifest), manifest.skipped) == (8, {})


def test_bioscan(raw: Path, make: Make) -> None:
    header = ["processid", "dna_bin", "dna_barcode", "order", "family", "genus", "species", "split", "chunk"]
    rows = []
    for number in range(8):
        image(raw / "bioscan5m" / "images" / "cropped_256" / "train" / "0" / f"P{number}.jpg")
        taxa = ["Diptera", "Sciaridae", f"G{number % 2}", ""]
        rows.append([f"P{number}", f"BOLD:{number // 2}", dna(), *taxa, "train", "0"])
    table(raw / "bioscan5m" / "metadata" / "csv" / "BIOSCAN_5M.csv", header, rows)
    state, _, manifest = make()
    source = state["data"]["source"]
    assert (source["type"], source["images"]) == ("bioscan", "bioscan5m/images/cropped_256")
    assert source["columns"] == {"taxonomy": ["order", "family", "genus", "species"]}
    assert set(state["modalities"]) == {"image", "dna", "taxonomy"}
    assert state["data"]["split"]["by"] == "dna_bin"
    assert (total(manifest), manifest.skipped) == (8, {})


def test_the_most_frequent_type_if_no_table_links_files(raw: Path, make: Make) -> None:
    for number in range(6):
        sound(raw / f"{number}.wav")
    image(raw / "cover.png")
    state, comments, manifest = make()
    assert set(state["modalities"]) == {"audio"}
    assert "1 image" in comments.partition("not used, because")[2]
    assert total(manifest) == 6


def test_tars_are_indexed(raw: Path, shards: Path, tmp_path: Path) -> None:
    (raw / "train-00000.tar").write_bytes(next(shards.glob("train-*.tar")).read_bytes())
    with pytest.raises(ValueError, match=r"sensorium shards index .*raw"):
        draft_recipe(raw, tmp_path / "x.yaml")


@pytest.mark.parametrize("folders", [("train", "eval"), ("Train", "val", "test")])
def test_split_folders_are_not_classes(folders: tuple[str, ...], raw: Path, tmp_path: Path) -> None:
    for n in range(12):
        image(raw / folders[n % len(folders)] / f"{n:03d}.png")
    assert draft_recipe(raw, tmp_path / "x.yaml").recipe["data"]["source"]["labels"] == []


def test_a_folder_without_usable_files_is_refused(raw: Path, tmp_path: Path) -> None:
    (raw / "readme.md").write_text("nothing")
    (raw / "broken.png").write_bytes(b"no image")
    (raw / "empty.csv").write_text("")
    looked_for = r"nothing usable in .*raw: looked for images \(\.png.*\.mp3.*FASTA files \(\.fasta.*tables \(\.csv"
    with pytest.raises(ValueError, match=looked_for):
        draft_recipe(raw, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        draft_recipe(tmp_path / "absent", tmp_path / "x.yaml")


def test_existing_files_are_not_overwritten(raw: Path, tmp_path: Path) -> None:
    table(raw / "t.csv", ["a", "b"], [[n, n / 3] for n in range(6)])
    path = tmp_path / "x.yaml"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"x\.yaml exists.*--out"):
        draft_recipe(raw, path)
    assert path.read_text() == "mine"


def test_the_recipe_is_named_after_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "My data, 2024"
    table(folder / "t.csv", ["a", "1e5"], [[n / 2, n / 3] for n in range(6)])
    monkeypatch.chdir(tmp_path)
    drafted = draft_recipe(folder)
    assert (drafted.path, drafted.name) == ("My-data-2024.yaml", "My-data-2024")
    assert json.loads(json.dumps(drafted.to_json()))["samples"] == 6
    source = load(drafted.path).data.source
    assert source is not None
    assert vars(source)["columns"] == {"table": ("a", "1e5")}  # a name that YAML would read as a number
    assert f"--raw '{folder}'" in Path(drafted.path).read_text()


def test_a_bounded_number_of_files_is_inspected(raw: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        sound(raw / f"{number}.wav")
    monkeypatch.setattr(survey, "MAX_FILES", 5)
    _, comments, manifest = make()
    assert "5 recordings, only the first" in comments
    assert total(manifest) == 12


def test_frames_of_one_video_stay_in_one_split(raw: Path, make: Make) -> None:
    for film in range(12):
        for frame in range(4):
            image(raw / SPECIES[film % 3] / f"{7000 + 13 * film}_cam{film % 2}_frame{frame}.png")
    state, comments, manifest = make()
    assert state["data"]["source"]["pattern"] == "{part1}_cam{cam}_frame{frame}"
    assert state["data"]["split"]["by"] == "part1"
    assert "part1 (7000, 7013" in comments
    assert total(manifest) == 48


def test_meanings_of_cells_are_reported(raw: Path, make: Make) -> None:
    lines = ["probe,lead,iron,element,country"]
    for n in range(120):
        lead = "<0.01" if n % 40 == 7 else f"{n % 37 + 0.25}"
        iron = -999 if n % 20 == 3 else f"{n % 50 + 0.5}"
        lines.append(f"{n:04},{lead},{iron},{('Na', 'K')[n % 2]},{('NA', 'DE', 'FR')[n % 3]}")
    (raw / "soil.csv").write_text("\n".join(lines))
    state, comments, manifest = make()
    assert state["data"]["source"]["columns"] == {"table": ["lead", "iron", "element", "country"]}
    flat = " ".join(comments.replace("#", " ").split())
    assert "lead: 117 of 120 cells are numbers, 3 are not (<0.01); these are missing" in flat
    assert "iron: 6 of 120 cells are -999, far from all others" in flat
    assert "country: 'NA' is read as missing; if it is a value, set missing: {country: []}" in flat
    assert "'Na'" not in flat
    assert manifest.changed == {"country: 'NA' is missing": 40}
    assert [note.partition(":")[0] for note in manifest.notes] == ["table, iron", "table, lead"]


@register
@dataclass(frozen=True, kw_only=True)
class Notes(Source):
    """A source as another package may write it: each `.note` file is a text."""

    type: ClassVar[str] = "notes"
    suffixes: ClassVar[tuple[str, ...]] = (".note",)
    nouns: ClassVar[tuple[str, str]] = ("note", "notes")

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        paths = survey.files.get(cls.type, [])
        text = {"type": "text", "vocabulary": 300, "length": 16, "mask": {"kind": "random", "ratio": 0.3}}
        draft = Draft(
            source={"type": cls.type},
            modalities={"note": text},
            samples=len(paths),
            source_types=frozenset({cls.type}),
            guesses=("notes are short",),
        )
        return [draft] if paths else []

    def items(self, raw: Path) -> Iterator[Path]:
        yield from find_files(raw, "*.note")

    def make(self, item: Path, modalities: Mapping[str, Modality]) -> Sample:
        return Sample(identity=item.stem, members={"note.txt": item.read_bytes()})


def test_a_third_party_source_drafts_a_recipe(raw: Path, make: Make) -> None:
    for number in range(9):
        (raw / f"{number}.note").write_text(f"leaf {number} of oak")
    image(raw / "a.png")
    state, comments, manifest = make()
    assert state["data"]["source"] == {"type": "notes"}
    assert state["modalities"].keys() == {"note"}
    assert "9 notes" in comments
    assert "notes are short" in comments
    assert "1 image" in comments.partition("not used, because")[2]
    assert total(manifest) == 9
