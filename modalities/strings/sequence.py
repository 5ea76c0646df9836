"""Base of modalities that are strings: a sequence of tokens from a vocabulary."""

from __future__ import annotations

import html
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modalities.base import Modality
from modalities.files.reading import ContentError
from modalities.layers.context import Context, Width
from modalities.layers.positions import SineCosine
from modalities.strings.vocabulary import Vocabulary
from modalities.tokens import Tokens

MAX_BYTES = 10_000_000
"""Largest size of a string."""


@dataclass(frozen=True, kw_only=True)
class TokenSequence(Modality):
    """Strings as tokens with one id each, at their index in the string; masked modeling predicts the id.

    Attributes:
        window (tokens): Number of neighboring tokens that a convolution before the trunk reads together; 0 for none.
    """

    extensions: ClassVar[tuple[str, ...]] = ("txt",)

    window: Width = 0

    @property
    @abstractmethod
    def lexicon(self) -> Vocabulary:
        """All tokens."""

    @property
    def widths(self) -> tuple[int, int, int]:
        return 0, 1, 1

    @property
    def num_ids(self) -> int:
        return len(self.lexicon)

    def embedding(self, dim: int) -> nn.Module:
        return SequenceEmbedding(len(self.lexicon), dim)

    def context(self, dim: int) -> Context | None:
        return Context(dim, 1, self.window) if self.window else None

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, len(self.lexicon))

    def loss(self, prediction: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(prediction.float(), ids[:, 0], reduction="none")

    def reconstruct(self, prediction: np.ndarray, tokens: Tokens) -> Tokens:
        return tokens._replace(ids=prediction.argmax(1)[:, None])

    def show(self, tokens: Tokens, target: np.ndarray, reconstructed: Tokens) -> dict[str, str]:
        entries = self.lexicon.decode(tokens.ids[:, 0].tolist())
        guesses = self.lexicon.decode(reconstructed.ids[:, 0].tolist())
        hidden, filled = [], []
        for entry, guess, hit in zip(entries, guesses, target, strict=True):
            hidden.append(("_", "hidden") if hit else (entry, ""))
            filled.append((guess, "right" if guess == entry else "wrong") if hit else (entry, ""))
        original = [(entry, "target" if hit else "") for entry, hit in zip(entries, target, strict=True)]
        return {"original": _marked(original), "masked": _marked(hidden), "reconstructed": _marked(filled)}


def _marked(pieces: list[tuple[str, str]]) -> str:
    text = (f'<b class="{style}">{html.escape(piece)}</b>' if style else html.escape(piece) for piece, style in pieces)
    return f"<code>{''.join(text)}</code>"


def build_tokens(ids: np.ndarray) -> Tokens:
    """Build tokens from content ids `(N,)`; the coordinate is the index."""
    count = len(ids)
    return Tokens(np.zeros((count, 0), np.float32), ids[:, None], np.arange(count, dtype=np.float32)[:, None])


def decode_text(members: dict[str, bytes], kind: str, encoding: str) -> str:
    """Decode the string in a sample's member `txt`.

    Raises:
        ContentError: the member is missing, larger than `MAX_BYTES` or not in the encoding.
    """
    if "txt" not in members:
        raise ContentError(f"{kind} without a txt member")
    if len(members["txt"]) > MAX_BYTES:
        raise ContentError(f"{kind} of more than {MAX_BYTES:,} bytes")
    try:
        return members["txt"].decode(encoding)
    except UnicodeDecodeError as error:
        raise ContentError(f"{kind} is not {encoding.upper()} text") from error


class SequenceEmbedding(nn.Module):
    """Content from a learned table, position from the index."""

    def __init__(self, num_ids: int, dim: int):
        super().__init__()
        self.content = nn.Embedding(num_ids, dim)
        self.position = SineCosine(1, dim)

    def forward(
        self, values: torch.Tensor, ids: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.content(ids[:, 0]), self.position(coords)
