"""Molecules by RDKit: canonical SMILES, identity, scaffold, drawing and descriptors."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from modalities.files.reading import ContentError, count_change, counted_changes, lazy_import

PACKAGES = ("rdkit", "chembl_structure_pipeline")
"""Packages on whose versions SMILES, scaffolds, drawings and descriptors depend."""

_POLYMERS = frozenset({"SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA"})
"""Types of brackets in CTfiles that mark repeating units (S-groups, BIOVIA 2020)."""
_CENTER = "racemic or unknown configuration of a center left out of a SMILES"
_LINE = re.compile(r"\s*(\S+)([ \t]+\|[^|]*\|)?")
_POINTS = "_MolFileBondEndPts"
_WAVY = re.compile(r"[|,](w[UD]?|ctu):")
"""Fields of CXSMILES that may revoke the configuration of a center or a double bond."""
_MAP = re.compile(r":\d+(?=])")


class Structure(NamedTuple):
    """A standardized molecule.

    smiles: RDKit's canonical SMILES without an extension, the input of models. identity: the same, or the canonical
    CXSMILES of a molecule with stereochemical groups, because a racemate is another substance than its enantiomer.
    molecule: RDKit's molecule of `smiles`.
    """

    smiles: str
    identity: str
    molecule: Any


@cache
def chemistry() -> Any:
    """Import `rdkit.Chem` with its messages silenced, because molecules that it refuses are counted here."""
    lazy_import("rdkit.RDLogger", "rdkit").DisableLog("rdApp.*")
    return lazy_import("rdkit.Chem", "rdkit")


def smiles_in(line: str) -> str:
    """Cut the SMILES from the beginning of a line of a `.smi` file, with its extension ` |...|` if it has one."""
    match = _LINE.match(line)
    return match[0].strip() if match else ""


def structure(smiles: str) -> Structure:
    """Parse a SMILES or CXSMILES.

    Atom-map numbers are removed, except for those of `*`, which are labels of attachment points. `smiles` has no
    configuration for a single racemic (`&`) or unknown (`o`) center; for centers with a known relative configuration it
    has one of the two enantiomers, always the same one. These changes are counted, as are configurations that a wavy
    bond revokes. A racemate of a meso compound equals that compound.

    Raises:
        ContentError: RDKit cannot read the molecule, or it is not a single one.
    """
    chem = chemistry()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        if "|" in smiles and chem.MolFromSmiles(smiles.split()[0]) is not None:
            raise ContentError("CXSMILES extension that RDKit cannot read", repr(smiles[:80]))
        raise ContentError("invalid SMILES", repr(smiles[:80]))
    if "|" in smiles:
        _count_wavy(smiles, molecule)
        molecule = _resolved(molecule)
    if ":" in smiles:
        molecule = _without_maps(molecule)
    identity = ""
    if groups := _groups(molecule):
        identity, molecule = _stereo(molecule, groups)
    plain = chem.MolToSmiles(molecule)
    if "*" in plain:
        count_change("atom written * (R group, attachment point or polymer end)")
    return Structure(plain, identity or plain, chem.MolFromSmiles(plain))


def canonical(smiles: str) -> str:
    """RDKit's canonical SMILES, see `structure`, without counting changes.

    Raises:
        ContentError: see `structure`.
    """
    with counted_changes():
        return structure(smiles).smiles


def smiles_of(block: str) -> str:
    """Convert a block of an SDF to SMILES; stereochemistry comes from wedges or 3-D coordinates.

    A block with stereochemical groups becomes CXSMILES.

    Raises:
        ContentError: RDKit cannot read the molecule, or it is not a single one.
    """
    molecule = chemistry().MolFromMolBlock(block)
    if molecule is None:
        raise ContentError("invalid SDF record", repr(block[:80]))
    atoms = (_MAP.sub("", a.GetSmarts()) for a in molecule.GetAtoms() if a.HasQuery() and not a.GetAtomicNum())
    bonds = (b.GetSmarts() for b in molecule.GetBonds() if b.HasQuery())
    if set(atoms) - {"*", "[*]", "[#0]"} or set(bonds) - {"~"}:  # R groups, and bonds of any order, as of metals
        raise ContentError("SDF record of a query (such as an atom list, A, Q, X or M), not of a molecule")
    if any("ATROP" in str(bond.GetStereo()) for bond in molecule.GetBonds()):
        count_change("axial chirality (atropisomer) left out: SMILES cannot say it")
    return _text(_resolved(molecule))


def _text(molecule: Any) -> str:
    """SMILES of an RDKit molecule; CXSMILES if it has stereochemical groups."""
    chem = chemistry()
    if not molecule.GetStereoGroups():
        return chem.MolToSmiles(molecule)
    fields = chem.CXSmilesFields.CX_ENHANCEDSTEREO | chem.CXSmilesFields.CX_COORDINATE_BONDS
    return chem.MolToCXSmiles(molecule, chem.SmilesWriteParams(), fields)


def _reread(molecule: Any) -> Any:
    """Parse a changed molecule again from its SMILES.

    Raises:
        ContentError: RDKit cannot read the SMILES.
    """
    text = _text(molecule)
    if (read := chemistry().MolFromSmiles(text)) is None:
        raise ContentError("molecule whose SMILES RDKit cannot read again", repr(text[:80]))
    return read


def _resolved(molecule: Any) -> Any:
    """Replace haptic bonds, such as those of ferrocene, by a dative bond of each atom; this is counted.

    Connection tables and CXSMILES bind a metal to a dummy atom that represents several others.

    Raises:
        ContentError: a dummy atom represents any one of several others, or a polymer's brackets have no ends `*`.
    """
    chem = chemistry()
    types = {group.GetProp("TYPE") for group in chem.GetMolSubstanceGroups(molecule)}
    if types & _POLYMERS and all(atom.GetAtomicNum() for atom in molecule.GetAtoms()):
        raise ContentError("polymer in brackets without ends *: its SMILES would be another molecule")
    bonds = [bond for bond in molecule.GetBonds() if bond.HasProp(_POINTS)]
    if not bonds:
        return molecule
    changed = chem.RWMol(molecule)
    for bond in bonds:
        dummy, other = sorted((bond.GetBeginAtom(), bond.GetEndAtom()), key=lambda atom: atom.GetAtomicNum())
        dative = bond.GetBondType() == chem.BondType.DATIVE
        if dummy.GetAtomicNum() or not (dative or bond.GetProp("_MolFileBondAttach") == "ALL"):
            raise ContentError("bond to any one of several atoms (position variation)")
        changed.RemoveBond(dummy.GetIdx(), other.GetIdx())  # programs write it single and either way round
        changed.AddBond(dummy.GetIdx(), other.GetIdx(), chem.BondType.DATIVE)
        again = changed.GetBondBetweenAtoms(dummy.GetIdx(), other.GetIdx())
        again.SetProp(_POINTS, bond.GetProp(_POINTS))
        again.SetProp("_MolFileBondAttach", "ALL")
    count_change("haptic bond written as a dative bond of each atom")
    return _reread(chem.HapticBondsToDative(changed.GetMol()))


def _without_maps(molecule: Any) -> Any:
    """Remove atom-map numbers; this is counted."""
    mapped = [atom for atom in molecule.GetAtoms() if atom.GetAtomMapNum() and atom.GetAtomicNum()]
    if not mapped:
        return molecule
    for atom in mapped:
        atom.SetAtomMapNum(0)
    count_change("atom-map numbers removed from a SMILES")
    return _reread(molecule)


def _count_wavy(smiles: str, molecule: Any) -> None:
    """Count the configurations of a SMILES that wavy bonds in its extension revoke."""
    if not _WAVY.search(smiles):
        return
    chem = chemistry()
    written = chem.MolFromSmiles(smiles.split()[0])

    def centers(form: Any) -> int:
        return sum(atom.GetChiralTag() != chem.ChiralType.CHI_UNSPECIFIED for atom in form.GetAtoms())

    def double_bonds(form: Any) -> int:
        unknown = (chem.BondStereo.STEREONONE, chem.BondStereo.STEREOANY)
        return sum(bond.GetStereo() not in unknown for bond in form.GetBonds())

    if centers(written) > centers(molecule):
        count_change(_CENTER)
    if double_bonds(written) > double_bonds(molecule):
        count_change("unknown configuration of a double bond left out of a SMILES")


def _groups(molecule: Any) -> list[Any]:
    """Stereochemical groups of racemic or relative centers, except those of meso compounds."""
    absolute = chemistry().StereoGroupType.STEREO_ABSOLUTE
    groups = [group for group in molecule.GetStereoGroups() if group.GetGroupType() != absolute]
    return [] if len(groups) == 1 and _is_meso(molecule, groups[0]) else groups


def _is_meso(molecule: Any, group: Any) -> bool:
    """Whether a molecule stays the same if all centers of a group are inverted, so that the group means nothing."""
    if len(group.GetAtoms()) < 2 or len(group.GetBonds()):
        return False
    chem = chemistry()
    forms = [chem.RWMol(molecule), chem.RWMol(molecule)]
    for form in forms:
        form.SetStereoGroups([])
    for atom in group.GetAtoms():
        forms[1].GetAtomWithIdx(atom.GetIdx()).InvertChirality()
    return len({chem.MolToSmiles(_reread(form)) for form in forms}) == 1


def _stereo(molecule: Any, groups: Sequence[Any]) -> tuple[str, Any]:
    """Canonical CXSMILES of a molecule with stereochemical groups, and the molecule of its plain SMILES."""
    chem = chemistry()

    def grouped(stereo_groups: Sequence[Any]) -> Any:
        copy = chem.RWMol(molecule)
        parts = [
            (g.GetGroupType(), [a.GetIdx() for a in g.GetAtoms()], [b.GetIdx() for b in g.GetBonds()])
            for g in stereo_groups
        ]
        copy.SetStereoGroups([chem.CreateStereoGroup(kind, copy, atoms, bonds) for kind, atoms, bonds in parts])
        return copy

    relative = [group for group in groups if len(group.GetAtoms()) + len(group.GetBonds()) > 1]
    plain = grouped(relative)
    for group in groups:
        if group not in relative:
            for atom in group.GetAtoms():
                plain.GetAtomWithIdx(atom.GetIdx()).SetChiralTag(chem.ChiralType.CHI_UNSPECIFIED)
    if relative:
        count_change("relative configuration of a racemate or unknown enantiomer written as one enantiomer")
    if len(relative) < len(groups):
        count_change(_CENTER)
    chem.AssignStereochemistry(plain, cleanIt=True, force=True)
    return _text(grouped(groups)), _reread(plain)  # CXSMILES always writes the same of two enantiomers


@cache
def _standard() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """RDKit's functions for the largest fragment and the neutral form, which are slow to set up."""
    standard = lazy_import("rdkit.Chem.MolStandardize.rdMolStandardize", "rdkit")
    return standard.LargestFragmentChooser().choose, standard.Uncharger(True, True).uncharge


