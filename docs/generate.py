"""Writes the pages of `docs/reference/` from the code: recipe keys, commands and the Python API.

Run `python docs/generate.py` after changing a key, an option or a docstring. `--check` writes nothing and exits with 1
if a page is stale or a key has no meaning. Meanings come from the `Attributes:` section of a class's docstring:

    Attributes:
        size (px): Side of the square that an image is scaled to.

The unit in parentheses is optional; names that end in a unit, such as `window_s`, need none.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic
import typer

import sensorium
from modalities.base import MODALITY_TYPES, Modality
from pipeline.cli import app
from pipeline.objectives.base import OBJECTIVE_TYPES, ObjectiveConfig
from pipeline.recipe.load import SIZES
from pipeline.recipe.schema import Recipe
from shards.sources.base import SOURCE_TYPES, Source

FOLDER = Path(__file__).parent / "reference"
UNITS = {"s": "s", "hz": "Hz", "px": "px", "gib": "GiB", "um": "µm", "uv": "µV", "bytes": "bytes"}
"""Units by the last word of a key."""
SECTIONS = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note):$", re.MULTILINE)
NOTE = "<!-- Written by docs/generate.py; change the docstrings instead. -->"


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a recipe."""

    name: str
    type: str
    default: str
    unit: str
    meaning: str

    def row(self) -> str:
        """The key as a row of a Markdown table."""
        cells = (f"`{self.name}`", self.type, self.default, self.unit, self.meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def sections(docstring: str | None) -> dict[str, str]:
    """A docstring's parts by title; the text before the first section has the title ''."""
    parts = SECTIONS.split(inspect.cleandoc(docstring or ""))
    return {"": parts[0].strip(), **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> dict[str, tuple[str, str]]:
    """The entries `name (unit): text` of a section, as {name: (unit, text)}; one entry may have several names."""
    result: dict[str, tuple[str, str]] = {}
    for block in re.split(r"\n(?=\S)", inspect.cleandoc(section)):
        if match := re.match(r"([\w., ]+?)(?: \(([^)]*)\))?:\s+(.*)", block, re.DOTALL):
            text = " ".join(match[3].split())
            result |= {name.strip(): (match[2] or "", text) for name in match[1].split(",")}
    return result


def meanings(cls: type) -> dict[str, tuple[str, str]]:
    """The unit and meaning of each attribute, its own class's words before those of its bases."""
    result: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        result |= entries(sections(base.__dict__.get("__doc__")).get("Attributes", ""))
    return result


def type_text(hint: Any) -> str:
    """A type as a reader of recipes would call it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return type_text(parts[0])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(part) for part in parts))
    if origin is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            text = type_text(parts[0])
            return f"list of ({text})" if " or " in text else f"list of {text}"
        return f"[{', '.join(map(type_text, parts))}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_text(parts[0])} to {type_text(parts[1])}"
    names: dict[Any, str] = {
        Any: "any value",
        type(None): "`null`",
        str: "text",
        int: "integer",
        float: "number",
        bool: "`true` or `false`",
    }
    return names.get(hint) or link(hint)


def link(cls: type) -> str:
    """A link to the keys of a part of a recipe."""
    if cls in CONTRACTS:
        return f"[one of the {CONTRACTS[cls]}]({CONTRACTS[cls]}.md)"
    if cls in shared_parts():
        return f"[{shared_parts()[cls]}](recipe.md#{slug(shared_parts()[cls])})"
    return f"`{{{', '.join(f'{field.name}: ...' for field in dataclasses.fields(cls))}}}`"


def slug(heading: str) -> str:
    """The anchor that Markdown renderers give to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def default_text(default: Any) -> str:
    """A default as it is written in YAML."""
    if default in (dataclasses.MISSING, pydantic.fields.PydanticUndefined):
        return "required"
    if dataclasses.is_dataclass(default) or isinstance(default, pydantic.BaseModel):
        return "its defaults"
    if isinstance(default, tuple | list):
        return f"`[{', '.join(default_text(item).strip('`') for item in default)}]`"
    if default is None or isinstance(default, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[default]
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`" if default != "" else '`""`'


def raw_fields(cls: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of each key that a recipe may set, inherited keys last."""
    hints = typing.get_type_hints(cls)
    if issubclass(cls, pydantic.BaseModel):
        for name, info in cls.model_fields.items():
            yield name, hints[name], info.get_default(call_default_factory=True)
        return
    keys = [field for field in dataclasses.fields(cls) if not field.metadata.get("fitted")]
    inherited = {name for base in cls.__mro__[1:] for name in inspect.get_annotations(base)}
    for field in sorted(keys, key=lambda field: field.name in inherited):
        factory = field.default_factory
        yield field.name, hints[field.name], field.default if factory is dataclasses.MISSING else factory()


def keys_of(cls: type) -> list[Key]:
    """All keys of a part of a recipe."""
    texts = meanings(cls)
    return [
        Key(
            name=name,
            type=type_text(hint),
            default=default_text(default),
            unit=texts.get(name, ("", ""))[0] or UNITS.get(name.rpartition("_")[2] if "_" in name else "", ""),
            meaning=texts.get(name, ("", ""))[1],
        )
        for name, hint, default in raw_fields(cls)
    ]


def table(cls: type) -> str:
    """A Markdown table of all keys of a part of a recipe."""
    rows = [key.row() for key in keys_of(cls)]
    return "\n".join(["| key | type | default | unit | meaning |", "|---|---|---|---|---|", *rows])


def prose(cls: Any) -> str:
    """A docstring without its sections."""
    return sections(cls.__doc__)[""]


def nested(hint: Any) -> Iterator[tuple[str, type]]:
    """The classes with keys of their own in a type, with the path that leads to them."""
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, pydantic.BaseModel)):
        yield "", hint
    elif origin in (typing.Union, types.UnionType, typing.Annotated):
        for part in parts:
            yield from nested(part)
    elif origin is tuple:
        yield from ((f"[]{path}", cls) for part in parts for path, cls in nested(part))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from ((f".NAME{path}", cls) for path, cls in nested(parts[1]))


def walk(path: str, cls: type) -> Iterator[tuple[str, type]]:
    """A part of a recipe and the parts below it, save those with a registry."""
    if cls not in CONTRACTS:
        yield path, cls
    for name, hint, _ in raw_fields(cls):
        for tail, child in nested(hint):
            if child in CONTRACTS or (child is not cls and len(list(raw_fields(child))) > 1):
                yield from walk(f"{path}.{name}{tail}".lstrip("."), child)


CONTRACTS: dict[type, str] = {Modality: "modalities", Source: "sources", ObjectiveConfig: "objectives"}
"""Classes whose subclasses recipes name by type, with the page that lists them."""


@cache
def shared_parts() -> dict[type, str]:
    """Parts that every recipe may have, with the path of their keys; the first of several paths."""
    parts = list(walk("", Recipe))
    for source in SOURCE_TYPES.values():
        parts += walk("data.source", source)
    registered = {*SOURCE_TYPES.values(), *MODALITY_TYPES.values(), *OBJECTIVE_TYPES.values()}
    first: dict[type, str] = {}
    for path, cls in parts:
        if cls not in registered:
            first.setdefault(cls, path.removesuffix("[]") if cls.__name__ == "Masking" else path)
    return first


def all_parts() -> dict[str, type]:
    """Every class whose fields are keys of a recipe, by the path of its keys."""
    return {
        **{path: cls for cls, path in shared_parts().items()},
        **{f"modalities.NAME (type: {name})": cls for name, cls in MODALITY_TYPES.items()},
        **{f"data.source (type: {name})": cls for name, cls in SOURCE_TYPES.items()},
        **{f"objectives.{name}": cls for name, cls in OBJECTIVE_TYPES.items()},
    }


def missing() -> list[str]:
    """The keys without a meaning."""
    return [f"{path}: {key.name}" for path, cls in all_parts().items() for key in keys_of(cls) if not key.meaning]


def part(heading: str, cls: type) -> str:
    """The keys of one class under a heading."""
    return f"## {heading}\n\n{prose(cls)}\n\n{table(cls)}"


def recipe_page() -> str:
    """Keys that every recipe may have."""
    sizes = "\n".join(f"| `{name}` | `{values}` |".replace("'", "") for name, values in SIZES.items())
    parts = "\n\n".join(part(path or "Top level", cls) for cls, path in shared_parts().items())
    return f"""# Recipe keys

A recipe is a YAML file. Every key is checked before anything runs: an unknown key is an error that names the nearest
known one. Keys can be changed on the command line as `train.steps=100`. Modalities, sources and objectives have pages
of their own: [modalities](modalities.md), [sources](sources.md), [objectives](objectives.md).

Three more keys stand at the top level and are resolved when the file is read:

| key | meaning |
|---|---|
| `extends` | The name or file of another recipe, whose keys this one changes. |
| `sizes` | Named sets of changes to the recipe, for example `demo` and `base`. |
| `size` | The entry of `sizes` to use, or one of the model sizes below. |

| size | `model` |
|---|---|
{sizes}

{parts}
"""


def registry_page(title: str, intro: str, registry: Mapping[str, type]) -> str:
    """Keys of all classes of a registry."""
    parts = "\n\n".join(part(name, cls) for name, cls in sorted(registry.items()))
    return f"# {title}\n\n{intro}\n\n{parts}\n"


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands below a group with their full names."""
    if children := getattr(command, "commands", None):
        for name, child in children.items():
            yield from commands(child, f"{path} {name}")
    else:
        yield path, command


def option_row(option: Any) -> str:
    """One argument or option as a row of a Markdown table."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    default = "required" if option.required else default_text(option.default)
    default = "" if default in ("`null`", '`""`', "`false`") else default
    return f"| {argument(option) or names} | {default} | {getattr(option, 'help', '') or ''} |"


def argument(option: Any) -> str:
    """The name of an argument as code; empty for an option."""
    return f"`{option.metavar or option.name.upper()}`" if option.param_type_name == "argument" else ""


def command_text(path: str, command: Any) -> str:
    """One command with its arguments and options."""
    options = [option for option in command.params if not getattr(option, "hidden", False)]
    usage = " ".join([path, *(argument(option).strip("`") for option in options if argument(option)), "[OPTIONS]"])
    text = inspect.cleandoc(command.help or "")
    rows = ["| argument or option | default | meaning |", "|---|---|---|", *map(option_row, options)]
    return f"## {path}\n\n{text}\n\n```\n{usage}\n```\n\n" + "\n".join(rows)


def commands_page() -> str:
    """All commands of the command line."""
    group = typer.main.get_command(app)
    parts = "\n\n".join(command_text(path, command) for path, command in commands(group, "sensorium"))
    return (
        "# Commands\n\nA mistake ends in one line on standard error and exit code 2; `SENSORIUM_DEBUG=1` shows the "
        f"traceback. With `--json` a command prints one JSON object on standard output.\n\n{parts}\n"
    )


def function_text(name: str) -> str:
    """One name of the Python API."""
    value = getattr(sensorium, name)
    parts = sections(value.__doc__)
    text = [f"## {name}", f"```python\nsensorium.{name}{signature(value)}\n```", parts[""]]
    for title, section in parts.items():
        if title:
            rows = entries(section)
            lines = [f"- `{key}`: {meaning}" for key, (_, meaning) in rows.items()] or [" ".join(section.split())]
            text.append(f"**{title}**\n\n" + "\n".join(lines))
    return "\n\n".join(text)


def signature(function: Any) -> str:
    """The signature of a function, a parameter a line if it is long, with types as they are written in the code."""
    parameters: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
        parameters.append(f"{parameter.name}: {parameter.annotation}{default}")
    result = f" -> {inspect.signature(function).return_annotation}"
    line = f"({', '.join(parameters)}){result}"
    return line if len(line) <= 90 else "(\n    " + ",\n    ".join(parameters) + f",\n){result}"


def python_page() -> str:
    """The names of `import sensorium`: functions first, then classes."""
    values = {name: getattr(sensorium, name) for name in sorted(sensorium._LOCATIONS)}
    functions = [function_text(name) for name, value in values.items() if inspect.isfunction(value)]
    classes = [class_text(name, value) for name, value in values.items() if inspect.isclass(value)]
    parts = "\n\n".join([*functions, *classes])
    return (
        "# Python API\n\n`import sensorium as sm` gives the functions behind the commands, and the classes of their "
        "results. Each name is imported when it is first used. A result has figures as attributes; `to_json()` gives "
        f"them as plain data, `lines()` as text.\n\n{parts}\n"
    )


def class_text(name: str, cls: type) -> str:
    """One class of the Python API, with its fields."""
    fields = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    lines = f"\n\nFields: {', '.join(f'`{field}`' for field in fields)}." if fields else ""
    return f"## {name}\n\n{prose(cls)}{lines}"


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    text = {
        "recipe.md": recipe_page(),
        "modalities.md": registry_page(
            "Modalities",
            "One entry of `modalities` is `NAME: {type: TYPE, ...}`. Every modality also has the key "
            "[mask](recipe.md#modalitiesnamemask).",
            MODALITY_TYPES,
        ),
        "sources.md": registry_page(
            "Sources", "`data.source` is `{type: TYPE, ...}`: how `shards build` reads raw files.", SOURCE_TYPES
        ),
        "objectives.md": registry_page(
            "Objectives", "One entry of `objectives` is `NAME: {...}`, by the names below.", OBJECTIVE_TYPES
        ),
        "commands.md": commands_page(),
        "python.md": python_page(),
    }
    return {name: f"{NOTE}\n\n{page}" for name, page in text.items()}


def stale() -> list[str]:
    """The pages that are not what the code says."""
    files = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return [name for name, text in pages().items() if files.get(name) != text]


def main() -> None:
    """Write the pages, or with `--check` compare them."""
    if "--check" in sys.argv[1:]:
        problems = [f"no meaning: {key}" for key in missing()] + [f"stale: {FOLDER / name}" for name in stale()]
        print("\n".join(problems), end="\n" if problems else "")
        sys.exit(bool(problems))
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
