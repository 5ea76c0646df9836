"""Parts of a recipe to the dataclasses that they describe, checked; mistakes become one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from shards.names import nearest


def typed(value: Any, known: Mapping[str, type], where: str) -> Any:
    """The dataclass that `value["type"]` names; what is no mapping is passed on.

    Raises:
        ValueError: an unknown type, or what `configured` refuses.
    """
    if not isinstance(value, dict):
        return value
    if (kind := value.get("type")) is None or kind not in known:
        raise ValueError(f"{where}.type is {kind!r}{nearest(str(kind), known)}")
    return configured(known[kind], {key: item for key, item in value.items() if key != "type"}, where)


def configured(cls: type, config: Any, where: str) -> Any:
    """A validated dataclass from a mapping; keys that `fit` learns are unknown here.

    Raises:
        ValueError: naming the first wrong key.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{where} must be a mapping")
    known = {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("fitted")}
    checked = {}
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"unknown key '{where}.{key}'{nearest(str(key), known)}")
        default = known[key].default
        nested = dataclasses.is_dataclass(default) and not isinstance(default, type)
        if nested and isinstance(value, list):
            checked[key] = tuple(configured(type(default), item, f"{where}.{key}") for item in value)
        else:
            checked[key] = configured(type(default), value, f"{where}.{key}") if nested else value
    try:
        return pydantic.TypeAdapter(cls).validate_python(checked)
    except pydantic.ValidationError as error:
        raise ValueError(explain(error, where)) from error


def explain(
    error: pydantic.ValidationError, where: str = "", keys_at: Callable[[Sequence[Any]], list[str]] | None = None
) -> str:
    """The first fault of a validation error in one line; an unknown key explains a missing one, so it goes first.

    keys_at: the keys that are known at a path.
    """
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    fault = min(error.errors(), key=lambda fault: fault["type"] not in unknown)
    path = ".".join(str(part) for part in ([where] if where else []) + list(fault["loc"]))
    if fault["type"] in unknown:
        hint = nearest(str(fault["loc"][-1]), keys_at(fault["loc"][:-1])) if keys_at else ""
        return f"unknown key '{path}'{hint}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"'{path}' is missing"
    if fault["type"] == "value_error":
        return message
    return f"'{path}' is {fault['input']!r}: {message[0].lower()}{message[1:]}"
