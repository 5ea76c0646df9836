"""SMILES strings: one token per atom, bond, branch or ring closure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from modalities.base import CellContent, fitted, register
from modalities.files.reading import ContentError, lazy_import
from modalities.strings.chemistry import PACKAGES, canonical, morgan, scaffold, structure
from modalities.strings.sequence import TokenSequence, build_tokens, decode_text
from modalities.strings.vocabulary import Vocabulary, common
from modalities.tokens import Tokens

_TWO_LETTERS = """
He Li Be Ne Na Mg Al Si Cl Ar Ca Sc Ti Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn
Sb Te Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa
Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
ELEMENTS = tuple(_TWO_LETTERS.split())
ALPHABET = (*(chr(code) for code in range(33, 127)), "@@", *ELEMENTS)
"""Tokens that spell every SMILES: printable ASCII, chirality and the elements of two letters."""

_ATOMS = re.compile(r"\[[^\[\]]+\]|Br|Cl|[!-~]")
"""Atoms. Outside brackets only the organic subset has two letters (OpenSMILES 3.1): `Sc` is S and c."""
_INSIDE = re.compile(rf"@@|{'|'.join(ELEMENTS)}|[!-~]")
_FORM = re.compile(r"[!-~]+")


@register
@dataclass(frozen=True, kw_only=True)
class Smiles(TokenSequence):
    """SMILES by the atom-wise scheme of Schwaller et al. 2019; raw data is a string.

    Bracket atoms that are rare in training are spelled by their parts (`[Cu-3]` as `[`, `Cu`, `-`, `3`, `]`), so
    tokens always join to the string they came from.

    Attributes:
        min_count: Number of training occurrences from which a bracket atom has a token of its own.
        length (tokens): Largest length; a longer molecule is skipped, never cut.
        randomize: Share of training molecules written anew from a random atom in a random order (Bjerrum 2017), if
            that needs no more than `length` tokens.
    """

    type: ClassVar[str] = "smiles"

    group_names: ClassVar[tuple[str, ...]] = ("scaffold",)
    build_requires: ClassVar[tuple[str, ...]] = PACKAGES

    min_count: int = 20
    length: int = 1024
    randomize: float = 0.0
    brackets: tuple[str, ...] = fitted(())

    def __post_init__(self) -> None:
        if not 0 <= self.randomize <= 1:
            raise ValueError(f"smiles randomize is {self.randomize}, but must be between 0 and 1")

    @cached_property
    def lexicon(self) -> Vocabulary:
        """The fixed alphabet and the frequent bracket atoms."""
        return Vocabulary((*ALPHABET, *self.brackets))

    @property
    def example(self) -> str:
        return '"CCO"'

    def fit(self, raws: Iterable[str]) -> Smiles:
        atoms = [atom for raw in raws for atom in _ATOMS.findall(raw)]
        if not atoms:
            raise ValueError("no SMILES to fit a vocabulary on")
        brackets = (atom for atom in atoms if atom[0] == "[" and len(atom) > 1)
        return dataclasses.replace(self, brackets=common(brackets, self.min_count))

    def split(self, smiles: str) -> list[str]:
        """Split a SMILES into tokens, whose concatenation is the SMILES."""
        lexicon = self.lexicon
        return [
            piece for atom in _ATOMS.findall(smiles) for piece in ([atom] if atom in lexicon else _INSIDE.findall(atom))
        ]

    def join(self, ids: np.ndarray) -> str:
        """Join content ids `(N,)` to a SMILES."""
        return "".join(self.lexicon.decode(ids.tolist()))

    def decode(self, members: dict[str, bytes]) -> str:
        return self.parse(decode_text(members, "SMILES", "ascii"))

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not _FORM.fullmatch(smiles := value.strip()):
            raise ContentError("not a SMILES", repr(str(value)[:80]))
        if smiles.count("[") != smiles.count("]") or smiles.count("(") != smiles.count(")"):
            raise ContentError("SMILES with an unclosed bracket", repr(smiles[:80]))
        if (atoms := len(_ATOMS.findall(smiles))) > self.length:  # the same limit for any vocabulary
            raise ContentError(f"SMILES of more than {self.length} tokens", f"{atoms} tokens")
        return smiles

    def from_cell(self, cell: Any) -> CellContent:
        """RDKit's canonical SMILES of a SMILES or CXSMILES, and the scaffold of the molecule."""
        smiles, identity, molecule = structure(str(cell))
        return CellContent({"txt": smiles.encode()}, identity, {"scaffold": scaffold(molecule)})

    def canonical(self, raw: str) -> str:
        """RDKit's canonical SMILES; well-formed SMILES that RDKit cannot read are compared as they are written."""
        try:
            return canonical(raw)
        except ContentError:
            return raw

    def plain(self, raw: str) -> np.ndarray:
        """Morgan fingerprint `(2048,)`."""
        return morgan(raw)

    def tokenize(self, raw: str, rng: np.random.Generator | None = None) -> Tokens:
        ids = self.lexicon.encode(self.split(raw))
        if len(ids) > self.length:
            raise ContentError(f"SMILES of more than {self.length} tokens", f"{len(ids)} tokens")
        if rng is not None and self.randomize and rng.random() < self.randomize:
            other = self.lexicon.encode(self.split(respell(raw, rng)))
            ids = other if len(other) <= self.length else ids
        return build_tokens(ids)


def respell(smiles: str, rng: np.random.Generator) -> str:
    """Write a molecule as another SMILES, with a random first atom and a random order of branches.

    Raises:
        ContentError: RDKit cannot read the molecule.
    """
    lazy_import("rdkit.RDLogger", "rdkit").DisableLog("rdApp.*")
    chem = lazy_import("rdkit.Chem", "rdkit")
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ContentError("invalid SMILES", repr(smiles[:80]))
    seed = int(rng.integers(1, 2**31))  # RDKit uses no seed if it is not positive
    return chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)[0]
