"""Roles of a table's columns in a draft: content, label, file names, groups, or unused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from modalities.base import MODALITY_TYPES
from modalities.files.reading import ContentError
from modalities.strings.cells import is_identifier
from modalities.strings.chemistry import canonical
from shards.identifiers import GROUPS, ID, LABELS, group_rank, is_nearly_unique, not_amount_reason, split_words
from shards.sources.base import SOURCE_TYPES
from shards.sources.drafting.survey import MAX_ROWS, source_types, spread
from shards.sources.tables import infer_types, is_typed, read_table

_TAXA = frozenset({"phylum", "class", "order", "family", "genus", "species", "scientific", "taxon"})
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
"""Names of the splits that come with a data set."""
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].+)?")
_QUANTITY = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?\s*\D{0,16}")
_DNA = re.compile(r"[ACGTURYSWKMBDHVNacgturyswkmbdhvn.-]{20,}")
_BONDS = re.compile(r"[()=#\[\]0-9]")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The roles of a table's columns.

    content: cells of a table. files: type of the source that reads them, by column of file names. smiles, dna, text:
    columns whose cells are content of their own. labels: worth predicting. groups: fields to split by, the best first.
    candidates: columns of few values, which may be labels. key: identifies a row. unused: the reason, by column.
    """

    content: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    smiles: tuple[str, ...] = ()
    dna: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    key: str | None = None
    unused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A surveyed table file: its first rows with typed cells, and the roles of its columns."""

    path: Path
    frame: pl.DataFrame
    columns: Columns

    @classmethod
    def read(cls, path: Path) -> TableFile:
        """Read the first `MAX_ROWS` rows.

        Raises:
            ValueError: the file is unreadable or has no rows.
        """
        frame = read_table(path, MAX_ROWS)
        if not len(frame):
            raise ValueError(f"{path} has no rows")
        frame = infer_frame(frame, is_typed(path))
        return cls(path=path, frame=frame, columns=assign_roles(frame, path.parent))

    @cached_property
    def texts(self) -> pl.DataFrame:
        """The same rows with every cell as it is written."""
        return read_table(self.path, MAX_ROWS)

    def notes(self, names: Sequence[str]) -> list[str]:
        """Lines on the cells of some columns that are not numbers or mean missing."""
        texts = self.texts.select(names)
        types = infer_types([texts], typed=is_typed(self.path))
        words = [
            f"{name}: {', '.join(map(repr, counts))} is read as missing; if it is a value, set missing: {{{name}: []}}"
            for name, counts in types.words.items()
        ]
        return [*MODALITY_TYPES["table"]().survey(types.row(row) for row in texts.iter_rows(named=True)), *words]

    def count_values(self, column: str) -> int:
        """Number of different values of a column."""
        return self.frame[column].drop_nulls().n_unique()

    def find_column(self, names: Iterable[str]) -> str | None:
        """The column that contains the most of some names, as they are written, and at least half of them."""
        targets = set(names)
        texts = {name: self.texts[name] for name in self.frame.columns if self.texts[name].dtype == pl.String}
        counts = {
            name: len(targets & set(cells.drop_nulls().str.strip_chars().to_list())) for name, cells in texts.items()
        }
        best = max(counts, key=lambda name: counts[name], default=None)
        return best if best is not None and counts[best] >= max(len(targets) / 2, 1) else None

    def is_text(self, column: str) -> bool:
        """Whether the cells of a column are used as they are written, so that they can be joined by: 007 is not 7."""
        return self.frame[column].cast(pl.String).equals(self.texts[column])


def infer_frame(frame: pl.DataFrame, typed: bool = False) -> pl.DataFrame:
    """Columns of text with the types of their cells; typed: the types are those of the file."""
    return infer_types([frame], typed=typed).frame(frame)


def assign_roles(frame: pl.DataFrame, folder: Path) -> Columns:
    """The roles of a table's columns, by names and cells; file names are relative to `folder`."""
    roles: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    unused: dict[str, str] = {}
    for column in frame.columns:
        cells = frame[column].drop_nulls()
        if cells.dtype == pl.String and (source_type := _file_type(cells, folder)):
            files[column] = source_type
            continue
        role = _role(column, cells, len(frame))
        if role.startswith("unused: "):
            unused[column] = role.removeprefix("unused: ")
        else:
            roles.setdefault(role, []).append(column)
    repeated = [name for name in frame.columns if 3 <= frame[name].drop_nulls().n_unique() <= 0.9 * len(frame)]
    groups = sorted((rank, name) for name in repeated if (rank := group_rank(name)) is not None)
    content = roles.get("content", [])
    keys = [name for name, reason in unused.items() if reason == ID and _is_unique(frame[name])]
    return Columns(
        content=tuple(content),
        files=files,
        smiles=tuple(roles.get("smiles", ())),
        dna=tuple(roles.get("dna", ())),
        text=tuple(roles.get("text", ())),
        labels=tuple(roles.get("label", ())),
        groups=tuple(name for _, name in groups),
        candidates=tuple(name for name in content if frame[name].n_unique() <= min(20, len(frame) / 3)),
        key=next(iter(keys), None) if len(frame) < MAX_ROWS else None,
        unused=unused,
    )


