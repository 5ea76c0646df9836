"""The model and its objectives as one module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn

from modalities.base import Modality
from pipeline.model.batch import Batch
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.objectives.base import Objective, Term
from pipeline.recipe.schema import Recipe
from pipeline.training.warm_start import copy_matching_weights
from shards.files import atomic_folder


class Pretraining(nn.Module):
    """The model and its objectives as one module, so that both train alike under every ZeRO stage.

    weights: factor of each objective in the loss, by name.
    """

    def __init__(self, model: SensoriumModel, objectives: Mapping[str, Objective], weights: Mapping[str, float]):
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.weights = dict(weights)
        self.views = tuple(dict.fromkeys(view for objective in objectives.values() for view in objective.views))
        self.decodes = any(objective.decodes for objective in objectives.values())

    def named_objectives(self) -> list[tuple[str, Objective]]:
        """The objectives and their names, in the recipe's order."""
        return [(name, cast(Objective, objective)) for name, objective in self.objectives.items()]

    def count(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Number of summands of every term, named `objective/term`."""
        return {
            f"{name}/{term}": count
            for name, objective in self.named_objectives()
            for term, count in objective.count(batch).items()
        }

    def forward(self, batch: Batch) -> dict[str, Term]:
        """Terms of the loss, named `objective/term`; each distinct encoding is computed once."""
        encodings = self.model(batch, views=self.views, decode=self.decodes)
        device = next(iter(batch.packs.values())).values.device.type
        with torch.autocast(device, enabled=False):  # losses stay in float32
            return {
                f"{name}/{term}": value
                for name, objective in self.named_objectives()
                for term, value in objective(encodings, batch).items()
            }


def build_model(recipe: Recipe, modalities: Mapping[str, Modality]) -> SensoriumModel:
    """The recipe's model for fitted modalities, initialized from the global random state."""
    sizes = recipe.model
    return SensoriumModel(
        SensoriumConfig(
            modalities={name: modality.to_json() for name, modality in modalities.items()},
            dim=sizes.dim,
            depth=sizes.depth,
            heads=sizes.heads,
            mlp_ratio=sizes.mlp_ratio,
            embedding=sizes.embedding,
            fusion_depth=sizes.fusion_depth,
            decoder_dim=sizes.decoder.dim,
            decoder_depth=sizes.decoder.depth,
            decoder_heads=sizes.decoder.heads,
        )
    )


def build_module(recipe: Recipe, modalities: Mapping[str, Modality]) -> Pretraining:
    """The module to train, initialized from the global random state and, if the recipe has `init`, from its weights.

    Raises:
        OSError, ValueError: as `copy_matching_weights`.
    """
    model = build_model(recipe, modalities)
    if recipe.init is not None:
        copy_matching_weights(model, recipe.init)
    objectives = {name: objective.build(modalities, recipe.model.dim) for name, objective in recipe.objectives.items()}
    return Pretraining(model, objectives, {name: objective.weight for name, objective in recipe.objectives.items()})


def save_model(
    folder: Path, parameters: Mapping[str, torch.Tensor], recipe: Recipe, modalities: Mapping[str, Modality]
) -> None:
    """Write the model alone, in the form that `from_pretrained` loads.

    parameters: of the whole module, by name.

    Raises:
        OSError: the disk is full; a model that was there before stays.
    """
    model = build_model(recipe, modalities)
    prefix = "model."
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
    )
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
