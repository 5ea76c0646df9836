"""Fit a recipe's modalities on training samples: vocabularies, means, standard deviations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modalities.base import Modality
from modalities.files.reading import ContentError
from pipeline.data.loader import KeptSamples
from pipeline.recipe.schema import Recipe
from shards.read import Split


def fit_modalities(
    recipe: Recipe, sets: Sequence[Split], pretrained: Mapping[str, Modality] | None = None
) -> dict[str, Modality]:
    """Fit the recipe's modalities on at most `data.fit_samples` training samples, spread over all shards.

    pretrained: modalities of the model that training starts from. Those that the recipe configures in the same way, and
    that find content in these samples, keep their fitted state, because the pretrained embeddings and heads index it.
    """
    samples = _sampled(sets, recipe.data.fit_samples, recipe.train.seed)
    return {
        name: _fit(modality, partial(_raw_items, samples, name), (pretrained or {}).get(name))
        for name, modality in recipe.modalities.items()
    }


def _sampled(sets: Sequence[Split], count: int, seed: int) -> list[tuple[Split, int, int]]:
    """At most `count` samples as (split, shard, number), drawn without replacement, in the order of the shards."""
    samples = KeptSamples(sets)
    if len(samples) <= count:
        return [samples.locate(i) for i in range(len(samples))]
    indices = np.random.default_rng(seed).choice(len(samples), count, replace=False)
    return [samples.locate(i) for i in np.sort(indices)]


def _raw_items(samples: Sequence[tuple[Split, int, int]], name: str, modality: Modality) -> Iterator[Any]:
    """Decoded items of one modality; items that cannot be used are counted when training meets them."""
    for split, shard, number in samples:
        members = split.read(shard, number)
        if name in members:
            try:
                yield modality.decode(members[name])
            except ContentError:
                continue


def _fit(modality: Modality, raw_items: Any, pretrained: Modality | None) -> Modality:
    """The modality fitted on `raw_items(modality)`, or the pretrained one under the recipe's masks if it serves."""
    if pretrained is not None and configured_state(pretrained) == configured_state(modality):
        pretrained = dataclasses.replace(pretrained, mask=modality.mask)
        if any(pretrained.has_content(raw) for raw in raw_items(pretrained)):
            return pretrained
    return modality.fit(raw_items(modality))


def fitted_state(modality: Modality) -> dict[str, Any]:
    """A modality's type and the fields that fitting sets."""
    return _state(modality, fitted=True)


def configured_state(modality: Modality) -> dict[str, Any]:
    """A modality's type and the fields that a recipe sets, except masks."""
    return _state(modality, fitted=False)


def _state(modality: Modality, fitted: bool) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(modality) if bool(f.metadata.get("fitted")) is fitted} - {"mask"}
    return {"type": modality.type, **{name: getattr(modality, name) for name in names}}
