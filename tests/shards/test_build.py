"""Raw files to shards: exact bytes, nothing lost unseen, nothing left behind."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import webdataset
from PIL import Image as Pillow
from PIL import ImageOps

from modalities.base import Modality
from modalities.dna import Dna
from modalities.files.reading import ContentError
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.strings.chemistry import canonical
from modalities.table import Table
from modalities.text import Text
from shards.build import SplitBy, build
from shards.manifest import Manifest
from shards.read import Split
from shards.sources.base import Sample, Source
from shards.sources.images import ImageFolder
from shards.sources.molecules import Molecules
from shards.sources.rows import Rows
from shards.split import SPLITS, sample_key
from shards.tars import verify_shards

RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "c1ccsc1"]
MOLECULES = ["C" * chain + ring for chain in range(1, 10) for ring in RINGS]
MODALITIES: dict[str, Modality] = {"smiles": Smiles(), "image": Image(size=32, patch=16), "table": Table()}
SOURCE = Molecules(drawing_px=32, descriptors=("MolWt",), labels=("qed",))
SPLIT = SplitBy(by="scaffold", validation=0.2, test=0.2, large=0.3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules, two of them twice in other words, and two lines that are none."""
    folder = tmp_path_factory.mktemp("raw")
    lines = [*MOLECULES[:40], "c1ccccc1C", "C1CC", "junk name", "", *MOLECULES[40:], "C1CC1C"]
    (folder / "molecules.smi").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def built(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "one"
    build(SOURCE, MODALITIES, SPLIT, raw, out, samples_per_shard=10)
    return out


def table(folder: Path, *lines: str) -> Path:
    (folder / "raw").mkdir()
    (folder / "raw" / "table.csv").write_text("\n".join(lines))
    return folder / "raw"


def png(path: Path, grey: int = 0) -> None:
    ImageOps.expand(Pillow.new("L", (14, 14), grey), 1, 99).save(path)


def test_bytes_are_equal_for_any_number_of_workers(raw: Path, built: Path, tmp_path: Path) -> None:
    build(SOURCE, MODALITIES, SPLIT, raw, tmp_path / "two", samples_per_shard=10, workers=2)
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (built, tmp_path / "two"))
    assert one == two
    assert len(one) > 12


def test_manifest_counts_everything(built: Path) -> None:
    manifest = verify_shards(built)
    assert manifest.skipped == {"duplicate": 2, "invalid SMILES": 2}
    assert sum(manifest.counts().values()) == len(MOLECULES)
    assert all(manifest.counts().values())
    assert manifest.fields == dict.fromkeys(("image.png", "labels.json", "smiles.txt", "table.json"), len(MOLECULES))
    assert manifest.source["type"] == "molecules"
    assert manifest.split["by"] == "scaffold"
    assert {path.name for path in built.iterdir()} == {"manifest.json", "features.json"}.union(
        *({shard.name, shard.name.replace(".tar", ".index.parquet")} for shard in manifest.shards)
    )


def test_shards_are_full_and_numbered(built: Path) -> None:
    manifest = Manifest.read(built)
    for split in SPLITS:
        shards = manifest.of(split)
        assert [shard.name for shard in shards] == [f"{split}-{i:05d}.tar" for i in range(len(shards))]
        assert all(shard.samples == 10 for shard in shards[:-1])


def test_no_scaffold_in_two_splits(built: Path) -> None:
    scaffolds = [{group for _, group, _, _ in Split(built, split).locations()} for split in SPLITS]
    assert len(set().union(*scaffolds)) == sum(map(len, scaffolds)) == len(RINGS)


def test_keys_are_hexadecimal_and_come_from_the_identity(built: Path) -> None:
    for split in (Split(built, name) for name in SPLITS):
        for key, _, shard, number in split.locations():
            assert re.fullmatch("[0-9a-f]{32}", key)
            assert key == sample_key(split.read(shard, number)["smiles"]["txt"].decode())


def test_webdataset_reads_the_tars(built: Path) -> None:
    for name in SPLITS:
        split = Split(built, name)
        urls = [str(built / shard.name) for shard in split.shards]
        theirs = {
            sample["__key__"]: {member: data for member, data in sample.items() if not member.startswith("__")}
            for sample in webdataset.WebDataset(urls, shardshuffle=False)
        }
        ours = {
            key: {f"{m}.{e}": data for m, parts in split.read(shard, i).items() for e, data in parts.items()}
            for key, _, shard, i in split.locations()
        }
        assert theirs == ours
        assert len(theirs) == len(split)


def test_members_are_named_after_key_modality_and_extension(built: Path) -> None:
    with tarfile.open(built / "train-00000.tar") as tar:
        entries = tar.getmembers()
    fields = list(Manifest.read(built).fields)
    assert [entry.name.split(".", 1)[1] for entry in entries] == fields * 10
    assert all((entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "") for entry in entries)