def _is_unique(cells: pl.Series) -> bool:
    return not cells.null_count() and cells.n_unique() == len(cells)


def _file_type(cells: pl.Series, folder: Path) -> str | None:
    """The type of the source that reads the files that most of a column's cells name."""
    names = spread(cells.unique(maintain_order=True).to_list(), 200)
    types = [
        source_type
        for name in names
        for source_type in source_types(name)[:1]
        if SOURCE_TYPES[source_type].file_modality and (folder / name).is_file()
    ]
    return max(types, key=types.count) if types and len(types) >= len(names) / 2 else None


def _role(column: str, cells: pl.Series, rows: int) -> str:
    """`content`, `label`, `smiles`, `dna`, `text`, or `unused: ` and the reason, for the filled cells of a column."""
    if len(cells) <= 0.05 * rows:
        return "unused: nearly empty"
    if cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object):
        return "unused: cells that are neither text nor numbers"
    if cells.n_unique() == 1:
        return "unused: always the same"
    if cells.dtype == pl.String:
        return _text_role(column, cells, rows)
    if reason := not_amount_reason(column, cells):
        return f"unused: {reason}"
    words = set(split_words(column))
    is_label = words & LABELS or (words & {"class"} and cells.n_unique() <= 100)
    return "label" if is_label else _content_or_group(column)


def _text_role(column: str, cells: pl.Series, rows: int) -> str:
    """The role of a column of text."""
    distinct, words = cells.n_unique(), set(split_words(column))
    texts = [text.strip() for text in spread(cells.unique(maintain_order=True).to_list(), 100)]
    if {text.lower() for text in texts} <= SPLITS:
        return "unused: a split that came with the data"
    if all(_DNA.fullmatch(text) for text in texts):
        return "dna"
    if _are_smiles(texts, "smiles" in words):
        return "smiles"
    if all(_DATE.fullmatch(text) or (_QUANTITY.fullmatch(text) and not is_identifier(text)) for text in texts):
        return "content"
    if words & (LABELS | _TAXA) and not words & {"id", "ids", "uuid", "accession"}:
        return "label"
    if is_nearly_unique(column, cells):
        is_prose = sum(len(text.split()) for text in texts) >= 5 * len(texts)
        return "text" if is_prose and len(cells) >= 0.5 * rows else f"unused: {ID}"
    if distinct > 0.5 * len(cells) and distinct > 50:
        return "unused: nearly every value differs"
    return _content_or_group(column)


def _content_or_group(column: str) -> str:
    """Identifiers of the row's subject are not content, because new subjects have others; places may be."""
    rank = group_rank(column)
    return "content" if rank is None or rank >= GROUPS.index("site") else "unused: tells which rows belong together"


def _are_smiles(texts: Sequence[str], is_named: bool) -> bool:
    """Whether RDKit reads nearly all texts; is_named: whether the column's name says so.

    Otherwise half of them need bonds or rings, because RDKit also reads words such as `CN` and `NO`.
    """
    if not is_named and sum(bool(_BONDS.search(text)) for text in texts) < len(texts) / 2:
        return False
    count = 0
    for text in texts:
        try:
            count += " " not in text and bool(canonical(text))
        except ContentError:
            continue
    return count >= 0.9 * len(texts)
