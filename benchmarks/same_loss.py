"""Does a change keep every value? Records or compares the shards, manifests and losses that a source tree gives.

Builds one shard set of each recipe that has raw data in DIR (and the molecules that come with RDKit), pretrains 20
steps of the demo size of most, and writes the SHA-256 of every tar and index, the manifests and every loss to a JSON
file. Run it on two source trees, then compare the files: anything that differs is printed, and the exit code is 1.

    python benchmarks/same_loss.py record --tree OLD --data DIR --out old.json
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
TIMES = ("seconds", "samples_per_s", "tokens_per_s", "waiting", "wait", "time")


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


def raw_folder(chosen: Set, data: Path) -> Path:
    """The raw data of a set."""
    if chosen.folder is not None:
        return data / chosen.folder
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
    done = subprocess.run(command, cwd=work, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def record(tree: Path, data: Path, work: Path, chosen: Set) -> dict[str, Any]:
    """What a source tree makes of one set: hashes by file, the manifest, and rows of losses."""
    shards, run = work / chosen.recipe, work / f"{chosen.recipe}-run"
    recipe = str(tree / "recipes" / f"{chosen.recipe}.yaml")
    raw = str(raw_folder(chosen, data))
    sensorium(tree, work, "shards", "build", recipe, "--raw", raw, "--out", str(shards), "--workers", "1")
    files = sorted(path for path in shards.iterdir() if path.name != "manifest.json")
    values: dict[str, Any] = {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "manifest": json.loads((shards / "manifest.json").read_text()),
    }
    if chosen.train:
        where = f"data.shards=[{{path: {json.dumps(str(shards))}}}]"
        sensorium(tree, work, "pretrain", recipe, f"train.steps={STEPS}", "train.log_every=1", where, "--out", str(run))
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
    """Where two records differ, a line each."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="record the values of a source tree")
    recorder.add_argument("--tree", type=Path, required=True, help="source tree, such as a git worktree")
    recorder.add_argument("--data", type=Path, required=True, help="folder of the sets' raw folders")
    recorder.add_argument("--out", type=Path, required=True, help="JSON file to write")
    recorder.add_argument("--work", type=Path, help="folder to keep shards and runs in; a temporary one by default")
    recorder.add_argument("--sets", nargs="+", choices=[each.recipe for each in SETS])
    comparer = commands.add_parser("compare", help="compare two records")
    comparer.add_argument("records", type=Path, nargs=2)
    options = parser.parse_args()
    if options.command == "compare":
        old, new = (json.loads(path.read_text()) for path in options.records)
        lines = differences(old, new)
        print("\n".join(lines) or f"the same: {', '.join(old)}")
        sys.exit(bool(lines))
    values = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for chosen in SETS:
            if options.sets is None or chosen.recipe in options.sets:
                values[chosen.recipe] = record(options.tree.resolve(), options.data.resolve(), work, chosen)
                options.out.write_text(json.dumps(values, indent=1))
                print(f"{chosen.recipe}: recorded", flush=True)


if __name__ == "__main__":
    main()
