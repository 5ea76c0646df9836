"""Samples that repeat the content of an earlier one are left out and counted, the first one stays."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from modalities.base import Modality
from modalities.dna import Dna
from modalities.files.pictures import perceptual_hash
from modalities.image import Image
from modalities.smiles import Smiles
from modalities.table import Table
from modalities.text import Text
from shards.build import SplitBy, build
from shards.dedupe import NEAR_BITS, fingerprint, resolve_dedupe
from shards.manifest import Manifest
from shards.read import Members, Split
from shards.sources.join import Join
from shards.sources.molecules import Molecules
from shards.sources.rows import Rows

SPLIT = SplitBy(validation=0, test=0)
MODALITIES: dict[str, Modality] = {
    "dna": Dna(), "photo": Image(size=32, patch=16), "record": Table(), "smiles": Smiles(), "text": Text(),
}  # fmt: skip


SEQUENCES = ("dna", "smiles", "text")


def table(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines))
    return folder


def samples(out: Path) -> list[Members]:
    split = Split(out, "train")
    return [split.read(shard, number) for _, _, shard, number in split.locations()]


def scene(seed: int) -> Pillow.Image:
    """A picture of 200 by 160 pixels with coarse and fine parts, as photographs have."""
    rng = np.random.default_rng(seed)
    octaves = (rng.integers(0, 255, (2**k, 2**k, 3)).astype(np.uint8) for k in range(1, 8))
    scaled = (Pillow.fromarray(octave).resize((200, 160), Pillow.Resampling.BICUBIC) for octave in octaves)
    mixed = np.sum([np.asarray(octave) / k for k, octave in enumerate(scaled, 1)], axis=0)
    return Pillow.fromarray((mixed / mixed.max() * 255).astype(np.uint8))


def encoded(picture: Pillow.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def build_rows(raw: Path, out: Path, dedupe: Any, columns: dict[str, Any], workers: int = 1) -> Manifest:
    return build(Rows(columns=columns), MODALITIES, SPLIT, raw, out, dedupe=dedupe, workers=workers)


def test_exact_compares_the_bytes_of_all_named_modalities(tmp_path: Path) -> None:
    raw = table(tmp_path / "raw", "a.csv", "words,size", "owl,1", "jay,2", "owl,1", "owl,3", "Owl,1", ",1", ",1")
    columns = {"text": "words", "record": ("size",)}
    both = build_rows(raw, tmp_path / "both", "exact", {**columns})
    assert both.skipped == {"duplicate by dna (exact), photo (exact), record (exact), smiles (exact), text (exact)": 2}
    kept_rows = [
        (s.get("text", {}).get("txt"), json.loads(s["record"]["json"])["size"]) for s in samples(tmp_path / "both")
    ]
    assert kept_rows == [(b"owl", 1), (b"jay", 2), (b"owl", 3), (b"Owl", 1), (None, 1)]
    one = build_rows(raw, tmp_path / "one", {"record": "exact"}, {**columns})
    assert one.skipped == {"duplicate by record (exact)": 4}
    assert one.dedupe == {"record": "exact"}
    assert [s["text"]["txt"] for s in samples(tmp_path / "one")] == [b"owl", b"jay", b"owl"]


def test_samples_without_the_modality_are_not_duplicates(tmp_path: Path) -> None:
    raw = table(tmp_path / "raw", "a.csv", "words,size", ",1", ",1", "owl,1", "owl,2")
    manifest = build_rows(raw, tmp_path / "out", {"text": "exact"}, {"text": "words", "record": ("size",)})
    assert manifest.skipped == {"duplicate by text (exact)": 1}
    assert manifest.counts()["train"] == 3


def test_sequences_are_compared_by_normal_form(tmp_path: Path) -> None:
    lines = ["AACGT,OCC,Barn  owl", "ACGTT,CCO,barn owl", "aac-gu,C(O)C,BARN OWL", "AACGA,CCN,barn owls"]
    raw = table(tmp_path / "raw", "a.csv", "strand,drug,words", *lines)
    for name, column in (("dna", "strand"), ("smiles", "drug"), ("text", "words")):
        manifest = build_rows(raw, tmp_path / name, "sequence", {name: column})
        assert list(manifest.skipped.values()) == [2], name
        assert len(samples(tmp_path / name)) == 2
    assert samples(tmp_path / "dna")[0]["dna"]["txt"] == b"AACGT"


def test_images_are_compared_by_appearance(tmp_path: Path) -> None:
    raw = table(tmp_path / "raw", "a.csv", "file", *(f"{i}.{e}" for i in range(12) for e in ("png", "jpg", "webp")))
    for i in range(12):
        (raw / f"{i}.png").write_bytes(encoded(scene(i), format="png"))
        (raw / f"{i}.jpg").write_bytes(encoded(scene(i).resize((150, 120)), format="jpeg", quality=80))
        (raw / f"{i}.webp").write_bytes(encoded(scene(i).convert("L"), format="webp", quality=70))
    for workers in (1, 2):
        manifest = build_rows(raw, tmp_path / f"{workers}", "perceptual", {"photo": "file"}, workers)
        assert manifest.skipped == {"duplicate by photo (perceptual)": 24}
        assert manifest.fields == {"photo.png": 12}
    assert build_rows(raw, tmp_path / "exact", {"photo": "exact"}, {"photo": "file"}).skipped == {}


def test_image_hashes_within_the_limit_are_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hashes alone: every pattern of up to NEAR_BITS changed bits is found, one bit more is not."""
    rng = np.random.default_rng(0)
    first = int.from_bytes(rng.bytes(8), "big")
    changes = [*range(1, NEAR_BITS + 1)] * 20 + [NEAR_BITS + 1] * 20
    hashes = [first, *(first ^ sum(1 << int(i) for i in rng.choice(64, n, replace=False)) for n in changes)]
    hash_iterator = iter(hashes)
    monkeypatch.setattr("modalities.image.perceptual_hash", lambda _: f"{next(hash_iterator):016x}")
    raw = table(tmp_path / "raw", "a.csv", "file", *(f"{i}.png" for i in range(len(hashes))))
    for i in range(len(hashes)):
        (raw / f"{i}.png").write_bytes(encoded(scene(0), format="png"))
    build_rows(raw, tmp_path / "out", "perceptual", {"photo": "file"})
    indices: list[int] = []
    for number in hashes:  # the plain way
        if all((number ^ other).bit_count() > NEAR_BITS for other in indices):
            indices.append(number)
    assert len(indices) > 2
    assert len(samples(tmp_path / "out")) == len(indices)


