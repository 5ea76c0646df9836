"""Random access to samples, in one process and in many."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from torch.utils.data import DataLoader, Dataset

from modalities.base import Modality
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.strings.chemistry import canonical
from modalities.table import Table
from shards.build import SplitBy, build
from shards.manifest import Manifest, Shard, hash_file
from shards.read import Members, Split
from shards.sources.molecules import Molecules

MODALITIES: dict[str, Modality] = {"smiles": Smiles(), "image": Image(size=16, patch=16), "table": Table()}
SMILES = ["C" * n + tail for n in range(1, 11) for tail in ("O", "N", "Cl")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty molecules in ten shards of the training split."""
    folder = tmp_path_factory.mktemp("read")
    (folder / "raw.smi").write_text("\n".join(SMILES))
    source = Molecules(drawing_px=16, descriptors=("MolWt", "TPSA"), labels=("qed",))
    split = SplitBy(validation=0, test=0)
    build(source, MODALITIES, split, folder, folder / "shards", samples_per_shard=3)
    return folder / "shards"


def places(split: Split) -> list[tuple[int, int]]:
    return [(shard, number) for _, _, shard, number in split.locations()]


def open_files(folder: Path) -> list[str]:
    links = Path("/proc/self/fd")
    if not links.is_dir():
        pytest.skip("no /proc to count open files in")
    targets = []
    for link in links.iterdir():
        try:
            targets.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return [target for target in targets if target.startswith(str(folder))]


def test_members_are_returned_by_modality_as_written(folder: Path) -> None:
    split = Split(folder, "train")
    assert split.sizes == (3,) * 10
    source = Molecules(drawing_px=16, descriptors=("MolWt", "TPSA"), labels=("qed",))
    for smiles, place in zip(SMILES, places(split), strict=True):
        written = source.make(smiles, MODALITIES).members
        sample = split.read(*place)
        assert {f"{m}.{e}": data for m, parts in sample.items() for e, data in parts.items()} == written
        assert sample["smiles"] == {"txt": canonical(smiles).encode()}
        assert sample.keys() == {"smiles", "image", "table", "labels"}


class Reader(Dataset[Members]):
    def __init__(self, split: Split):
        self.split, self.places = split, places(split)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Members:
        return self.split.read(*self.places[number])


def test_worker_processes_read_the_same_as_their_parent(folder: Path) -> None:
    reader = Reader(Split(folder, "train"))
    expected = [reader[i] for i in range(len(reader))]
    loader = DataLoader(reader, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == expected
    assert [reader[i] for i in range(len(reader))] == expected


@pytest.mark.parametrize("mapped_bytes", [0, 2**20])
def test_mapped_and_unmapped_shards_are_read_equally_and_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mapped_bytes: int
) -> None:
    expected = [Split(folder, "train").read(*place) for place in places(Split(folder, "train"))]
    monkeypatch.setattr("shards.read.MAPPED_BYTES", mapped_bytes)
    monkeypatch.setattr("shards.read.OPEN_SHARDS", 4)
    split = Split(folder, "train")
    shards, numbers = np.array(places(split)[::-1]).T
    assert split.read_many(shards, numbers) == expected[::-1]
    assert len(set(open_files(folder))) == 4
    split.close()
    assert not open_files(folder)
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_a_split_is_pickled_without_its_open_files(folder: Path) -> None:
    split = Split(folder, "train")
    expected = [split.read(*place) for place in places(split)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(split.read, places(split), chunksize=4) == expected
    copy = pickle.loads(pickle.dumps(split))
    copy.close()
    assert [split.read(*place) for place in places(split)] == expected


def test_open_files_are_bounded_and_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.read.OPEN_SHARDS", 2)
    split = Split(folder, "train")
    order = [(shard, number) for number in range(3) for shard in range(10)]
    samples = {place: split.read(*place) for place in order}
    assert len(set(open_files(folder))) == 2
    assert samples == {place: split.read(*place) for place in sorted(order)}
    split.read(0, 0), split.read(1, 0), split.read(0, 1), split.read(2, 0)
    assert {Path(name).name for name in open_files(folder)} == {"train-00000.tar", "train-00002.tar"}
    split.close()
    assert not open_files(folder)
    assert split.read(4, 1) == samples[4, 1]
    del split
    assert not open_files(folder)


def test_open_files_are_bounded_across_sets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.read.OPEN_SHARDS", 6)
    sets = [Split(folder, "train") for _ in range(3)]
    for shard in range(10):
        for split in sets:
            split.read(shard, 0)
    assert len(set(open_files(folder))) == 2
    assert len(open_files(folder)) <= 12
    del sets[0], split
    assert len(open_files(folder)) <= 8


@pytest.mark.parametrize("mapped_bytes", [0, 2**20])
def test_a_tar_truncated_while_open_is_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_bytes: int
) -> None:
    monkeypatch.setattr("shards.read.MAPPED_BYTES", mapped_bytes)
    copy = shutil.copytree(folder, tmp_path / "copy")
    split = Split(copy, "train")
    split.read(3, 0)
    os.truncate(copy / "train-00003.tar", 512)
    with pytest.raises(ValueError, match=r"train-00003\.tar was cut short while it was read"):
        split.read(3, 2)


