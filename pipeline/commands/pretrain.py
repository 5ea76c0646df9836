"""Pretraining: a recipe in, a run directory out; goes on where the run stands."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from tqdm import tqdm

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.table import Table
from modalities.tokens import UNKNOWN
from pipeline.data.loader import Cursor, KeptSamples, TrainingBatches
from pipeline.data.mixture import fingerprint, keep, mixture
from pipeline.data.workers import prefetch
from pipeline.model.batch import Batch, Fault
from pipeline.model.configuration import SensoriumConfig
from pipeline.model.modeling import SensoriumModel
from pipeline.model.weights import load_pretrained
from pipeline.recipe.load import load
from pipeline.recipe.schema import Recipe
from pipeline.run import SKIPPED, Run, group_hash, joint_hash
from pipeline.training.engine import Engine, Pretraining, StepStats, learning_rate
from pipeline.training.launch import GracefulStop, accelerate, finish, on_main_process
from shards.files import atomic_folder
from shards.order import Mixture
from shards.read import Split
from shards.versions import installed_versions

JUDGED = 100
"""Samples from which on the share of those that cannot be used is judged; fewer count as so many."""


def pretrain(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), out: str | Path | None = None
) -> Path:
    """Pretrain a model; returns the run directory.

    recipe: file, name or mapping. overrides: `key.key=value`. out: run directory, `runs/NAME` by default; a run that
    stands there goes on exactly, also on another number of ranks.

    Raises:
        ValueError: a wrong recipe, wrong or missing shards, a directory of another run, or data that is mostly bad.
        SystemExit: SIGTERM or Ctrl-C came while training; a checkpoint was saved after the step under way.
    """
    checked = load(recipe, overrides)
    run = Run(Path(out) if out is not None else Path("runs") / checked.name)
    accelerator = accelerate(checked.train, run.folder)
    leads = accelerator.is_main_process
    fresh = checked if not run.checkpoints() else checked.model_copy(update={"init": None})
    on_main_process(accelerator, lambda: _prepare(fresh, checked, run))
    sets = open_sets(checked, "train", verify=False)
    fitted = run.modalities()
    assert fitted is not None
    torch.manual_seed(checked.train.seed)
    module = build(fresh, fitted)
    engine = Engine(module, checked.train, accelerator)
    order = mixture(checked, sets)
    cursor, faults = Cursor(), {}
    if run.checkpoints():
        state = engine.load(run.checkpoints()[-1])
        if state.get("order") != fingerprint(order, sets):
            raise ValueError(
                f"{run.folder} began on other samples or shares of sets (with epochs these depend on train.steps): "
                "restore shards, keep-lists and epochs, or give another --out"
            )
        cursor, faults = Cursor.from_json(state), state["faults"]
        if leads:
            print(f"going on from {run.checkpoints()[-1]}", file=sys.stderr)
    if leads:
        accelerator.init_trackers(checked.name, config={"recipe": json.dumps(checked.to_dict())})
    trainer = Trainer(checked, run, engine, sets, fitted, order, cursor, faults)
    if (sent := trainer.train()) is not None:
        finish(accelerator)
        if leads:
            print(f"{sent.name} at step {trainer.step:,}: the same command goes on from there", file=sys.stderr)
        sys.exit(128 + sent)
    save_model(run, engine, checked, fitted)
    if leads:
        run.add_result(pretrain={"skipped": trainer.faults})
    finish(accelerator)
    return run.folder


def _prepare(fresh: Recipe, checked: Recipe, run: Run) -> None:
    """What one rank does for all: check the data, claim the directory, fit the modalities."""
    sets = open_sets(checked, "train", verify=checked.data.verify)
    mixture(checked, sets)  # as is what follows, refused before anything is written
    started_from = pretrained(fresh.init).modalities if fresh.init is not None else {}
    run.claim(checked)
    if run.modalities() is None:
        for note in (f"{held.folder}: {note}" for held in sets for note in held.manifest.notes):
            print(note, file=sys.stderr)
        run.save_modalities(fit(checked, sets, started_from))
        run.save_trained_on(hashes(sets))
        run.save_versions([held.manifest for held in sets], checked.modalities)
    for held in sets:
        run.compare_versions(held.folder, held.manifest.versions, installed_versions(run.versions()))


def open_sets(recipe: Recipe, split: str, verify: bool) -> tuple[Split, ...]:
    """One split of all of a recipe's shard folders, without the samples that keep-lists leave out.

    Raises:
        ValueError: none given, one that is not whole, was split otherwise than the recipe says or has none of its
            modalities, a modality that no set has, or a wrong keep-list.
    """
    if not recipe.data.shards:
        raise ValueError("data.shards is empty: name a folder that `sensorium shards build` made")
    sets = tuple(Split(path, split, verify, recipe.data.cache) for path in recipe.data.paths)
    wanted = recipe.to_dict()["data"].get("split")
    for held in sets:
        if wanted and held.manifest.split and held.manifest.split != wanted:
            key = next(key for key in wanted if held.manifest.split.get(key) != wanted[key])
            raise ValueError(
                f"{held.folder} was split with {key} {held.manifest.split.get(key)!r}, the recipe says "
                f"{wanted[key]!r}: build the shards again or change data.split"
            )
        if not recipe.modalities.keys() & held.manifest.modalities:
            fields = ", ".join(held.manifest.fields)
            raise ValueError(f"{held.folder} has no members of any of the recipe's modalities; it has {fields}")
    for name in recipe.modalities:
        if not any(name in held.manifest.modalities for held in sets):
            folders = " and ".join(str(held.folder) for held in sets)
            fields = ", ".join(sorted({field for held in sets for field in held.manifest.fields}))
            raise ValueError(f"{folders} has no members of modality {name!r}; it has {fields}")
    for held, shards in zip(sets, recipe.data.leaf_sets, strict=True):
        keep(held, shards)
    return sets


def fit(
    recipe: Recipe, sets: Sequence[Split], started_from: Mapping[str, Modality] | None = None
) -> dict[str, Modality]:
    """Modalities fitted on at most `data.fit_samples` training samples, spread over all shards.

    Of `started_from`, the modalities of the model that training starts from, those that the recipe describes alike and
    that find content in these samples are kept as they are, for what their entries and heads learned of is theirs.
    """
    kept, most = KeptSamples(sets), recipe.data.fit_samples
    chosen: Iterable[int] = range(len(kept))
    if len(kept) > most:
        chosen = np.sort(np.random.default_rng(recipe.train.seed).choice(len(kept), most, replace=False))
    places = [kept.locate(number) for number in chosen]

    def raws(name: str, modality: Modality) -> Iterator[Any]:
        for held, shard, number in places:
            members = held.read(shard, number)
            if name in members:
                try:
                    yield modality.decode(members[name])
                except ContentError:
                    continue  # counted where it is met in training

    def fitted(name: str, modality: Modality) -> Modality:
        before = (started_from or {}).get(name)
        if before is not None and fitted_state(before, False) == fitted_state(modality, False):
            before = dataclasses.replace(before, mask=modality.mask)
            if any(map(partial(finds_content, before), raws(name, before))):
                return before
        return modality.fit(raws(name, modality))

    return {name: fitted(name, modality) for name, modality in recipe.modalities.items()}


def fitted_state(modality: Modality, learned: bool = True) -> dict[str, Any]:
    """A modality's type and the fields that fitting learned, or those that a recipe sets, masks apart."""
    wanted = {f.name for f in dataclasses.fields(modality) if bool(f.metadata.get("fitted")) is learned} - {"mask"}
    return {"type": modality.type, **{name: getattr(modality, name) for name in wanted}}


