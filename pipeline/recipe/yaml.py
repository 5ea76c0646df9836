"""YAML of recipes: strict reading, merging and writing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, which YAML 1.1 reads as a string, and refuses a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1 and key != "<<":
                raise yaml.YAMLError(f"key {key!r} is given twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    key: list(resolvers) for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that `_Loader` would read as something else, such as a column named `1e5`."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=_is_short(sequence))

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        return super().represent_mapping(tag, mapping, flow_style=_is_short(mapping))

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _is_short(part: Any) -> bool:
    """Whether to write a list or mapping on one line."""
    return len(str(part)) <= 100 or (isinstance(part, (list, tuple)) and all(isinstance(item, str) for item in part))


def parse(text: str, name: str) -> Any:
    """The value of a YAML text; `name` is what error messages call the text.

    Raises:
        ValueError: invalid YAML or a key that is given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise ValueError(f"{name} is not valid YAML: {line}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: no such file, invalid YAML, or not a mapping.
    """
    if not path.is_file():
        raise ValueError(f"no recipe file {path}")
    state = parse(path.read_text(), str(path))
    if not isinstance(state, dict):
        raise ValueError(f"recipe {path} is not a mapping of keys")
    return state


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes`; nested mappings are merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def dump(state: Mapping[str, Any]) -> str:
    """A recipe as YAML that `parse` reads back unchanged; short lists and mappings are written on one line."""
    return yaml.dump(dict(state), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
