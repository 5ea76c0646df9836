"""Roles of a table's columns in a draft: content, label, file names, groups, or unused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from modalities.base import MODALITY_TYPES
from modalities.files.reading import ContentError
from modalities.strings.cells import is_identifier
from modalities.strings.chemistry import canonical
from shards.sources.base import SOURCE_TYPES
from shards.sources.drafting.survey import MAX_ROWS, source_types, spread
from shards.sources.tables import infer_types, is_typed, read_table

ID = "identifies rows"
CODES = "whole numbers that are codes, not amounts"
DATES = "dates as whole numbers, not amounts: write them as 2015-11-05"
_GROUPS = (
    *("subject", "patient", "person", "participant", "individual", "donor", "animal", "speaker", "volunteer"),
    *("video", "session", "recording", "specimen", "plot", "site", "station", "locality", "genus", "family"),
)
"""Words in the names of fields whose samples belong together, the closest relation first."""
_NUMBERED = frozenset({"id", "ids", "no", "nr", "number", "num", "code", "name", "key", "index"})
_IDS = _NUMBERED | {"uuid", "accession", "voucher", "catalog", "barcode", "unnamed", "row", "sample"}
_CODES = frozenset({"id", "ids", "nr", "code", "key", "voucher", "accession", "barcode"})
"""Last words in the names of columns whose whole numbers are codes, even if values repeat."""
_TAXA = frozenset({"phylum", "class", "order", "family", "genus", "species", "scientific", "taxon"})
_LABELS = frozenset(
    {
        *("label", "labels", "target", "outcome", "diagnosis", "disease", "dx", "category", "phenotype", "grade"),
        *("activity", "active", "exp", "expt", "measured", "ic50", "ec50", "pic50", "quality", "digit", "y"),
    }
)
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
"""Names of the splits that come with a data set."""
_TIMES = frozenset({"time", "times", "timestamp", "date", "day", "julian", "jd", "bjd", "epoch", "unix"})
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
        """Lines on the cells of some columns: those that are not numbers, and those that mean missing."""
        texts = self.texts.select(names)
        types = infer_types([texts], typed=is_typed(self.path))
        words = [
            f"{name}: {', '.join(map(repr, counts))} is taken for missing; if it is a value: missing: {{{name}: []}}"
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


def split_words(name: str) -> tuple[str, ...]:
    """The words in the name of a column, in lower case: `patient id` for `patientID` and `patient_id`."""
    return tuple(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def group_rank(name: str) -> int | None:
    """How closely the samples with one value of a field belong together, 0 the closest; None if its name does not tell.

    Only the names of the words of `_GROUPS`, alone or with a word such as `id`, tell.
    """
    words = split_words(name)
    ranks = [rank for rank, word in enumerate(_GROUPS) if word in words and set(words) <= {word, *_NUMBERED}]
    return ranks[0] if ranks else None


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
    if reason := why_not_amount(column, cells):
        return f"unused: {reason}"
    words = set(split_words(column))
    is_label = words & _LABELS or (words & {"class"} and cells.n_unique() <= 100)
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
    if words & (_LABELS | _TAXA) and not words & {"id", "ids", "uuid", "accession"}:
        return "label"
    if is_nearly_unique(column, cells):
        is_prose = sum(len(text.split()) for text in texts) >= 5 * len(texts)
        return "text" if is_prose and len(cells) >= 0.5 * rows else f"unused: {ID}"
    if distinct > 0.5 * len(cells) and distinct > 50:
        return "unused: nearly every value differs"
    return _content_or_group(column)


def is_nearly_unique(column: str, texts: pl.Series) -> bool:
    """Whether nearly all texts of a column differ, or most of them if its name is that of an identifier."""
    distinct = texts.n_unique()
    is_id = bool(_IDS & _identifying_words(column))
    return (distinct > 0.9 * len(texts) and len(texts) > 4) or (is_id and distinct > 0.5 * len(texts))


def _identifying_words(column: str) -> set[str]:
    """The words of a name, without `NO` in capitals: it is nitric oxide or Norway, not "number"."""
    return {word for word in split_words(column) if word != "no" or "NO" not in column}


def why_not_amount(column: str, cells: pl.Series) -> str:
    """Why the numbers of a column are not amounts; empty if they may be. `7.0` counts as the whole number 7."""
    is_integer = cells.dtype.is_integer()
    if cells.dtype.is_float() and cells.is_finite().all() and (cells == cells.floor()).all():
        cells = cells.cast(pl.Int128)
    if not cells.dtype.is_integer() or not len(cells):
        return ""
    words, last = _identifying_words(column), split_words(column)[-1:]
    distinct, low, high = cells.n_unique(), int(cells.min()), int(cells.max())  # type: ignore[arg-type]
    nearly_all = distinct == len(cells) or (distinct > 0.9 * len(cells) and len(cells) > 10)
    is_count = is_integer and set(cells.diff().drop_nulls()) == {1}
    if nearly_all and (words & _IDS or group_rank(column) is not None or is_count):
        return ID
    if all(_is_day(int(cell)) for cell in (low, high, *cells.head(100))):
        return DATES
    # numbers of many digits in a narrow range
    is_code = low >= 10**6 and len(str(low)) == len(str(high)) and high - low < 0.01 * high and not words & _TIMES
    if is_code and distinct > 0.5 * len(cells):
        return ID if nearly_all else CODES
    return CODES if set(last) & _CODES and not words & (_LABELS | {"class"}) else ""


def _is_day(number: int) -> bool:
    """Whether a number such as 20151105 is a date between 1700 and 2100."""
    try:
        return 1700 <= datetime.strptime(str(number), "%Y%m%d").replace(tzinfo=UTC).year <= 2100 and number > 10**7
    except ValueError:
        return False


def _content_or_group(column: str) -> str:
    """Identifiers of the row's subject are not content, because new subjects have others; places may be."""
    rank = group_rank(column)
    return "content" if rank is None or rank >= _GROUPS.index("site") else "unused: tells which rows belong together"


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
