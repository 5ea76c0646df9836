"""Subword vocabularies learned by sentencepiece (Kudo & Richardson 2018)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Literal

from modalities.files.reading import lazy_import

SPACE = "\u2581"
"""Sentencepiece's symbol for a space within a piece."""
TRAINER_OPTIONS = {
    "hard_vocab_limit": False,
    "required_chars": SPACE,  # even if it is rare
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "max_sentence_length": 1 << 30,  # sentencepiece ignores longer strings
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "num_threads": 1,  # one order of summation: the same strings give the same bytes
    "minloglevel": 2,
}


def train(
    strings: Iterable[str],
    size: int,
    kind: Literal["unigram", "bpe"],
    *,
    single_letters: str = "",
    byte_fallback: bool = False,
    word_starts: bool = True,
) -> tuple[bytes, tuple[str, ...]]:
    """Train a vocabulary of at most `size` pieces; return the serialized model and its pieces from id 2 on.

    Ids 0 and 1 are MISSING and UNKNOWN. Strings are used without normalization and with all their spaces.

    Args:
        strings: Training strings.
        size: Largest number of pieces; few or short strings yield fewer.
        kind: Algorithm.
        single_letters: Letters that are never part of a longer piece.
        byte_fallback: Whether rare letters are spelled in bytes, so that nothing is lost.
        word_starts: Whether a string begins as if after a space, so that its first word is like any other.

    Raises:
        ValueError: there is no letter to fit on, or `size` is too small for all letters.
    """
    usable = [string for string in strings if string.strip()]
    if not usable:
        raise ValueError("no text to fit a vocabulary on")
    file = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(usable),
            model_writer=file,
            vocab_size=size,
            model_type=kind,
            byte_fallback=byte_fallback,
            character_coverage=0.9995 if byte_fallback else 1.0,
            user_defined_symbols=list(single_letters),
            add_dummy_prefix=word_starts,
            **TRAINER_OPTIONS,
        )
    except RuntimeError as error:
        raise ValueError(f"sentencepiece cannot fit a vocabulary of {size:,} pieces: {error}") from error
    model = file.getvalue()
    pieces = load(model)
    return model, tuple(pieces.id_to_piece(i) for i in range(2, pieces.get_piece_size()))


def load(model: bytes) -> Any:
    """Load the sentencepiece processor of a serialized model."""
    return _sentencepiece().SentencePieceProcessor(model_proto=model)


def _sentencepiece() -> Any:
    return lazy_import("sentencepiece", "sentencepiece")
