"""sensorium: foundation models of several kinds of scientific data, from raw files to the Hugging Face Hub."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline.recipe.renamed import OPTIONS

if TYPE_CHECKING:
    from pipeline.commands.result import Result

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
shards_app = typer.Typer(no_args_is_help=True, help="Build, index, verify and inspect shards.")
app.add_typer(shards_app, name="shards")


def _keep_stdout(as_json: bool) -> bool:
    """Keep standard output for the JSON: whatever libraries print or log goes to standard error."""
    if as_json:
        sys.stdout = sys.stderr
    return as_json


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a .yaml file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys to override.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
ShardFolder = Annotated[str, typer.Argument(metavar="PATH", help="Folder or URL of shards.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", callback=_keep_stdout, help="Print the figures as one JSON object on standard output."),
]
UserData = Annotated[str, typer.Option(help="CSV, TSV or Parquet file, or a folder or URL of shards.")]
ParquetFile = Annotated[
    Path, typer.Option(help="Parquet file to write; its column `key` has row numbers or the keys of samples.")
]
Columns = Annotated[
    str, typer.Option(help="Column of each modality, as smiles=SMILES,table=age+mass; by default as in the recipe.")
]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Skip unusable rows of a file instead of stopping.")]


def _print_result(result: Result, as_json: bool) -> None:
    """Print a result as lines or as JSON, on the main process only."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(result.to_json(), default=str), file=sys.__stdout__, flush=True)
    else:
        print("\n".join(result.lines()))


def _pairs(text: str) -> dict[str, str]:
    """Parse `name=value,name=value`; values may contain commas.

    Raises:
        ValueError: text of another form.
    """
    pairs = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", text) if part]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise ValueError(f"{text!r} is not of the form name=value,name=value")
    return {key: value for key, _, value in pairs}