def finds_content(modality: Modality, raw: Any) -> bool:
    """Whether a raw item has any token that is neither missing nor unknown to a fitted modality."""
    if isinstance(modality, Table) and not any(map(modality.knows, raw)):
        return False  # numbers of whatever columns are content
    try:
        return bool((modality.tokenize(raw).ids[:, 0] > UNKNOWN).any())
    except ContentError:
        return False


def hashes(sets: Sequence[Split]) -> set[str]:
    """Hashes of all groups and contents of the training split, by which a leaked test set is recognised."""
    found = set()
    for held in sets:
        for _, group, contents in held.contents():
            found |= group_hash(held.manifest.split.get("by"), group)
            found |= {f"{modality}:{joint_hash(parts)}" for modality, parts in contents.items() if modality != "labels"}
    return found


def build(recipe: Recipe, fitted: dict[str, Modality]) -> Pretraining:
    """The module to train, initialised from the global random state or from `init`."""
    config = SensoriumConfig(
        modalities={name: modality.to_json() for name, modality in fitted.items()},
        **{
            name: getattr(recipe.model, name)
            for name in ("dim", "depth", "heads", "mlp_ratio", "embedding", "fusion_depth")
        },
        decoder_dim=recipe.model.decoder.dim,
        decoder_depth=recipe.model.decoder.depth,
        decoder_heads=recipe.model.decoder.heads,
    )
    model = SensoriumModel(config)
    if recipe.init is not None:
        start_from(model, recipe.init)
    objectives = {name: objective.build(fitted, recipe.model.dim) for name, objective in recipe.objectives.items()}
    return Pretraining(model, objectives, {name: objective.weight for name, objective in recipe.objectives.items()})