def test_images_of_any_depth_and_bands_have_a_hash() -> None:
    grey = np.asarray(scene(1).convert("L"))
    deep = Image().parse(grey.astype(np.uint16) * 257)
    assert perceptual_hash(deep) == perceptual_hash(Image().parse(grey))
    assert perceptual_hash(Image().parse(np.repeat(grey[..., None], 5, axis=2))) == perceptual_hash(deep)
    assert len(perceptual_hash(Image().parse(np.zeros((8, 9), np.uint8)))) == 16


def test_an_invalid_smiles_is_compared_as_text() -> None:
    one, other = (fingerprint("sequence", Smiles(), {}, text) for text in ("C1CC", "C1CCC"))
    assert one != other


def test_a_racemate_is_not_a_duplicate_of_its_enantiomer(tmp_path: Path) -> None:
    pure, other, both = "C[C@H](N)[C@@H](O)F", "C[C@@H](N)[C@H](O)F", "C[C@H](N)[C@@H](O)F |&1:1,3|"
    lines = [pure, other, f'"{both}"', f'"{other} |&1:1,3|"', f'"{pure} |o1:1,3|"', "F[C@H](O)[C@H](C)N"]
    raw = table(tmp_path / "raw", "a.csv", "drug", *lines)
    manifest = build_rows(raw, tmp_path / "out", "sequence", {"smiles": "drug"})
    assert manifest.skipped == {f"duplicate by {', '.join(f'{name} (sequence)' for name in SEQUENCES)}": 2}
    members = [s["smiles"]["txt"].decode() for s in samples(tmp_path / "out")]
    assert members == [pure, other, pure, pure], "the racemate's member is a plain SMILES"


