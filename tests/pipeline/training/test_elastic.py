"""Real processes: any number of ranks and workers, killed and started again, deliver the same samples and masks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.fit import fit_modalities
from pipeline.data.sets import open_sets
from pipeline.recipe.load import load

DELIVER = """
import hashlib, json, sys
from pathlib import Path
from modalities.base import from_json
from pipeline.data.loader import TrainingBatches
from pipeline.data.mixture import mixture
from pipeline.data.sets import open_sets
from pipeline.recipe.load import load
from pipeline.data.workers import prefetch

recipe, kinds, rank, world, workers, first, last = sys.argv[1:]
checked = load(recipe)
sets = open_sets(checked, "train", verify=False)
fitted = {name: from_json(state) for name, state in json.loads(Path(kinds).read_text()).items()}
train, data = checked.train, checked.data
stream = TrainingBatches(sets=sets, modalities=fitted, seed=train.seed, block=data.shuffle_block,
                         batch_size=train.batch_size, micro_batch_size=train.micro_batch_size, rank=int(rank),
                         world=int(world), masking=checked.masking, mixture=mixture(checked, sets))


def digest(batch, slot):
    found = hashlib.sha256(batch.keys[slot].encode())
    for name, pack in sorted(batch.packs.items()):
        own = pack.sample == slot
        for part in ("values", "ids", "coords", "input_values", "input_ids", "target", "action"):
            found.update(getattr(pack, part)[own].numpy().tobytes())
    return found.hexdigest()


for count in workers.split(","):
    for batch in prefetch(stream, range(int(first), int(last)), int(count)):
        print(json.dumps([[batch.keys[slot], digest(batch, slot)] for slot in range(batch.size)]), flush=True)
"""
PASSES = 14

Passes = list[list[list[str]]]


class Ranks:
    """Processes that each deliver their rank's share of passes `first` to `last`, one line a pass and worker count."""

    def __init__(self, folder: Path, world: int, workers: str, first: int = 0, last: int = PASSES):
        words = [sys.executable, "-c", DELIVER, str(folder / "recipe.yaml"), str(folder / "kinds.json")]
        self.processes = [
            subprocess.Popen(
                [*words, *map(str, (rank, world, workers, first, last))], stdout=subprocess.PIPE, text=True
            )
            for rank in range(world)
        ]

    def read(self, count: int) -> Passes:
        """The next global passes: the ranks' shares one after the other."""
        passes: Passes = []
        for _ in range(count):
            lines = [process.stdout.readline() for process in self.processes if process.stdout is not None]
            passes.append([slot for line in lines for slot in json.loads(line)])
        return passes

    def kill(self) -> None:
        """SIGKILL, whatever they are at."""
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def folder(recipe: dict[str, Any], many_shards: Path, tmp_path: Path) -> Path:
    """A mixture of two sets over two nodes' streams, with augmentation and every kind of mask."""
    recipe["data"] |= {"block": 16, "canonical_nodes": 2}
    path = str(many_shards)
    recipe["data"]["shards"] = [{"path": path, "weight": [[0, 1], [3, 4]]}, {"path": path, "weight": 2}]
    recipe["modalities"]["image"] |= {"flip": True, "mask": {"kind": "block", "ratio": 0.5, "mode": "corrupt"}}
    recipe["modalities"]["smiles"]["mask"] = {"kind": "span", "ratio": 0.2, "mode": "bert"}
    recipe["train"] |= {"micro_batch_size": 8}
    checked = load(recipe)
    fitted = fit_modalities(checked, open_sets(checked, "train", verify=False))
    (tmp_path / "kinds.json").write_text(json.dumps({name: kind.to_json() for name, kind in fitted.items()}))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.mark.slow
def test_any_ranks_and_workers_deliver_the_same_and_resume_after_a_kill(folder: Path) -> None:
    alone = Ranks(folder, 1, "0,1,3")
    straight = alone.read(PASSES)
    assert alone.read(2 * PASSES) == 2 * straight
    assert len({tuple(slot) for passed in straight for slot in passed}) == PASSES * 8, "each with masks of its own"
    alone.kill()
    for world in (2, 4):
        ranks = Ranks(folder, world, "0,1,3")
        assert ranks.read(3 * PASSES) == 3 * straight
        ranks.kill()
    for (world, workers), (other_world, more), at in (((2, "3"), (1, "1"), 5), ((1, "0"), (4, "3"), 8)):
        ranks = Ranks(folder, world, workers)
        before = ranks.read(at)
        ranks.kill()
        resumed = Ranks(folder, other_world, more, first=at)
        assert before + resumed.read(PASSES - at) == straight
        resumed.kill()
