"""DNA: sequences of IUPAC letters as k-mers, single letters or learned subwords."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np

from modalities.base import fitted, register
from modalities.files.reading import ContentError
from modalities.strings.sequence import TokenSequence, build_tokens, decode_text
from modalities.strings.subwords import load, train
from modalities.strings.vocabulary import Vocabulary
from modalities.tokens import UNKNOWN, Tokens

BASES = "ACGT"
UNCERTAIN = "RYSWKMBDHVN"
"""Letters for several possible nucleotides (IUPAC, Cornish-Bowden 1985)."""
LETTERS = BASES + UNCERTAIN
LONGEST_KMER = 8

_BASES = frozenset(BASES)
_SEQUENCE = re.compile(f"[{LETTERS}]+")
_COMPLEMENT = str.maketrans(LETTERS, "TGCAYRSWMKVHDBN")
_CLEAN = str.maketrans({"U": "T", "-": None, ".": None, **dict.fromkeys(" \t\r\n")})
"""Reads RNA as DNA and removes whitespace and the gaps of alignments."""


@register
@dataclass(frozen=True, kw_only=True)
class Dna(TokenSequence):
    """DNA as k-mers (BarcodeBERT, Millan Arias et al. 2023), letters or learned subwords; raw data is a string of IUPAC
    letters.

    Attributes:
        vocabulary: `kmer`: windows of `kmer` letters; a window with any letter other than A, C, G and T is unknown,
            and letters after the last complete window are ignored. `character`: one token per letter, uncertain
            letters included. `learned`: subwords by byte pair encoding (DNABERT-2, Zhou et al. 2023).
        kmer (letters): Length of a k-mer.
        stride (letters): Distance between the starts of k-mers; by default `kmer`, so that they do not overlap.
        vocabulary_size: Largest number of learned subwords.
        length (letters): Largest length of a sequence.
        too_long: Whether a longer sequence is cut to `length` (`cut`) or its sample is skipped (`refuse`).
        random_phase: Whether the first k-mer starts at a random one of the first `kmer` letters in training; otherwise
            at the first.
        reverse_complement: Whether half of the training sequences are read from the other strand.
    """

    type: ClassVar[str] = "dna"

    vocabulary: Literal["kmer", "character", "learned"] = "kmer"
    kmer: int = 4
    stride: int | None = None
    vocabulary_size: int = 4096
    length: int = 660
    too_long: Literal["cut", "refuse"] = "cut"
    random_phase: bool = True
    reverse_complement: bool = False
    unknown: float | None = fitted(None)
    model: bytes = fitted(b"")
    pieces: tuple[str, ...] = fitted(())

    def __post_init__(self) -> None:
        if not 1 <= self.kmer <= LONGEST_KMER:
            raise ValueError(f"dna kmer is {self.kmer}, but must be between 1 and {LONGEST_KMER}")
        if self.stride is not None and not 1 <= self.stride <= self.kmer:
            raise ValueError(
                f"dna stride is {self.stride}: it must be between 1 and kmer {self.kmer}, so that no letter is skipped"
            )
        if self.vocabulary == "kmer" and self.length < self.kmer:
            raise ValueError(f"dna length {self.length} is shorter than a k-mer of {self.kmer}")
        if self.length < 1 or self.vocabulary_size <= len(LETTERS) + 2:
            raise ValueError(f"dna length and vocabulary_size must be at least 1 and {len(LETTERS) + 3}")

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentencepiece if the vocabulary is learned."""
        return ("sentencepiece",) if self.vocabulary == "learned" else ()

    @property
    def step(self) -> int:
        """Letters between the starts of successive k-mers."""
        return self.stride or self.kmer

    @property
    def overlap(self) -> int:
        """Number of neighbors on either side that share letters with a token."""
        return (self.kmer - 1) // self.step if self.vocabulary == "kmer" else 0

    @cached_property
    def lexicon(self) -> Vocabulary:
        """All k-mers, the letters, or the learned subwords."""
        if self.vocabulary == "kmer":
            return Vocabulary(tuple(map("".join, product(BASES, repeat=self.kmer))))
        return Vocabulary(tuple(LETTERS) if self.vocabulary == "character" else self.pieces)

    @cached_property
    def _processor(self) -> Any:
        return load(self.model)

    @property
    def example(self) -> str:
        return '"ACGTACGTACGT"'

    def fit(self, raws: Iterable[str]) -> Dna:
        sequences = [raw[: self.length] for raw in raws]
        if not any(len(sequence) >= self.kmer or self.vocabulary != "kmer" for sequence in sequences):
            raise ValueError("no DNA to fit on")
        learned = self
        if self.vocabulary == "learned":  # all four bases are in the vocabulary even if the data lacks one
            model, pieces = train(
                [*sequences, BASES], self.vocabulary_size, "bpe", single_letters=UNCERTAIN, word_starts=False
            )
            learned = dataclasses.replace(self, model=model, pieces=pieces)
        ids = [learned._encode(sequence) for sequence in sequences]
        return dataclasses.replace(learned, unknown=float(np.mean(np.concatenate(ids) == UNKNOWN)))

    def decode(self, members: dict[str, bytes]) -> str:
        return self.parse(decode_text(members, "DNA", "ascii"))

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not (sequence := clean(value)):
            raise ContentError("DNA that is empty or not a string", repr(value)[:80])
        if not _SEQUENCE.fullmatch(sequence):
            raise ContentError("DNA with other letters than IUPAC's", repr(sequence[:80]))
        if not any(base in sequence for base in BASES):
            raise ContentError("DNA without a certain letter")
        if len(sequence) > self.length and self.too_long == "refuse":
            raise ContentError(f"DNA of more than {self.length} nucleotides", f"{len(sequence)} nucleotides")
        if self.vocabulary == "kmer":
            if len(sequence) < self.kmer:
                raise ContentError(f"DNA shorter than a k-mer of {self.kmer}", f"{len(sequence)} nucleotides")
            starts = range(0, min(len(sequence), self.length) - self.kmer + 1, self.step)
            if not any(_BASES.issuperset(sequence[i : i + self.kmer]) for i in starts):
                raise ContentError("DNA without a known token")
        return sequence

    def canonical(self, raw: str) -> str:
        """The alphabetically first of the two strands."""
        return min(raw, reverse_complement(raw))

    def tokenize(self, raw: str, rng: np.random.Generator | None = None) -> Tokens:
        if rng is not None and self.reverse_complement and rng.random() < 0.5:
            raw = reverse_complement(raw)
        if rng is not None and self.vocabulary == "kmer" and self.random_phase:
            raw = raw[rng.integers(min(self.kmer, len(raw) - self.kmer + 1)) :]
        ids = self._encode(raw[: self.length])
        if (ids == UNKNOWN).all():
            raise ContentError("DNA without a known token")
        return build_tokens(ids)

    def _encode(self, sequence: str) -> np.ndarray:
        """Content ids `(N,)`; a k-mer is a number in base 4."""
        if self.vocabulary == "character":
            return self.lexicon.encode(sequence)
        if self.vocabulary == "learned":
            return np.array(self._processor.encode(sequence), np.int64)
        digits = _DIGITS[np.frombuffer(sequence.encode("ascii"), np.uint8)]
        windows = np.lib.stride_tricks.sliding_window_view(digits, self.kmer)[:: self.step]
        numbers = windows @ len(BASES) ** np.arange(self.kmer - 1, -1, -1)
        return np.where((windows < 0).any(1), UNKNOWN, numbers + 2)

    def join(self, ids: np.ndarray) -> str:
        """Join content ids `(N,)` to a sequence; unknown k-mers become N."""
        nothing = "N" * (self.kmer if self.vocabulary == "kmer" else 1)
        entries = [entry if i > UNKNOWN else nothing for i, entry in zip(ids, self.lexicon.decode(ids), strict=True)]
        if not self.overlap or not entries:
            return "".join(entries)
        return "".join(entry[: self.step] for entry in entries[:-1]) + entries[-1]


_DIGITS = np.full(128, -1, np.int64)
_DIGITS[[ord(base) for base in BASES]] = range(len(BASES))


def reverse_complement(sequence: str) -> str:
    """The other strand in its own direction; uncertain letters become the letter for the complements."""
    return sequence.translate(_COMPLEMENT)[::-1]


def clean(text: str) -> str:
    """Normalize letters: upper case, RNA as DNA, without gaps and whitespace."""
    return text.upper().translate(_CLEAN)