class Trainer:
    """The loop: batches in, steps, figures, checkpoints out. State is the cursor in the order alone."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        engine: Engine,
        sets: tuple[Split, ...],
        fitted: dict[str, Modality],
        order: Mixture,
        cursor: Cursor,
        faults: Mapping[str, Mapping[str, int]],
    ):
        self.recipe, self.run, self.engine = recipe, run, engine
        self.cursor, self.bad = cursor, 0
        self.faults = {shard: Counter(reasons) for shard, reasons in faults.items()}
        train = recipe.train
        self.stream = TrainingBatches(
            sets,
            fitted,
            train.seed,
            recipe.data.shuffle_block,
            train.batch_size,
            train.micro_batch,
            engine.rank,
            engine.world,
            recipe.masking,
            order,
        )
        self.leads = engine.rank == 0
        self.waited = self.samples = self.tokens = 0.0
        self.since = time.perf_counter()

    @property
    def step(self) -> int:
        """Steps done, applied or not."""
        return self.cursor.used // self.recipe.train.batch_size

    def train(self) -> signal.Signals | None:
        """Train to the last step, or to the one in which a rank was asked to end; returns the signal of the latter."""
        train = self.recipe.train
        per_step = train.batch_size // train.micro_batch
        first = self.cursor.position // train.micro_batch
        last = first + (train.steps - self.step) * per_step
        batches = prefetch(self.stream, range(first, last), train.workers)
        bar = tqdm(total=train.steps, initial=self.step, unit="step", disable=not self.leads, file=sys.stderr)
        with bar, GracefulStop() as stop:  # closed where a step fails, so that what is said of it has a line of its own
            while self.step < train.steps:
                if self._step(batches, per_step, bar, stop) and self.step < train.steps:
                    return stop.signal or signal.SIGTERM
        return None

    def _step(self, batches: Iterator[Batch], per_step: int, bar: tqdm, stop: GracefulStop) -> bool:
        """One step, and what is due after it; whether it is the last, for a rank was asked to end."""
        train, step = self.recipe.train, self.step
        started = time.perf_counter()
        group = list(islice(batches, per_step))
        self.waited += time.perf_counter() - started
        rate = learning_rate(step, train.learning_rate, train.schedule, train.steps)
        stats = self.engine.step(group, rate, lambda: stop.signal is not None)
        self.cursor = self.cursor.ahead(train.batch_size)
        self._watch(stats, group)
        bar.update()
        bar.set_postfix(loss=f"{stats.loss:.3f}", refresh=False)
        if self.step % train.log_every == 0 or self.step in (1, train.steps):
            self._log(stats, rate)
        if self.step % train.checkpoint_every == 0 or self.step == train.steps or stats.stop_requests:
            self.checkpoint()
        return stats.stop_requests > 0

    def _watch(self, stats: StepStats, group: list[Batch]) -> None:
        """Stop where too much is bad, alike on all ranks."""
        self.samples += stats.samples
        self.tokens += stats.tokens
        if stats.faults:  # summed over all ranks, so all enter the gathering
            self._skip(gather_object([fault for batch in group for fault in batch.faults]))
        self.bad = 0 if stats.applied else self.bad + 1
        if not stats.applied and self.leads:
            tqdm.write(f"step {self.step} was not applied: loss or gradients are not finite", file=sys.stderr)
        if self.bad >= self.recipe.train.max_nonfinite_steps:
            raise ValueError(f"{self.bad} steps in a row were not finite: lower train.learning_rate")

    @property
    def skipped(self) -> int:
        """Samples that could not be used, on all ranks, since the run began."""
        return sum(count for reasons in self.faults.values() for count in reasons.values())

    def _skip(self, faults: Sequence[Fault]) -> None:
        """Count the samples of a step that could not be used and log them; stop where they are too many."""
        for fault in faults:
            self.faults.setdefault(fault.shard, Counter())[fault.reason] += 1
            if self.leads:
                tqdm.write(f"skipped a sample: {fault.reason} ({fault.key} in {fault.shard})", file=sys.stderr)
        if self.leads:
            self.run.add_skipped([{"step": self.step, **fault._asdict()} for fault in faults])
        share = self.recipe.data.max_skipped
        if self.skipped > share * max(self.cursor.used, JUDGED):
            shard, reason, count = max(
                ((shard, reason, count) for shard, reasons in self.faults.items() for reason, count in reasons.items()),
                key=lambda row: row[2],
            )
            raise ValueError(
                f"{self.skipped:,} of {self.cursor.used:,} samples could not be used, more than data.max_skipped "
                f"{share:.0%}, most often {reason} ({count:,} in {shard}): all stand in {self.run.folder}/{SKIPPED}"
            )

    def _log(self, stats: StepStats, rate: float) -> None:
        seconds = time.perf_counter() - self.since
        row = {
            "step": self.step,
            "loss": stats.loss,
            **stats.terms,
            "learning_rate": rate,
            "gradient_norm": stats.gradient_norm,
            "applied": stats.applied,
            "samples_per_s": self.samples / seconds,
            "tokens_per_s": self.tokens / seconds,
            "data_wait": self.waited / seconds,
            "skipped": self.skipped,
        }
        if self.leads:
            shares = self._shares() if len(self.stream.sets) > 1 else {}
            self.run.add_metrics({**row, "shares": shares} if shares else row)
            told = {**row, **{f"share/{folder}": share for folder, share in shares.items()}}
            self.engine.accelerator.log(
                {name: float(value) for name, value in told.items() if name != "step"}, step=self.step
            )
        self.waited = self.samples = self.tokens = 0.0
        self.since = time.perf_counter()

    def _shares(self) -> dict[str, float]:
        """What part of the samples of the last `log_every` steps fell to each folder, empty slots included."""
        window = self.recipe.train.log_every * self.recipe.train.batch_size
        position = self.cursor.position
        first, last = map(self.stream.order.counts, (max(position - window, 0), position))
        shares: dict[str, float] = {}
        for held, before, after in zip(self.stream.sets, first, last, strict=True):
            folder = str(held.folder)  # which may stand in several sets
            shares[folder] = shares.get(folder, 0.0) + (after - before) / min(window, position)
        return shares

    def checkpoint(self) -> None:
        """Save where the run stands, then drop checkpoints beyond those to keep."""
        folder = self.run.folder / "checkpoints" / f"step-{self.step}"
        order = fingerprint(self.stream.order, self.stream.sets)
        state = {**self.cursor.to_json(), "step": self.step, "faults": self.faults, "order": order}
        self.engine.save(folder, state)
        if self.leads:
            for old in self.run.checkpoints()[: -self.recipe.train.keep_checkpoints]:
                shutil.rmtree(old)


def save_model(run: Run, engine: Engine, recipe: Recipe, fitted: dict[str, Modality]) -> None:
    """Write `model/`, which `from_pretrained` loads; every rank calls this."""
    parameters = engine.parameters()
    if parameters is None:
        return
    model = build(recipe.model_copy(update={"init": None}), fitted).model
    own = {name.removeprefix("model."): value for name, value in parameters.items() if name.startswith("model.")}
    model.load_state_dict(own)
    with atomic_folder(run.model) as aside:
        model.save_pretrained(aside)


def start_from(model: SensoriumModel, source: str) -> None:
    """Copy the weights of a run or Hub model whose names and shapes agree; what is new keeps its initialisation.

    Entries and heads of a modality that is fitted otherwise there are left out: their rows are of other meanings.

    Raises:
        ValueError: nothing agrees.
    """
    other = pretrained(source)
    common = [name for name in model.modalities if name in other.modalities]
    strange = [n for n in common if fitted_state(other.modalities[n]) != fitted_state(model.modalities[n])]
    parts = tuple(part for name in strange for part in (f"input_embeddings.{name}.", f"decoder.heads.{name}."))
    own, given = model.state_dict(), other.state_dict()
    shared = {
        name: value
        for name, value in given.items()
        if name in own and own[name].shape == value.shape and not name.startswith(parts)
    }
    if not shared:
        raise ValueError(f"init: nothing in {source} fits this model")
    model.load_state_dict(shared, strict=False)
    told = f"took {len(shared)} of {len(own)} tensors from {source}"
    if alike := [name for name in common if name not in strange]:
        told += f", {', '.join(alike)} as fitted there"
    if strange:
        told += f", but not the input embeddings and heads of {', '.join(strange)}, which is fitted otherwise there"
    print(told, file=sys.stderr)


def pretrained(source: str) -> SensoriumModel:
    """The model of a run, a folder or the Hub.

    Raises:
        OSError: there is none.
        ValueError: its file is broken.
    """
    model = Path(source) / "model"
    try:
        return load_pretrained(model if model.is_dir() else source)
    except SafetensorError as error:
        raise ValueError(f"init: the model in {source} is broken ({error})") from error
