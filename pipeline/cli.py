"""The command line: one command a verb."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.recipe.renamed import OPTIONS

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
shards_app = typer.Typer(no_args_is_help=True, help="Raw files to shards, and what shards hold.")
app.add_typer(shards_app, name="shards")


def _keep_stdout(asked: bool) -> bool:
    """Keep standard output for the JSON: libraries that print or log there are sent to standard error."""
    if asked:
        sys.stdout = sys.stderr
    return asked


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or .yaml file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys to change.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
ShardFolder = Annotated[str, typer.Argument(metavar="PATH", help="Folder of shards, or its URL.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", callback=_keep_stdout, help="Print the figures as one JSON object on standard output."),
]
OwnData = Annotated[str, typer.Option(help="CSV, TSV or Parquet file, or a folder or URL of shards.")]
ParquetFile = Annotated[
    Path, typer.Option(help="Parquet file to write; its key is the row's number or a sample's key.")
]
Columns = Annotated[
    str, typer.Option(help="Column of each modality, as smiles=SMILES,table=age+mass; by default as in the recipe.")
]
SkipInvalid = Annotated[
    bool, typer.Option("--skip-invalid", help="Leave unusable rows of a file out instead of stopping.")
]


def _tell(figures: Any, as_json: bool, lines: Callable[[], list[str]]) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(figures, default=str), file=sys.__stdout__, flush=True)
    else:
        print("\n".join(lines()))


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", text) if part]  # names may hold a comma
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise ValueError(f"{text!r} is not of the form name=value,name=value")
    return {key: value for key, _, value in pairs}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """The whole way on real molecules that come with the packages."""
    from pipeline.commands.demo import demo as run

    result = run(out)
    _tell(
        result,
        as_json,
        lambda: [
            *_retrieval_lines(result["retrieval"]),
            *_probe_lines(result["probe"]),
            *_finetune_lines(result["finetune"]),
            f"exported: {result['export']['path']} (embeddings equal to {result['export']['max_difference']:.1e})",
            f"seconds: {', '.join(f'{k} {v}' for k, v in result['seconds'].items())}",
            f"report: {result['report']}",
            f"figures: {out / 'result.json'}",
        ],
    )


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of raw files.")],
    out: Annotated[Path | None, typer.Option(help="Recipe to write; NAME.yaml, after the folder, by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at raw files and draft a recipe for them."""
    from pipeline.draft import draft_recipe

    drafted = draft_recipe(folder, out)
    _tell(drafted.to_json(), as_json, drafted.lines)


