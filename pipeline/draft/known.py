"""Layouts that are known by their names: PTB-XL and BIOSCAN-5M."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence

from pipeline.draft import settings
from pipeline.draft.base import ALONE, Draft, Sheet, grouped
from pipeline.draft.settings import MASKS, TABLE
from pipeline.draft.survey import Survey, spread
from shards.sources.bioscan import RANKS
from shards.sources.ptbxl import DATABASE, STATEMENTS


def ptbxl(seen: Survey, sheets: Sequence[Sheet]) -> Draft | None:
    """PTB-XL, by the name of its database."""
    sheet = next((sheet for sheet in sheets if sheet.path == seen.root / DATABASE), None)
    if sheet is None:
        return None
    described = (seen.root / STATEMENTS).is_file()
    labels = ("diagnostic_class",) if described else ("code",)
    table = [name for name in ("age", "sex", "height", "weight") if name in sheet.frame.columns]
    rate_hz = 500 if (seen.root / "records500").is_dir() else 100
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    split = grouped([("patient_id", sheet.distinct("patient_id"))], ALONE)
    return Draft(
        source={"type": "ptbxl", "sample_rate_hz": rate_hz, "columns": {"table": table}, "labels": list(labels)},
        modalities={"ecg": settings.signal("ecg", rate_hz, ["mV"], leads, 10), "table": TABLE},
        samples=len(sheet.frame),
        used=frozenset({"wfdb", sheet.path, seen.root / STATEMENTS}),
        labels=labels,
        by=split.by,
        groups=split.groups,
        guesses=("this is PTB-XL, by its names", split.guess, f"the records at {rate_hz} Hz are read"),
        linked=True,
    )


def bioscan(seen: Survey, sheets: Sequence[Sheet]) -> Draft | None:
    """BIOSCAN-5M, by the columns of its table."""
    needed = {"processid", "dna_barcode", "split", "chunk"}
    sheet = next((sheet for sheet in sheets if needed <= set(sheet.frame.columns)), None)
    if sheet is None:
        return None
    known = set(sheet.frame["processid"])
    pictures = [path for path in spread(seen.kinds.get("image", []), 1000) if path.stem in known]
    folders = Counter("/".join(path.relative_to(seen.root).parts[:-3]) for path in pictures)
    image = settings.image(pictures) if pictures else None
    dna = settings.dna(spread(sheet.frame["dna_barcode"].drop_nulls().to_list(), 500))
    ranks = [rank for rank in RANKS if rank in sheet.frame.columns]
    labels = tuple(rank for rank in ("order", "family", "genus", "species") if rank in ranks)
    split = grouped([(n, sheet.distinct(n)) for n in ("dna_bin", "species") if n in sheet.frame.columns], ALONE)
    taxonomy = {"type": "text", "vocabulary": 4096, "length": 20, "mask": MASKS["text"]}
    parts = {"image": image, "dna": dna, "taxonomy": taxonomy if ranks else None}
    return Draft(
        source={
            "type": "bioscan",
            "file": glob.escape(seen.name(sheet.path)),
            **({"images": folders.most_common(1)[0][0]} if image else {}),
            "columns": {"taxonomy": ranks} if ranks else {},
            "labels": list(labels),
        },
        modalities={name: state for name, state in parts.items() if state},
        samples=len(sheet.frame),
        used=frozenset({"image", sheet.path} if image else {sheet.path}),
        labels=labels,
        by=split.by,
        groups=split.groups,
        guesses=("this is BIOSCAN-5M, by its columns; data.source.splits picks some of its own splits", split.guess),
        linked=True,
    )
