"""Batches of the order: the same samples, masks and tokens whatever the number of ranks and workers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.image import Image
from modalities.masks.masking import Action, Masking
from modalities.smiles import Smiles
from modalities.table import Table
from pipeline.data.fit import fit_modalities
from pipeline.data.loader import FixedBatches, KeptSamples, RawBatches, TrainingBatches, tokenize
from pipeline.data.sets import open_sets
from pipeline.data.workers import prefetch
from pipeline.model.batch import Batch, Pack
from pipeline.recipe.load import load
from shards.build import SplitBy, build
from shards.index import index_path
from shards.read import Members, Split
from shards.select import select
from shards.sources.molecules import Molecules

SMILES = ["C" * n + tail for n in range(1, 13) for tail in ("O", "N", "Cl", "c1ccccc1")]
PASS, BATCH = 8, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 molecules, 40 of them for training in five shards."""
    folder = tmp_path_factory.mktemp("loader")
    (folder / "raw.smi").write_text("\n".join(SMILES))
    source = Molecules(drawing_px=32, descriptors=("MolWt", "TPSA", "RingCount"))
    split = SplitBy(validation=1 / 6, test=0)
    unfitted: dict[str, Modality] = {"smiles": Smiles(), "image": Image(), "table": Table()}
    build(source, unfitted, split, folder, folder / "shards", samples_per_shard=9)
    return folder / "shards"


@pytest.fixture(scope="module")
def modalities(folder: Path) -> dict[str, Modality]:
    """Fitted, with every kind of mask and an augmentation that draws on the sample's generator."""
    unfitted: dict[str, Modality] = {
        "smiles": Smiles(mask=Masking(kind="span", ratio=0.2, mode="bert")),
        "image": Image(size=32, patch=8, flip=True, mask=Masking(kind="block", ratio=0.5, mode="corrupt")),
        "table": Table(mask=Masking(ratio=0.4, mode="drop")),
    }
    split = Split(folder, "train")
    raws = [split.read(shard, number) for _, _, shard, number in split.locations()]
    return {name: m.fit([m.decode(raw[name]) for raw in raws]) for name, m in unfitted.items()}


@pytest.fixture
def stream(folder: Path, modalities: dict[str, Modality]) -> TrainingBatches:
    """Two sets, of 40 and 8 samples."""
    sets = (Split(folder, "train"), Split(folder, "validation"))
    return TrainingBatches(sets=sets, modalities=modalities, seed=5, block=16, batch_size=BATCH, micro_batch_size=PASS)


