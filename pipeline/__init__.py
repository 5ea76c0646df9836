"""Pretrain, fine-tune, evaluate and export multimodal foundation models of scientific domains."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

VERBS = ("pretrain", "finetune", "evaluate", "export", "report", "plan")


class _Package(ModuleType):
    """`from pipeline import pretrain` gives the verb of that module, not the module, and imports no other."""

    def __setattr__(self, name: str, value: Any) -> None:
        verb = name in VERBS and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if verb else value)


sys.modules[__name__].__class__ = _Package
