"""Shards that are missing, truncated, changed or written by other programs."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from modalities.smiles import Smiles
from shards.build import SplitBy, build
from shards.index import index_path, write_index
from shards.manifest import Manifest, hash_file
from shards.read import Split
from shards.sources.molecules import Molecules
from shards.tars import index_tars, verify_shards


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    (folder / "raw.smi").write_text("\n".join("C" * n for n in range(1, 31)))
    split = SplitBy(validation=0.1, test=0.1)
    build(Molecules(drawing_px=16), {"smiles": Smiles()}, split, folder, folder / "shards", samples_per_shard=8)
    return folder / "shards"


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "shards"))


def fault(call: Callable[[], Any]) -> str:
    """The message of the ValueError that a call raises, which is one line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add(tar: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(tar, mode) as file:  # type: ignore[call-overload]
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return tar


def rewrite(folder: Path, **changes: Any) -> None:
    state = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**state, **changes}))


def flip(path: Path) -> None:
    """Change one bit and no size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_intact_shards_pass_every_check(intact: Path) -> None:
    messages: list[str] = []
    manifest = verify_shards(intact, messages.append)
    assert len(messages) == len(manifest.shards) == 5
    assert manifest == Manifest.read(intact)
    assert manifest.counts() == {"train": 24, "validation": 3, "test": 3}
    assert len(Split(intact, "train", verify=True)) == 24


def test_verify_reads_each_file_once(intact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, read = hashlib.file_digest, Counter[str]()

    def counted(file: Any, name: str) -> Any:
        read[file.name] += 1
        return digest(file, name)

    monkeypatch.setattr("hashlib.file_digest", counted)
    verify_shards(intact)
    assert len(read) == 10
    assert set(read.values()) == {1}


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.index.parquet"])
def test_a_missing_file_is_named(folder: Path, name: str, dangling: bool) -> None:
    (folder / name).unlink()
    if dangling:
        (folder / name).symlink_to("nowhere")
    for call in (lambda: verify_shards(folder), lambda: Split(folder, "train")):
        assert f"{folder / name} is missing" in fault(call)


def test_a_truncated_shard_is_named(folder: Path) -> None:
    tar = folder / "train-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-700])
    for call in (lambda: verify_shards(folder), lambda: Split(folder, "train")):
        assert f"{tar} has {tar.stat().st_size:,} bytes instead of {tar.stat().st_size + 700:,}" in fault(call)


def test_a_changed_shard_is_named(folder: Path) -> None:
    flip(folder / "train-00001.tar")
    for call in (lambda: verify_shards(folder), lambda: Split(folder, "train", verify=True)):
        assert f"{folder / 'train-00001.tar'} has a wrong checksum" in fault(call)
    assert len(Split(folder, "train")) == 24, "only sizes are compared unless `verify` is set"


def test_a_changed_index_is_named(folder: Path) -> None:
    flip(folder / "train-00001.index.parquet")
    split = Split(folder, "train")
    for call in (lambda: verify_shards(folder), lambda: Split(folder, "train", verify=True), lambda: split.key(1, 0)):
        assert f"{folder / 'train-00001.index.parquet'} has a wrong checksum" in fault(call)


def test_a_broken_split_leaves_the_others_readable(folder: Path) -> None:
    (folder / "train-00001.tar").unlink()
    assert len(Split(folder, "validation")) == 3


def test_a_missing_manifest_is_reported_with_instructions(tmp_path: Path) -> None:
    assert f"no shards at {tmp_path}" in fault(lambda: Manifest.read(tmp_path))
    assert "sensorium shards build" in fault(lambda: Split(tmp_path / "nowhere", "train"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"7", b"null", b"{}", b'{"version": 1}', b'{"version": 1, "shards": [1]}'],
)
def test_an_invalid_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert f"{tmp_path / 'manifest.json'} is not a manifest" in fault(lambda: Manifest.read(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"fields": []},
        {"fields": {"a.txt": "b"}},
        {"skipped": {"bad": -1}},
        {"split": None},
        {"dedupe": 7},
        {"versions": ["rdkit"]},
        {"versions": {"rdkit": 2026}},
    ],
)
def test_invalid_values_of_a_manifest_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    assert f"{folder / 'manifest.json'} is not a manifest" in fault(lambda: Manifest.read(folder))


def test_manifests_without_versions_are_read(folder: Path) -> None:
    state = json.loads((folder / "manifest.json").read_text())
    assert state["versions"].keys() == {"chembl_structure_pipeline", "rdkit"}
    del state["versions"]
    (folder / "manifest.json").write_text(json.dumps(state))
    assert verify_shards(folder).versions == {}


def test_unknown_manifest_keys_are_refused(folder: Path) -> None:
    rewrite(folder, colour="red")
    assert "'colour'" in fault(lambda: Manifest.read(folder))


def test_an_unsupported_manifest_version_is_named(folder: Path) -> None:
    rewrite(folder, version=2)
    message = fault(lambda: Manifest.read(folder))
    assert message == f"{folder / 'manifest.json'} has format version 2, this program reads 1"


def redescribe(folder: Path, name: str) -> None:
    """Update the manifest to the tar and index on disk."""
    manifest = Manifest.read(folder)
    shards = [
        replace(shard, sha256=hash_file(folder / name), index_sha256=hash_file(index_path(folder / name)))
        if shard.name == name
        else shard
        for shard in manifest.shards
    ]
    replace(manifest, shards=tuple(shards)).write(folder)


def test_verify_detects_an_index_of_another_tar(folder: Path) -> None:
    tar = folder / "train-00001.tar"
    rows = pl.read_parquet(index_path(tar)).with_columns(pl.col("offset") + 512)
    write_index(tar, rows.drop("content").rows())
    redescribe(folder, tar.name)
    assert f"index of {tar} does not match the tar" in fault(lambda: verify_shards(folder))


def test_verify_detects_an_index_with_other_columns(folder: Path) -> None:
    tar = folder / "train-00001.tar"
    pl.read_parquet(index_path(tar)).drop("group").write_parquet(index_path(tar))
    redescribe(folder, tar.name)
    assert f"{index_path(tar)} has no column 'group': index the tars again" in fault(lambda: verify_shards(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": pl.col("offset").cast(pl.String)}, "has offsets of type large_string"),
        ({"size": pl.col("size").cast(pl.Float64)}, "has sizes of type double"),
        ({"member": pl.lit(3)}, "has members of type int32"),
        ({"key": pl.lit(None, pl.String)}, "lacks 8 keys"),
        ({"size": pl.when(pl.int_range(pl.len()) > 0).then("size")}, "lacks 1 sizes"),
    ],
)
def test_verify_detects_an_index_with_other_types_or_gaps(
    folder: Path, changes: dict[str, pl.Expr], message: str
) -> None:
    path = index_path(folder / "train-00001.tar")
    pl.read_parquet(path).with_columns(**changes).write_parquet(path)
    redescribe(folder, "train-00001.tar")
    assert f"index {path} {message}: index the tars again" in fault(lambda: verify_shards(folder))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet", b"PAR1" * 9])
def test_verify_finds_an_index_that_is_not_parquet(folder: Path, content: bytes) -> None:
    path = index_path(folder / "train-00001.tar")
    path.write_bytes(content)
    redescribe(folder, "train-00001.tar")
    assert f"index {path} cannot be read (" in fault(lambda: verify_shards(folder))


def test_verify_detects_a_wrong_number_of_samples(folder: Path) -> None:
    shards = [{**asdict(shard), "samples": 7} for shard in Manifest.read(folder).shards]
    rewrite(folder, shards=shards)
    assert f"{folder / 'train-00000.tar'} has 8 samples, not 7" in fault(lambda: verify_shards(folder))


def img2dataset(keys: list[str]) -> list[tuple[str, bytes]]:
    return [(f"{key}.{e}", f"{e} of {key}".encode()) for key in keys for e in ("jpg", "txt", "json")]


def test_tars_of_other_programs_are_indexed_in_place(tmp_path: Path) -> None:
    tar = add(tmp_path / "00000.tar", img2dataset(["000000000", "000000001"]))
    add(tmp_path / "validation-00000.tar", img2dataset(["000010000"]))
    add(tmp_path / "test-00000.tar", img2dataset(["000020000"]))
    before = tar.read_bytes()
    messages: list[str] = []
    manifest = index_tars(tmp_path, {"jpg": "image", "txt": "caption"}, messages.append)
    assert messages[0] == "00000.tar: 2 samples, 6 members"
    assert manifest == verify_shards(tmp_path)
    assert manifest.counts() == {"train": 2, "validation": 1, "test": 1}
    assert manifest.fields == {"caption.txt": 4, "image.jpg": 4, "json.json": 4}
    assert tar.read_bytes() == before
    split = Split(tmp_path, "train")
    assert split.key(0, 1) == "000000001"
    assert split.read(0, 1) == {
        "image": {"jpg": b"jpg of 000000001"},
        "caption": {"txt": b"txt of 000000001"},
        "json": {"json": b"json of 000000001"},
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000", "train"),
        ("validation_00000", "validation"),
        ("val2017", "validation"),
        ("valid-00000", "validation"),
        ("test", "test"),
        ("test.00000", "test"),
        ("tesla-0", "train"),
        ("testing-0", "train"),
        ("valley-0", "train"),
        ("validations", "train"),
        ("my-test-0", "train"),
    ],
)
def test_a_split_is_the_first_word_of_a_name(tmp_path: Path, name: str, split: str) -> None:
    add(tmp_path / f"{name}.tar", img2dataset(["0"]))
    assert [shard.split for shard in index_tars(tmp_path, {}).shards] == [split]


def test_members_of_a_sample_need_not_be_adjacent_in_the_tar(tmp_path: Path) -> None:
    members = img2dataset(["0", "1", "2"])
    add(tmp_path / "00000.tar", members[::3] + members[1::3] + members[2::3])
    index_tars(tmp_path, {"jpg": "image"})
    assert verify_shards(tmp_path).counts()["train"] == 3
    split = Split(tmp_path, "train")
    for number, key in enumerate("012"):
        assert split.key(0, number) == key
        assert [part for parts in split.read(0, number).values() for part in parts.values()] == [
            f"{e} of {key}".encode() for e in ("jpg", "txt", "json")
        ]


def test_extensions_are_read_in_lower_case(tmp_path: Path) -> None:
    add(tmp_path / "00000.tar", [("0.image.JPG", b"a"), ("0.TXT", b"b")])
    assert index_tars(tmp_path, {"TXT": "caption"}).fields == {"caption.TXT": 1, "image.JPG": 1}
    assert Split(tmp_path, "train").read(0, 0) == {"image": {"jpg": b"a"}, "caption": {"txt": b"b"}}


def test_folders_long_names_and_empty_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        folder = tarfile.TarInfo("part")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        entry = tarfile.TarInfo("part/" + "n" * 150 + ".seg.mask.png")
        entry.size = 3
        file.addfile(entry, io.BytesIO(b"png"))
    add(tmp_path / "b.tar", [])
    manifest = index_tars(tmp_path, {})
    assert [shard.samples for shard in manifest.shards] == [1, 0]
    split = Split(tmp_path, "train")
    assert split.key(0, 0) == "part/" + "n" * 150
    assert split.read(0, 0) == {"seg": {"mask.png": b"png"}}
    assert len(split.locations()) == 1


@pytest.mark.parametrize("name", ["../x.txt", "/x.txt", "a/../../x.txt", "a/.."])
def test_members_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    tar = add(tmp_path / "00000.tar", [("fine.txt", b"a"), (name, b"b")])
    message = fault(lambda: index_tars(tmp_path, {}))
    assert str(tar) in message
    assert repr(name) in message
    assert not (tmp_path / "manifest.json").exists()


def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    tar = tmp_path / "00000.tar"
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as file:
        file.addfile(tarfile.TarInfo("café.txt"))
    message = fault(lambda: index_tars(tmp_path, {}))
    assert message == f"{tar} has a member whose name is not UTF-8: 'caf\\udce9.txt'"


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, b"?"])
@pytest.mark.parametrize("size", [-5, -1000, -2000])
def test_a_negative_size_is_refused(tmp_path: Path, kind: bytes, size: int) -> None:
    tar = tmp_path / "00000.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as file:
        entry = tarfile.TarInfo("0.txt")
        entry.type, entry.pax_headers = kind, {"size": str(size)}
        file.addfile(entry)
    assert fault(lambda: index_tars(tmp_path, {})) == f"{tar} has a member of {size} bytes: '0.txt'"


@pytest.mark.parametrize("content", [b"", b"not a tar", b"x" * 5000])
def test_a_file_that_is_not_a_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "00000.tar").write_bytes(content)
    assert f"{tmp_path / '00000.tar'} is not a readable tar" in fault(lambda: index_tars(tmp_path, {}))


def test_compressed_and_truncated_tars_are_refused(tmp_path: Path) -> None:
    tar = add(tmp_path / "00000.tar", img2dataset(["0"]), "w:gz")
    assert f"{tar} is not a readable tar" in fault(lambda: index_tars(tmp_path, {}))
    add(tar, [("0.txt", b"a" * 5000)])
    tar.write_bytes(tar.read_bytes()[:2000])
    assert f"{tar} is not a readable tar" in fault(lambda: index_tars(tmp_path, {}))


def test_a_folder_without_tars_is_refused(tmp_path: Path) -> None:
    assert fault(lambda: index_tars(tmp_path, {})) == f"no .tar files in {tmp_path}"


@pytest.mark.parametrize(
    ("files", "names", "example"),
    [
        (["a/img.001.png", "a/img.002.png"], {"png": "photo"}, "a/img.001.png is '001.png' of the sample 'a/img'"),
        (["0.jpg", "1.jpg"], {"png": "photo"}, "0.jpg is 'jpg' of the sample '0'"),
        (["0.jpg", "0.seg.png"], {"jpg": "photo", "png": "mask"}, "0.seg.png is 'seg.png' of the sample '0'"),
        (["LICENSE"], {"png": "photo"}, ""),
    ],
)
def test_a_name_that_matches_no_member_is_refused(
    files: list[str], names: dict[str, str], example: str, tmp_path: Path
) -> None:
    """Otherwise, two images whose keys contain a dot would become one sample with two members."""
    add(tmp_path / "00000.tar", [(file, b"a") for file in files])
    *_, last = names.items()
    message = fault(lambda: index_tars(tmp_path, names))
    assert message.startswith(
        f"--as {last[0]}={last[1]} matches no file in the tars: file names are split at the first dot"
    )
    assert message.endswith(f"and the extension that --as takes{example and '; '}{example}")
    assert [path.name for path in tmp_path.iterdir()] == ["00000.tar"]


def test_a_wrong_name_does_not_change_an_indexed_folder(tmp_path: Path) -> None:
    add(tmp_path / "00000.tar", img2dataset(["0", "1"]))
    manifest = index_tars(tmp_path, {"jpg": "photo"})
    with pytest.raises(ValueError, match=r"--as png=photo matches no file"):
        index_tars(tmp_path, {"png": "photo", "jpg": "image"})
    assert verify_shards(tmp_path) == manifest


def test_a_name_need_not_match_members_in_every_tar(tmp_path: Path) -> None:
    add(tmp_path / "00000.tar", [("0.jpg", b"a")])
    add(tmp_path / "00001.tar", [("1.PNG", b"a"), ("2.seg.Png", b"a")])
    manifest = index_tars(tmp_path, {"jpg": "photo", "png": "drawing", "seg.png": "mask"})
    assert manifest.fields == {"drawing.PNG": 1, "mask.Png": 1, "photo.jpg": 1}
