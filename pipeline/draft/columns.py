"""What the columns of a table are: content, labels, file names, groups, or nothing to learn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from modalities.files.reading import ContentError
from modalities.strings.cells import is_identifier
from modalities.strings.chemistry import canonical
from pipeline.draft.survey import ROWS, kind_of, spread
from shards.sources.tables import infer_types, is_typed, read_table

ID = "identifies rows"
CODES = "whole numbers that name things and are no amounts"
DATES = "dates as whole numbers, which are no amounts: write them as 2015-11-05"
_GROUPS = (
    *("subject", "patient", "person", "participant", "individual", "donor", "animal", "speaker", "volunteer"),
    *("video", "session", "recording", "specimen", "plot", "site", "station", "locality", "genus", "family"),
)
_NUMBERED = frozenset({"id", "ids", "no", "nr", "number", "num", "code", "name", "key", "index"})
_IDS = _NUMBERED | {"uuid", "accession", "voucher", "catalog", "barcode", "unnamed", "row", "sample"}
_CODES = frozenset({"id", "ids", "nr", "code", "key", "voucher", "accession", "barcode"})
"""Last words of the names of columns whose whole numbers are codes, however often a value repeats."""
_TAXA = frozenset({"phylum", "class", "order", "family", "genus", "species", "scientific", "taxon"})
_LABELS = frozenset(
    {
        *("label", "labels", "target", "outcome", "diagnosis", "disease", "dx", "category", "phenotype", "grade"),
        *("activity", "active", "exp", "expt", "measured", "ic50", "ec50", "pic50", "quality", "digit", "y"),
    }
)
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
"""What splits that come with data are called."""
_TIMES = frozenset({"time", "times", "timestamp", "date", "day", "julian", "jd", "bjd", "epoch", "unix"})
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].+)?")
_QUANTITY = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?\s*\D{0,16}")
_DNA = re.compile(r"[ACGTURYSWKMBDHVNacgturyswkmbdhvn.-]{20,}")
_BONDS = re.compile(r"[()=#\[\]0-9]")


def head(path: Path) -> pl.DataFrame:
    """The first rows of a table.

    Raises:
        ValueError: it cannot be read, or has none.
    """
    frame = read_table(path, ROWS)
    if not len(frame):
        raise ValueError(f"{path} has no rows")
    return typed(frame, is_typed(path))


def typed(frame: pl.DataFrame, of_file: bool = False) -> pl.DataFrame:
    """Columns of text as what nearly all their cells are; of_file: their types are their file's own."""
    return infer_types([frame], typed=of_file).frame(frame)


def words(name: str) -> tuple[str, ...]:
    """The words of a column's name, lower case: `patientID` and `patient_id` are `patient id`."""
    return tuple(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def group_rank(name: str) -> int | None:
    """How surely samples of one value of a field belong together, 0 first; None where its name does not say so."""
    own = words(name)
    found = [rank for rank, word in enumerate(_GROUPS) if word in own and set(own) <= {word, *_NUMBERED}]
    return found[0] if found else None


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are.

    content: cells of a table. files: columns that name files, by column their kind. smiles, dna, text: columns whose
    cells are content of their own. labels: what is worth predicting. groups: what a split can be made by, the likeliest
    first. candidates: columns of few values, which may be labels. key: column that identifies a row. left: columns
    that are none of these, and why.
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
    left: dict[str, str] = field(default_factory=dict)


def columns_of(frame: pl.DataFrame, folder: Path) -> Columns:
    """The roles of a table's columns, by names and cells; `folder` is what file names in it are relative to."""
    roles: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    left: dict[str, str] = {}
    for column in frame.columns:
        cells = frame[column].drop_nulls()
        if cells.dtype == pl.String and (kind := _names_files(cells, folder)):
            files[column] = kind
            continue
        role = _role(column, cells, len(frame))
        if role.startswith("left: "):
            left[column] = role.removeprefix("left: ")
        else:
            roles.setdefault(role, []).append(column)
    repeated = [name for name in frame.columns if 3 <= frame[name].drop_nulls().n_unique() <= 0.9 * len(frame)]
    groups = sorted((rank, name) for name in repeated if (rank := group_rank(name)) is not None)
    content = roles.get("content", [])
    unique = [name for name, why in left.items() if why == ID and _unique(frame[name])]
    return Columns(
        content=tuple(content),
        files=files,
        smiles=tuple(roles.get("smiles", ())),
        dna=tuple(roles.get("dna", ())),
        text=tuple(roles.get("text", ())),
        labels=tuple(roles.get("label", ())),
        groups=tuple(name for _, name in groups),
        candidates=tuple(name for name in content if frame[name].n_unique() <= min(20, len(frame) / 3)),
        key=next(iter(unique), None) if len(frame) < ROWS else None,
        left=left,
    )


def _unique(cells: pl.Series) -> bool:
    return not cells.null_count() and cells.n_unique() == len(cells)


def _names_files(cells: pl.Series, folder: Path) -> str | None:
    """The kind of image or sound that most of a column's cells name."""
    names = spread(cells.unique(maintain_order=True).to_list(), 200)
    kinds = [kind for name in names if (kind := kind_of(name)) in ("image", "audio") and (folder / name).is_file()]
    return max(kinds, key=kinds.count) if kinds and len(kinds) >= len(names) / 2 else None


def _role(column: str, cells: pl.Series, rows: int) -> str:
    """`content`, `label`, `smiles`, `dna`, `text`, or `left: ` and why, of a column's filled cells."""
    if len(cells) <= 0.05 * rows:
        return "left: nearly empty"
    if cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object):
        return "left: holds no plain cells"
    distinct, named = cells.n_unique(), set(words(column))
    if distinct == 1:
        return "left: always the same"
    if cells.dtype != pl.String:
        if why := no_amount(column, cells):
            return f"left: {why}"
        return "label" if named & _LABELS or (named & {"class"} and distinct <= 100) else _grouped(column)
    some = [text.strip() for text in spread(cells.unique(maintain_order=True).to_list(), 100)]
    if {text.lower() for text in some} <= SPLITS:
        return "left: a split that came with the data"
    if all(_DNA.fullmatch(text) for text in some):
        return "dna"
    if _are_smiles(some, "smiles" in named):
        return "smiles"
    if all(_DATE.fullmatch(text) or (_QUANTITY.fullmatch(text) and not is_identifier(text)) for text in some):
        return "content"
    if named & (_LABELS | _TAXA) and not named & {"id", "ids", "uuid", "accession"}:
        return "label"
    if nearly_unique(column, cells):
        prose = sum(len(text.split()) for text in some) >= 5 * len(some)
        return "text" if prose and len(cells) >= 0.5 * rows else f"left: {ID}"
    if distinct > 0.5 * len(cells) and distinct > 50:
        return "left: nearly every value differs"
    return _grouped(column)


