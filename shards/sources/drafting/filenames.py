"""Find the fields that the names of files are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shards.identifiers import group_rank

_SUBJECTS = {"s": "subject", "sub": "subject", "subj": "subject", "p": "patient", "pat": "patient", "spk": "speaker"}


@dataclass(frozen=True, kw_only=True)
class NamePattern:
    """The pattern of file names, with fields in braces.

    values: values of each field, one per file. labels: fields of few values. group: a field whose files seem to belong
    together. guessed: fields whose names do not occur in the file names.
    """

    pattern: str
    values: dict[str, list[str]]
    labels: tuple[str, ...]
    group: str | None
    guessed: tuple[str, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """`group` with its number of values, if there is one."""
        return [(self.group, len(set(self.values[self.group])))] if self.group else []


class _Field(NamedTuple):
    """A part that differs between files: its value in each, and the letters before it."""

    values: list[str]
    hint: str = ""


def find_pattern(stems: Sequence[str], is_speech: bool = False) -> NamePattern | None:
    """The pattern of names that all split the same way at `_` or `-`; None if files share no field.

    A part such as `Subject07` is a field `subject`. Other fields are guessed: a number that counts files, labels of few
    values and, with `is_speech`, the speaker.
    """
    if len(stems) < 4 or any("{" in stem or "}" in stem for stem in stems):
        return None
    for separators in ("[_-]", "_", "-"):
        split = [re.split(f"({separators})", stem) for stem in stems]
        if len({(len(parts), *parts[1::2]) for parts in split}) == 1:
            pieces = [piece for values in zip(*split, strict=True) for piece in _pieces(list(values))]
            return _name_fields(pieces, is_speech)
    return None


def _pieces(values: list[str]) -> list[str | _Field]:
    """A part of all names as text that is the same in all, and fields."""
    if len(set(values)) == 1:
        return [values[0]]
    runs = [re.findall(r"\d+|\D+", value) for value in values]
    same_letters = len({(len(run), *(part for part in run if not part[0].isdigit())) for run in runs}) == 1
    if not same_letters or len(runs[0]) == 1:
        return [_Field(values)]
    pieces: list[str | _Field] = []
    for run in zip(*runs, strict=True):
        if len(set(run)) == 1:
            pieces.append(run[0])
        else:
            before = pieces[-1] if pieces and isinstance(pieces[-1], str) else ""
            pieces.append(_Field(list(run), before.strip(" .").lower()))
    return pieces


def _name_fields(pieces: Sequence[str | _Field], is_speech: bool) -> NamePattern | None:
    """The pattern of pieces whose fields are named and given roles."""
    fields = [piece for piece in pieces if isinstance(piece, _Field)]
    files = len(fields[0].values) if fields else 0
    distinct = [len(set(part.values)) for part in fields]
    if not any(2 <= count <= 0.9 * files for count in distinct) or any("" in part.values for part in fields):
        return None
    hints = [_SUBJECTS.get(part.hint, part.hint) if part.hint.isidentifier() else "" for part in fields]
    counters = [i for i in range(len(fields)) if _counts_files(i, fields) and group_rank(hints[i]) is None]
    counter = max(counters, key=lambda i: (distinct[i], i), default=None)
    few = [i for i in range(len(fields)) if i != counter and distinct[i] <= min(100, files / 2)]
    roles = _roles(fields, hints, few, counter, is_speech)
    names: list[str] = []
    for i in range(len(fields)):
        name = hints[i] or roles.get(i, f"part{i + 1}")
        names.append(name if name not in names and name not in hints[i + 1 :] else f"{name}{i + 1}")
    ranks = sorted((rank, i) for i, name in enumerate(names) if (rank := group_rank(name)) is not None)
    shared = [i for i in range(len(fields)) if i not in few and i != counter and distinct[i] <= 0.9 * files]
    shared = shared or [i for i in few if i not in roles and not hints[i] and distinct[i] >= 10]
    group = ranks[0][1] if ranks else max(shared, key=lambda i: distinct[i], default=None)
    order = iter(names)
    return NamePattern(
        pattern="".join(piece if isinstance(piece, str) else f"{{{next(order)}}}" for piece in pieces),
        values={name: part.values for name, part in zip(names, fields, strict=True)},
        labels=tuple(names[i] for i in few if names[i] == "speaker" or (i != group and group_rank(names[i]) is None)),
        group=None if group is None or distinct[group] < 3 else names[group],
        guessed=tuple(name for name, hint in zip(names, hints, strict=True) if name != hint),
    )


def _is_numeric(part: _Field) -> bool:
    return all(value.isdigit() for value in part.values)


def _counts_files(number: int, fields: Sequence[_Field]) -> bool:
    """Whether a field counts files that are otherwise named alike, nearly without gaps."""
    if not _is_numeric(fields[number]) or len(set(fields[number].values)) < 4:
        return False
    counts = {int(value) for value in fields[number].values}
    other_values = [part.values for i, part in enumerate(fields) if i != number]
    files = len(fields[number].values)
    return max(counts) - min(counts) < len(counts) and len(set(zip(*other_values, strict=True))) <= files / 2


def _roles(
    fields: Sequence[_Field], hints: Sequence[str], few: Sequence[int], counter: int | None, is_speech: bool
) -> dict[int, str]:
    """Names of fields without a hint, by number: counter, label, speaker and the words that are spoken."""
    roles: dict[int, str] = {} if counter is None else {counter: "take" if is_speech else "number"}
    words = [i for i in few if not _is_numeric(fields[i]) and not hints[i]]
    if is_speech and len(few) > 1 and words:
        roles[words[-1]] = "speaker"
        if (spoken := next((i for i in few if i != words[-1]), None)) is not None:
            is_digit = _is_numeric(fields[spoken]) and all(len(value) == 1 for value in fields[spoken].values)
            roles[spoken] = "digit" if is_digit else "label"
    elif words:
        roles[words[0]] = "label"
    return roles
