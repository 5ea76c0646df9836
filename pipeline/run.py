"""The run directory: recipe, fitted modalities, checkpoints, metrics, model and results of one training."""

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
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.model.weights import load_pretrained
from pipeline.recipe.load import load
from pipeline.recipe.schema import Recipe
from pipeline.recipe.upgrade import upgrade_modalities, upgrade_recipe, upgrade_results, upgrade_task
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
"""Recipe keys that may change when a run resumes."""
SKIPPED, VERSIONS = "skipped.jsonl", "versions.json"


class Run:
    """A run directory; `folder` need not exist yet."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def existing(cls, folder: Path) -> Run:
        """A run that has a model.

        Raises:
            ValueError: the folder is not a run, or has no model yet.
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
        """The run's resolved recipe, also if an earlier version of sensorium wrote it.

        Raises:
            ValueError: this version cannot read it.
        """
        state = yaml.safe_load((self.folder / "recipe.yaml").read_text())
        try:
            return load(upgrade_recipe(state))
        except ValueError as error:
            raise ValueError(
                f"an earlier version of sensorium made the run {self.folder}, and this one cannot read its recipe.yaml "
                f"({error}): use it with that version, or pretrain again"
            ) from error

    def claim(self, recipe: Recipe) -> None:
        """Write the resolved recipe, or check that the one already there is the same.

        Raises:
            ValueError: the directory belongs to another recipe, and the message names the first key that differs; or to
                a run that has done more steps.
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
        """The fitted modalities, None before they are fitted.

        Raises:
            ValueError: an earlier version of sensorium wrote them, and this one cannot read them.
        """
        path = self.folder / "modalities.json"
        if not path.is_file():
            return None
        return {name: from_json(state) for name, state in upgrade_modalities(json.loads(path.read_text())).items()}

    def save_modalities(self, modalities: Mapping[str, Modality]) -> None:
        """Write the fitted modalities."""
        write_json(self.folder / "modalities.json", {name: m.to_json() for name, m in modalities.items()})

    def load_model(self) -> SensoriumModel:
        """The model in float32, for inference or fine-tuning.

        Raises:
            ValueError: its file is broken.
        """
        try:
            return load_model(self.model, dtype=torch.float32).eval()
        except SafetensorError as error:
            raise ValueError(f"{self.model} is broken ({error}): run `sensorium pretrain` again to write it") from error

    def untrained_model(self) -> SensoriumModel:
        """A model of the same configuration, initialized from the global random state."""
        return SensoriumModel(load_config(self.model))

    def checkpoints(self) -> list[Path]:
        """The folders of all complete checkpoints, oldest first."""
        folders = (self.folder / "checkpoints").glob("step-*")
        return sorted((folder for folder in folders if folder.suffix != TEMPORARY_SUFFIX), key=_step)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after a number of steps."""
        return self.folder / "checkpoints" / f"step-{step}"

    def result(self) -> dict[str, Any]:
        """The results so far, by command, also if an earlier version of sensorium wrote them."""
        path = self.folder / "result.json"
        return upgrade_results(json.loads(path.read_text())) if path.is_file() else {}

    def add_result(self, **results: Any) -> None:
        """Add results to `result.json`, by command."""
        write_json(self.folder / "result.json", {**self.result(), **results})

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`; if a run resumed from an earlier step, the later row of a step counts."""
        rows = self._rows("metrics.jsonl")
        return list({(row["step"], row.get("split", "train")): row for row in rows}.values())

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append a row to `metrics.jsonl`; numbers that are not finite, which JSON has not, become null."""
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._add_rows("metrics.jsonl", [row])

    def skipped(self) -> list[dict[str, Any]]:
        """Rows of `skipped.jsonl`: step, shard, key, reason and time of samples that training could not use."""
        rows = self._rows(SKIPPED)
        return list({(row["step"], row["shard"], row["key"], row["time"]): row for row in rows}.values())

    def add_skipped(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append all rows of a step to `skipped.jsonl`; `time` counts earlier rows of the same sample in the step."""
        times = Counter[tuple[str, str]]()
        counted_rows = []
        for row in rows:
            sample = row["shard"], row["key"]
            counted_rows.append({**row, "time": times[sample]})
            times[sample] += 1
        self._add_rows(SKIPPED, counted_rows)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]  # a killed run may leave half a line

    def _add_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows on lines of their own, also after half a line."""
        with (self.folder / name).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            complete = file.read(1) in (b"", b"\n")
            file.write((b"" if complete else b"\n") + b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def versions(self) -> dict[str, str]:
        """Versions of the parsers that shaped the training data; empty if an earlier version of sensorium trained."""
        path = self.folder / VERSIONS
        return json.loads(path.read_text()) if path.is_file() else {}

    def save_versions(self, manifests: Iterable[Manifest], modalities: Mapping[str, Modality]) -> None:
        """Write the versions of the parsers that made the shards; installed ones if a manifest has none."""
        installed, versions = installed_versions(required_packages(modalities)), dict[str, str]()
        for manifest in manifests:
            versions |= manifest.versions or relevant_versions(installed, manifest.fields)
        write_json(self.folder / VERSIONS, versions)

    def compare_versions(self, data: str | Path, *versions: Mapping[str, str]) -> None:
        """Warn in one line on standard error if other versions of parsers read `data` than the training data."""
        training = self.versions()
        if rows := sorted({row for other in versions for row in version_differences(other, training)}):
            packages = ", ".join(f"{name} {version}, not {trained}" for name, version, trained in rows)
            print(
                f"warning: {data} is read with other versions of packages than the training data of {self.folder}: "
                f"{packages}",
                file=sys.stderr,
            )

    def trained_on(self) -> set[str]:
        """Hashes of the groups and contents that the run trained on."""
        path = self.folder / "trained_on.json"
        return set(json.loads(path.read_text())) if path.is_file() else set()

    def save_trained_on(self, hashes: Iterable[str]) -> None:
        """Write the hashes of the groups and contents that the run trains on."""
        write_json(self.folder / "trained_on.json", sorted(hashes))


def _step(checkpoint: Path) -> int:
    """The number of steps before a checkpoint, from its folder's name."""
    return int(checkpoint.name.removeprefix("step-"))


def flatten(state: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    if not isinstance(state, dict) or not state:
        return {path: state}
    return {
        key: value
        for name, nested in state.items()
        for key, value in flatten(nested, f"{path}.{name}" if path else str(name)).items()
    }


def load_config(source: str | Path) -> SensoriumConfig:
    """The configuration of a model in a folder or on the Hub, also if an earlier version of sensorium saved it.

    Raises:
        OSError: there is no model.
        ValueError: its modalities have a key that no longer exists.
    """
    config = SensoriumConfig.from_pretrained(source)
    config.modalities = upgrade_modalities(config.modalities)
    config.head = config.head and upgrade_task(config.head)
    return config


def load_model(source: str | Path, **options: Any) -> SensoriumModel:
    """The model in a folder or on the Hub, also if an earlier version of sensorium saved it.

    options: passed on to `from_pretrained`.

    Raises:
        OSError: there is no model.
        SafetensorError: its file is broken.
        ValueError: its modalities have a key that no longer exists.
    """
    return load_pretrained(source, config=load_config(source), **options)
