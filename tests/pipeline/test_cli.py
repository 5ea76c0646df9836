"""The command line as its users meet it: one line and exit code 2 for every mistake, one JSON object where asked."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import yaml

from pipeline import cli
from pipeline.run import Run
from pipeline.training.checkpoint import read_checkpoint
from shards.index import index_path
from shards.manifest import Manifest, hash_file

VERBS = (
    *("demo", "init", "plan", "pretrain", "evaluate", "finetune", "embed", "predict", "export", "report", "doctor"),
    "shards",
)
MOLECULES = ("CCO", "c1ccccc1O", "CC(=O)N", "CCCCCC", "C1CCCCC1", "CCN(CC)CC", "OCC(O)CO", "Cc1ccccc1", "CC#N", "CCCl")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def refusal(self) -> str:
        """The one line that says what is wrong; progress bars may stand before it."""
        assert self.code == 2, (self.code, self.err)
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip()]
        messages = [line for line in lines if line.startswith("sensorium: ")]
        assert len(messages) == 1, self.err
        assert lines[-1] == messages[0]
        assert "Traceback" not in self.err
        assert not self.out.strip()
        return messages[0]

    def figures(self) -> dict[str, Any]:
        """What `--json` printed, which is all that stands on standard output."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        values: dict[str, Any] = json.loads(self.out)
        return values


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["sensorium", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return Done(code if isinstance(code, int) else 0 if code is None else 1, *capfd.readouterr())

    return run


def process(*words: str | Path, cwd: Path) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, words)],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def file(recipe: dict[str, Any], tmp_path: Path) -> Path:
    """The small recipe as a file."""
    return written(recipe, tmp_path / "recipe.yaml")


