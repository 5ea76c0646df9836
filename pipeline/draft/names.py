"""What names of files are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.draft.columns import group_rank

_SUBJECTS = {"s": "subject", "sub": "subject", "subj": "subject", "p": "patient", "pat": "patient", "spk": "speaker"}


class Names(NamedTuple):
    """What names of files are made of: a pattern with fields in braces, and the values of each field, one a file.

    labels: fields of few values. group: a field whose files seem to belong together. guessed: fields that got a
    name that does not stand in the files' names.
    """

    pattern: str
    values: dict[str, list[str]]
    labels: tuple[str, ...]
    group: str | None
    guessed: tuple[str, ...]


class _Field(NamedTuple):
    values: list[str]
    hint: str = ""


def names_of(stems: Sequence[str], speech: bool = False) -> Names | None:
    """The pattern of names that all split the same way at `_` or `-`; None where no field of it is shared by files.

    A part such as `Subject07` is a field `subject` after its letters. Of others it is guessed what they are: numbers
    that count files alike otherwise, labels of few values, and with `speech` the person who speaks.
    """
    if len(stems) < 4 or any("{" in stem or "}" in stem for stem in stems):
        return None
    for separators in ("[_-]", "_", "-"):
        split = [re.split(f"({separators})", stem) for stem in stems]
        if len({(len(parts), *parts[1::2]) for parts in split}) == 1:
            pieces = [piece for values in zip(*split, strict=True) for piece in _pieces(list(values))]
            return _named(pieces, speech)
    return None


def _pieces(values: list[str]) -> list[str | _Field]:
    """A part of names as what is the same in all and what differs."""
    if len(set(values)) == 1:
        return [values[0]]
    runs = [re.findall(r"\d+|\D+", value) for value in values]
    same = len({(len(run), *(part for part in run if not part[0].isdigit())) for run in runs}) == 1
    if not same or len(runs[0]) == 1:
        return [_Field(values)]
    pieces: list[str | _Field] = []
    for run in zip(*runs, strict=True):
        if len(set(run)) == 1:
            pieces.append(run[0])
        else:
            before = pieces[-1] if pieces and isinstance(pieces[-1], str) else ""
            pieces.append(_Field(list(run), before.strip(" .").lower()))
    return pieces


def _named(pieces: Sequence[str | _Field], speech: bool) -> Names | None:
    fields = [piece for piece in pieces if isinstance(piece, _Field)]
    files = len(fields[0].values) if fields else 0
    distinct = [len(set(each.values)) for each in fields]
    if not any(2 <= count <= 0.9 * files for count in distinct) or any("" in each.values for each in fields):
        return None
    numeric = [all(value.isdigit() for value in each.values) for each in fields]
    given = [_SUBJECTS.get(each.hint, each.hint) if each.hint.isidentifier() else "" for each in fields]

    def counts(number: int) -> bool:
        """Whether files differ by this number alone, and it goes on without gaps."""
        if not numeric[number] or distinct[number] < 4:
            return False
        held = {int(value) for value in fields[number].values}
        others = [each.values for i, each in enumerate(fields) if i != number]
        return max(held) - min(held) < len(held) and len(set(zip(*others, strict=True))) <= files / 2

    counters = [i for i in range(len(fields)) if counts(i) and group_rank(given[i]) is None]
    counter = max(counters, key=lambda i: (distinct[i], i), default=None)
    few = [i for i in range(len(fields)) if i != counter and distinct[i] <= min(100, files / 2)]
    spoken = [i for i in few if not numeric[i] and not given[i]]
    roles: dict[int, str] = {} if counter is None else {counter: "take" if speech else "number"}
    if speech and len(few) > 1 and spoken:  # a field beside the speaker is what is said
        said = next((i for i in few if i != spoken[-1]), None)
        roles[spoken[-1]] = "speaker"
        if said is not None:
            roles[said] = "digit" if numeric[said] and all(len(v) == 1 for v in fields[said].values) else "label"
    elif spoken:
        roles[spoken[0]] = "label"
    names: list[str] = []
    for i in range(len(fields)):
        name = given[i] or roles.get(i, f"part{i + 1}")
        names.append(name if name not in names and name not in given[i + 1 :] else f"{name}{i + 1}")
    known = sorted((rank, i) for i, name in enumerate(names) if (rank := group_rank(name)) is not None)
    shared = [i for i in range(len(fields)) if i not in few and i != counter and distinct[i] <= 0.9 * files]
    shared = shared or [i for i in few if i not in roles and not given[i] and distinct[i] >= 10]
    group = known[0][1] if known else max(shared, key=lambda i: distinct[i], default=None)
    order = iter(names)
    return Names(
        "".join(piece if isinstance(piece, str) else f"{{{next(order)}}}" for piece in pieces),
        {name: each.values for name, each in zip(names, fields, strict=True)},
        tuple(names[i] for i in few if names[i] == "speaker" or (i != group and group_rank(names[i]) is None)),
        None if group is None or distinct[group] < 3 else names[group],
        tuple(name for name, hint in zip(names, given, strict=True) if name != hint),
    )
