"""Benchmarks as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def line(script: str, *words: str) -> dict[str, Any]:
    """The JSON line that a script of `benchmarks/` prints, called with these words."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (printed,) = done.stdout.splitlines()
    return json.loads(printed)
