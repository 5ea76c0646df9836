"""Weights of models that earlier versions saved: they are loaded under the names that parameters have now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.model.modeling import SensoriumModel

RENAMED = {
    r"^entries\.([^.]+\.[^.]+)\.place\.": r"input_embeddings.\1.position.",
    r"^entries\.([^.]+\.[^.]+)\.band\.": r"input_embeddings.\1.channel.",
    r"^entries\.([^.]+)\.kind$": r"input_embeddings.\1.type_embedding",
    r"^entries\.([^.]+)\.hidden$": r"input_embeddings.\1.mask_token",
    r"^entries\.": "input_embeddings.",
    r"^decoder\.dropped$": "decoder.drop_token",
    r"^decoder\.place\.": "decoder.position.",
}
"""Patterns of former parameter names of `SensoriumModel` and their replacements; the first pattern that matches counts.
Renaming a parameter adds a row here. Transformers replaces `\\1` alone, so a pattern has at most one group."""


def current_name(name: str) -> str:
    """The present name of a parameter of `SensoriumModel`, given its present or former name."""
    for pattern, replacement in RENAMED.items():
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def load_pretrained(source: str | Path, **options: Any) -> SensoriumModel:
    """The model in a folder or on the Hub, also one that an earlier version saved.

    options: passed on to `from_pretrained`.

    Raises:
        OSError: there is no model.
        SafetensorError: its file is broken.
    """
    model = SensoriumModel.from_pretrained(source, key_mapping=RENAMED, **options)
    model._weight_conversions = None  # else `save_pretrained` would restore the former names
    return model
