"""Evaluate a pretrained model: retrieval between modalities, probes on frozen features, RankMe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pipeline.commands.result import Result
from pipeline.evaluation.embed import encode
from pipeline.evaluation.gallery import by_key_hash, draw_gallery, labels_of
from pipeline.evaluation.measures import rankme, retrieval
from pipeline.evaluation.probe import Probe, probe
from pipeline.run import Run
from shards.read import Split
from shards.remote import open_store
from shards.store import Store
from shards.versions import installed_versions, required_packages


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """Figures of a run on one split.

    samples: number of samples evaluated.
    trained_on: how many of them the run was trained on; None for shards other than the run's own.
    left_out: samples of other shards left out because the run was trained on them; None for the run's own shards.
    retrieval: recall and chance by pair of modalities, see `pipeline.evaluation.measures.retrieval`.
    rankme: effective dimensions by modality. skipped: number of unusable samples. probe: None without a label.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"trained_on", "left_out", "probe"})
    path: str
    split: str
    samples: int
    trained_on: int | None = None
    left_out: int | None = None
    retrieval: dict[str, dict[str, int | float]]
    rankme: dict[str, float]
    skipped: int
    probe: Probe | None = None

    def lines(self) -> list[str]:
        lines = []
        if self.left_out:
            lines.append(f"{self.left_out:,} samples left out because the run was trained on them")
        if self.trained_on:
            lines.append(f"the run was trained on {self.trained_on:,} of these {self.samples:,} samples")
        lines += retrieval_lines(self.retrieval)
        lines += self.probe.lines() if self.probe else []
        lines.append("RankMe: " + ", ".join(f"{name} {value:.1f}" for name, value in self.rankme.items()))
        return [*lines, f"figures: {self.path}/result.json"]


def retrieval_lines(rows: dict[str, dict[str, int | float]]) -> list[str]:
    """Recall for each pair of modalities, a line each."""
    return [
        f"{pair}: recall@1 {row['r1']:.3f}, recall@10 {row['r10']:.3f} (chance {row['chance_r10']:.3f}, "
        f"gallery {row['n']})"
        for pair, row in rows.items()
    ]


def evaluate(
    run: str | Path,
    shards: str | Path | None = None,
    *,
    label: str | None = None,
    split: str = "test",
    workers: int = 1,
) -> EvaluateResult:
    """Evaluate a run on a split and add the figures to the run's `result.json`.

    shards: folder or URL of shards, by default the first of the recipe. label: label to probe, by default
    `evaluate.probe` of the recipe. The retrieval gallery is the first `evaluate.gallery` samples of the split, sorted
    by the sha256 of their identity. Samples of other shards that the run was trained on, or whose group it was trained
    on, are left out.

    Raises:
        ValueError: no run, no shards, an empty split, a split of training samples only, or an unknown label.
    """
    trained = Run.existing(Path(run))
    recipe = trained.recipe()
    path = shards if shards is not None else recipe.data.paths[0]
    model = trained.load_model()
    test = Split(path, split, recipe.data.verify, recipe.data.cache)
    trained.compare_versions(
        test.folder, test.manifest.versions, installed_versions(required_packages(model.modalities))
    )
    same_shards = _location(test.store) in {_location(open_store(p, recipe.data.cache)) for p in recipe.data.paths}
    gallery, overlap = draw_gallery(
        test, recipe.evaluate.gallery, trained.trained_on(), model.modalities, keep_trained=same_shards
    )
    encoded = encode(model, test, gallery, workers)
    result = EvaluateResult(
        path=str(trained.folder),
        split=split,
        samples=len(gallery),
        trained_on=overlap if same_shards else None,
        left_out=None if same_shards else overlap,
        retrieval=retrieval(encoded.embeddings, encoded.present),
        rankme={name: rankme(values[present]) for name, values, present in encoded.features() if present.any()},
        skipped=len(encoded.faults),
    )
    if name := label or recipe.evaluate.probe:
        training = Split(path, "train", cache=recipe.data.cache)
        locations = by_key_hash(training)[: recipe.evaluate.probe_samples]
        labels = labels_of(training, locations, name), labels_of(test, gallery, name)
        trained.add_result(evaluate=result.figures())  # saved now in case probing the label fails
        features = encode(model, training, locations, workers)
        result = replace(result, probe=probe(name, (features, labels[0]), (encoded, labels[1])))
    trained.add_result(evaluate=result.figures())
    return result


def _location(store: Store) -> Path | str:
    """The location of a store, the same however its path is written."""
    return store.location.resolve() if isinstance(store.location, Path) else store.location