def written(recipe: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def shards_copy(shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards to spoil."""
    return Path(shutil.copytree(shards, tmp_path / "own"))


@pytest.fixture
def recipe_of_copy(recipe: dict[str, Any], shards_copy: Path, tmp_path: Path) -> Path:
    """The small recipe on the copy."""
    recipe["data"]["shards"] = [{"path": str(shards_copy)}]
    return written(recipe, tmp_path / "own.yaml")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty rows of SMILES with a number and a class, all of them different molecules."""
    rows = [f"{smiles}{'C' * n if smiles[-1] in 'CO' else ''}" for n in range(1, 9) for smiles in MOLECULES]
    rows = list(dict.fromkeys(rows))[:40]
    frame = pl.DataFrame(
        {"smiles": rows, "weight": [len(row) + 0.5 for row in rows], "odd": [len(r) % 2 for r in rows]}
    )
    frame.write_csv(tmp_path / "table.csv")
    return tmp_path / "table.csv"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_new(folder: Path, *expected: str) -> None:
    """Nothing stands in a folder but what was put there."""
    assert {path.name for path in folder.iterdir()} == set(expected)


# what it says


def test_help_lists_all_commands(tmp_path: Path) -> None:
    done = process("--help", cwd=tmp_path)
    assert done.code == 0
    assert all(verb in done.out for verb in VERBS)


@pytest.mark.parametrize("verb", [*((verb,) for verb in VERBS), *(("shards", v) for v in ("build", "index", "verify"))])
def test_every_command_has_help(call: Call, verb: tuple[str, ...]) -> None:
    done = call(*verb, "--help")
    assert done.code == 0
    assert "Usage" in done.out


@pytest.mark.parametrize(
    "words",
    [["plan"], ["plan", "molecules", "--nope"], ["nope"], ["plann"], ["finetune", "run"],
     ["shards", "build", "molecules"], ["finetune", "run", "--data", "x.csv", "--label", "y", "--epochs", "0"],
     ["pretrain", "molecules", "--devices", "two"], ["pretrain", "molecules", "--devices", "0"]],
)  # fmt: skip
def test_wrong_usage_prints_one_line_and_exits_with_2(call: Call, words: list[str]) -> None:
    done = call(*words)
    assert done.code == 2
    assert re.fullmatch(r"sensorium: .*[^.?]: see --help\n|sensorium: .*'\? see --help\n", done.err)


def test_a_truncated_file_is_reported_in_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    monkeypatch.setattr(importlib.import_module("pipeline.commands.plan"), "plan", cut)
    assert "a file ends too soon (Compressed file ended" in call("plan", "molecules").refusal()


def test_column_names_may_contain_a_comma() -> None:
    assert cli._pairs("table=a, kDa+b,text=c") == {"table": "a, kDa+b", "text": "c"}
    with pytest.raises(ValueError, match="not of the form name=value"):
        cli._pairs("a,table=b")


def test_without_a_command_help_is_shown(call: Call) -> None:
    done = call()
    assert done.code == 2
    assert "Usage" in done.out
    assert done.err == ""


# recipes


def test_an_unknown_key_in_a_separate_process(file: Path, tmp_path: Path) -> None:
    done = process("pretrain", file, "train.step=3", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.err == "sensorium: unknown key 'train.step': did you mean 'steps'?\n"
    assert (done.code, done.out) == (2, "")
    nothing_new(tmp_path, "recipe.yaml")


def test_several_devices_report_a_mistake_once(call: Call, file: Path, shards_copy: Path) -> None:
    assert "'steps'" in call("pretrain", file, "train.step=3", "--devices", "2").refusal()
    assert "nowhere" in call("pretrain", file, "data.shards=[{path: nowhere}]", "--devices", "2").refusal()
    assert "among 3 ranks" in call("pretrain", file, "train.batch_size=8", "--devices", "3").refusal()


@pytest.mark.slow
def test_a_mistake_found_by_all_ranks_is_reported_once(file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    done = process("pretrain", file, "--devices", "2", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.code == 2
    assert done.err.count("sensorium: ") == 1
    assert "not empty and not a run" in done.err
    assert "Traceback" not in done.err
    assert contents(tmp_path / "run") == {"letter.txt": b"mine"}


@pytest.mark.parametrize("verb", ["plan", "pretrain"])
def test_missing_recipes_are_reported(call: Call, tmp_path: Path, verb: str) -> None:
    assert "no recipe 'nothing': give a .yaml file or one of" in call(verb, "nothing").refusal()
    assert "no recipe file nothing.yaml" in call(verb, "nothing.yaml").refusal()
    nothing_new(tmp_path)


def test_invalid_recipes_are_reported(call: Call, file: Path, tmp_path: Path) -> None:
    assert "'train.steps' is 'many'" in call("plan", file, "train.steps=many").refusal()
    assert "key.key=value" in call("plan", file, "train.steps").refusal()
    assert "divisible" in call("pretrain", file, "model.heads=5").refusal()
    (tmp_path / "bad.yaml").write_text("name: [")
    assert "not valid YAML" in call("plan", tmp_path / "bad.yaml").refusal()
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    call("plan", tmp_path / "bad.yaml").refusal()
    nothing_new(tmp_path, "recipe.yaml", "bad.yaml")


# shards


def spoil(shards_copy: Path, how: str) -> str:
    """Break the last training shard; returns what a message must name."""
    tar = sorted(shards_copy.glob("train-*.tar"))[-1]
    if how == "missing":
        tar.unlink()
    elif how == "truncated":
        tar.write_bytes(tar.read_bytes()[:-1024])
    elif how == "checksum":
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    elif how == "index":
        index_path(tar).unlink()
        return index_path(tar).name
    return tar.name


@pytest.mark.parametrize("how", ["missing", "truncated", "checksum", "index"])
def test_broken_shards_are_named(call: Call, shards_copy: Path, recipe_of_copy: Path, tmp_path: Path, how: str) -> None:
    named = spoil(shards_copy, how)
    for words in (
        ["pretrain", recipe_of_copy, "--out", "run"],
        ["plan", recipe_of_copy],
        ["shards", "verify", shards_copy],
    ):
        outcome = call(*words)
        if words[0] == "shards":  # tells of each whole shard before it
            assert outcome.code == 2
            assert f"{named}" in outcome.err.splitlines()[-1]
        else:
            assert named in outcome.refusal()
            assert "again" in outcome.refusal()
    nothing_new(tmp_path, "own", "own.yaml")


def test_missing_shards_are_reported(call: Call, file: Path, tmp_path: Path) -> None:
    elsewhere = "data.shards=[{path: nowhere}]"
    for words in (["plan", file, elsewhere], ["pretrain", file, elsewhere], ["shards", "verify", "nowhere"],
                  ["shards", "inspect", "nowhere"]):  # fmt: skip
        assert "no shards at nowhere" in call(*words).refusal()
    assert "data.shards is empty" in call("pretrain", file, "data.shards=[]").refusal()
    assert "no .tar files in" in call("shards", "index", tmp_path).refusal()
    nothing_new(tmp_path, "recipe.yaml")


@pytest.mark.parametrize("text", ["{}", "half {", '{"version": 99}', "[]"])
def test_an_invalid_manifest_is_reported(call: Call, shards_copy: Path, text: str) -> None:
    (shards_copy / "manifest.json").write_text(text)
    assert "manifest.json" in call("shards", "verify", shards_copy).refusal()
    assert "manifest.json" in call("shards", "inspect", shards_copy).refusal()


def test_an_empty_split_is_reported(
    call: Call, shards_copy: Path, recipe_of_copy: Path, run: Path, tmp_path: Path
) -> None:
    manifest = Manifest.read(shards_copy)
    fields = {**manifest.__dict__, "shards": manifest.of("validation")}
    Manifest(**fields).write(shards_copy)
    assert "the train split of" in call("pretrain", recipe_of_copy, "--out", "run").refusal()
    assert "the test split of" in call("evaluate", run, "--shards", shards_copy).refusal()
    assert "the nosuch split of" in call("evaluate", run, "--shards", shards_copy, "--split", "nosuch").refusal()
    nothing_new(tmp_path, "own", "own.yaml")


def test_empty_shards_are_inspected(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    tarfile.open(folder / "00000.tar", "w").close()
    call("shards", "index", folder)
    assert (
        call("shards", "inspect", folder).refusal().startswith(f"sensorium: the shards at {folder} contain no samples")
    )
    with tarfile.open(folder / "00001.tar", "w") as tar:
        tar.add(Path(__file__), "a.py")
    call("shards", "index", folder)
    assert call("shards", "inspect", folder, "--json").figures()["first"]["key"] == "a"


def test_shards_of_another_split_or_without_a_modality(call: Call, file: Path, tmp_path: Path) -> None:
    assert "was split with test 0.2" in call("pretrain", file, "data.split.test=0.3").refusal()
    assert "no members of modality 'sound'" in call("plan", file, "modalities.sound={type: image}").refusal()
    nothing_new(tmp_path, "recipe.yaml")


def test_missing_or_unusable_raw_data_is_reported(call: Call, file: Path, tmp_path: Path) -> None:
    assert "no raw data at nowhere" in call("shards", "build", file, "--raw", "nowhere", "--out", "new").refusal()
    (tmp_path / "raw").mkdir()
    assert "no file *.smi in" in call("shards", "build", file, "--raw", "raw", "--out", "new").refusal()
    (tmp_path / "raw" / "bad.smi").write_text("not-a-molecule\nC1CC\n")
    message = call("shards", "build", file, "--raw", "raw", "--out", "new", "--workers", "1").refusal()
    assert "no usable sample" in message
    assert "invalid SMILES: 2" in message
    assert (
        "known: local, ray"
        in call("shards", "build", file, "--raw", "raw", "--out", "new", "--engine", "dask").refusal()
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert "not empty" in call("shards", "build", file, "--raw", "raw", "--out", "full").refusal()
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    nothing_new(tmp_path, "recipe.yaml", "raw", "full", "new.building")


# runs


@pytest.mark.parametrize(
    "words",
    [
        "evaluate",
        "embed --data x.csv --out o.parquet",
        "predict --data x.csv --out o.parquet",
        "finetune --data x.csv --label y",
        "export --out o",
        "report",
    ],
)
def test_a_missing_run_is_reported(call: Call, tmp_path: Path, words: str) -> None:
    verb, *options = words.split()
    assert "nowhere is not a run directory" in call(verb, "nowhere", *options).refusal()
    nothing_new(tmp_path)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("finetune x --data x --label y --keep 0.5", "--keep is now --pretrained-share"),
        ("export x --to y", "--to is now --out"),
    ],
)
def test_an_option_of_an_earlier_version_names_the_new_one(call: Call, words: str, line: str) -> None:
    assert line in call(*words.split()).refusal()


def test_the_folder_of_another_run_is_unchanged(call: Call, file: Path, run: Path, tmp_path: Path) -> None:
    before = contents(run)
    for override, key in (("model.dim=64", "model.dim"), ("train.seed=3", "train.seed"),
                          ("modalities.image.mask.ratio=0.75", "modalities.image.mask.ratio")):  # fmt: skip
        message = call("pretrain", file, override, "--out", run).refusal()
        assert f"holds a run of another recipe ({key} is " in message
    assert contents(run) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine").write_text("mine")
    assert "not empty and not a run" in call("pretrain", file, "--out", "notes").refusal()
    assert contents(tmp_path / "notes") == {"mine": b"mine"}


def test_a_run_without_a_model_is_reported(call: Call, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "begun", ignore=shutil.ignore_patterns("model"))
    assert "no model yet" in call("evaluate", "begun").refusal()


def test_broken_files_in_a_run_are_named(call: Call, file: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for path, words in (
        ("model/model.safetensors", ["evaluate", copy]),
        ("checkpoints/step-4/state-00000-of-00001.safetensors", ["pretrain", file, "--out", copy]),
    ):
        (copy / path).write_bytes((copy / path).read_bytes()[:1000])
        assert "is broken" in call(*words).refusal()
    shutil.rmtree(copy / "checkpoints" / "step-4")
    assert call("pretrain", file, "--out", copy).code == 0
    tensors = (read_checkpoint(r / "checkpoints" / "step-4") for r in (copy, run))
    ours, theirs = tensors
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_batch_that_ranks_cannot_divide_is_reported_by_plan(call: Call, file: Path) -> None:
    message = call("plan", file, "--ranks", "7").refusal()
    assert message.endswith("cannot be divided among 7 ranks: change train.batch_size")
    message = call("plan", file, "train.micro_batch_size=8", "--ranks", "7").refusal()
    assert message.endswith("cannot be divided among 7 ranks: change train.micro_batch_size")


@pytest.mark.parametrize("verb", ["embed", "predict"])
def test_outputs_must_be_parquet_files(call: Call, run: Path, table: Path, tmp_path: Path, verb: str) -> None:
    assert "o.csv is not a Parquet file" in call(verb, run, "--data", table, "--out", "o.csv").refusal()
    message = call(verb, run, "--data", table, "--out", "s3://bucket/o.parquet").refusal()
    assert "s3:/bucket/o.parquet looks like a URL: write to a file" in message
    nothing_new(tmp_path, "table.csv")


def test_predict_requires_a_finetuned_run(call: Call, run: Path, table: Path, tmp_path: Path) -> None:
    assert "is not a fine-tuned run" in call("predict", run, "--data", table, "--out", "o.parquet").refusal()
    nothing_new(tmp_path, "table.csv")


# a user's own data


@pytest.mark.parametrize("verb", [["finetune", "--label", "weight", "--out", "new"], ["embed", "--out", "new.parquet"]],
                         ids=["finetune", "embed"])  # fmt: skip
def test_unusable_data_is_reported(call: Call, run: Path, table: Path, tmp_path: Path, verb: list[str]) -> None:
    before = contents(run)

    def refusal(*words: str | Path) -> str:
        return call(verb[0], run, *verb[1:], *words).refusal()

    lines = table.read_text().splitlines()
    (tmp_path / "bad.csv").write_text("\n".join([*lines[:3], "C1CC(,7.0,1", *lines[4:]]))
    assert "bad.csv, row 3: invalid SMILES" in refusal("--data", "bad.csv")
    assert "--skip-invalid" in refusal("--data", "bad.csv")
    (tmp_path / "empty.csv").write_text("smiles,weight\n")
    assert "empty.csv" in refusal("--data", "empty.csv")
    (tmp_path / "none.csv").write_text("")
    assert "none.csv" in refusal("--data", "none.csv")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    assert "torn.parquet" in refusal("--data", "torn.parquet")
    (tmp_path / "other.csv").write_text("formula,weight\nCCO,1\nCCN,2\n")
    assert "--columns modality=column" in refusal("--data", "other.csv")
    assert "no column 'SMILES'" in refusal("--data", table, "--columns", "smiles=SMILES")
    assert "not a modality" in refusal("--data", table, "--columns", "sound=smiles")
    assert "name=value" in refusal("--data", table, "--columns", "smiles")
    assert "no file nowhere.csv" in refusal("--data", "nowhere.csv")
    assert "nowhere.xlsx" in refusal("--data", "nowhere.xlsx")
    assert "folder without manifest.json" in refusal("--data", tmp_path)
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.rglob("*.writing"))
    assert contents(run) == before


def test_invalid_finetune_options_are_reported(
    call: Call, run: Path, table: Path, shards: Path, tmp_path: Path
) -> None:
    before = contents(run)

    def refusal(*words: str | Path) -> str:
        return call("finetune", run, "--data", table, "--out", "new", *words).refusal()

    assert "no column 'wieght'" in refusal("--label", "wieght")
    assert "--mode is 'half'" in refusal("--label", "weight", "--mode", "half")
    assert "no modality 'sound'" in refusal("--label", "weight", "--modalities", "smiles,sound")
    assert "only" in refusal("--label", "weight", "--labels", "1000")
    assert "cannot split by 'patient'" in refusal("--label", "weight", "--split", "patient")
    assert "--test is 0: the share of test samples" in refusal("--label", "weight", "--test", "0")
    assert "no label 'mass'" in call("finetune", run, "--data", shards, "--label", "mass", "--out", "new").refusal()
    assert "not a fine-tuned run" in call("finetune", run, "--data", table, "--label", "odd", "--out", run).refusal()
    assert contents(run) == before
    nothing_new(tmp_path, "table.csv")


def test_a_label_missing_from_shards_is_reported(call: Call, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    before = contents(copy)
    assert "no label 'mass'; it has qed" in call("evaluate", copy, "--label", "mass").refusal()
    assert contents(copy) == before


# bad samples


@pytest.fixture
def unreadable(shards_copy: Path) -> int:
    """Every tenth training image is no image, and their checksums are right; returns how many."""
    manifest, count, shards = Manifest.read(shards_copy), 0, []
    for shard in manifest.shards:
        tar = shards_copy / shard.name
        if shard.split == "train":
            images = pl.read_parquet(index_path(tar)).filter(pl.col("member") == "image.png")
            data = bytearray(tar.read_bytes())
            for offset, size in images.select("offset", "size").gather_every(10).iter_rows():
                data[offset : offset + size] = b"\0" * size
                count += 1
            tar.write_bytes(data)
        shards.append(replace(shard, sha256=hash_file(tar)))
    Manifest(**{**manifest.__dict__, "shards": tuple(shards)}).write(shards_copy)
    return count


def test_unreadable_images_are_skipped_and_counted(
    call: Call, recipe_of_copy: Path, shards_copy: Path, unreadable: int
) -> None:
    steps = -(-len_of(shards_copy) // 16)
    done = call("pretrain", recipe_of_copy, "data.max_skipped=0.3", f"train.steps={steps}", "--out", "run", "--json")
    assert done.figures()["step"] == steps
    assert done.err.count("skipped a sample: image file is not png") >= unreadable
    metrics = Run(Path("run")).metrics()
    assert [row["skipped"] for row in metrics] == sorted(row["skipped"] for row in metrics)
    assert metrics[-1]["skipped"] >= unreadable
    assert all(row["applied"] for row in metrics)


def len_of(folder: Path) -> int:
    return Manifest.read(folder).counts()["train"]


def test_too_many_unreadable_images_stop_the_run(call: Call, recipe_of_copy: Path, unreadable: int) -> None:
    words = ["pretrain", recipe_of_copy, "train.steps=8", "train.checkpoint_every=1", "--out", "run"]
    message = call(*words, "data.max_skipped=0.01").refusal()
    assert "samples could not be used, more than data.max_skipped 1%" in message
    assert call(*words, "data.max_skipped=0.5").code == 0, "the limit may change when the run goes on"
    assert Run(Path("run")).metrics()[-1]["step"] == 8


# full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave_bytes: int) -> Path:
    """Fill a disk but for some bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * (shutil.disk_usage(disk).free - leave_bytes))
    return ballast


@pytest.mark.parametrize("leave_bytes", [0, 64 * 1024, 600 * 1024])
def test_a_full_disk_loses_no_saved_files(call: Call, file: Path, disk: Path, tmp_path: Path, leave_bytes: int) -> None:
    """Full at the start, while a row or a checkpoint is written, or later; then the run goes on, here and elsewhere."""
    run, flat = disk / "run", "train.schedule.kind=constant"
    assert call("pretrain", file, flat, "train.steps=2", "--out", run).code == 0
    assert call("pretrain", file, flat, "train.steps=6", "--out", tmp_path / "straight").code == 0
    saved = ("checkpoints/step-2/", "model/", "modalities.json", "trained_on.json", "environment.json")
    before = {name: data for name, data in contents(run).items() if name.startswith(saved)}
    ballast = fill(disk, leave_bytes)
    words = ["pretrain", file, flat, "train.steps=6", "train.keep_checkpoints=9", "--out"]
    message = call(*words, run).refusal()
    assert "the disk is full" in message
    assert {name: data for name, data in contents(run).items() if name in before} == before
    assert Run.existing(run).recipe().name == "small"
    shutil.copytree(run, tmp_path / "elsewhere")
    ballast.unlink()
    for folder in (run, tmp_path / "elsewhere"):
        assert call(*words, folder).code == 0
        ours, theirs = (read_checkpoint(Run(r).checkpoints()[-1]) for r in (folder, tmp_path / "straight"))
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        assert [row["loss"] for row in Run(folder).metrics()] == [
            r["loss"] for r in Run(tmp_path / "straight").metrics()
        ]


def test_a_full_disk_while_the_model_is_written(call: Call, file: Path, disk: Path) -> None:
    run = disk / "run"
    assert call("pretrain", file, "--out", run).code == 0
    before = contents(run)
    ballast = fill(disk, 64 * 1024)
    message = call("pretrain", file, "--out", run).refusal()
    assert "the disk is full" in message
    assert contents(run) == before
    ballast.unlink()
    assert call("pretrain", file, "--out", run).code == 0


def test_a_full_disk_before_a_run_starts(call: Call, file: Path, disk: Path) -> None:
    ballast = fill(disk, 0)
    assert "the disk is full" in call("pretrain", file, "--out", disk / "run").refusal()
    ballast.unlink()
    assert call("pretrain", file, "--out", disk / "run").code == 0, "the same again, as the message says"


def test_a_full_disk_in_a_separate_process(file: Path, disk: Path, tmp_path: Path) -> None:
    fill(disk, 300 * 1024)
    done = process("pretrain", file, "--out", disk / "run", cwd=tmp_path)
    messages = [line for line in done.err.replace("\r", "\n").splitlines() if line.startswith("sensorium: ")]
    assert done.code == 2
    assert len(messages) == 1
    assert "the disk is full" in messages[0]
    assert "Traceback" not in done.err
    assert not (disk / "run" / "model").exists()
    assert not list((disk / "run").rglob("step-*"))


def test_a_full_disk_while_a_finetuned_model_is_written(call: Call, file: Path, disk: Path, tmp_path: Path) -> None:
    assert call("pretrain", file, "--out", tmp_path / "run").code == 0
    labels = tmp_path / "labels.csv"
    labels.write_text("smiles,size\n" + "".join(f"{smiles},{len(smiles)}\n" for smiles in MOLECULES))
    words = [
        "finetune",
        tmp_path / "run",
        "--data",
        labels,
        "--label",
        "size",
        "--epochs",
        "1",
        "--modalities",
        "smiles",
    ]
    assert call(*words, "--out", disk / "tuned").code == 0
    before = contents(disk / "tuned")
    fill(disk, 64 * 1024)
    assert "the disk is full" in call(*words, "--out", disk / "tuned").refusal()
    assert contents(disk / "tuned") == before


# figures for machines


def test_json_of_plan_and_doctor(call: Call, file: Path, tmp_path: Path) -> None:
    planned = call("plan", file, "--json").figures()
    assert planned["recipe"] == "small"
    assert set(planned["tokens_per_sample"]) == {"smiles", "image", "table"}
    assert planned["memory_gib_by_zero_stage"].keys() == {"0", "1", "2", "3"}
    result = call("doctor", "--json").figures()
    assert result["packages"]["torch"]
    assert isinstance(result["missing"], list)
    nothing_new(tmp_path, "recipe.yaml")


def test_json_of_shards(call: Call, file: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "few.smi").write_text("\n".join([*MOLECULES, "broken("]))
    built = call("shards", "build", file, "--raw", "raw", "--out", "new", "--workers", "1", "--json").figures()
    assert sum(built["splits"].values()) == len(MOLECULES)
    assert built["skipped"] == {"invalid SMILES": 1}
    assert call("shards", "verify", "new", "--json").figures() == built
    inspected = call("shards", "inspect", "new", "--json").figures()
    assert inspected["fields"] == built["fields"]
    assert inspected["versions"]["rdkit"] == version("rdkit")
    assert f"rdkit {version('rdkit')}" in call("shards", "inspect", "new").out
    assert inspected["first"]["smiles.txt"] in MOLECULES or inspected["first"]["key"]
    alone = call(
        "shards",
        "build",
        file,
        "--raw",
        "raw",
        "--out",
        "few",
        "data.dedupe={image: exact}",
        "--workers",
        "1",
        "--json",
    ).figures()
    assert alone["skipped"] == {"invalid SMILES": 1}
    (tmp_path / "foreign").mkdir()
    for tar in (tmp_path / "new").glob("*.tar"):
        shutil.copy(tar, tmp_path / "foreign")
    indexed = call("shards", "index", "foreign", "--json").figures()
    assert indexed["splits"] == built["splits"]
    assert call("shards", "verify", "foreign").code == 0


def test_json_of_evaluate_finetune_embed_and_predict(call: Call, run: Path, table: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    judged = call("evaluate", copy, "--json").figures()
    assert len(judged["retrieval"]) == 6
    assert judged.pop("path") == str(copy)
    assert json.loads((copy / "result.json").read_text())["evaluate"] == judged
    tuned = call("finetune", copy, "--data", table, "--label", "weight", "--epochs", "1", "--out", "tuned", "--json")
    figures = tuned.figures()
    assert (figures["label"], figures["task"], figures["path"]) == ("weight", "regression", "tuned")
    embedded = call("embed", copy, "--data", table, "--out", "e.parquet", "--json").figures()
    predicted = call("predict", "tuned", "--data", table, "--out", "p.parquet", "--json").figures()
    assert embedded["rows"] == predicted["rows"] == pl.read_csv(table).height
    frame = pl.read_parquet(tmp_path / "e.parquet")
    assert len(frame["smiles"][0]) == 16
    assert pl.read_parquet(tmp_path / "p.parquet")["weight"].is_finite().all()
    assert not list(tmp_path.rglob("*.writing"))


def test_invalid_rows_can_be_skipped(call: Call, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed.csv").write_text("smiles\nCCO\nnot(\nCCN\n")
    figures = call("embed", run, "--data", "mixed.csv", "--out", "e.parquet", "--skip-invalid", "--json").figures()
    (skipped,) = figures["skipped"]
    assert figures["rows"] == 2
    assert skipped.startswith("row 2: invalid SMILES")


def test_json_of_pretrain_in_a_separate_process(file: Path, tmp_path: Path) -> None:
    """Libraries that log to standard output do not reach it."""
    done = process("pretrain", file, "--out", "run", "--json", cwd=tmp_path)
    figures = done.figures()
    assert (figures["path"], figures["step"]) == ("run", 4)
    assert "4/4" in done.err
    outcome = process("doctor", cwd=tmp_path)
    assert outcome.code == 0
    assert "torch" in outcome.out
    assert not outcome.err


def test_a_traceback_is_printed_only_on_request(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_DEBUG", "1")
    done = call("plan", "nothing")
    assert done.code == 2
    assert "Traceback" in done.err


def test_init_drafts_a_recipe_that_builds(call: Call, table: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    table.rename(tmp_path / "raw" / table.name)
    result = call("init", "raw", "--json").figures()
    assert (result["path"], result["samples"]) == ("raw.yaml", 40)
    assert result["guesses"]
    assert call("shards", "build", "raw.yaml", "--raw", "raw", "--out", "built", "--json").figures()["skipped"] == {}
    assert "raw.yaml exists: choose another name with --out" in call("init", "raw").refusal()
    (tmp_path / "empty").mkdir()
    assert "nothing usable in empty: looked for images" in call("init", "empty").refusal()
