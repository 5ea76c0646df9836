"""The public face: `import sensorium as sm; sm.pretrain("molecules")`. Each name is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.platforms import check_platform

if TYPE_CHECKING:
    from pipeline.commands.build import build_shards as build_shards
    from pipeline.commands.demo import demo as demo
    from pipeline.commands.evaluate import evaluate as evaluate
    from pipeline.commands.export import export as export
    from pipeline.commands.finetune import finetune as finetune
    from pipeline.commands.plan import plan as plan
    from pipeline.commands.predict import embed_file as embed
    from pipeline.commands.predict import predict_file as predict
    from pipeline.commands.pretrain import pretrain as pretrain
    from pipeline.commands.report import report as report
    from pipeline.draft import draft_recipe as draft_recipe
    from pipeline.recipe.load import load as load_recipe

_PLACES = {
    "build_shards": ("pipeline.commands.build", "build_shards"),
    "demo": ("pipeline.commands.demo", "demo"),
    "draft_recipe": ("pipeline.draft", "draft_recipe"),
    "embed": ("pipeline.commands.predict", "embed_file"),
    "evaluate": ("pipeline.commands.evaluate", "evaluate"),
    "export": ("pipeline.commands.export", "export"),
    "finetune": ("pipeline.commands.finetune", "finetune"),
    "load_recipe": ("pipeline.recipe.load", "load"),
    "plan": ("pipeline.commands.plan", "plan"),
    "predict": ("pipeline.commands.predict", "predict_file"),
    "pretrain": ("pipeline.commands.pretrain", "pretrain"),
    "report": ("pipeline.commands.report", "report"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'sensorium' has no attribute {name!r}")
    check_platform()
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