DRAWING = r"different line drawings look alike: .* `data\.dedupe: \{smiles: sequence\}`"


@pytest.mark.parametrize("dedupe", ["perceptual", {"image": "perceptual", "smiles": "sequence"}])
def test_drawings_are_not_compared_by_appearance(tmp_path: Path, dedupe: Any) -> None:
    raw = table(tmp_path / "raw", "a.smi", "CCO", "CCN", "OCC")
    modalities: dict[str, Modality] = {"image": Image(size=96, patch=12), "smiles": Smiles()}
    with pytest.raises(ValueError, match=DRAWING):
        build(Molecules(), modalities, SPLIT, raw, tmp_path / "out", dedupe=dedupe)
    assert build(Molecules(), modalities, SPLIT, raw, tmp_path / "out", dedupe="sequence").counts()["train"] == 2
    joined = Join(sources=({"type": "molecules"}, {"type": "molecules"}), by="scaffold")
    assert joined.drawings == {"image"}


def test_a_white_background_distinguishes_drawings_from_photos() -> None:
    modalities: dict[str, Modality] = {"drawing": Image(background=1.0), "photo": Image(), "cut": Image(background=0.0)}
    assert resolve_dedupe("perceptual", modalities, ()) == {"photo": "perceptual", "cut": "perceptual"}
    assert resolve_dedupe("perceptual", modalities).keys() == modalities.keys(), "recipes of runs are read as they are"
    with pytest.raises(ValueError, match=r"data\.dedupe\.drawing is 'perceptual', but " + DRAWING):
        resolve_dedupe({"drawing": "perceptual"}, modalities, ())


def test_joined_samples_are_compared_by_all_their_sources(tmp_path: Path) -> None:
    raw = table(tmp_path / "raw", "a.csv", "id,words", "1,owl", "2,owl", "3,owl")
    table(raw, "b.csv", "id,drug", "1,CCO", "2,OCC", "3,CCN")
    parts = ({"type": "rows", "file": "a.csv", "key": "id", "columns": {"text": "words"}},
             {"type": "rows", "file": "b.csv", "key": "id", "columns": {"smiles": "drug"}})  # fmt: skip
    source, both = Join(sources=parts, by="id"), {"text": "exact", "smiles": "sequence"}
    manifest = build(source, MODALITIES, SPLIT, raw, tmp_path / "out", dedupe=both)
    assert manifest.skipped == {"duplicate by smiles (sequence), text (exact)": 1}


def test_a_method_applies_to_all_its_modalities() -> None:
    assert resolve_dedupe(None, MODALITIES) == {}
    assert resolve_dedupe("perceptual", MODALITIES) == {"photo": "perceptual"}
    assert resolve_dedupe("sequence", MODALITIES) == dict.fromkeys(("dna", "smiles", "text"), "sequence")
    assert resolve_dedupe("exact", MODALITIES) == dict.fromkeys(MODALITIES, "exact")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fuzzy", r"data\.dedupe is 'fuzzy'; known: exact, perceptual, sequence"),
        ({"record": "fuzzy"}, r"data\.dedupe is 'fuzzy'; known"),
        ("perceptual", r"data\.dedupe is 'perceptual', but no modality"),
        ({"photo": "exact"}, r"data\.dedupe names the modality 'photo'"),
        ({"record": "sequence"}, r"data\.dedupe\.record is 'sequence', .* type table can be compared by exact"),
    ],
)
def test_mistakes_are_reported(setting: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_dedupe(setting, {"record": Table()})
