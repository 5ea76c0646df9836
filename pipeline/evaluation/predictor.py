"""A model with a linear head for one label, and its fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.tokens import Tokens
from pipeline.data.labelled import Labelled
from pipeline.data.task import Task
from pipeline.model.modeling import SensoriumModel

Mode = Literal["full", "linear", "lora"]
Features = Literal["pooled", "layers"]
LORA_LAYERS = r"model\.(trunk|fusion|decoder\.blocks)\.blocks\.\d+\.(attention\.qkv|attention\.out|mlp\.0|mlp\.2)"
"""Layers that LoRA adapts, by their full names in a `Predictor`."""
BATCH_SIZE = 64
"""Samples of a forward pass without gradient."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of fine-tuning: a ridge probe on frozen features, then gradient steps (LP-FT, Kumar et al. 2022).

    mode: weights to update: all (full), the head (linear), or adapters and the head (lora).
    features: input of the head: pooled tokens of the last layer or of every layer, because a task may need the
        features of earlier layers (Peters et al. 2018).
    pretrained_share: share of the pretrained weights in their average with the fine-tuned ones; the average
        generalizes better to unseen groups (WiSE-FT, Wortsman et al. 2022). 0 from scratch.
    labels: number of training labels to use, all by default.
    test: share of samples in the test set, divided by group.
    """

    mode: Mode = "full"
    features: Features = "layers"
    pretrained_share: float = 0.5
    labels: int | None = None
    test: float = 0.3
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels < 2:
            raise ValueError(f"--labels is {self.labels}: a task needs at least 2")
        if not 0 < self.test < 1:
            raise ValueError(f"--test is {self.test:g}: the share of test samples must be between 0 and 1")


class Predictor(nn.Module):
    """A model and a linear head on features of some of its modalities."""

    def __init__(self, model: SensoriumModel, modalities: tuple[str, ...], outputs: int, features: Features):
        super().__init__()
        self.model = model
        self.names = modalities
        self.read: Features = features
        self.head = nn.Linear(model.features_width(modalities, features == "layers"), outputs)

    def features(self, samples: Sequence[dict[str, Tokens]]) -> torch.Tensor:
        """Features `(B, F)`, see `SensoriumModel.features`."""
        return self.model.features(self.model.pack(samples), self.names, self.read == "layers")

    def forward(self, samples: Sequence[dict[str, Tokens]]) -> torch.Tensor:
        """Outputs of the head `(B, outputs)`."""
        return self.head(self.features(samples))

    @torch.inference_mode()
    def predict(self, samples: Sequence[dict[str, Tokens]]) -> np.ndarray:
        """Standardized numbers `(B,)` or probabilities `(B, classes)`."""
        output = self(samples)
        return (output[:, 0] if output.shape[1] == 1 else output.softmax(1)).float().numpy()


def predict(predictor: Predictor, samples: Labelled, indices: Sequence[int]) -> np.ndarray:
    """Standardized numbers `(N,)` or probabilities `(N, classes)` of the samples at `indices`."""
    predictor.eval()
    return np.concatenate([predictor.predict(_tokens(samples, part)) for part in _batches(indices, BATCH_SIZE)])


def fit(
    predictor: Predictor, samples: Labelled, train: Sequence[int], task: Task, settings: Settings, seed: int
) -> None:
    """Fit the head by ridge regression on frozen features, then all weights by AdamW unless the mode is linear."""
    rng = np.random.default_rng([seed, 2])
    targets = torch.from_numpy(task.encode([samples.labels[i] for i in train]))
    with torch.no_grad():
        parts = [predictor.features(_tokens(samples, part)) for part in _batches(train, BATCH_SIZE)]
        _fit_ridge(predictor.head, torch.cat(parts).double(), targets, task)
    if settings.mode == "linear":
        return
    initial = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    trained: Any = with_lora(predictor) if settings.mode == "lora" else predictor
    _train(trained, samples, train, targets, task, settings, rng)
    if settings.mode == "lora":
        predictor.load_state_dict(trained.merge_and_unload().state_dict())
    with torch.no_grad():  # after the merge, because the mean of weights is not that of their low-rank factors
        for name, parameter in predictor.named_parameters():
            parameter.lerp_(initial[name], settings.pretrained_share)
    predictor.eval()


def _train(
    trained: Any,
    samples: Labelled,
    train: Sequence[int],
    targets: torch.Tensor,
    task: Task,
    settings: Settings,
    rng: np.random.Generator,
) -> None:
    """Train by AdamW with one cycle of the learning rate."""
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    warmup = 0.1 if steps != 10 else 0.0  # OneCycleLR divides by zero if its warm-up is exactly one step
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=warmup
    )
    trained.train()
    for _ in range(settings.epochs):
        for part in _batches(rng.permutation(len(train)).tolist(), settings.batch_size):
            output = trained(_tokens(samples, [train[i] for i in part]))
            loss = (
                F.cross_entropy(output, targets[part])
                if task.kind == "classification"
                else F.mse_loss(output[:, 0], targets[part])
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def with_lora(predictor: Predictor) -> Any:
    """The predictor with adapters (LoRA, Hu et al. 2022) on linear layers of the blocks; only they and the head train.

    The head is unfrozen here and not by `modules_to_save`, because peft matches its names by their ends: `head` would
    also train the embedding, the projection and the decoder head of a modality named `forehead`.
    """
    from peft import LoraConfig, get_peft_model

    trained = get_peft_model(predictor, LoraConfig(r=8, target_modules=LORA_LAYERS))
    predictor.head.requires_grad_(True)
    return trained


def _tokens(samples: Labelled, indices: Sequence[int]) -> list[dict[str, Tokens]]:
    return [samples.tokens(i) for i in indices]


def _batches(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def _fit_ridge(head: nn.Linear, x: torch.Tensor, targets: torch.Tensor, task: Task) -> None:
    """Set a linear head to the ridge solution on standardized features `(N, F)`; the targets of classes are +-1."""
    from sklearn.linear_model import RidgeCV

    mean, std = x.mean(0), x.std(0) + 1e-6
    y = targets.double().numpy()
    if task.kind == "classification":
        y = np.where(np.eye(task.outputs)[targets.numpy()] > 0, 1.0, -1.0)
    ridge = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(((x - mean) / std).numpy(), y)
    weight = torch.from_numpy(np.atleast_2d(ridge.coef_)) / std
    bias = torch.from_numpy(np.atleast_1d(ridge.intercept_)) - weight @ mean
    head.weight.copy_(weight.float())
    head.bias.copy_(bias.float())