def test_samples_keep_the_order_of_the_input(built: Path) -> None:
    split = Split(built, "train")
    ranks = {sample_key(canonical(smiles)): i for i, smiles in enumerate(MOLECULES)}
    places = [ranks[key] for key, *_ in split.locations()]
    assert places == sorted(places)


def test_without_groups_each_sample_is_its_own_group(raw: Path, tmp_path: Path) -> None:
    manifest = build(SOURCE, MODALITIES, SplitBy(validation=0.25, test=0.25), raw, tmp_path / "out")
    assert manifest.counts() == {"train": 36, "validation": 18, "test": 18}
    assert all(group == key for key, group, *_ in Split(tmp_path / "out", "test").locations())


def test_a_folder_with_files_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="out is not empty"):
        build(SOURCE, MODALITIES, SPLIT, raw, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_an_empty_folder_and_leftovers_of_a_killed_build_are_replaced(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out.building").mkdir()
    (tmp_path / "out.building" / "train-00099.tar").write_text("half")
    build(SOURCE, MODALITIES, SPLIT, raw, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "train-00099.tar").exists()


ERRORS = {error.__name__: error for error in (RuntimeError, OSError, KeyboardInterrupt, ContentError)}


@dataclass(frozen=True, kw_only=True)
class Failing(Source):
    """Samples, of which number `at` raises `error`, or each one where it is negative."""

    type: ClassVar[str] = "failing"
    at: int
    error: str = "RuntimeError"
    count: int = 10

    def items(self, raw: Path) -> Iterator[int]:
        yield from range(self.count)

    def make(self, item: int, modalities: Mapping[str, Modality]) -> Sample:
        if item == self.at or self.at < 0:
            raise ERRORS[self.error](f"item {'of no use' if self.at < 0 else item}")
        return Sample(identity=str(item), members={"smiles.txt": b"C"})


def test_chunks_come_back_in_input_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.engines.ProcessPoolExecutor", lambda workers, *_, **__: ThreadPoolExecutor(workers))
    source = Failing(at=700, error="ContentError", count=1500)
    manifest = build(source, MODALITIES, SplitBy(validation=0, test=0), tmp_path, tmp_path / "out", workers=2)
    assert (manifest.counts()["train"], manifest.skipped) == (1499, {"item 700": 1})
    keys = [key for key, *_ in Split(tmp_path / "out", "train").locations()]
    assert keys == [sample_key(str(number)) for number in range(1500) if number != 700]


@pytest.mark.parametrize("error", ["RuntimeError", "OSError", "KeyboardInterrupt"])
def test_a_failed_build_leaves_no_shards(error: str, tmp_path: Path) -> None:
    with pytest.raises(ERRORS[error]):
        build(Failing(at=7, error=error), MODALITIES, SplitBy(), tmp_path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out.building"]


def test_a_build_without_usable_samples_is_an_error_with_reasons(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no usable sample in .*item of no use: 10"):
        build(Failing(at=-1, error="ContentError"), MODALITIES, SplitBy(), tmp_path, tmp_path / "out")
    (tmp_path / "empty.smi").write_text("\n\n")
    with pytest.raises(ValueError, match=r"no usable sample in .*file of molecules that is empty: 1"):
        build(SOURCE, MODALITIES, SPLIT, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_group_lists_the_valid_ones(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.split\.by is 'scafold', but samples can be grouped by scaffold"):
        build(SOURCE, MODALITIES, SplitBy(by="scafold"), raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_counted_and_skipped(tmp_path: Path) -> None:
    raw = table(tmp_path, "picture", "a.png", "b.png", "c.png")
    png(raw / "a.png")
    (raw / "b.png").write_bytes(b"no picture")
    file = io.BytesIO()
    Pillow.effect_noise((64, 64), 50).save(file, "png")
    (raw / "c.png").write_bytes(file.getvalue()[:200])
    manifest = build(Rows(columns={"image": "picture"}), MODALITIES, SplitBy(), raw, tmp_path / "out")
    assert sum(manifest.counts().values()) == 1
    assert sum(manifest.skipped.values()) == 2
    assert manifest.skipped == {"image file is not png": 1, "unreadable png image": 1}


def test_samples_may_lack_modalities(tmp_path: Path) -> None:
    raw = table(tmp_path, "smiles,picture,size", "CCO,a.png,1", ",a.png,2", "CCN,,3", "c1ccccc1,,")
    png(raw / "a.png")
    source = Rows(columns={"smiles": "smiles", "image": "picture", "table": ("size",)})
    manifest = build(source, MODALITIES, SplitBy(by="scaffold", validation=0, test=0), raw, tmp_path / "out")
    assert manifest.fields == {"image.png": 2, "smiles.txt": 3, "table.json": 3}
    assert manifest.skipped == {}
    samples = [Split(tmp_path / "out", "train").read(0, i) for i in range(4)]
    assert [sorted(sample) for sample in samples] == [
        ["image", "smiles", "table"],
        ["image", "table"],
        ["smiles", "table"],
        ["smiles"],
    ]


def test_samples_without_tokens_are_counted(tmp_path: Path) -> None:
    raw = table(
        tmp_path, "dna,smiles", "ACGTACGT,CCO", "ACG,CCO", f"{'ACGT' * 9},CCO", "ACGNACGN,CCO", f"ACGT,{'C' * 9}"
    )
    modalities = {"dna": Dna(kmer=4, length=30, too_long="refuse"), "smiles": Smiles(length=8)}
    manifest = build(Rows(columns={"dna": "dna", "smiles": "smiles"}), modalities, SplitBy(), raw, tmp_path / "out")
    assert sum(manifest.counts().values()) == 1
    assert manifest.skipped == {
        "DNA shorter than a k-mer of 4": 1,
        "DNA of more than 30 nucleotides": 1,
        "DNA without a known token": 1,
        "SMILES of more than 8 tokens": 1,
    }


def test_samples_with_only_labels_are_counted(tmp_path: Path) -> None:
    raw = table(tmp_path, "size,toxic", "1,0", ",1")
    source = Rows(columns={"table": ("size",)}, labels=("toxic",))
    manifest = build(source, MODALITIES, SplitBy(), raw, tmp_path / "out")
    assert (sum(manifest.counts().values()), manifest.skipped) == (1, {"sample without content": 1})


@dataclass(frozen=True, kw_only=True)
class Notes(Source):
    """Texts with groups of their own."""

    type: ClassVar[str] = "notes"

    notes: tuple[tuple[str, dict[str, str]], ...] = ()

    def items(self, raw: Path) -> Iterator[tuple[str, dict[str, str]]]:
        return iter(self.notes)

    def make(self, item: tuple[str, dict[str, str]], modalities: Mapping[str, Modality]) -> Sample:
        return Sample(identity=item[0], members={"text.txt": b"a note"}, groups=item[1])


def test_samples_without_a_group_value_form_one_group(tmp_path: Path) -> None:
    source = Notes(notes=(("a", {"site": "x"}), ("b", {}), ("c", {"box": "1"})))
    manifest = build(source, {"text": Text()}, SplitBy(by="site", validation=0, test=0), tmp_path, tmp_path / "out")
    assert sum(manifest.counts().values()) == 3
    assert [group for _, group, *_ in Split(tmp_path / "out", "train").locations()] == ["x", "", ""]
    with pytest.raises(ValueError, match="by is 'shelf', but samples can be grouped by site, box"):
        build(source, {"text": Text()}, SplitBy(by="shelf"), tmp_path, tmp_path / "other")


def test_names_that_are_not_utf_8_are_preserved(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in (b"caf\xe9", b"cafe"):  # as old disks have them
        ImageOps.expand(Pillow.new("L", (14, 14)), 1, 99).save(raw / f"{os.fsdecode(name)}.png")
    build(
        ImageFolder(pattern="{who}"), {"image": Image()}, SplitBy(by="who", validation=0, test=0), raw, tmp_path / "out"
    )
    assert {group for _, group, *_ in Split(tmp_path / "out", "train").locations()} == {"cafe", "caf\\xe9"}


def test_rows_of_several_files_are_not_duplicates(tmp_path: Path) -> None:
    raw = table(tmp_path, "smiles", "CCO", "CCN")
    (raw / "more.csv").write_text("smiles\nCCC\nCCCl")
    manifest = build(Rows(columns={"smiles": "smiles"}), MODALITIES, SplitBy(), raw, tmp_path / "out")
    assert (sum(manifest.counts().values()), manifest.skipped) == (4, {})


@pytest.mark.parametrize("workers", [1, 2])
def test_reinterpreted_cells_are_counted_and_noted(tmp_path: Path, workers: int) -> None:
    cells = [f"{'NA' if n % 10 == 3 else n % 30},{n % 5},{n}" for n in range(200)]
    raw = table(tmp_path, "lead,country,y", *cells)
    (raw / "table.csv").write_text((raw / "table.csv").read_text().replace("\n7,2,7\n", "\n<5,NA,7\n"))
    source = Rows(columns={"table": ("lead", "country")}, labels=("y",))
    manifest = build(source, {"table": Table()}, SplitBy(), raw, tmp_path / "out", workers=workers)
    assert manifest.changed == {"country: 'NA' is missing": 1, "lead: 'NA' is missing": 20}
    assert manifest.notes == ("table, lead: 179 of 180 cells are numbers, 1 is not (<5); these are missing",)
    stored = Manifest.read(tmp_path / "out")
    assert (stored.changed, stored.notes) == (manifest.changed, manifest.notes)


def test_a_recipe_may_refuse_non_numeric_cells(tmp_path: Path) -> None:
    raw = table(tmp_path, "lead", *map(str, range(50)), "<5")
    refuse = Table(invalid_cells="error")
    with pytest.raises(ValueError, match=r"lead: 50 of 51 cells are numbers, 1 is not \(<5\): correct them"):
        build(Rows(columns={"table": ("lead",)}), {"table": refuse}, SplitBy(), raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
