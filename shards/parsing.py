"""Parse parts of a recipe into validated dataclasses; errors are one line each."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from modalities.names import did_you_mean
from modalities.registry import Registry

_TEXT_FAULTS = ("string_type", "literal_error", "invalid_key")
"""pydantic's names of errors about values and keys that should be text."""


def refuse_bools(value: Any, where: str) -> None:
    """Check that text contains no bool, alone or in lists and mappings, whose keys are text too.

    Raises:
        ValueError: there is a bool; the message says to quote it.
    """
    if isinstance(value, bool):
        raise ValueError(_bool_for_text(value, f"'{where}'"))
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_bool_key(key, where)
            refuse_bools(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            refuse_bools(item, f"{where}.{number}")


def refuse_bool_key(key: Any, where: str) -> None:
    """Check that a key of the mapping at `where` is not a bool.

    Raises:
        ValueError: it is a bool; the message says to quote it.
    """
    if isinstance(key, bool):
        raise ValueError(_bool_for_text(key, f"a key of '{where}'"))


def _bool_for_text(value: bool, subject: str) -> str:
    """The message for a bool in place of text. YAML 1.1 reads NO as a bool, so also nitric oxide and Norway."""
    words, text = ("YES, on and true", "YES") if value else ("NO, off and false", "NO")
    read = str(value).lower()
    return f'{subject} is {read}: YAML reads {words} without quotes as {read}, so write "{text}" if it is text'


def _is_text(field: dataclasses.Field[Any]) -> bool:
    """Whether a field holds text, alone or in lists and mappings, but neither bools nor nested dataclasses."""
    types = set(re.findall(r"\w+", re.sub(r"Literal\[[^]]*\]", "", str(field.type))))
    return "str" in types and types <= {"str", "int", "float", "tuple", "dict", "list", "None"}


def parse_typed(value: Any, registry: Registry[Any], where: str) -> Any:
    """Parse the dataclass that `value["type"]` names; a value that is not a mapping is returned as it is.

    Raises:
        ValueError: the type is unknown, or as `parse_dataclass`.
    """
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("type"), bool):
        refuse_bools(value["type"], f"{where}.type")
    cls = registry.find(value.get("type"), f"{where}.type")
    return parse_dataclass(cls, {key: item for key, item in value.items() if key != "type"}, where)


def parse_dataclass(cls: type, config: Any, where: str) -> Any:
    """Parse a validated dataclass from a mapping. Fitted fields are unknown keys.

    Raises:
        ValueError: a key is wrong; the message names the first.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{where} must be a mapping")
    recipe_fields = {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("fitted")}
    checked = {}
    for key, value in config.items():
        refuse_bool_key(key, where)
        if key not in recipe_fields:
            raise ValueError(f"unknown key '{where}.{key}'{did_you_mean(str(key), recipe_fields)}")
        if _is_text(recipe_fields[key]):
            refuse_bools(value, f"{where}.{key}")
        default = recipe_fields[key].default
        nested = dataclasses.is_dataclass(default) and not isinstance(default, type)
        if nested and isinstance(value, list):
            checked[key] = tuple(parse_dataclass(type(default), item, f"{where}.{key}") for item in value)
        else:
            checked[key] = parse_dataclass(type(default), value, f"{where}.{key}") if nested else value
    try:
        return pydantic.TypeAdapter(cls).validate_python(checked)
    except pydantic.ValidationError as error:
        raise ValueError(explain_error(error, where)) from error


def explain_error(
    error: pydantic.ValidationError, where: str = "", keys_at: Callable[[Sequence[Any]], list[str]] | None = None
) -> str:
    """Describe the first fault of a validation error in one line. Unknown keys come first: they explain missing ones.

    keys_at: returns the valid keys at a path.
    """
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    fault = min(error.errors(), key=lambda fault: fault["type"] not in unknown)
    path = ".".join(str(part) for part in ([where] if where else []) + list(fault["loc"]))
    value, message = fault["input"], fault["msg"].removeprefix("Value error, ")
    if fault["type"] in unknown:
        hint = did_you_mean(str(fault["loc"][-1]), keys_at(fault["loc"][:-1])) if keys_at else ""
        return f"unknown key '{path}'{hint}"
    if fault["type"] in _TEXT_FAULTS and isinstance(value, bool):
        return _bool_for_text(value, "a key" if fault["type"] == "invalid_key" else f"'{path}'")
    if fault["type"] == "missing":
        return f"'{path}' is missing"
    if fault["type"] == "value_error":
        return message
    number = fault["type"] == "string_type" and isinstance(value, int | float | datetime.date)
    return f"'{path}' is {value!r}: {message[0].lower()}{message[1:]}{', so write it in quotes' if number else ''}"
