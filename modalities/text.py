"""Text (names, taxonomies, reports) as subwords learned from the training split."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from modalities.base import fitted, register
from modalities.files.reading import ContentError
from modalities.strings.sequence import TokenSequence, build_tokens, decode_text
from modalities.strings.subwords import SPACE, load, train
from modalities.strings.vocabulary import Vocabulary
from modalities.tokens import Tokens

SMALLEST = 300
"""Smallest vocabulary: all bytes, so that nothing is lost, and a few pieces for words."""


@register
@dataclass(frozen=True, kw_only=True)
class Text(TokenSequence):
    """Subwords of sentencepiece (Kudo & Richardson 2018); raw data is a string.

    Letters outside the vocabulary are spelled in their UTF-8 bytes, so that tokens always decode to the original
    text. Sentencepiece's own sign for a space (U+2581) is read as a space.

    Attributes:
        vocabulary: Largest number of pieces, at least 300; a small training split yields fewer.
        kind: `bpe`, byte pair encoding, which spells names in fewer tokens if there is little text, or `unigram`.
        length (tokens): Largest length; of a longer text the first tokens are used.
    """

    type: ClassVar[str] = "text"
    requires: ClassVar[tuple[str, ...]] = ("sentencepiece",)

    identifies: ClassVar[bool] = False
    cells: ClassVar[Literal["none", "text", "typed"]] = "text"

    vocabulary: int = 4096
    kind: Literal["unigram", "bpe"] = "bpe"
    length: int = 512
    model: bytes = fitted(b"")
    pieces: tuple[str, ...] = fitted(())

    def __post_init__(self) -> None:
        if self.vocabulary < SMALLEST:
            raise ValueError(f"text vocabulary is {self.vocabulary}, but must be {SMALLEST} or more")
        if self.length < 1:
            raise ValueError(f"text length is {self.length}, but a text has at least 1 token")

    @cached_property
    def lexicon(self) -> Vocabulary:
        """The learned pieces."""
        return Vocabulary(self.pieces)

    @cached_property
    def _processor(self) -> Any:
        return load(self.model)

    @property
    def example(self) -> str:
        return '"Insecta Diptera"'

    def fit(self, raws: Iterable[str]) -> Text:
        model, pieces = train(raws, self.vocabulary, self.kind, byte_fallback=True)
        return dataclasses.replace(self, model=model, pieces=pieces)

    def join(self, ids: np.ndarray) -> str:
        """Join content ids `(N,)` to a text."""
        return self._processor.decode(ids.tolist())

    def decode(self, members: dict[str, bytes]) -> str:
        return self.parse(decode_text(members, "text", "utf-8"))

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not (text := value.replace(SPACE, " ")).strip():
            raise ContentError("text that is empty or not a string", repr(value)[:80])
        if any("\ud800" <= letter <= "\udfff" for letter in text) or "\0" in text:
            raise ContentError("text contains unpaired surrogates or NUL")
        return text

    def from_columns(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Join the filled cells as the words of one text."""
        words = " ".join(str(cell).strip() for cell in row.values() if cell is not None)
        return {"txt": words.encode()} if words else {}

    def canonical(self, raw: str) -> str:
        """The text without differences of case, whitespace and Unicode compatibility forms."""
        return " ".join(unicodedata.normalize("NFKC", raw).casefold().split())

    def tokenize(self, raw: str, rng: np.random.Generator | None = None) -> Tokens:
        return build_tokens(np.array(self._processor.encode(raw)[: self.length], np.int64))