GOOD = {"key": ["a", "b"], "member": ["x.txt", "x.txt"], "offset": [0, 0], "size": [0, 1], "group": ["a", "b"]}


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"offset": ["0", "1"]}, "has offsets of type string"),
        ({"size": [None, 1]}, "lacks 1 sizes"),
        ({"member": ["x.txt", None]}, "lacks 1 members"),
        ({"key": [1, 2]}, "has keys of type int64"),
        ({"member": ["x" * 2**20] * 2}, "names of more bytes than its tar"),
        ({"key": ["k" * 2**17, "k"]}, "names of more bytes than its tar"),
        ({"size": [0, 2**40]}, "names members beyond the end of its tar"),
        ({"offset": [-1, 0]}, "names members beyond the end of its tar"),
        ({"key": ["a", "a"]}, "has 1 samples, not 2"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, columns: dict[str, list[Any]], fault: str) -> None:
    tar, index = tmp_path / "train-0.tar", tmp_path / "train-0.index.parquet"
    tar.write_bytes(bytes(2048))
    parquet.write_table(pyarrow.table(GOOD | columns), index)
    shard = Shard(
        name=tar.name, split="train", samples=2, bytes=2048, sha256=hash_file(tar), index_sha256=hash_file(index)
    )
    Manifest(shards=(shard,), fields={}).write(tmp_path)
    with pytest.raises(ValueError, match=fault):
        Split(tmp_path, "train").read(0, 1)


def test_a_small_index_cannot_fill_memory(tmp_path: Path) -> None:
    """60 times one word of 20 MB, which Parquet writes once and zstd to nothing."""
    tar, index = tmp_path / "train-0.tar", tmp_path / "train-0.index.parquet"
    with tar.open("wb") as file:
        file.truncate(2**25)
    key = pyarrow.DictionaryArray.from_arrays([0] * 60, ["k" * 20_000_000])
    rows = pyarrow.table({"key": key, "member": ["x"] * 60, "offset": [0] * 60, "size": [0] * 60})
    parquet.write_table(rows, index, compression="zstd", store_schema=False)
    assert index.stat().st_size < 4000
    shard = Shard(
        name=tar.name, split="train", samples=1, bytes=2**25, sha256=hash_file(tar), index_sha256=hash_file(index)
    )
    Manifest(shards=(shard,), fields={}).write(tmp_path)
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(ValueError, match="names of more bytes than its tar"):
        Split(tmp_path, "train").read(0, 0)
    assert pyarrow.total_allocated_bytes() - before < 2**20
    assert pyarrow.default_memory_pool().max_memory() < 2**28


@pytest.mark.parametrize("name", ["validation", "test", "training"])
def test_an_empty_split_lists_the_existing_ones(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"the {name} split of .* is empty \(train 30, validation 0, test 0\)"):
        Split(folder, name)


def test_a_missing_sample_is_an_error(folder: Path) -> None:
    split = Split(folder, "train")
    with pytest.raises(IndexError):
        split.read(0, 3)
    with pytest.raises(IndexError):
        split.key(10, 0)
