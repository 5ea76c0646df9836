"""PTB-XL (Wagner et al. 2020): `ptbxl_database.csv` and its records at 100 or 500 Hz."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from modalities.base import Modality
from modalities.files.channels import LEADS
from modalities.files.reading import ContentError
from modalities.files.waveforms import read_wfdb, read_wfdb_extent
from shards.columns import require_columns
from shards.sources.base import Sample, register
from shards.sources.biosignals import BiosignalSource, Fields, assign_channels
from shards.sources.drafting.columns import TableFile
from shards.sources.drafting.draft import Draft, choose_split
from shards.sources.drafting.settings import TABLE
from shards.sources.drafting.signal_settings import montage_settings
from shards.sources.drafting.survey import Survey
from shards.sources.tables import read_rows

DATABASE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"


class Row(NamedTuple):
    """A row of the database, and the folder of the database."""

    folder: Path
    fields: Fields


@register
@dataclass(frozen=True, kw_only=True)
class PtbXl(BiosignalSource):
    """One sample per record, with the field names of PTB-XL.

    Fields of a record are the columns of the database and, from its `scp_codes`, `codes` (all, separated by commas),
    `code` (the most likely) and, if `scp_statements.csv` exists, `diagnostic_class` (of the most likely diagnostic
    code: NORM, MI, STTC, CD or HYP). Among the fields for a split are `patient_id`, which keeps each patient in one
    split, and `strat_fold`, the ten folds that come with the data.

    Attributes:
        sample_rate_hz: 500 (column `filename_hr`) or 100 (`filename_lr`).
    """

    type: ClassVar[str] = "ptbxl"
    requires: ClassVar[tuple[str, ...]] = ("wfdb", "polars")

    sample_rate_hz: Literal[100, 500] = 500

    @classmethod
    def draft(cls, survey: Survey, tables: Sequence[TableFile]) -> list[Draft]:
        database, statements = survey.root / DATABASE, survey.root / STATEMENTS
        table = next((table for table in tables if table.path == database), None)
        if table is None:
            return []
        columns = [name for name in ("age", "sex", "height", "weight") if name in table.frame.columns]
        rate_hz = 500 if (survey.root / "records500").is_dir() else 100
        labels = ("diagnostic_class",) if statements.is_file() else ("code",)
        split = choose_split([("patient_id", table.count_values("patient_id"))])
        source = {"type": cls.type, "sample_rate_hz": rate_hz, "columns": {"table": columns}, "labels": list(labels)}
        draft = Draft(
            source=source,
            modalities={"ecg": montage_settings("ecg", rate_hz, ["mV"], LEADS[:12], 10), "table": TABLE},
            samples=len(table.frame),
            source_types=frozenset({"wfdb"}),
            tables=frozenset({database, statements}),
            split=split,
            labels=labels,
            guesses=("this is PTB-XL, by its file names", split.guess, f"the records at {rate_hz} Hz are read"),
            is_linked=True,
            is_exact=True,
        )
        return [draft]

    @property
    def file_column(self) -> str:
        """The column that names the records."""
        return "filename_hr" if self.sample_rate_hz == 500 else "filename_lr"

    def items(self, raw: Path) -> Iterator[Row]:
        path = raw / DATABASE if raw.is_dir() else raw
        columns = [*(name for names in self.columns.values() for name in names), *self.labels]
        names, rows = read_rows(path, self.missing, used=columns)
        require_columns(path, names, ["ecg_id", "patient_id", "scp_codes", "strat_fold", self.file_column])
        for row in rows:
            yield Row(path.parent, row)

    def make(self, item: Row, modalities: Mapping[str, Modality]) -> Sample:
        if not item.fields[self.file_column]:
            raise ContentError("row without a record")
        path = item.folder / f"{item.fields[self.file_column]}.hea"
        _, count = read_wfdb_extent(path)
        recordings, _ = read_wfdb(path, partial(assign_channels, modalities=modalities), 0, count)
        fields = item.fields | parse_diagnoses(item.fields["scp_codes"], read_statements(item.folder / STATEMENTS))
        return self.sample(str(fields["ecg_id"]), recordings, fields)


@lru_cache(maxsize=4)
def read_statements(path: Path) -> dict[str, str]:
    """The class of each diagnostic code, read once per process; empty if the file does not exist.

    Raises:
        ValueError: the file lacks a column.
    """
    if not path.is_file():
        return {}
    names, rows = read_rows(path, used=())
    require_columns(path, names, ["diagnostic", "diagnostic_class"])
    codes = names[0]  # the column of codes has no name
    return {
        str(row[codes]): str(row["diagnostic_class"]) for row in rows if row["diagnostic"] and row["diagnostic_class"]
    }


def parse_diagnoses(scp_codes: str | None, classes: Mapping[str, str]) -> Fields:
    """Fields from text such as `{'NORM': 100.0, 'SR': 0.0}`: codes and their likelihoods in percent.

    In PTB-XL a likelihood of 0 means unknown, as is usual for rhythms.

    Args:
        scp_codes: The cell; None has no codes.
        classes: Diagnostic class by code; if empty, the field `diagnostic_class` is omitted.

    Raises:
        ContentError: the text does not have this form.
    """
    try:
        likelihoods = {str(code): float(percent) for code, percent in ast.literal_eval(scp_codes or "{}").items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError) as error:
        raise ContentError("scp_codes that are not codes with likelihoods") from error
    ranking = sorted(likelihoods, key=lambda code: -likelihoods[code])
    diagnostic = next((classes[code] for code in ranking if code in classes), None)
    fields: Fields = {"codes": list(likelihoods), "code": ranking[0] if ranking else None}
    return fields | ({"diagnostic_class": diagnostic} if classes else {})
