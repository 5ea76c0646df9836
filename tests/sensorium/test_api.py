"""The public API: lazy, complete, and made of plain modules."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import sensorium as sm
from pipeline.commands.result import Result


def test_importing_sensorium_imports_neither_torch_nor_the_pipeline() -> None:
    code = (
        "import sys, sensorium\n"
        "packages = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(packages & {'torch', 'numpy', 'pydantic', 'pipeline', 'modalities', 'shards'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(sm._LOCATIONS))
def test_every_name_resolves_to_the_definition_in_its_module(name: str) -> None:
    module, attribute = sm._LOCATIONS[name]
    assert getattr(sm, name) is getattr(importlib.import_module(module), attribute)
    assert name in dir(sm)


def test_type_checkers_see_the_names_that_python_resolves() -> None:
    tree = ast.parse(inspect.getsource(sm))
    imports = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("pipeline.", "shards."))
        for alias in node.names
        if alias.asname is not None
    }
    assert imports == sm._LOCATIONS


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sensorium' has no attribute 'pretrian'"):
        _ = sm.pretrian  # type: ignore[attr-defined]


def test_the_version_equals_that_of_the_package() -> None:
    assert sm.__version__ == importlib.metadata.version("sensorium")


def test_modules_of_commands_are_plain_modules() -> None:
    import pipeline.commands.pretrain

    assert type(pipeline.commands.pretrain) is ModuleType
    assert pipeline.commands.pretrain.pretrain is sm.pretrain
    assert callable(pipeline.commands.pretrain.load)


def test_results_are_frozen_dataclasses_with_keyword_fields() -> None:
    names = [name for name in sm._LOCATIONS if name.endswith("Result") or name == "DraftedRecipe"]
    results = [getattr(sm, name) for name in names]
    assert len(results) > 10
    for result in results:
        assert issubclass(result, Result)
        assert dataclasses.is_dataclass(result)
        assert result.__dataclass_params__.frozen
        assert all(field.kw_only for field in dataclasses.fields(result))
