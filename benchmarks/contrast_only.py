"""Does one shared transformer with masked modeling retrieve as well as three separate towers with contrast alone?

Trains the recipe `molecules`, then three separate towers (transformer, CNN, MLP; CLIP loss over all three pairs, no
masking, data in memory) for the same number of seconds, and prints recall at 10 of both on the same gallery.

    python benchmarks/contrast_only.py --shards runs/demo/shards
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import Modality
from modalities.image import Image
from pipeline.commands.evaluate import evaluate
from pipeline.commands.pretrain import pretrain
from pipeline.data.loader import tokenize
from pipeline.evaluation.gallery import by_key_hash
from pipeline.evaluation.measures import retrieval
from pipeline.machine import keep_freed_memory
from pipeline.run import Run
from shards.read import Split

WIDTH = 128
LENGTH = 96


class SmilesTower(nn.Module):
    def __init__(self, num_ids: int):
        super().__init__()
        self.embedding = nn.Embedding(num_ids, WIDTH, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids[:, : int((ids != 0).sum(1).max())]
        padding = ids == 0
        x = self.blocks(self.embedding(ids) + self.positions[: ids.shape[1]], src_key_padding_mask=padding)
        keep = (~padding).unsqueeze(2)
        return self.out((x * keep).sum(1) / keep.sum(1))


class ImageTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((1, 16, 32, 64, WIDTH)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(pixels).mean((2, 3)))


class Towers(nn.Module):
    """Three towers and a learned temperature, about 0.9 million parameters with descriptors of a few dozen columns."""

    def __init__(self, num_ids: int, columns: int):
        super().__init__()
        self.towers = nn.ModuleDict(
            {
                "smiles": SmilesTower(num_ids),
                "image": ImageTower(),
                "table": nn.Sequential(
                    nn.Linear(columns, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, WIDTH)
                ),
            }
        )
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07)))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: F.normalize(tower(batch[name]), dim=1) for name, tower in self.towers.items()}


def arrays(split: Split, locations: list[tuple[int, int]], modalities: dict[str, Modality]) -> dict[str, torch.Tensor]:
    """Padded ids, complete images and table rows of a split, from the same fitted modalities."""
    smiles = np.zeros((len(locations), LENGTH), np.int64)
    images, rows = [], []
    drawing = modalities["image"]
    assert isinstance(drawing, Image)
    for i, location in enumerate(locations):
        tokens = tokenize(split.read(*location), modalities)
        ids = tokens["smiles"].ids[:LENGTH, 0]
        smiles[i, : len(ids)] = ids
        side, grid = drawing.patch, drawing.size // drawing.patch
        background = (drawing.background - drawing.mean[0]) / drawing.std[0] if drawing.background is not None else 0.0
        image = np.full((grid, grid, side, side), background, np.float32)
        row, column = tokens["image"].coords.astype(int).T
        image[row, column] = tokens["image"].values.reshape(-1, side, side)
        images.append(image.transpose(0, 2, 1, 3).reshape(1, grid * side, grid * side))
        rows.append(tokens["table"].values[:, 0])
    return {
        "smiles": torch.from_numpy(smiles),
        "image": torch.from_numpy(np.stack(images)),
        "table": torch.from_numpy(np.stack(rows)),
    }


def train_towers(split: Split, modalities: dict[str, Modality], seconds: float, batch_size: int) -> tuple[Towers, int]:
    """Train the towers for `seconds`; returns the model and the number of training samples."""
    torch.manual_seed(0)
    keep_freed_memory()
    data = arrays(split, [(shard, n) for _, _, shard, n in split.locations()], modalities)
    model = Towers(modalities["smiles"].num_ids, data["table"].shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    count, samples = len(data["smiles"]), 0
    generator = torch.Generator().manual_seed(0)
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 2 * (1 - passed / seconds))
        indices = torch.randint(count, (batch_size,), generator=generator)
        embeddings = model({name: values[indices] for name, values in data.items()})
        scale = model.log_scale.exp().clamp(1, 100)
        answers = torch.arange(batch_size)
        loss = torch.zeros(())
        for a, b in itertools.combinations(embeddings, 2):
            logits = scale * embeddings[a] @ embeddings[b].T
            loss = loss + (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        samples += batch_size
    return model.eval(), samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, default=Path("runs/demo/shards"))
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, help="train the towers alone, for this long")
    parser.add_argument("--run", type=Path, help="a finished run to compare with, with --seconds")
    arguments = parser.parse_args()
    if (arguments.run is None) != (arguments.seconds is None):
        parser.error("--run and --seconds go together")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.run is None:
            started = time.perf_counter()
            overrides = [f"data.shards=[{{path: {json.dumps(str(arguments.shards))}}}]"]
            run = Path(pretrain("molecules", overrides, folder + "/run"))
            seconds = time.perf_counter() - started
        else:
            run, seconds = arguments.run, arguments.seconds
        ours = evaluate(run, arguments.shards, split=arguments.split).retrieval
        finished = Run(run)
        recipe, modalities = finished.recipe(), finished.modalities()
        assert modalities is not None
        our_samples = recipe.train.steps * recipe.train.batch_size
        parameters = sum(p.numel() for p in finished.load_model().parameters())
        model, samples = train_towers(Split(arguments.shards, "train"), modalities, seconds, arguments.batch_size)
    unseen = Split(arguments.shards, arguments.split)
    gallery = by_key_hash(unseen)[: recipe.evaluate.gallery]
    with torch.inference_mode():
        embeddings = {k: v.numpy() for k, v in model(arrays(unseen, gallery, modalities)).items()}
    theirs = retrieval(embeddings, {name: np.ones(len(gallery), bool) for name in embeddings})
    print(
        json.dumps(
            {
                "gallery": len(gallery),
                "seconds": round(seconds, 1),
                "ours": {
                    "parameters": parameters,
                    "samples": our_samples,
                    "r10": {k: round(v["r10"], 4) for k, v in ours.items()},
                },
                "peer": {
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "samples": samples,
                    "r10": {k: round(v["r10"], 4) for k, v in theirs.items()},
                },
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
