"""The training loop: batches in; steps, figures and checkpoints out."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from accelerate.utils import gather_object
from tqdm import tqdm

from modalities.base import Modality
from pipeline.data.loader import Cursor, TrainingBatches
from pipeline.data.sets import TrainingData
from pipeline.data.workers import prefetch
from pipeline.model.batch import Batch, Fault
from pipeline.recipe.schema import Recipe
from pipeline.run import SKIPPED, Run
from pipeline.training.checkpoint import save_checkpoint
from pipeline.training.launch import GracefulStop
from pipeline.training.schedule import learning_rate
from pipeline.training.step import Engine, StepStats

MIN_JUDGED_SAMPLES = 100
"""Number of samples that `data.max_skipped` is a share of, at least: a few faults at the start do not stop a run."""


class Trainer:
    """The training loop. Its state is the cursor in the order; what it counts goes into checkpoints and metrics.

    faults: number of samples that could not be used, by shard and reason, since the run began.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        engine: Engine,
        data: TrainingData,
        modalities: Mapping[str, Modality],
        cursor: Cursor,
        faults: Mapping[str, Mapping[str, int]],
    ):
        self.recipe, self.run, self.engine, self.data = recipe, run, engine, data
        self.cursor = cursor
        self.faults = {shard: Counter(reasons) for shard, reasons in faults.items()}
        self.nonfinite_steps = 0
        self.is_main = engine.rank == 0
        train = recipe.train
        self.batches = TrainingBatches(
            sets=data.sets,
            modalities=modalities,
            seed=train.seed,
            block=recipe.data.shuffle_block,
            batch_size=train.batch_size,
            micro_batch_size=train.micro_batch,
            rank=engine.rank,
            world=engine.world,
            masking=recipe.masking,
            mixture=data.order,
        )
        self._start_window()

    @property
    def step(self) -> int:
        """Number of steps done, applied or not."""
        return self.cursor.used // self.recipe.train.batch_size

    @property
    def skipped(self) -> int:
        """Number of samples that could not be used, on all ranks, since the run began."""
        return sum(count for reasons in self.faults.values() for count in reasons.values())

    def train(self) -> signal.Signals | None:
        """Train to the last step, or until a rank is asked to stop; returns the signal that stopped it, if any.

        Raises:
            ValueError: too many samples cannot be used, or too many steps in a row are not finite.
        """
        train = self.recipe.train
        per_step = train.batch_size // train.micro_batch
        first = self.cursor.position // train.micro_batch
        last = first + (train.steps - self.step) * per_step
        batches = prefetch(self.batches, range(first, last), train.workers)
        bar = tqdm(total=train.steps, initial=self.step, unit="step", disable=not self.is_main, file=sys.stderr)
        with bar, GracefulStop() as stop:  # closes the bar on failure, so that the error starts on a new line
            while self.step < train.steps:
                if self._step(batches, per_step, bar, stop) and self.step < train.steps:
                    return stop.signal or signal.SIGTERM
        return None

    def _step(self, batches: Iterator[Batch], per_step: int, bar: tqdm, stop: GracefulStop) -> bool:
        """Run one step with logging and checkpointing; True if a stop was requested on any rank."""
        train, step = self.recipe.train, self.step
        started = time.perf_counter()
        micro_batches = list(islice(batches, per_step))
        self.wait_s += time.perf_counter() - started
        rate = learning_rate(step, train.learning_rate, train.schedule, train.steps)
        stats = self.engine.step(micro_batches, rate, lambda: stop.signal is not None)
        self.cursor = self.cursor.advanced(train.batch_size)
        self._count(stats, micro_batches)
        bar.update()
        bar.set_postfix(loss=f"{stats.loss:.3f}", refresh=False)
        if self.step % train.log_every == 0 or self.step in (1, train.steps):
            self._log(stats, rate)
        if self.step % train.checkpoint_every == 0 or self.step == train.steps or stats.stop_requests:
            self._save()
        return stats.stop_requests > 0

    def _count(self, stats: StepStats, micro_batches: Sequence[Batch]) -> None:
        """Count samples, faults and steps that are not finite; too many of these are an error on all ranks."""
        self.samples += stats.samples
        self.tokens += stats.tokens
        if stats.faults:  # the same number on all ranks, so all of them enter the collective
            self._count_faults(gather_object([fault for batch in micro_batches for fault in batch.faults]))
        self.nonfinite_steps = 0 if stats.applied else self.nonfinite_steps + 1
        if not stats.applied and self.is_main:
            tqdm.write(f"step {self.step} was not applied: loss or gradients are not finite", file=sys.stderr)
        if self.nonfinite_steps >= self.recipe.train.max_nonfinite_steps:
            raise ValueError(f"{self.nonfinite_steps} steps in a row were not finite: lower train.learning_rate")

    def _count_faults(self, faults: Sequence[Fault]) -> None:
        """Count and log the samples of a step that could not be used.

        Raises:
            ValueError: they exceed `data.max_skipped`.
        """
        for fault in faults:
            self.faults.setdefault(fault.shard, Counter())[fault.reason] += 1
            if self.is_main:
                tqdm.write(f"skipped a sample: {fault.reason} ({fault.key} in {fault.shard})", file=sys.stderr)
        if self.is_main:
            self.run.add_skipped([{"step": self.step, **fault._asdict()} for fault in faults])
        limit = self.recipe.data.max_skipped
        if self.skipped > limit * max(self.cursor.used, MIN_JUDGED_SAMPLES):
            shard, reason, count = max(
                ((shard, reason, count) for shard, reasons in self.faults.items() for reason, count in reasons.items()),
                key=lambda row: row[2],
            )
            raise ValueError(
                f"{self.skipped:,} of {self.cursor.used:,} samples could not be used, more than data.max_skipped "
                f"{limit:.0%}, most often {reason} ({count:,} in {shard}): see {self.run.folder}/{SKIPPED}"
            )

    def _start_window(self) -> None:
        """Reset the figures that are averaged between two log rows."""
        self.wait_s = self.samples = self.tokens = 0.0
        self.window_start_s = time.perf_counter()

    def _log(self, stats: StepStats, rate: float) -> None:
        """Write a row to `metrics.jsonl` and the trackers."""
        seconds = time.perf_counter() - self.window_start_s
        row = {
            "step": self.step,
            "loss": stats.loss,
            **stats.terms,
            "learning_rate": rate,
            "gradient_norm": stats.gradient_norm,
            "applied": stats.applied,
            "samples_per_s": self.samples / seconds,
            "tokens_per_s": self.tokens / seconds,
            "data_wait": self.wait_s / seconds,
            "skipped": self.skipped,
        }
        if self.is_main:
            shares = self._shares() if len(self.data.sets) > 1 else {}
            self.run.add_metrics({**row, "shares": shares} if shares else row)
            figures = {**row, **{f"share/{folder}": share for folder, share in shares.items()}}
            self.engine.accelerator.log(
                {name: float(value) for name, value in figures.items() if name != "step"}, step=self.step
            )
        self._start_window()

    def _shares(self) -> dict[str, float]:
        """Share of the samples of the last `log_every` steps that each folder had, faulty samples included."""
        window = self.recipe.train.log_every * self.recipe.train.batch_size
        position = self.cursor.position
        before, after = map(self.data.order.counts, (max(position - window, 0), position))
        shares: dict[str, float] = {}
        for split, start, end in zip(self.data.sets, before, after, strict=True):
            folder = str(split.folder)  # several sets may have the same folder
            shares[folder] = shares.get(folder, 0.0) + (end - start) / min(window, position)
        return shares

    def _save(self) -> None:
        """Save a checkpoint, then remove the oldest ones beyond `train.keep_checkpoints`."""
        state = {
            **self.cursor.to_json(),
            "step": self.step,
            "faults": self.faults,
            "order": self.data.fingerprint,
        }
        save_checkpoint(self.engine, self.run.checkpoint(self.step), state)
        if self.is_main:
            for folder in self.run.checkpoints()[: -self.recipe.train.keep_checkpoints]:
                shutil.rmtree(folder)