def joined(batches: list[Batch]) -> dict[str, Any]:
    """Keys, presence and all true tokens of batches one after the other, as one batch would hold them."""
    starts = [sum(batch.size for batch in batches[:i]) for i in range(len(batches))]
    parts: dict[str, Any] = {"keys": [key for batch in batches for key in batch.keys]}
    parts["faults"] = [fault for batch in batches for fault in batch.faults]
    for name in batches[0].packs:
        parts[f"{name}.present"] = torch.cat([batch.present[name] for batch in batches])
        for field in fields(Pack):
            rows = [getattr(batch.packs[name], field.name)[:-1] for batch in batches]
            if field.name == "sample":
                rows = [row + start for row, start in zip(rows, starts, strict=True)]
            parts[f"{name}.{field.name}"] = torch.cat(rows)
    return parts


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal to the bit."""
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_have_the_samples_of_one_rank(stream: TrainingBatches, world: int) -> None:
    ranks = [replace(stream, rank=rank, world=world) for rank in range(world)]
    for number in range(14):
        shares = [rank[number] for rank in ranks]
        assert [share.size for share in shares] == [PASS // world] * world
        assert same(joined(shares), joined([stream[number]]))


def test_all_samples_of_all_sets_occur_once_per_epoch(stream: TrainingBatches) -> None:
    keys = [key for number in range(12) for key in stream[number].keys]
    expected = sorted(key for split in stream.sets for key, *_ in split.locations())
    assert sorted(keys[:48]) == sorted(keys[48:]) == expected
    assert keys[:48] != keys[48:]


def test_masks_differ_between_epochs_and_seeds(stream: TrainingBatches) -> None:
    first, again, other = (joined([s[i] for i in indices]) for s, indices in (
        (stream, range(6)), (stream, range(6, 12)), (replace(stream, seed=6), range(6))
    ))  # fmt: skip

    def masks(parts: dict[str, Any]) -> dict[str, list[int]]:
        slots = parts["image.sample"]
        return {key: parts["image.action"][slots == i].tolist() for i, key in enumerate(parts["keys"])}

    for parts in (again, other):
        assert sum(masks(first)[key] == masks(parts)[key] for key in first["keys"]) < 10


def test_each_sample_has_its_own_generator_in_each_epoch(
    stream: TrainingBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, real = [], np.random.default_rng

    def recorded(seed: list[int]) -> np.random.Generator:
        seeds.append(tuple(seed))
        return real(seed)

    slots = [stream.order.locate(position) for position in range(96)]
    order: Any = SimpleNamespace(locate_range=lambda start, stop: slots[start:stop])
    monkeypatch.setattr("pipeline.data.loader.np.random.default_rng", recorded)
    for number in range(12):
        replace(stream, mixture=order)[number]
    assert len(set(seeds)) == len(seeds) == 96


def test_every_action_reaches_the_batch(stream: TrainingBatches) -> None:
    parts = joined([stream[number] for number in range(12)])
    actions = {name: set(parts[f"{name}.action"].tolist()) for name in stream.modalities}
    assert actions["smiles"] == {Action.KEEP, Action.MASK, Action.RANDOM}
    assert actions["image"] == {Action.KEEP, Action.ZERO, Action.NOISE, Action.SWAP}
    assert actions["table"] == {Action.KEEP, Action.DROP}
    assert not torch.equal(parts["smiles.input_ids"], parts["smiles.ids"])
    assert not torch.equal(parts["image.input_values"], parts["image.values"])
    is_kept = parts["smiles.action"] != Action.RANDOM
    assert torch.equal(parts["smiles.input_ids"][is_kept], parts["smiles.ids"][is_kept])


def test_the_mask_schedule_follows_steps_not_epochs(stream: TrainingBatches) -> None:
    mask = Masking(ratio=0.1, final_ratio=0.9, ratio_steps=8)
    scheduled = replace(stream, modalities={"image": replace(stream.modalities["image"], mask=mask)})
    for number, ratio in enumerate([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]):
        assert float(scheduled[number].packs["image"].target[:-1].float().mean()) == pytest.approx(ratio, abs=0.03)
    full_batches = replace(scheduled, micro_batch_size=BATCH)
    assert same(joined([full_batches[2]]), joined([scheduled[4], scheduled[5]])), "passes of one step are slices of it"


def test_workers_make_the_same_batches_in_the_same_order(stream: TrainingBatches) -> None:
    plain, parallel = (list(prefetch(stream, range(3, 9), workers)) for workers in (0, 2))
    assert len(plain) == len(parallel) == 6
    assert all(same(joined([a]), joined([b])) for a, b in zip(plain, parallel, strict=True))
    assert same(joined(plain), joined([stream[number] for number in range(3, 9)]))


def test_batches_continue_on_a_different_number_of_ranks(stream: TrainingBatches) -> None:
    straight = joined([stream[number] for number in range(8)])
    ranks = [replace(stream, rank=rank, world=4) for rank in range(4)]
    resumed = [stream[number] for number in range(5)] + [rank[number] for number in range(5, 8) for rank in ranks]
    assert same(joined(resumed), straight)


def test_selected_samples_repeat_by_weight_with_new_masks(stream: TrainingBatches, folder: Path) -> None:
    split = Split(folder, "train")
    keys = [key for key, *_ in split.locations()]
    weights = {keys[3]: 3.0, keys[10]: 1.0, keys[39]: 4.0}
    split.selection = select((split.keys(shard) for shard in range(len(split.sizes))), weights, weighted=True)
    replaced = replace(stream, sets=(split,))
    parts = joined([replaced[number] for number in range(4)])
    assert Counter(parts["keys"][:8]) == Counter(parts["keys"][8:16]) == weights
    slots = parts["image.sample"]
    for key in (keys[3], keys[39]):
        same_key = [i for i, other in enumerate(parts["keys"]) if other == key]
        assert len({tuple(parts["image.action"][slots == i].tolist()) for i in same_key}) > 0.7 * len(same_key)
    assert [place[0] for place in split.locations()] == [keys[3], keys[10], keys[39]]
    kept_samples = KeptSamples([split, stream.sets[1]])
    assert len(kept_samples) == 3 + 8
    assert [part.key(shard, slot) for part, shard, slot in map(kept_samples.locate, range(len(kept_samples)))] == [
        keys[3], keys[10], keys[39], *(key for key, *_ in stream.sets[1].locations())
    ]  # fmt: skip


def harm(folder: Path, split: str, shard: int, number: int, member: str) -> str:
    """Overwrite one member with as many other bytes; returns the sample's key."""
    split_set = Split(folder, split)
    key = split_set.key(shard, number)
    tar = folder / split_set.shards[shard].name
    rows = pl.read_parquet(index_path(tar)).filter(pl.col("key") == key, pl.col("member") == member)
    with tar.open("r+b") as file:
        file.seek(rows["offset"].item())
        file.write(b"\xff" * rows["size"].item())
    return key


