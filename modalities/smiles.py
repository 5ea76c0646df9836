"""SMILES strings: one token an atom, bond, branch or ring closure, and no atom ever lost."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import ContentError, Modality, SineCosine, Tokens, fitted, register
from modalities.vocabulary import Vocabulary, common

_TWO_LETTERS = """
He Li Be Ne Na Mg Al Si Cl Ar Ca Sc Ti Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn
Sb Te Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa
Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
ELEMENTS = tuple(_TWO_LETTERS.split())
ALPHABET = (*(chr(code) for code in range(33, 127)), "@@", *ELEMENTS)
"""Spells every SMILES: printable ASCII, chirality and the elements of two letters."""

_ATOMS = re.compile(r"\[[^\[\]]+\]|Br|Cl|[!-~]")
"""Outside brackets only the organic subset has two-letter atoms (OpenSMILES 3.1); `Sc` there is S and c."""
_INSIDE = re.compile(rf"@@|{'|'.join(ELEMENTS)}|[!-~]")
_FORM = re.compile(r"[!-~]+")


@register
@dataclass(frozen=True, kw_only=True)
class Smiles(Modality):
    """SMILES by the atom-wise scheme of Schwaller et al. 2019; raw data is a string.

    Bracket atoms seen at least `min_count` times in training have a token of their own. Rarer ones are spelled by
    their parts (`[Cu-3]` as `[`, `Cu`, `-`, `3`, `]`), so tokens always join to the very string they came from. A
    molecule of more than `length` tokens is refused, never cut.
    """

    type: ClassVar[str] = "smiles"
    extensions: ClassVar[tuple[str, ...]] = ("txt",)

    min_count: int = 20
    length: int = 1024
    brackets: tuple[str, ...] = fitted(())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The fixed alphabet and the bracket atoms learned."""
        return Vocabulary((*ALPHABET, *self.brackets))

    @property
    def widths(self) -> tuple[int, int, int]:
        return 0, 1, 1

    @property
    def entries(self) -> int:
        return len(self.vocabulary)

    def fit(self, raws: Iterable[str]) -> Smiles:
        atoms = [atom for raw in raws for atom in _ATOMS.findall(raw)]
        if not atoms:
            raise ValueError("no SMILES to fit a vocabulary on")
        brackets = (atom for atom in atoms if atom[0] == "[" and len(atom) > 1)
        return dataclasses.replace(self, brackets=common(brackets, self.min_count))

    def split(self, smiles: str) -> list[str]:
        """Token strings of a SMILES; joined they are the SMILES again."""
        known = self.vocabulary
        return [
            piece for atom in _ATOMS.findall(smiles) for piece in ([atom] if atom in known else _INSIDE.findall(atom))
        ]

    def join(self, ids: np.ndarray) -> str:
        """The SMILES of content ids `(N,)`."""
        return "".join(self.vocabulary.decode(ids.tolist()))

    def decode(self, members: dict[str, bytes]) -> str:
        try:
            return self.parse(members["txt"].decode("ascii"))
        except (UnicodeDecodeError, KeyError) as error:
            raise ContentError("SMILES is not ASCII text") from error

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not _FORM.fullmatch(smiles := value.strip()):
            raise ContentError("not a SMILES", repr(str(value)[:80]))
        if smiles.count("[") != smiles.count("]") or smiles.count("(") != smiles.count(")"):
            raise ContentError("SMILES with an unclosed bracket", repr(smiles[:80]))
        return smiles

    def tokenize(self, raw: str, rng: np.random.Generator | None = None) -> Tokens:
        ids = self.vocabulary.encode(self.split(raw))
        if not 0 < len(ids) <= self.length:
            raise ContentError(f"SMILES that is empty or of more than {self.length} tokens", f"{len(ids)} tokens")
        return Tokens(np.zeros((len(ids), 0), np.float32), ids[:, None], np.arange(len(ids), dtype=np.float32)[:, None])

    def embedding(self, dim: int) -> nn.Module:
        return SmilesEmbedding(len(self.vocabulary), dim)

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, len(self.vocabulary))

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(prediction.float(), ids[:, 0], reduction="none")

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        return tokens._replace(ids=prediction.argmax(1)[:, None])

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        entries = self.vocabulary.decode(tokens.ids[:, 0].tolist())
        guesses = self.vocabulary.decode(reconstructed.ids[:, 0].tolist())
        hidden, filled = [], []
        for entry, guess, hit in zip(entries, guesses, target, strict=True):
            hidden.append(("_", "hidden") if hit else (entry, ""))
            filled.append((guess, "right" if guess == entry else "wrong") if hit else (entry, ""))
        original = [(entry, "target" if hit else "") for entry, hit in zip(entries, target, strict=True)]
        return {"original": _marked(original), "masked": _marked(hidden), "reconstructed": _marked(filled)}


def _marked(pieces: list[tuple[str, str]]) -> str:
    text = (f'<b class="{style}">{html.escape(piece)}</b>' if style else html.escape(piece) for piece, style in pieces)
    return f"<code>{''.join(text)}</code>"


class SmilesEmbedding(nn.Module):
    """Content from a learnt table, place from the index in the string."""

    def __init__(self, entries: int, dim: int):
        super().__init__()
        self.content = nn.Embedding(entries, dim)
        self.place = SineCosine(1, dim)

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.content(ids[:, 0]), self.place(coords)
