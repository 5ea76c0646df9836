"""Recipe keys, values and options of earlier versions: each is an error that names the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class RenamedKeyError(ValueError):
    """A recipe has a key or value of an earlier version; the message names the new one."""


class Renamed(NamedTuple):
    """An old key or value of a recipe.

    old: dotted path of the key, where `*` is any one name, optionally with the value that was renamed:
        `train.pass_size`, `modalities.*.target=normalised`. `data.source` includes each of joined `sources`.
    new: name of the key today, with the value today if the value was renamed: `micro_batch_size`, `target=normalized`;
        None for a key that is gone.
    types: values of `type` or `kind` beside the key for which the row applies; all by default.
    instead: what to write instead of a key that is gone; without it the key had no effect and can be left out.
    """

    old: str
    new: str | None
    types: tuple[str, ...] = ()
    instead: str | None = None


RENAMED: tuple[Renamed, ...] = (
    Renamed("train.pass_size", "micro_batch_size"),
    Renamed("train.clip", "gradient_clip"),
    Renamed("train.max_bad_steps", "max_nonfinite_steps"),
    Renamed("data.block", "shuffle_block"),
    Renamed("evaluate.samples", "probe_samples"),
    Renamed("masking.share", "probability"),
    Renamed("modalities.*.normalise", "normalize", ("image", "signal")),
    Renamed("modalities.*.target=normalised", "target=normalized"),
    Renamed("modalities.*.target=pixels", "target=values", ("image",)),
    Renamed("modalities.*.target=raw", "target=values", ("spectrogram",)),
    Renamed("modalities.*.paper", "background", ("image",)),
    Renamed("modalities.*.crop=centre", "crop=center", ("spectrogram",)),
    Renamed("modalities.*.rate_hz", "sample_rate_hz", ("spectrogram",)),
    Renamed("modalities.*.faulty=leave_out", "faulty_channels=exclude", ("signal",)),
    Renamed("modalities.*.faulty", "faulty_channels", ("signal",)),
    Renamed("modalities.*.clipped", "max_clipped", ("signal",)),
    Renamed("modalities.*.uneven=true", None, ("signal",), "use `type: lightcurve`"),
    Renamed("modalities.*.uneven", None, ("signal",)),
    Renamed("modalities.*.odd", "invalid_cells", ("table",)),
    Renamed("modalities.*.randomise", "randomize", ("smiles",)),
    Renamed("modalities.*.size", "vocabulary_size", ("dna",)),
    Renamed("modalities.*.longer", "too_long", ("dna",)),
    Renamed("data.source.leave_out", "exclude", ("edf", "wfdb")),
    Renamed("data.source.centred", "centered", ("wfdb",)),
    Renamed("data.source.annotations=centred", "annotations=centered", ("edf",)),
    Renamed("data.source.rate_hz", "sample_rate_hz", ("ptbxl",)),
)
OPTIONS = {("finetune", "--keep"): "--pretrained-share", ("export", "--to"): "--out"}
"""Old options of the command line, as (command, option), and their names today."""


def refuse_renamed(recipe: Mapping[str, Any]) -> None:
    """Check that a recipe, as read from YAML, has no key or value of an earlier version.

    Raises:
        RenamedKeyError: it has one; the message names the new one.
    """
    for path, parent in _mappings(recipe, ()):
        for key, value in parent.items():
            for row in RENAMED:
                if error := renaming_error(row, (*path, str(key)), parent, value):
                    raise RenamedKeyError(error)


def _mappings(part: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """All mappings within a part of a recipe, with their paths."""
    if isinstance(part, Mapping):
        yield path, part
        for key, value in part.items():
            yield from _mappings(value, (*path, str(key)))
    elif isinstance(part, list | tuple):
        for number, value in enumerate(part):
            yield from _mappings(value, (*path, str(number)))


def renaming_error(row: Renamed, path: tuple[str, ...], parent: Mapping[Any, Any], value: Any) -> str | None:
    """The error for a key that matches a row, None for any other key."""
    old, _, old_value = row.old.partition("=")
    if row.types and parent.get("type", parent.get("kind")) not in row.types:
        return None
    if old_value and str(value).lower() != old_value.lower():
        return None
    pattern, parts = old.split("."), path
    while parts[:3] == ("data", "source", "sources"):
        parts = (*parts[:2], *parts[4:])
    if len(pattern) != len(parts) or any(p not in ("*", part) for p, part in zip(pattern, parts, strict=True)):
        return None
    before = f"'{'.'.join(path)}{': ' + old_value if old_value else ''}'"
    if row.new is None:
        return f"{before} is gone: {row.instead or 'leave it out'}"
    key, _, new_value = row.new.partition("=")
    return f"{before} is now '{'.'.join((*path[:-1], key))}{': ' + new_value if new_value else ''}'"
