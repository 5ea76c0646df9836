"""The public Python API: `import sensorium as sm; sm.pretrain("molecules")`.

Each name is imported when it is first used, so that `import sensorium` loads neither torch nor the pipeline.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.commands.build import build_shards as build_shards
    from pipeline.commands.demo import DemoResult as DemoResult
    from pipeline.commands.demo import demo as demo
    from pipeline.commands.doctor import DoctorResult as DoctorResult
    from pipeline.commands.doctor import doctor as doctor
    from pipeline.commands.embed import EmbedResult as EmbedResult
    from pipeline.commands.embed import embed_file as embed
    from pipeline.commands.evaluate import EvaluateResult as EvaluateResult
    from pipeline.commands.evaluate import evaluate as evaluate
    from pipeline.commands.export import ExportResult as ExportResult
    from pipeline.commands.export import export as export
    from pipeline.commands.finetune import FinetuneResult as FinetuneResult
    from pipeline.commands.finetune import finetune as finetune
    from pipeline.commands.index import index_shards as index_shards
    from pipeline.commands.inspect import InspectResult as InspectResult
    from pipeline.commands.inspect import inspect_shards as inspect_shards
    from pipeline.commands.plan import PlanResult as PlanResult
    from pipeline.commands.plan import plan as plan
    from pipeline.commands.predict import PredictResult as PredictResult
    from pipeline.commands.predict import predict_file as predict
    from pipeline.commands.pretrain import PretrainResult as PretrainResult
    from pipeline.commands.pretrain import pretrain as pretrain
    from pipeline.commands.report import ReportResult as ReportResult
    from pipeline.commands.report import report as report
    from pipeline.commands.shard_set import ShardSetResult as ShardSetResult
    from pipeline.commands.verify import VerifyResult as VerifyResult
    from pipeline.commands.verify import verify_shards as verify_shards
    from pipeline.data.loader import RawBatches as RawBatches
    from pipeline.data.workers import prefetch as prefetch
    from pipeline.draft import DraftedRecipe as DraftedRecipe
    from pipeline.draft import draft_recipe as draft_recipe
    from pipeline.evaluation.predictor import Settings as Settings
    from pipeline.recipe.load import load as load_recipe
    from pipeline.recipe.schema import Recipe as Recipe
    from pipeline.run import Run as Run
    from shards.read import Split as Split
    from shards.webdataset_pipeline import webdataset as webdataset

    __version__: str

_LOCATIONS = {
    "DemoResult": ("pipeline.commands.demo", "DemoResult"),
    "DoctorResult": ("pipeline.commands.doctor", "DoctorResult"),
    "DraftedRecipe": ("pipeline.draft", "DraftedRecipe"),
    "EmbedResult": ("pipeline.commands.embed", "EmbedResult"),
    "EvaluateResult": ("pipeline.commands.evaluate", "EvaluateResult"),
    "ExportResult": ("pipeline.commands.export", "ExportResult"),
    "FinetuneResult": ("pipeline.commands.finetune", "FinetuneResult"),
    "InspectResult": ("pipeline.commands.inspect", "InspectResult"),
    "PlanResult": ("pipeline.commands.plan", "PlanResult"),
    "PredictResult": ("pipeline.commands.predict", "PredictResult"),
    "PretrainResult": ("pipeline.commands.pretrain", "PretrainResult"),
    "Recipe": ("pipeline.recipe.schema", "Recipe"),
    "ReportResult": ("pipeline.commands.report", "ReportResult"),
    "Run": ("pipeline.run", "Run"),
    "Settings": ("pipeline.evaluation.predictor", "Settings"),
    "ShardSetResult": ("pipeline.commands.shard_set", "ShardSetResult"),
    "VerifyResult": ("pipeline.commands.verify", "VerifyResult"),
    "RawBatches": ("pipeline.data.loader", "RawBatches"),
    "Split": ("shards.read", "Split"),
    "build_shards": ("pipeline.commands.build", "build_shards"),
    "demo": ("pipeline.commands.demo", "demo"),
    "doctor": ("pipeline.commands.doctor", "doctor"),
    "draft_recipe": ("pipeline.draft", "draft_recipe"),
    "embed": ("pipeline.commands.embed", "embed_file"),
    "evaluate": ("pipeline.commands.evaluate", "evaluate"),
    "export": ("pipeline.commands.export", "export"),
    "finetune": ("pipeline.commands.finetune", "finetune"),
    "index_shards": ("pipeline.commands.index", "index_shards"),
    "inspect_shards": ("pipeline.commands.inspect", "inspect_shards"),
    "load_recipe": ("pipeline.recipe.load", "load"),
    "plan": ("pipeline.commands.plan", "plan"),
    "predict": ("pipeline.commands.predict", "predict_file"),
    "prefetch": ("pipeline.data.workers", "prefetch"),
    "pretrain": ("pipeline.commands.pretrain", "pretrain"),
    "report": ("pipeline.commands.report", "report"),
    "verify_shards": ("pipeline.commands.verify", "verify_shards"),
    "webdataset": ("shards.webdataset_pipeline", "webdataset"),
}
"""Module and attribute of each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        value: Any = importlib.metadata.version("sensorium")
    elif name in _LOCATIONS:
        from pipeline.platforms import check_platform

        check_platform()
        module, attribute = _LOCATIONS[name]
        value = getattr(importlib.import_module(module), attribute)
    else:
        raise AttributeError(f"module 'sensorium' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOCATIONS, "__version__"})
