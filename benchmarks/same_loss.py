"""Compare the shards, manifests and losses of two source trees: does a change keep every value?

The script builds one shard set of each recipe that has raw data in DIR (and of the molecules that come with RDKit) and
pretrains most of them for 20 steps at demo size. It records the SHA-256 of every tar and index, the manifests and all
losses as JSON. `versus` records a commit and the working tree and compares them; `record` and `compare` do so one at a
time. Each difference is one line of output, and the exit code is 1 if there are any.

    python benchmarks/same_loss.py versus main --data DIR --sets tables birds
    python benchmarks/same_loss.py record --tree . --data DIR --out new.json
    python benchmarks/same_loss.py compare old.json new.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 20


@dataclass(frozen=True)
class Set:
    """A recipe, the folder of its raw data (None: what comes with RDKit), and whether to pretrain on its shards."""

    recipe: str
    folder: str | None
    train: bool = True


SETS = (
    Set("tables", "tables"),
    Set("birds", "bird_barcodes"),
    Set("fish", "fish"),
    Set("arithmetic", "eeg_arithmetic"),
    Set("audio", "spoken_digits"),
    Set("molecules", None),
    Set("ecg", "ecg/cinc2021", train=False),
    Set("eeg", "eeg_arithmetic", train=False),
    Set("barcodes", "bird_barcodes", train=False),
)


def raw_folder(data_set: Set, data: Path) -> Path:
    """The raw data of a set."""
    if data_set.folder is not None:
        return data / data_set.folder
    from rdkit import RDConfig

    return Path(RDConfig.RDDataDir) / "NCI"


def sensorium(tree: Path, work: Path, *arguments: str) -> None:
    """Run the command line of a source tree; its log shows only if it fails."""
    environment = {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "pipeline", *arguments]
    process = subprocess.run(command, cwd=work, env=os.environ | environment, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} exited with {process.returncode}:\n{process.stderr[-3000:]}")


def record(tree: Path, data: Path, work: Path, data_set: Set) -> dict[str, Any]:
    """Record one set as a source tree builds and trains it: hashes by file, the manifest, rows of losses."""
    shards, run = work / data_set.recipe, work / f"{data_set.recipe}-run"
    recipe = str(tree / "recipes" / f"{data_set.recipe}.yaml")
    raw = str(raw_folder(data_set, data))
    sensorium(tree, work, "shards", "build", recipe, "--raw", raw, "--out", str(shards), "--workers", "1")
    files = sorted(path for path in shards.iterdir() if path.name != "manifest.json")
    values: dict[str, Any] = {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "manifest": json.loads((shards / "manifest.json").read_text()),
    }
    if data_set.train:
        shard_set = f"data.shards=[{{path: {json.dumps(str(shards))}}}]"
        sensorium(
            tree, work, "pretrain", recipe, f"train.steps={STEPS}", "train.log_every=1", shard_set, "--out", str(run)
        )
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        values["losses"] = [
            {
                name: value
                for name, value in row.items()
                if name in ("step", "gradient_norm") or "loss" in name or "/" in name
            }
            for row in rows
        ]
    return values


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List the differences of two records, a line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)[:200]} is now {json.dumps(new)[:200]}"]


def record_sets(tree: Path, data: Path, work: Path, recipes: list[str] | None) -> dict[str, Any]:
    """Record the sets of `recipes` (all by default), with shards and runs in `work`."""
    values = {}
    work.mkdir(parents=True, exist_ok=True)
    for data_set in SETS:
        if recipes is None or data_set.recipe in recipes:
            values[data_set.recipe] = record(tree.resolve(), data.resolve(), work, data_set)
            print(f"{data_set.recipe}: recorded", file=sys.stderr, flush=True)
    return values


def check_out(commit: str, folder: Path) -> Path:
    """Write the files of a commit of this repository to a folder."""
    root = Path(__file__).resolve().parents[1]
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=root, capture_output=True)
    if archive.returncode:
        sys.exit(archive.stderr.decode().strip())
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


def compare(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Print the differences of two records and exit with 1 if there are any."""
    lines = differences(old, new)
    print("\n".join(lines) or f"the same: {', '.join(old)}")
    sys.exit(bool(lines))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    versus = commands.add_parser("versus", help="compare the working tree with a commit")
    versus.add_argument("commit", help="commit, branch or tag to compare with")
    recorder = commands.add_parser("record", help="record the values of a source tree")
    recorder.add_argument("--tree", type=Path, required=True, help="source tree, such as a git worktree")
    recorder.add_argument("--out", type=Path, required=True, help="JSON file to write")
    recorder.add_argument("--work", type=Path, help="folder to keep shards and runs in; a temporary one by default")
    for command in (versus, recorder):
        command.add_argument("--data", type=Path, required=True, help="folder of the sets' raw folders")
        command.add_argument("--sets", nargs="+", choices=[data_set.recipe for data_set in SETS])
    comparer = commands.add_parser("compare", help="compare two records")
    comparer.add_argument("records", type=Path, nargs=2)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    if options.command == "compare":
        old, new = (json.loads(path.read_text()) for path in options.records)
        compare(old, new)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if options.command == "record":
            values = record_sets(options.tree, options.data, options.work or work, options.sets)
            options.out.write_text(json.dumps(values, indent=1))
            return
        tree = check_out(options.commit, work / "tree")
        old = record_sets(tree, options.data, work / "old", options.sets)
        new = record_sets(Path(__file__).parents[1], options.data, work / "new", options.sets)
    compare(old, new)


if __name__ == "__main__":
    main()
