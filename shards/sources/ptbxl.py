"""PTB-XL (Wagner et al. 2020): `ptbxl_database.csv` and its records at 100 or 500 Hz."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.files.waveforms import read_wfdb, wfdb_extent
from shards.names import need_columns
from shards.sources.base import Sample, Source, register
from shards.sources.recordings import Fields, assigned, groups_of, members_of, table_members
from shards.sources.tables import read_rows

DATABASE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"


class Row(NamedTuple):
    """A row of the database and the folder it lies in."""

    folder: Path
    fields: Fields


@register
@dataclass(frozen=True, kw_only=True)
class PtbXl(Source):
    """One record one sample, by the names PTB-XL has for its fields.

    rate_hz: 500 (`filename_hr`) or 100 (`filename_lr`). Fields of a record are the columns of the database and, of
    its `scp_codes`, `codes` (all, by commas), `code` (the likeliest) and, where `scp_statements.csv` is there,
    `diagnostic_class` (of the likeliest diagnostic code: NORM, MI, STTC, CD or HYP). columns: the fields of each table
    modality. labels: fields kept apart from the content. flags: labels that are 1 where the list in a field holds a
    code, `{fibrillation: [codes, AFIB]}`. A split is made by any field: `patient_id` keeps a patient on one side,
    `strat_fold` one of the ten folds that come with the data.
    """

    type: ClassVar[str] = "ptbxl"
    requires: ClassVar[tuple[str, ...]] = ("wfdb", "polars")

    rate_hz: Literal[100, 500] = 500
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    flags: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The column that names the records."""
        return "filename_hr" if self.rate_hz == 500 else "filename_lr"

    def items(self, raw: Path) -> Iterator[Row]:
        path = raw / DATABASE if raw.is_dir() else raw
        used = [*(name for names in self.columns.values() for name in names), *self.labels]
        names, rows = read_rows(path, self.missing, used=used)
        need_columns(path, names, ["ecg_id", "patient_id", "scp_codes", "strat_fold", self.file])
        for row in rows:
            yield Row(path.parent, row)

    def make(self, item: Row, modalities: Mapping[str, Modality]) -> Sample:
        if not item.fields[self.file]:
            raise ContentError("row without a record")
        path = item.folder / f"{item.fields[self.file]}.hea"
        _, count = wfdb_extent(path)
        recordings, _ = read_wfdb(path, partial(assigned, modalities=modalities), 0, count)
        fields = item.fields | diagnoses(item.fields["scp_codes"], statements(item.folder / STATEMENTS))
        return Sample(
            str(fields["ecg_id"]),
            members_of(recordings) | table_members(fields, self.columns, self.labels, self.flags, modalities),
            groups_of(fields),
        )


@lru_cache(maxsize=4)
def statements(path: Path) -> dict[str, str]:
    """The diagnostic class of each diagnostic code, read once a process; empty without the file.

    Raises:
        ValueError: the file has no such columns.
    """
    if not path.is_file():
        return {}
    names, rows = read_rows(path, used=())
    need_columns(path, names, ["diagnostic", "diagnostic_class"])
    codes = names[0]  # the column of codes bears no name
    return {
        str(row[codes]): str(row["diagnostic_class"]) for row in rows if row["diagnostic"] and row["diagnostic_class"]
    }


def diagnoses(scp_codes: str | None, classes: Mapping[str, str]) -> Fields:
    """Fields of a text such as `{'NORM': 100.0, 'SR': 0.0}`, codes and their likelihoods in percent.

    A likelihood of 0 is PTB-XL's way to say that none was given, which is so of rhythms.

    Raises:
        ContentError: the text is no such thing.
    """
    try:
        held = ast.literal_eval(scp_codes or "{}")
        likelihood = {str(code): float(percent) for code, percent in held.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError) as error:
        raise ContentError("scp_codes that are not codes with likelihoods") from error
    ranked = sorted(likelihood, key=lambda code: -likelihood[code])
    diagnostic = next((classes[code] for code in ranked if code in classes), None)
    fields: Fields = {"codes": list(likelihood), "code": ranked[0] if ranked else None}
    return fields | ({"diagnostic_class": diagnostic} if classes else {})
