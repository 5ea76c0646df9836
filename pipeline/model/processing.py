"""The processor: raw data to batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import BatchFeature, ProcessorMixin

from modalities.base import from_json
from pipeline.model.batch import pack


class SensoriumProcessor(ProcessorMixin):
    """Turns raw data into a batch: `model(**processor(smiles=["CCO"], image=[path]))`.

    Each argument is a list with one item per sample, None if the sample lacks the modality. An image is a path, encoded
    bytes, a Pillow image or an array `(H, W)` or `(H, W, bands)`. A table row is a dict. Sound is a path, bytes or
    `(samples, sample_rate_hz)`. A signal is a dict of samples, sample_rate_hz, unit and channels. Others are strings.
    """

    attributes: list[str] = []  # noqa: RUF012  (the base class's form)

    def __init__(self, modalities: Mapping[str, Mapping[str, Any]] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.modalities = dict(modalities or {})
        self._fitted = {name: from_json(dict(state)) for name, state in self.modalities.items()}

    def to_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The state that `from_pretrained` reads."""
        return {"processor_class": type(self).__name__, "modalities": self.modalities}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> SensoriumProcessor:
        """The processor of an exported folder or Hub repository."""
        state, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        return cls(modalities=state["modalities"])

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **_: Any) -> list[str]:
        """Write `processor_config.json`."""
        path = Path(save_directory) / "processor_config.json"
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        path.write_text(json.dumps({**self.to_dict(), "auto_map": {"AutoProcessor": name}}, indent=1))
        return [str(path)]

    def __call__(self, **raw: Sequence[Any] | None) -> BatchFeature:
        """A batch of N samples.

        raw: list of N items by modality.

        Raises:
            ValueError: an unknown modality, lists of different lengths, or an item that cannot be used.
        """
        items_by_name = {name: items for name, items in raw.items() if items is not None}
        if unknown := set(items_by_name) - set(self._fitted):
            raise ValueError(f"unknown modality {sorted(unknown)[0]!r}; the model has {', '.join(self._fitted)}")
        lengths = {name: len(items) for name, items in items_by_name.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"every modality needs one item per sample, but their numbers are {lengths}")
        samples = [
            {
                name: self._fitted[name].tokenize(self._fitted[name].parse(items[i]))
                for name, items in items_by_name.items()
                if items[i] is not None
            }
            for i in range(next(iter(lengths.values())))
        ]
        widths = {name: modality.widths for name, modality in self._fitted.items()}
        return BatchFeature({"batch": pack(samples, widths)})