def parent(molecule: Any) -> Any:
    """The largest fragment except common counter-ions and solvents, without charges, atom maps and isotopes.

    Counter-ions and solvents are those that ChEMBL strips (Bento et al. 2020). If there is no other fragment, the
    result is the largest of all.
    """
    chem = chemistry()
    largest, neutral_of = _standard()
    result = molecule
    if len(chem.GetMolFrags(molecule)) > 1:
        strip = lazy_import(
            "chembl_structure_pipeline.standardizer", "chembl_structure_pipeline"
        ).get_fragment_parent_mol
        result = largest(strip(molecule)[0])
    if any(atom.GetFormalCharge() for atom in result.GetAtoms()):
        neutral = neutral_of(result)
        if chem.MolFromSmiles(chem.MolToSmiles(neutral)) is not None:  # fails for carbanions in aromatic rings
            result = neutral
    if any(atom.GetIsotope() or atom.GetAtomMapNum() for atom in result.GetAtoms()):
        result = chem.Mol(result)
        for atom in result.GetAtoms():
            atom.SetIsotope(0)
            atom.SetAtomMapNum(0)
    return result


def scaffold(molecule: Any) -> str:
    """Murcko scaffold of an RDKit molecule's `parent` as canonical SMILES, empty for acyclic molecules.

    A drug and its salts, hydrates and isotopically labeled forms have the same scaffold.
    """
    return lazy_import("rdkit.Chem.Scaffolds.MurckoScaffold", "rdkit").MurckoScaffoldSmiles(mol=parent(molecule))


