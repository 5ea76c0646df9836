"""Molecules from `.smi` or CSV files: SMILES, a structure drawing and RDKit descriptors."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TextIO

from modalities.base import ContentError, Modality, parser
from shards.sources.base import Sample, Source, register


@register
@dataclass(frozen=True, kw_only=True)
class Molecules(Source):
    """SMILES files become samples `smiles.txt`, `image.png` (grey drawing), `table.json` and `labels.json`.

    files: glob below the raw folder. smiles: column of a CSV that holds SMILES. drawing_px: side of the square
    drawing. bond_px: length of a bond, smaller only where a molecule would not fit, so that drawings are to scale.
    line_px: width of a bond's line. descriptors, labels: names in `rdkit.Chem.Descriptors`. Samples can be grouped by
    `scaffold` (Bemis & Murcko 1996). The identity is RDKit's canonical SMILES.
    """

    type: ClassVar[str] = "molecules"

    files: str = "*.smi"
    smiles: str = "smiles"
    drawing_px: int = 96
    bond_px: float = 9.0
    line_px: float = 1.5
    descriptors: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def items(self, raw: Path) -> Iterator[str]:
        paths = [raw] if raw.is_file() else sorted(raw.glob(self.files))
        if not paths:
            raise ValueError(f"no file {self.files} in {raw}")
        for path in paths:
            if path.suffix == ".csv":
                yield from column(path, self.smiles)
            else:
                with _text(path) as lines:
                    yield from (line.split()[0] for line in lines if line.strip())

    def make(self, item: str, modalities: Mapping[str, Modality]) -> Sample:
        smiles = canonical(item)
        molecule = chemistry().MolFromSmiles(smiles)
        members = {
            "smiles.txt": smiles.encode(),
            "image.png": draw(molecule, self.drawing_px, self.bond_px, self.line_px),
        }
        if self.descriptors:
            members["table.json"] = json.dumps(describe(molecule, self.descriptors)).encode()
        if self.labels:
            members["labels.json"] = json.dumps(describe(molecule, self.labels)).encode()
        return Sample(smiles, members, {"scaffold": scaffold(smiles)})


def _text(path: Path) -> TextIO:
    """A text file, with or without a byte order mark; a byte that is not UTF-8 spoils no more than its own word."""
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def column(path: Path, name: str) -> Iterator[str]:
    """One column of a CSV file.

    Raises:
        ValueError: no such column.
    """
    with _text(path) as file:
        rows = csv.DictReader(file)
        if name not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(rows.fieldnames or ())}")
        yield from (row[name] or "" for row in rows)


@cache
def chemistry() -> Any:
    """`rdkit.Chem`, its own messages silenced: what it refuses is counted here."""
    parser("rdkit.RDLogger", "rdkit").DisableLog("rdApp.*")
    return parser("rdkit.Chem", "rdkit")


def canonical(smiles: str) -> str:
    """RDKit's canonical SMILES.

    Raises:
        ContentError: RDKit cannot read it.
    """
    chem = chemistry()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ContentError("invalid SMILES", repr(smiles[:80]))
    return chem.MolToSmiles(molecule)


def scaffold(smiles: str) -> str:
    """Murcko scaffold as canonical SMILES, empty for acyclic molecules."""
    return parser("rdkit.Chem.Scaffolds.MurckoScaffold", "rdkit").MurckoScaffoldSmiles(smiles)


def draw(molecule: Any, side_px: int, bond_px: float, line_px: float) -> bytes:
    """PNG of the 2-D structure in one 8-bit band, `side_px` square."""
    drawing = parser("rdkit.Chem.Draw.rdMolDraw2D", "rdkit")
    canvas = drawing.MolDraw2DCairo(side_px, side_px)
    options = canvas.drawOptions()
    options.useBWAtomPalette()
    options.fixedBondLength = bond_px
    options.bondLineWidth = line_px
    options.scaleBondWidth = False
    options.padding = 0.02
    options.minFontSize = 6
    drawing.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    pillow = parser("PIL.Image", "pillow")
    buffer = io.BytesIO()
    pillow.open(io.BytesIO(canvas.GetDrawingText())).convert("L").save(buffer, "png")
    return buffer.getvalue()


def describe(molecule: Any, names: tuple[str, ...]) -> dict[str, float | None]:
    """RDKit descriptors by name, None where one is not a finite number.

    Raises:
        ValueError: RDKit has no such descriptor.
    """
    known = dict(parser("rdkit.Chem.Descriptors", "rdkit").descList)
    values = {}
    for name in names:
        if name not in known:
            raise ValueError(f"RDKit has no descriptor {name!r}")
        value = float(known[name](molecule))
        values[name] = value if math.isfinite(value) else None
    return values