@app.command("plan")
def plan_command(
    recipe: RecipeName,
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option(min=1, help="Number of ranks to plan for.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Dry run: parameters, tokens a sample, memory by ZeRO stage, passes over the data, data check."""
    from pipeline.commands.plan import plan

    made = plan(recipe, overrides or (), ranks)
    data = made["data"]
    _tell(
        made,
        as_json,
        lambda: [
            f"{made['recipe']}: {made['parameters']['total']:,} parameters "
            f"(trunk {made['parameters']['trunk']:,}, decoder {made['parameters']['decoder']:,})",
            f"tokens a sample: {', '.join(f'{name} {n:.1f}' for name, n in made['tokens_a_sample'].items())}",
            f"data: {data['training_samples']:,} training samples in {data['shards']} shards, whole; "
            f"{data['passes']:.1f} passes; unusable of some looked at: "
            f"{' of '.join(map(str, data['unusable_of_sampled']))}",
            *(
                f"{held['path']}: some samples come {held['imbalance']:.1%} more often than others, by their node"
                for held in data["sets"]
                if held["imbalance"]
            ),
            *(f"{held['path']}: {note}" for held in data["sets"] for note in held["notes"]),
            f"precision: {made['precision']}",
            f"memory a rank of {ranks} for weights, gradients and moments, by ZeRO stage: "
            + ", ".join(f"{stage}: {gib:.3f} GiB" for stage, gib in made["memory_gib_by_zero_stage"].items()),
            f"activations a rank, about: {made['activations_gib_a_rank']:.2f} GiB",
        ],
    )


CHECKPOINT_S = 300
"""What ranks that are asked to end may take for their step and a checkpoint before they are killed."""


def _ranks(devices: int, arguments: list[str]) -> None:
    """Run `pretrain` as that many processes, as torchrun does; what went wrong is said by the rank that met it."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        1,
        1,
        devices,
        run_id="sensorium",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=CHECKPOINT_S,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", "pipeline", "pretrain", *arguments)
    except ChildFailedError as error:
        raise typer.Exit(2 if any(f.exitcode == 2 for f in error.failures.values()) else 1) from error
    except SignalException as error:  # its ranks were sent it too
        raise typer.Exit(128 + error.sigval) from error


@app.command("pretrain")
def pretrain_command(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME by default.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Ranks to start on this machine.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Pretrain; goes on where the run stands. `torchrun` or --devices for many ranks."""
    from pipeline.commands.pretrain import pretrain
    from pipeline.data.sets import open_sets
    from pipeline.recipe.load import load
    from pipeline.run import Run
    from pipeline.training.launch import samples_per_rank

    if devices > 1 and "RANK" not in os.environ:
        checked = load(recipe, overrides or ())  # what is wrong is said once here, not by every rank
        samples_per_rank(checked.train, devices)
        open_sets(checked, "train", verify=False)
        _ranks(devices, [recipe, *(overrides or ()), *(["--out", str(out)] if out else []), *["--json"] * as_json])
        return

    folder = pretrain(recipe, overrides or (), out)
    last = Run(folder).metrics()[-1] if os.environ.get("RANK", "0") == "0" else {}
    _tell(
        {"path": str(folder), **last},
        as_json,
        lambda: [
            f"step {last['step']}: loss {last['loss']:.4f}, {last['samples_per_s']:.0f} samples/s",
            f"run: {folder}",
        ],
    )


@app.command("evaluate")
def evaluate_command(
    run: RunFolder,
    shards: Annotated[str | None, typer.Option(help="Folder or URL of shards; the recipe's by default.")] = None,
    label: Annotated[str | None, typer.Option(help="Label to probe.")] = None,
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Retrieval between modalities, probes on frozen features, RankMe."""
    from pipeline.commands.evaluate import evaluate

    result = evaluate(run, shards, label=label, split=split)

    def lines() -> list[str]:
        told = _retrieval_lines(result["retrieval"])
        if result.get("trained_on"):
            told.insert(0, f"pretraining saw {result['trained_on']:,} of the {result['samples']:,} samples judged here")
        if result.get("left_out"):
            told.insert(0, f"{result['left_out']:,} samples that pretraining saw are left out")
        told += _probe_lines(result.get("probe", {}))
        told.append("RankMe: " + ", ".join(f"{name} {value:.1f}" for name, value in result["rankme"].items()))
        return [*told, f"figures: {run / 'result.json'}"]

    _tell(result, as_json, lines)


@app.command("finetune")
def finetune_command(
    run: RunFolder,
    data: OwnData,
    label: Annotated[str, typer.Option(help="Column or label to learn.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the fine-tuned run.")] = None,
    modalities: Annotated[str, typer.Option(help="Modalities to use, as a,b; all by default.")] = "",
    mode: Annotated[str, typer.Option(help="full, linear or lora.")] = "full",
    features: Annotated[str, typer.Option(help="What the head reads: pooled or layers.")] = "layers",
    labels: Annotated[int | None, typer.Option(help="Training labels to use; all by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Column, or scaffold, that a split must not tear apart.")] = None,
    test: Annotated[float, typer.Option(help="Share of samples held out.")] = 0.3,
    task: Annotated[str, typer.Option(help="auto, regression or classification.")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Splits and starts to average over.")] = 1,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    learning_rate: Annotated[float, typer.Option(min=0)] = 5e-4,
    pretrained_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the pretrained weights in the tuned ones.")
    ] = 0.5,
    compare: Annotated[bool, typer.Option(help="Also train from scratch and fit a classical baseline.")] = True,
    columns: Columns = "",
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on your own labels, beside the same model from scratch and a classical baseline."""
    from pipeline.commands.finetune import Settings, finetune

    for name, value, known in (
        ("mode", mode, ("full", "linear", "lora")),
        ("features", features, ("pooled", "layers")),
        ("task", task, ("auto", "regression", "classification")),
    ):
        if value not in known:
            raise ValueError(f"--{name} is {value!r}; known: {', '.join(known)}")
    settings = Settings(
        mode=mode,  # type: ignore[arg-type]
        features=features,  # type: ignore[arg-type]
        labels=labels,
        test=test,
        epochs=epochs,
        learning_rate=learning_rate,
        pretrained_share=pretrained_share,
    )
    result = finetune(
        run,
        data,
        label,
        out=out,
        modalities=[m for m in modalities.split(",") if m] or None,
        split=split,
        columns=_pairs(columns),
        task=task,
        seeds=seeds,
        compare=compare,
        skip_invalid=skip_invalid,
        settings=settings,
    )
    _tell(result, as_json, lambda: [*_finetune_lines(result), f"run: {result['path']}"])


@app.command("embed")
def embed_command(
    run: RunFolder,
    data: OwnData,
    out: ParquetFile,
    columns: Columns = "",
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Embed your own data."""
    from pipeline.commands.predict import embed_file

    result = embed_file(run, data, out, columns=_pairs(columns), skip_invalid=skip_invalid)
    _tell(result, as_json, lambda: _rows_lines(result, "embedded"))


@app.command("predict")
def predict_command(
    run: RunFolder,
    data: OwnData,
    out: ParquetFile,
    columns: Columns = "",
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Predict a fine-tuned label for your own data."""
    from pipeline.commands.predict import predict_file

    result = predict_file(run, data, out, columns=_pairs(columns), skip_invalid=skip_invalid)
    _tell(result, as_json, lambda: _rows_lines(result, "predicted"))


@app.command("export")
def export_command(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN-export by default.")] = None,
    push: Annotated[str | None, typer.Option(help="Hub repository, as USER/NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export to a Hugging Face folder, checked in a fresh process."""
    from pipeline.commands.export import export

    result = export(run, out, push)
    _tell(
        result,
        as_json,
        lambda: [
            f"exported: {result['path']} (embeddings equal to {result['max_difference']:.1e})",
        ],
    )


@app.command("report")
def report_command(
    run: RunFolder,
    finetuned: Annotated[Path | None, typer.Option(help="A fine-tuned run to show too.")] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML file with the curves, reconstructions, maps and tables."""
    from pipeline.commands.report import report

    path = report(run, finetuned)
    _tell({"path": str(path)}, as_json, lambda: [f"report: {path}"])


@app.command("doctor")
def doctor_command(as_json: AsJson = False) -> None:
    """What this machine has, what is missing, how to get it."""
    from pipeline.commands.doctor import doctor

    found = doctor()

    def lines() -> list[str]:
        told = [f"{key}: {value}" for key, value in found.items() if key not in ("packages", "parsers", "missing")]
        told.append("packages: " + ", ".join(f"{name} {version or '-'}" for name, version in found["packages"].items()))
        for name, held in found["parsers"].items():
            told.append(f"parser {name} {held['version'] or '-'}, for {'; '.join(held['for'])}")
        return [*told, *(f"missing: {line}" for line in found["missing"])]

    _tell(found, as_json, lines)


@shards_app.command("build")
def shards_build(
    recipe: RecipeName,
    raw: Annotated[Path, typer.Option(help="File or folder of raw data.")],
    out: Annotated[Path, typer.Option(help="New folder for the shards.")],
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    as_json: AsJson = False,
) -> None:
    """Raw files to shards, as the recipe's data.source says; goes on where a killed build stood."""
    from pipeline.commands.build import build_shards

    manifest = build_shards(recipe, raw, out, overrides or (), workers, engine)
    _tell(_summary(manifest), as_json, lambda: [*_manifest_lines(manifest), f"shards: {out}"])


@shards_app.command("index")
def shards_index(
    path: Annotated[Path, typer.Argument(help="Folder of tars that others wrote.")],
    names: Annotated[
        str, typer.Option("--as", help="What to call members by extension, as jpg=image,txt=smiles,seg.png=mask.")
    ] = "",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write indexes and a manifest for tars that others wrote."""
    from shards.tars import index_tars

    manifest = index_tars(path, _pairs(names), lambda line: print(line, file=sys.stderr), workers)
    _tell(_summary(manifest), as_json, lambda: [*_manifest_lines(manifest), f"shards: {path}"])


@shards_app.command("verify")
def shards_verify(path: ShardFolder, as_json: AsJson = False) -> None:
    """Check every shard and index against the manifest."""
    from shards.tars import verify_shards

    manifest = verify_shards(path, lambda line: print(line, file=sys.stderr))
    _tell(_summary(manifest), as_json, lambda: [f"{len(manifest.shards)} shards, all whole: {path}"])


@shards_app.command("inspect")
def shards_inspect(path: ShardFolder, as_json: AsJson = False) -> None:
    """What a folder of shards holds, and its first sample."""
    from shards.manifest import Manifest
    from shards.read import Split

    manifest = Manifest.read(path)
    split = next((name for name, count in manifest.counts().items() if count), None)
    if split is None:
        raise ValueError(f"the shards at {path} hold no samples: build or index them again")
    held = Split(path, split)
    first = next(number for number, size in enumerate(held.sizes) if size)
    key = held.key(first, 0)
    sample = {
        f"{name}.{extension}": data for name, parts in held.read(first, 0).items() for extension, data in parts.items()
    }

    def shown(data: bytes) -> str:
        text = data[:120]
        return text.decode() if text.isascii() and text.decode().isprintable() else f"{len(data):,} bytes"

    figures = {**_summary(manifest), "first": {"key": key, **{k: shown(v) for k, v in sample.items()}}}
    _tell(
        figures,
        as_json,
        lambda: [
            *_manifest_lines(manifest),
            f"first sample of {split}: {key}",
            *(f"  {name}: {shown(data)}" for name, data in sample.items()),
        ],
    )


def _summary(manifest: Any) -> dict[str, Any]:
    return {
        "splits": manifest.counts(),
        "shards": len(manifest.shards),
        "fields": manifest.fields,
        "skipped": manifest.skipped,
        "changed": manifest.changed,
        "notes": list(manifest.notes),
        "versions": manifest.versions,
        "bytes": sum(shard.bytes for shard in manifest.shards),
    }


def _manifest_lines(manifest: Any) -> list[str]:
    return [
        f"samples: {', '.join(f'{name} {count:,}' for name, count in manifest.counts().items())} "
        f"in {len(manifest.shards)} shards of {sum(shard.bytes for shard in manifest.shards):,} bytes",
        f"members: {', '.join(f'{name} {count:,}' for name, count in manifest.fields.items())}",
        *(
            [f"left out: {', '.join(f'{reason} {count:,}' for reason, count in manifest.skipped.items())}"]
            if manifest.skipped
            else []
        ),
        *(f"changed: {reason}: {count:,}" for reason, count in manifest.changed.items()),
        *(f"note: {note}" for note in manifest.notes),
        *([f"read by: {', '.join(map(' '.join, manifest.versions.items()))}"] if manifest.versions else []),
    ]


def _retrieval_lines(rows: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"{pair}: recall@1 {row['r1']:.3f}, recall@10 {row['r10']:.3f} (chance {row['chance_r10']:.3f}, "
        f"gallery {row['n']})"
        for pair, row in rows.items()
    ]


def _probe_lines(probe: dict[str, Any]) -> list[str]:
    told = []
    if unseen := probe.get("unseen"):
        classes = ", ".join(probe["unseen_classes"][:5])
        told.append(f"probe: {unseen:,} samples left out whose class training has not, such as {classes}")
    for name, row in probe.items():
        if isinstance(row, dict):
            figures = ", ".join(f"{k} {v:.3f}" for k, v in row["linear"].items())
            told.append(f"probe of {probe['label']} from {name}: {figures}")
    return told


def _rows_lines(result: dict[str, Any], done: str) -> list[str]:
    left_out = f", {len(result['skipped']):,} left out" if result["skipped"] else ""
    return [f"{result['rows']:,} rows {done}{left_out}: {result['path']}"]


def _finetune_lines(result: dict[str, Any]) -> list[str]:
    seeds = result["pretrained"]["seeds"]
    told = [f"{result['task']} on {result['labels']:,} labels, judged on {result['test']:,} samples"]
    told[0] += f", at the first of {seeds} seeds" if seeds > 1 else ""
    if result.get("seen"):
        told.append(f"{result['seen']:,} samples that pretraining saw are left out of the test set")
    if result.get("skipped"):
        told.append(f"{result['skipped']:,} samples that cannot be used are left out")
    for start in ("pretrained", "scratch", "baseline"):
        if start in result:
            row = result[start]
            names = [name.removesuffix("_mean") for name in row if name.endswith("_mean")]
            figures = ", ".join(f"{name} {row[name + '_mean']:.3f} ± {row[name + '_sd']:.3f}" for name in names)
            told.append(f"{result['label']}, {start}: {figures}")
    if result.get("interval95"):
        low, high = result["interval95"]
        told.append(
            f"pretrained minus scratch in {result['metric']}: {result['difference']:+.3f} "
            f"(95% interval {low:+.3f} to {high:+.3f})"
        )
    return told


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 2, SENSORIUM_DEBUG=1 shows the traceback."""
    stdout = sys.stdout
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' too, of every model loaded or saved
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        text = _renamed(error) or error.format_message()
        # Without a command there is no text, but its help has been printed.
        _fail(f"{text.rstrip('.')}{'' if text.endswith('?') else ':'} see --help" if text else "")
    except typer.Abort as error:  # typer's word for an EOFError
        _fail(f"a file ends too soon ({error.__cause__ or 'EOFError'}): fetch it again")
    except (ValueError, OSError) as error:
        if os.environ.get("SENSORIUM_DEBUG"):
            traceback.print_exc()
        text = str(error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = f"the disk is full ({error.filename or 'while writing'}): free some space and run the same again"
        elif isinstance(error, PermissionError) and error.filename:
            text = f"no permission for {error.filename}: change its owner or mode, or choose another place"
        _fail(text)
    finally:
        sys.stdout = stdout


def _renamed(error: typer.TyperException) -> str | None:
    """The error for an option of an earlier version, None for other errors."""
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", "")
    new = OPTIONS.get((context.info_name, option)) if context else None
    return new and f"{option} is now {new}"


def _fail(text: str) -> NoReturn:
    if text:
        print(f"sensorium: {' '.join(text.split())}", file=sys.stderr, flush=True)
    sys.exit(2)
