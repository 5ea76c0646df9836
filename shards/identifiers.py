"""Tell identifiers, codes and groups from amounts, by the names and the cells of columns."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl

ID = "identifies rows"
CODES = "whole numbers that are codes, not amounts"
DATES = "dates as whole numbers, not amounts: write them as 2015-11-05"
GROUPS = (
    *("subject", "patient", "person", "participant", "individual", "donor", "animal", "speaker", "volunteer"),
    *("video", "session", "recording", "specimen", "plot", "site", "station", "locality", "genus", "family"),
)
"""Words in the names of fields whose samples belong together, the closest relation first."""
_NUMBERED = frozenset({"id", "ids", "no", "nr", "number", "num", "code", "name", "key", "index"})
_IDS = _NUMBERED | {"uuid", "accession", "voucher", "catalog", "barcode", "unnamed", "row", "sample"}
_CODES = frozenset({"id", "ids", "nr", "code", "key", "voucher", "accession", "barcode"})
"""Last words in the names of columns whose whole numbers are codes, even if values repeat."""
LABELS = frozenset(
    {
        *("label", "labels", "target", "outcome", "diagnosis", "disease", "dx", "category", "phenotype", "grade"),
        *("activity", "active", "exp", "expt", "measured", "ic50", "ec50", "pic50", "quality", "digit", "y"),
    }
)
_TIMES = frozenset({"time", "times", "timestamp", "date", "day", "julian", "jd", "bjd", "epoch", "unix"})


def split_words(name: str) -> tuple[str, ...]:
    """The words in the name of a column, in lower case: `patient id` for `patientID` and `patient_id`."""
    return tuple(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def group_rank(name: str) -> int | None:
    """How closely the samples with one value of a field belong together, 0 the closest; None if its name does not tell.

    A name tells if it is a word of `GROUPS`, alone or with words such as `id`.
    """
    words = split_words(name)
    ranks = [rank for rank, word in enumerate(GROUPS) if word in words and set(words) <= {word, *_NUMBERED}]
    return ranks[0] if ranks else None


def is_nearly_unique(column: str, texts: pl.Series) -> bool:
    """Whether nearly all texts of a column differ, or most of them if its name is that of an identifier."""
    distinct = texts.n_unique()
    is_id = bool(_IDS & _identifying_words(column))
    return (distinct > 0.9 * len(texts) and len(texts) > 4) or (is_id and distinct > 0.5 * len(texts))


def _identifying_words(column: str) -> set[str]:
    """The words of a name, without `NO` in capitals: it is nitric oxide or Norway, not "number"."""
    return {word for word in split_words(column) if word != "no" or "NO" not in column}


def not_amount_reason(column: str, cells: pl.Series) -> str:
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
    return CODES if set(last) & _CODES and not words & (LABELS | {"class"}) else ""


def _is_day(number: int) -> bool:
    """Whether a number such as 20151105 is a date between 1700 and 2100."""
    try:
        return 1700 <= datetime.strptime(str(number), "%Y%m%d").replace(tzinfo=UTC).year <= 2100 and number > 10**7
    except ValueError:
        return False