def _choice(option: str, value: str, choices: Sequence[str]) -> Any:
    """The value of an option.

    Raises:
        ValueError: it is not one of the choices.
    """
    if value not in choices:
        raise ValueError(f"{option} is {value!r}; known: {', '.join(choices)}")
    return value


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("runs/demo"), as_json: AsJson = False
) -> None:
    """Run the full pipeline on real molecules that come with RDKit."""
    from pipeline.commands.demo import demo

    _print_result(demo(out), as_json)


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of raw files.")],
    out: Annotated[Path | None, typer.Option(help="Recipe to write; by default NAME.yaml, after the folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Survey raw files and draft a recipe for them."""
    from pipeline.draft import draft_recipe

    _print_result(draft_recipe(folder, out), as_json)


@app.command("plan")
def plan_command(
    recipe: RecipeName,
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option(min=1, help="Number of ranks to plan for.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Dry run: check the data; estimate parameters, tokens, epochs and memory by ZeRO stage."""
    from pipeline.commands.plan import plan

    _print_result(plan(recipe, overrides or (), ranks), as_json)


@app.command("pretrain")
def pretrain_command(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; by default runs/NAME.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Ranks to start on this machine.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Pretrain, or resume a run exactly. Use --devices or `torchrun` for several ranks."""
    from pipeline.commands.pretrain import pretrain
    from pipeline.data.sets import open_sets
    from pipeline.recipe.load import load
    from pipeline.training.launch import samples_per_rank
    from pipeline.training.spawn import spawn_ranks

    if devices > 1 and "RANK" not in os.environ:
        checked = load(recipe, overrides or ())  # so that a mistake is reported once, not by every rank
        samples_per_rank(checked.train, devices)
        open_sets(checked, "train", verify=False)
        options = [*(["--out", str(out)] if out else []), *["--json"] * as_json]
        if code := spawn_ranks(devices, ["pretrain", recipe, *(overrides or ()), *options]):
            raise typer.Exit(code)
        return
    _print_result(pretrain(recipe, overrides or (), out), as_json)


@app.command("evaluate")
def evaluate_command(
    run: RunFolder,
    shards: Annotated[str | None, typer.Option(help="Folder or URL of shards; by default the recipe's.")] = None,
    label: Annotated[str | None, typer.Option(help="Label to probe; by default the recipe's.")] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Evaluate retrieval between modalities, probes on frozen features, and RankMe."""
    from pipeline.commands.evaluate import evaluate

    _print_result(evaluate(run, shards, label=label, split=split), as_json)


@app.command("finetune")
def finetune_command(
    run: RunFolder,
    data: UserData,
    label: Annotated[str, typer.Option(help="Column or label to predict.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the fine-tuned run; by default RUN-LABEL.")] = None,
    modalities: Annotated[str, typer.Option(help="Modalities to use, as a,b; by default all.")] = "",
    mode: Annotated[str, typer.Option(help="Weights to update: full, linear (the head) or lora.")] = "full",
    features: Annotated[str, typer.Option(help="Input of the head: pooled tokens or those of all layers.")] = "layers",
    labels: Annotated[int | None, typer.Option(help="Number of training labels to use; by default all.")] = None,
    split: Annotated[str | None, typer.Option(help="Column, or scaffold, whose groups a split keeps together.")] = None,
    test: Annotated[float, typer.Option(help="Share of samples in the test set.")] = 0.3,
    task: Annotated[str, typer.Option(help="auto, regression or classification.")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Number of splits and initial heads to average over.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs over the training labels.")] = 30,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 5e-4,
    pretrained_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the pretrained weights kept.")] = 0.5,
    compare: Annotated[bool, typer.Option(help="Also train from scratch and fit a classical baseline.")] = True,
    columns: Columns = "",
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on your labels; compare with the same model from scratch and a classical baseline."""
    from pipeline.commands.finetune import finetune
    from pipeline.evaluation.predictor import Settings

    settings = Settings(
        mode=_choice("--mode", mode, ("full", "linear", "lora")),
        features=_choice("--features", features, ("pooled", "layers")),
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
        modalities=[name for name in modalities.split(",") if name] or None,
        split=split,
        columns=_pairs(columns),
        task=_choice("--task", task, ("auto", "regression", "classification")),
        seeds=seeds,
        compare=compare,
        skip_invalid=skip_invalid,
        settings=settings,
    )
    _print_result(result, as_json)


@app.command("embed")
def embed_command(
    run: RunFolder,
    data: UserData,
    out: ParquetFile,
    columns: Columns = "",
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Embed your data with a pretrained or fine-tuned run."""
    from pipeline.commands.embed import embed_file

    _print_result(embed_file(run, data, out, columns=_pairs(columns), skip_invalid=skip_invalid), as_json)


@app.command("predict")
def predict_command(
    run: RunFolder,
    data: UserData,
    out: ParquetFile,
    columns: Columns = "",
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Predict the label of a fine-tuned run for your data."""
    from pipeline.commands.predict import predict_file

    _print_result(predict_file(run, data, out, columns=_pairs(columns), skip_invalid=skip_invalid), as_json)


@app.command("export")
def export_command(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default RUN-export.")] = None,
    push: Annotated[str | None, typer.Option(help="Hub repository to push to, as USER/NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export to a Hugging Face folder and check it in a fresh process."""
    from pipeline.commands.export import export

    _print_result(export(run, out, push), as_json)


@app.command("report")
def report_command(
    run: RunFolder,
    finetuned: Annotated[Path | None, typer.Option(help="A fine-tuned run whose figures are also shown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file with loss curves, reconstructions, maps and tables."""
    from pipeline.commands.report import report

    _print_result(report(run, finetuned), as_json)


@app.command("doctor")
def doctor_command(as_json: AsJson = False) -> None:
    """Report the hardware and packages of this machine, and how to install missing ones."""
    from pipeline.commands.doctor import doctor

    _print_result(doctor(), as_json)


@shards_app.command("build")
def shards_build(
    recipe: RecipeName,
    raw: Annotated[Path, typer.Option(help="File or folder of raw data.")],
    out: Annotated[Path, typer.Option(help="New folder for the shards.")],
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    as_json: AsJson = False,
) -> None:
    """Build shards from raw files by the recipe's data.source, or resume a build that was killed."""
    from pipeline.commands.build import build_shards

    _print_result(build_shards(recipe, raw, out, overrides or (), workers, engine), as_json)


@shards_app.command("index")
def shards_index(
    path: Annotated[Path, typer.Argument(help="Folder of existing tars.")],
    names: Annotated[
        str, typer.Option("--as", help="Modality of each extension, as jpg=image,txt=smiles,seg.png=mask.")
    ] = "",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write indexes and a manifest for existing tars, in place."""
    from pipeline.commands.index import index_shards

    _print_result(index_shards(path, _pairs(names), workers), as_json)


@shards_app.command("verify")
def shards_verify(path: ShardFolder, as_json: AsJson = False) -> None:
    """Check every shard and index against the manifest."""
    from pipeline.commands.verify import verify_shards

    _print_result(verify_shards(path), as_json)


@shards_app.command("inspect")
def shards_inspect(path: ShardFolder, as_json: AsJson = False) -> None:
    """Show the content of a shard set and its first sample."""
    from pipeline.commands.inspect import inspect_shards

    _print_result(inspect_shards(path), as_json)


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 2; SENSORIUM_DEBUG=1 prints the traceback."""
    stdout = sys.stdout
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also those of transformers for every model
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        text = _renamed(error) or error.format_message()
        # Without a command typer has printed the help and there is no text.
        _fail(f"{text.rstrip('.')}{'' if text.endswith('?') else ':'} see --help" if text else "")
    except typer.Abort as error:  # typer raises it for an EOFError
        _fail(f"a file ends too soon ({error.__cause__ or 'EOFError'}): fetch it again")
    except (ValueError, OSError) as error:
        if os.environ.get("SENSORIUM_DEBUG"):
            traceback.print_exc()
        _fail(_message(error))
    finally:
        sys.stdout = stdout


def _message(error: ValueError | OSError) -> str:
    """The message for an error."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'while writing'}): free some space and run the same command again"
    if isinstance(error, PermissionError) and error.filename:
        return f"no permission for {error.filename}: change its owner or mode, or choose another location"
    return str(error)


def _renamed(error: Any) -> str | None:
    """The error for an option of an earlier version, None for other errors."""
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", "")
    name = OPTIONS.get((context.info_name, option)) if context else None
    return name and f"{option} is now {name}"


def _fail(text: str) -> NoReturn:
    """Print an error on one line and exit with code 2."""
    if text:
        print(f"sensorium: {' '.join(text.split())}", file=sys.stderr, flush=True)
    sys.exit(2)
