"""Start training from the weights of another run or a model on the Hub: a recipe's `init`."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors import SafetensorError

from pipeline.data.fit import fitted_state
from pipeline.model.modeling import SensoriumModel
from pipeline.run import load_model


def load_source(source: str) -> SensoriumModel:
    """The model of a run, a folder or the Hub.

    Raises:
        OSError: there is no model.
        ValueError: its file is broken.
    """
    folder = Path(source) / "model"
    try:
        return load_model(folder if folder.is_dir() else source)
    except SafetensorError as error:
        raise ValueError(f"init: the model in {source} is broken ({error})") from error


def copy_matching_weights(model: SensoriumModel, source: str) -> None:
    """Copy the weights of a run or Hub model whose names and shapes match; all others keep their initialization.

    Input embeddings and heads of a modality whose fitted state differs are not copied: their rows mean other things.

    Raises:
        OSError: there is no model.
        ValueError: its file is broken, or nothing matches.
    """
    other = load_source(source)
    common = [name for name in model.modalities if name in other.modalities]
    refitted = [n for n in common if fitted_state(other.modalities[n]) != fitted_state(model.modalities[n])]
    excluded = tuple(part for name in refitted for part in (f"input_embeddings.{name}.", f"decoder.heads.{name}."))
    weights = model.state_dict()
    matching = {
        name: value
        for name, value in other.state_dict().items()
        if name in weights and weights[name].shape == value.shape and not name.startswith(excluded)
    }
    if not matching:
        raise ValueError(f"init: no weights in {source} match this model")
    model.load_state_dict(matching, strict=False)
    message = f"took {len(matching)} of {len(weights)} tensors from {source}"
    if unchanged := [name for name in common if name not in refitted]:
        message += f", {', '.join(unchanged)} as fitted there"
    if refitted:
        message += (
            f", but not the input embeddings and heads of {', '.join(refitted)}, because the data here differ and they "
            "were fitted again"
        )
    print(message, file=sys.stderr)