def draw(molecule: Any, side_px: int, bond_px: float, line_px: float) -> bytes:
    """Draw the 2-D structure as a square PNG with one 8-bit band."""
    drawing = lazy_import("rdkit.Chem.Draw.rdMolDraw2D", "rdkit")
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
    pillow = lazy_import("PIL.Image", "pillow")
    buffer = io.BytesIO()
    pillow.open(io.BytesIO(canvas.GetDrawingText())).convert("L").save(buffer, "png")
    return buffer.getvalue()


@cache
def _descriptors() -> dict[str, Callable[[Any], float]]:
    return dict(lazy_import("rdkit.Chem.Descriptors", "rdkit").descList)


def morgan(smiles: str, bits: int = 2048) -> np.ndarray:
    """Morgan fingerprint of radius 2 (Rogers & Hahn 2010) `(bits,)` float32, zero if RDKit cannot read the SMILES."""
    molecule = chemistry().MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        return np.zeros(bits, np.float32)
    generator = lazy_import("rdkit.Chem.rdFingerprintGenerator", "rdkit").GetMorganGenerator(radius=2, fpSize=bits)
    return generator.GetFingerprintAsNumPy(molecule).astype(np.float32)


def check_descriptors(names: Sequence[str]) -> None:
    """Check names of RDKit's descriptors.

    Raises:
        ValueError: RDKit has no such descriptor.
    """
    if unknown := [name for name in names if name not in _descriptors()]:
        raise ValueError(f"RDKit has no descriptor {unknown[0]!r}")


def describe(molecule: Any, names: tuple[str, ...]) -> dict[str, float | None]:
    """Compute RDKit descriptors by name; None for a descriptor that is not finite."""
    values = {name: float(_descriptors()[name](molecule)) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
