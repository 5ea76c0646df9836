"""The run directory: what a run is, where it stands, what it found."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from modalities.base import Modality, from_json
from pipeline.machine import environment
from pipeline.model.modeling import SensoriumModel
from pipeline.model.weights import load_pretrained
from pipeline.recipe.load import load
from pipeline.recipe.renamed import RenamedKeyError
from pipeline.recipe.schema import Recipe
from shards.files import TEMPORARY_SUFFIX, write_json, write_text
from shards.manifest import Manifest
from shards.versions import installed_versions, relevant_versions, required_packages, version_differences

RESUMABLE = {
    "train.steps",
    "train.workers",
    "train.zero",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.trackers",
    "train.max_nonfinite_steps",
    "evaluate.gallery",
    "evaluate.probe",
    "evaluate.probe_samples",
    "data.samples_per_shard",
    "data.verify",
    "data.max_skipped",
    "data.cache.folder",
    "data.cache.size_gib",
    "data.cache.timeout_s",
    "data.cache.give_up_s",
}
"""Keys that may change when a run goes on."""
SKIPPED, VERSIONS = "skipped.jsonl", "versions.json"


class Run:
    """A run directory."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def existing(cls, folder: Path) -> Run:
        """A run that has a model.

        Raises:
            ValueError: there is none.
        """
        run = cls(folder)
        if not (run.folder / "recipe.yaml").is_file():
            raise ValueError(f"{folder} is not a run directory: it has no recipe.yaml")
        if not (run.model / "model.safetensors").is_file():
            raise ValueError(f"{folder} has no model yet: let pretraining finish first")
        return run

    @property
    def model(self) -> Path:
        """The folder that `from_pretrained` loads."""
        return self.folder / "model"

    @property
    def fine_tuned(self) -> bool:
        """Whether the model has a head, which `finetune` wrote."""
        return (self.folder / "head.json").is_file()

    def recipe(self) -> Recipe:
        """The run's resolved recipe.

        Raises:
            ValueError: an earlier version of sensorium wrote it, with other keys.
        """
        try:
            return load(yaml.safe_load((self.folder / "recipe.yaml").read_text()))
        except RenamedKeyError as error:
            raise ValueError(
                f"an earlier version of sensorium made the run {self.folder} (in its recipe.yaml {error}): "
                "use it with that version, or pretrain again"
            ) from error

    def claim(self, recipe: Recipe) -> None:
        """Write the resolved recipe, or check that the one already there is the same.

        Raises:
            ValueError: the directory belongs to another recipe, whose first key that differs the message names, or to a
                run that has done more steps.
        """
        path = self.folder / "recipe.yaml"
        if path.is_file():
            old, new = flatten(self.recipe().to_dict()), flatten(recipe.to_dict())
            for key in sorted(old.keys() | new.keys()):
                if key not in RESUMABLE and old.get(key) != new.get(key):
                    raise ValueError(
                        f"{self.folder} holds a run of another recipe ({key} is {old.get(key)!r} there, "
                        f"{new.get(key)!r} here): give another --out or remove it"
                    )
            if (done := max(map(_step, self.checkpoints()), default=0)) > recipe.train.steps:
                raise ValueError(
                    f"{self.folder} is at step {done:,}, beyond train.steps={recipe.train.steps}: ask for more steps "
                    "or give another --out"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and not a run: give another --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))
        write_json(self.folder / "environment.json", environment())

    def modalities(self) -> dict[str, Modality] | None:
        """The fitted modalities, None before they are fitted."""
        path = self.folder / "modalities.json"
        if not path.is_file():
            return None
        return {name: from_json(state) for name, state in json.loads(path.read_text()).items()}

    def save_modalities(self, modalities: dict[str, Modality]) -> None:
        """Keep the fitted modalities."""
        write_json(self.folder / "modalities.json", {name: m.to_json() for name, m in modalities.items()})

    def load_model(self) -> SensoriumModel:
        """The pretrained model, in float32, for use.

        Raises:
            ValueError: its file is broken.
        """
        try:
            model = load_pretrained(self.model, dtype=torch.float32)
        except SafetensorError as error:
            raise ValueError(f"{self.model} is broken ({error}): run `sensorium pretrain` again to write it") from error
        return model.eval()

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = (p for p in (self.folder / "checkpoints").glob("step-*") if p.suffix != TEMPORARY_SUFFIX)
        return sorted(found, key=_step)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after a number of steps."""
        return self.folder / "checkpoints" / f"step-{step}"

    def result(self) -> dict[str, Any]:
        """The figures so far, one key a verb."""
        path = self.folder / "result.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def add_result(self, **figures: Any) -> None:
        """Add figures to `result.json`, replacing it at once."""
        write_json(self.folder / "result.json", {**self.result(), **figures})

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`; where a run went back to a checkpoint the later row of a step counts."""
        rows = self._rows("metrics.jsonl")
        return list({(row["step"], row.get("split", "train")): row for row in rows}.values())

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Add a row to `metrics.jsonl`, on a line of its own whatever stands there; JSON has no nan, so it is null."""
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._add_rows("metrics.jsonl", [row])

    def skipped(self) -> list[dict[str, Any]]:
        """Samples that training could not use: step, shard, key, reason and time, each step of the run once."""
        rows = self._rows(SKIPPED)
        return list({(row["step"], row["shard"], row["key"], row["time"]): row for row in rows}.values())

    def add_skipped(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add all rows of a step to `skipped.jsonl`; `time` is how often the sample came in that step before."""
        times = Counter[tuple[str, str]]()
        told = []
        for row in rows:
            sample = row["shard"], row["key"]
            told.append({**row, "time": times[sample]})
            times[sample] += 1
        self._add_rows(SKIPPED, told)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]  # a kill may leave half a line

    def _add_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        with (self.folder / name).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            whole = file.read(1) in (b"", b"\n")
            file.write((b"" if whole else b"\n") + b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def versions(self) -> dict[str, str]:
        """Versions of the parsers that shaped the training data; empty for runs of before."""
        path = self.folder / VERSIONS
        return json.loads(path.read_text()) if path.is_file() else {}

    def save_versions(self, manifests: Iterable[Manifest], modalities: Mapping[str, Modality]) -> None:
        """Keep the versions of what made the shards and, where these do not say, of what reads them here."""
        here, versions = installed_versions(required_packages(modalities)), dict[str, str]()
        for manifest in manifests:
            versions |= manifest.versions or relevant_versions(here, manifest.fields)
        write_json(self.folder / VERSIONS, versions)

    def compare_versions(self, data: str | Path, *versions: Mapping[str, str]) -> None:
        """Warn in one line on standard error where data is read by other versions of parsers than the training data."""
        own = self.versions()
        if rows := sorted({row for each in versions for row in version_differences(each, own)}):
            packages = ", ".join(f"{name} {version}, not {trained}" for name, version, trained in rows)
            print(
                f"warning: {data} is read with other versions than what {self.folder} trained on: {packages}",
                file=sys.stderr,
            )

    def trained_on(self) -> set[str]:
        """Hashes of the groups and contents the run trained on."""
        path = self.folder / "trained_on.json"
        return set(json.loads(path.read_text())) if path.is_file() else set()

    def save_trained_on(self, hashes: Iterable[str]) -> None:
        """Keep the hashes of what the run trains on."""
        write_json(self.folder / "trained_on.json", sorted(hashes))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def flatten(state: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(state, dict) or not state:
        return {path: state}
    return {
        key: value
        for name, nested in state.items()
        for key, value in flatten(nested, f"{path}.{name}" if path else str(name)).items()
    }