def test_a_corrupt_sample_empties_only_its_own_slot(stream: TrainingBatches, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "harmed"))
    bad = {harm(copy, "train", 0, 4, "image.png"), harm(copy, "train", 3, 1, "smiles.txt")}
    harmed = replace(stream, sets=(Split(copy, "train"), Split(copy, "validation")))
    faults = []
    for number in range(6):
        clean, batch = stream[number], harmed[number]
        assert batch.size == PASS
        assert batch.keys == tuple("" if key in bad else key for key in clean.keys)
        assert len(batch.faults) == batch.keys.count("")
        faults += batch.faults
        is_usable = torch.tensor([key not in bad for key in clean.keys])
        for name, pack in clean.packs.items():
            assert torch.equal(batch.present[name], is_usable)
            is_kept = torch.cat([is_usable, torch.tensor([True])])[pack.sample]
            for field in fields(Pack):
                assert torch.equal(getattr(batch.packs[name], field.name), getattr(pack, field.name)[is_kept])
    assert {fault.key for fault in faults} == bad
    assert sorted((fault.reason.split(" (")[0], fault.shard) for fault in faults) == [
        ("SMILES is not ASCII text", f"{copy}/train-00003.tar"),
        ("image file is not png", f"{copy}/train-00000.tar"),
    ]


def test_a_batch_of_only_corrupt_samples_is_still_a_batch(stream: TrainingBatches) -> None:
    batch = replace(stream, modalities={"dna": stream.modalities["smiles"]})[0]
    assert batch.size == len(batch.faults) == PASS
    assert {fault.reason for fault in batch.faults} == {"sample without any of the recipe's modalities"}
    assert batch.keys == ("",) * PASS
    assert (batch.tokens, len(batch.packs["dna"].ids)) == (0, 1)


def test_missing_modalities_do_not_affect_the_others(folder: Path, modalities: dict[str, Modality]) -> None:
    members = Split(folder, "train").read(0, 0)
    del members["image"]
    assert tokenize(members, modalities).keys() == {"smiles", "table"}
    with pytest.raises(ContentError, match="without any"):
        tokenize({"labels": members["smiles"]}, modalities)


def test_network_and_disk_errors_are_not_content_errors(
    stream: TrainingBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("shards.read.os.pread", broken)
    with pytest.raises(OSError, match="Input/output"):
        stream[0]


def test_fixed_batches_are_complete_and_in_the_requested_order(folder: Path, modalities: dict[str, Modality]) -> None:
    split = Split(folder, "train")
    places = [(shard, number) for _, _, shard, number in split.locations()][::-1]
    fixed = FixedBatches(split, places, modalities, batch_size=16)
    batches = [fixed[i] for i in range(len(fixed))]
    assert [batch.size for batch in batches] == [16, 16, 8]
    parts = joined(batches)
    assert parts["keys"] == [split.key(*place) for place in places]
    assert not any(parts[f"{name}.target"].any() or parts[f"{name}.action"].any() for name in modalities)
    assert same(parts, joined([FixedBatches(split, places, modalities, batch_size=40)[0]]))


def test_corrupt_samples_of_fixed_batches_keep_their_slot(
    folder: Path, modalities: dict[str, Modality], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "harmed"))
    key = harm(copy, "validation", 0, 2, "table.json")
    batch = FixedBatches(Split(copy, "validation"), [(0, i) for i in range(5)], modalities)[0]
    assert batch.keys[2] == key
    assert batch.faults == ((f"{copy}/validation-00000.tar", key, "table row is not JSON"),)
    assert batch.present["table"].tolist() == batch.present["image"].tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("workers", [0, 2])