def nearly_unique(column: str, texts: pl.Series) -> bool:
    """Whether nearly all texts of a column differ, or most where it is named like ids."""
    distinct = texts.n_unique()
    named = bool(_IDS & _naming(column))
    return (distinct > 0.9 * len(texts) and len(texts) > 4) or (named and distinct > 0.5 * len(texts))


def _naming(column: str) -> set[str]:
    """The words of a column's name that may say that it identifies: `NO` is nitric oxide or Norway, no number."""
    return {word for word in words(column) if word != "no" or "NO" not in column}


def no_amount(column: str, cells: pl.Series) -> str:
    """Why numbers are no amounts, empty where they may be; `7.0` is as good as 7."""
    whole = cells.dtype.is_integer()
    if cells.dtype.is_float() and cells.is_finite().all() and (cells == cells.floor()).all():
        cells = cells.cast(pl.Int128)
    if not cells.dtype.is_integer() or not len(cells):
        return ""
    named, last = _naming(column), words(column)[-1:]
    distinct, low, high = cells.n_unique(), int(cells.min()), int(cells.max())  # type: ignore[arg-type]
    nearly = distinct == len(cells) or (distinct > 0.9 * len(cells) and len(cells) > 10)
    counted = whole and set(cells.diff().drop_nulls()) == {1}
    if nearly and (named & _IDS or group_rank(column) is not None or counted):
        return ID
    if all(_is_day(int(cell)) for cell in (low, high, *cells.head(100))):
        return DATES
    alike = low >= 10**6 and len(str(low)) == len(str(high)) and high - low < 0.01 * high and not named & _TIMES
    if alike and distinct > 0.5 * len(cells):
        return ID if nearly else CODES
    return CODES if set(last) & _CODES and not named & (_LABELS | {"class"}) else ""


def _is_day(number: int) -> bool:
    """Whether a number such as 20151105 is a date of the last centuries."""
    try:
        return 1700 <= datetime.strptime(str(number), "%Y%m%d").replace(tzinfo=UTC).year <= 2100 and number > 10**7
    except ValueError:
        return False


def _grouped(column: str) -> str:
    """Who or what a row is about is no content: it cannot be known of others. Where it is, may be."""
    rank = group_rank(column)
    return "content" if rank is None or rank >= _GROUPS.index("site") else "left: says what rows belong together"


def _are_smiles(texts: Sequence[str], named: bool) -> bool:
    """Whether RDKit reads nearly all; words such as `CN` and `NO`, which it reads too, have no bonds or rings."""
    if not named and sum(bool(_BONDS.search(text)) for text in texts) < len(texts) / 2:
        return False
    read = 0
    for text in texts:
        try:
            read += " " not in text and bool(canonical(text))
        except ContentError:
            continue
    return read >= 0.9 * len(texts)
