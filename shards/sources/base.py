"""The contract of a source: list the items of a raw format, make a sample of each, check and draft recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from modalities.base import Modality
from modalities.registry import Registry
from shards.sources.checks import require_modality

if TYPE_CHECKING:
    from shards.sources.drafting.columns import TableFile
    from shards.sources.drafting.draft import Draft
    from shards.sources.drafting.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample, before it is stored in a shard.

    identity: text that distinguishes the sample from all others. Its SHA-256 becomes the key; a second sample with the
    same identity is a duplicate. members: content by `{modality}.{extension}`. groups: values that a split can be made
    by, such as a scaffold or a speaker. source: number of the joined source that made the sample. canonical: normal
    form of the content by modality, if the members do not determine it (a SMILES with stereochemical groups).
    """

    identity: str
    members: dict[str, bytes]
    groups: dict[str, str] = field(default_factory=dict)
    source: int = 0
    canonical: dict[str, str] = field(default_factory=dict)


class ByteRange(NamedTuple):
    """Bytes in a file: its path relative to the working folder of a build, then offset and size in bytes."""

    file: str
    offset: int
    size: int

    def read(self, folder: Path) -> bytes:
        """Read the bytes; `folder` is the working folder of the build."""
        with (folder / self.file).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A `Sample` whose members a build has written to disk.

    fingerprints: fingerprint of the content by modality, which finds duplicates. changes: how often content lost
    something or was read differently from how it is written, by reason (`modalities.files.reading.count_change`).
    """

    identity: str
    members: dict[str, ByteRange]
    groups: dict[str, str]
    fingerprints: dict[str, str] = field(default_factory=dict)
    source: int = 0
    changes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A reader of one raw format. The fields of a subclass are the keys of `data.source` in a recipe.

    A subclass implements `items` and `make`, and overrides `check` and `draft` if it can. Decorate it with
    `register`.

    Attributes:
        missing: By column, the cells that mean a missing value, in place of the usual words (`NA`, `NaN`, `null`, `?`,
            ...): `{iron: [-999], country: []}`. It applies to cells, labels and groups. Empty cells are always missing.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    type: ClassVar[str]
    """Name of the source in recipes: `data.source.type`."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that parse the raw files, beyond numpy and the packages of the modalities."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files that this source reads, in lower case with their dot; a survey collects these files."""
    nouns: ClassVar[tuple[str, str]] = ("file", "files")
    """Words for one and for several of its files, in messages and drafts."""
    file_modality: ClassVar[str | None] = None
    """Name of the modality of its files in drafts, if cells of a table may name such files; see `draft_modality`."""

    missing: dict[str, tuple[str | int | float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:  # noqa: B027 (not abstract: the end of the chain of `super` calls)
        """Check the fields for consistency. An override calls `super().__post_init__()` first.

        Raises:
            ValueError: a value is impossible or two contradict each other; the message names the key.
        """

    @property
    def parsers(self) -> tuple[str, ...]:
        """`requires` and the packages that the values of the fields need."""
        return (*self.requires, *(("polars",) if getattr(self, "table", None) is not None else ()))

    @property
    def drawings(self) -> frozenset[str]:
        """Names of the modalities whose images the source draws itself, as lines on a white background."""
        return frozenset()

    @property
    def reads(self) -> Mapping[str, str | tuple[str, ...]]:
        """Columns of a table by the name of the modality that is read from them."""
        return getattr(self, "columns", {})

    def check(self, modalities: Mapping[str, Modality]) -> None:
        """Check the source against the recipe's modalities. Runs when a recipe is read, before any raw file is.

        The default checks that the recipe defines every modality that `reads` names.

        Raises:
            ValueError: source and recipe contradict each other, for example by a modality that the recipe does not
                define; the message names the key.
        """
        for name in self.reads:
            require_modality(name, modalities, "columns")

    def writes(self, modalities: Mapping[str, Modality]) -> frozenset[str]:
        """Names of the modalities whose members the source makes, as far as the recipe determines them."""
        return frozenset(self.reads)

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        """Draft recipes for surveyed files. Runs when `sensorium init` surveys a folder.

        A recipe must build and train unchanged on the folder. Open at most `MAX_OPENED` files of those in
        `survey.files[cls.type]`, and do not raise if they are unusable. The default drafts nothing.

        Args:
            survey: The files of the folder by the type of the source whose `suffixes` they have.
            tables: The table files among them, with the roles of their columns.
        """
        return []

    @classmethod
    def draft_modality(cls, paths: Sequence[Path]) -> dict[str, Any] | None:
        """Settings of a modality that reads some of this source's files; None if they are unreadable, or by default."""
        return None

    @abstractmethod
    def items(self, raw: Path) -> Iterator[Any]:
        """Yield small picklable descriptions of the raw items below a path, in a fixed order.

        Raises:
            ValueError: there are no items, or the files have another format.
        """

    @abstractmethod
    def make(self, item: Any, modalities: Mapping[str, Modality]) -> Sample:
        """Make the sample of one item. Runs in worker processes.

        Raises:
            ContentError: the item is unusable; the build skips it and counts the reason.
        """

    def combine(self, samples: Iterator[StoredSample | str], folder: Path) -> Iterator[StoredSample | str]:
        """Turn the samples of all items into the samples of the shard set. The default passes them on.

        A resumed build calls this again from the start.

        Args:
            samples: In the order of the items, a sample or the reason why the item was skipped.
            folder: Working folder of the build, which byte ranges refer to and new files are written to.
        """
        return samples


SOURCE_TYPES: Registry[Source] = Registry("sensorium.sources")
"""All source classes by the `type` that recipes give."""
register = SOURCE_TYPES.register
