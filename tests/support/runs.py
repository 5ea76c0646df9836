"""Pretraining and building for tests that need only the path or the manifest of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.commands import build, pretrain
from shards.manifest import Manifest


def pretrained(*arguments: Any, **options: Any) -> Path:
    """Pretrain; returns the run directory."""
    return Path(pretrain.pretrain(*arguments, **options))


def built(*arguments: Any, **options: Any) -> Manifest:
    """Build shards; returns the manifest."""
    return build.build_shards(*arguments, **options).manifest