def test_raw_batches_follow_the_training_order(stream: TrainingBatches, workers: int) -> None:
    def decode(members: Members) -> str:
        return members["smiles"]["txt"].decode()

    samples = RawBatches(sets=stream.sets, decode=decode, batch_size=PASS, seed=stream.seed, block=stream.block)
    strings = [smiles for batch in prefetch(samples, range(6), workers) for smiles in batch]
    places = [(key, split.read(shard, n)) for split in stream.sets for key, _, shard, n in split.locations()]
    texts = {key: decode(members) for key, members in places}
    assert strings == [texts[key] for number in range(6) for key in stream[number].keys]


def test_raw_batches_may_decode_only_some_members(stream: TrainingBatches) -> None:
    raw_batches = RawBatches(
        sets=stream.sets, decode=lambda members: (members["table"]["json"], members["smiles"]["txt"]), batch_size=PASS
    )
    parts = replace(raw_batches, decode=lambda *members: members, members=("table.json", "smiles.txt"))
    assert [parts[number] for number in range(6)] == [raw_batches[number] for number in range(6)]
    with pytest.raises(ContentError, match=r"sample without smiles\.json"):
        replace(parts, members=("smiles.json",))[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_raw_batches_may_be_stacked(stream: TrainingBatches, workers: int) -> None:
    def decode(members: Members) -> np.ndarray:
        return np.frombuffer(members["smiles"]["txt"].ljust(5000), np.uint8)

    samples = RawBatches(sets=stream.sets, decode=decode, batch_size=PASS, seed=stream.seed, block=stream.block)
    stacked = prefetch(replace(samples, stack=True), range(6), workers)
    for number, batch in enumerate(stacked):
        assert batch.dtype == torch.uint8
        assert np.array_equal(batch, np.stack(samples[number]))
    uneven = replace(samples, decode=lambda members: np.zeros(len(members["smiles"]["txt"])), stack=True)
    with pytest.raises(ValueError, match="cannot be stacked"):
        list(prefetch(uneven, range(6), workers))


def test_training_batches_are_frozen(stream: TrainingBatches) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        stream.rank = 1  # type: ignore[misc]


def test_workers_open_shards_themselves(recipe: dict[str, Any]) -> None:
    """A worker is forked from a process that has threads of its own; what it reads first must not wait for them."""
    checked = load(recipe)
    fitted = fit_modalities(checked, open_sets(checked, "train", verify=False))
    code = (
        "import sys, polars, numpy\n"
        "from pathlib import Path\n"
        "polars.DataFrame({'a': numpy.arange(100000)}).sort('a')\n"
        "from modalities.base import from_json\n"
        "from pipeline.data.loader import TrainingBatches\n"
        "from pipeline.data.workers import prefetch\n"
        "from shards.read import Split\n"
        "import json\n"
        "folder, kinds = sys.argv[1:]\n"
        "kinds = {name: from_json(state) for name, state in json.loads(kinds).items()}\n"
        "names = 'sets', 'modalities', 'seed', 'block', 'batch_size', 'micro_batch_size'\n"
        "values = (Split(Path(folder), 'train'),), kinds, 0, 64, 4, 4\n"
        "stream = TrainingBatches(**dict(zip(names, values)))\n"
        "print(sum(batch.size for batch in prefetch(stream, range(3), 1)))\n"
    )
    kinds = json.dumps({name: modality.to_json() for name, modality in fitted.items()})
    words = [sys.executable, "-c", code, str(checked.data.shards[0].path), kinds]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "12"
