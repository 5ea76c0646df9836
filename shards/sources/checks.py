"""Check the modalities that a source names against those of the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modalities.base import Modality
from modalities.names import did_you_mean


def require_modality(name: str, modalities: Mapping[str, Modality], key: str) -> Modality:
    """The modality that the recipe key `data.source.{key}` names.

    Raises:
        ValueError: the recipe does not define the modality.
    """
    if name not in modalities:
        raise ValueError(
            f"data.source.{key} refers to modality {name!r}, but the recipe defines none by that name"
            f"{did_you_mean(name, modalities)}"
        )
    return modalities[name]


def require_tables(names: Iterable[str], modalities: Mapping[str, Modality], key: str = "columns") -> None:
    """Check that modalities are defined and of type `table`.

    Raises:
        ValueError: a modality is not.
    """
    for name in names:
        if (modality := require_modality(name, modalities, key)).cells != "typed":
            raise ValueError(f"data.source.{key}: {name!r} is of type {modality.type}, but must be a table")


def require_cells(
    columns: Mapping[str, str | tuple[str, ...]], modalities: Mapping[str, Modality], key: str = "columns"
) -> None:
    """Check that modalities are defined and can be made from cells: tables and texts.

    Raises:
        ValueError: a modality is not.
    """
    for name in columns:
        if (modality := require_modality(name, modalities, key)).cells == "none":
            raise ValueError(f"data.source.{key}: {name!r} is of type {modality.type}, but must be a table or a text")


def require_extension(modality: Modality, extensions: Iterable[str], subject: str) -> None:
    """Check that a modality reads files with one of the extensions.

    subject: recipe key and name of the modality, for the message.

    Raises:
        ValueError: it reads none of them.
    """
    listed = list(extensions)
    if not set(listed) & set(modality.extensions):
        raise ValueError(f"{subject} is of type {modality.type}, which does not read {', '.join(listed)} files")


def require_signal(modalities: Mapping[str, Modality], source: str) -> None:
    """Check that a recipe has a signal for the channels of recordings; `source` is the source's type.

    Raises:
        ValueError: it has no signal.
    """
    if not any(modality.is_recording for modality in modalities.values()):
        types = ", ".join(f"{name} ({modality.type})" for name, modality in modalities.items())
        raise ValueError(f"data.source of type {source} needs a modality of type signal; the recipe has {types}")
