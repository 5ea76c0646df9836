"""Base class of the results of commands: figures as attributes, as JSON and as lines of text."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter


class Result(ABC):
    """Base of the frozen dataclasses that commands return."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """Fields that JSON leaves out if they are None."""

    @abstractmethod
    def lines(self) -> list[str]:
        """The lines that the command prints without `--json`."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that the command prints with `--json`."""
        return plain(self)

    def figures(self) -> dict[str, Any]:
        """`to_json` without the paths, as stored in `result.json`."""
        return {name: value for name, value in self.to_json().items() if name != "path"}

    @classmethod
    def from_json(cls, figures: Mapping[str, Any], path: str = "") -> Self:
        """The result that `figures` or `to_json` described.

        Raises:
            pydantic.ValidationError: missing or unknown keys.
        """
        return TypeAdapter(cls).validate_python({"path": path, **figures})


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and paths as JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        optional = getattr(value, "optional", ())
        return {name: plain(item) for name, item in fields.items() if item is not None or name not in optional}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
