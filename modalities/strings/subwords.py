"""Vocabularies learned from strings by sentencepiece (Kudo & Richardson 2018), its model kept as bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Literal

from modalities.files.reading import lazy_import

SPACE = "\u2581"
"""Sentencepiece's sign for a space within a piece."""


def train(
    strings: Iterable[str],
    size: int,
    kind: Literal["unigram", "bpe"],
    *,
    apart: str = "",
    fall_back: bool = False,
    word_starts: bool = True,
) -> tuple[bytes, tuple[str, ...]]:
    """A model of at most `size` pieces, fewer where the strings yield no more, and its pieces from id 2 on.

    Ids 0 and 1 are the missing and the unknown, as everywhere here. Strings are taken as they are: no normalisation, no
    space taken away. apart: letters that are pieces of their own, part of no longer one. fall_back: rare letters are
    spelled in bytes, so that nothing is lost. word_starts: a string begins as if after a space, so that its first word
    reads like any other.

    Raises:
        ValueError: no letter to fit on, or more letters than `size` can hold.
    """
    usable = [string for string in strings if string.strip()]
    if not usable:
        raise ValueError("no text to fit a vocabulary on")
    written = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(usable),
            model_writer=written,
            vocab_size=size,
            model_type=kind,
            hard_vocab_limit=False,
            byte_fallback=fall_back,
            character_coverage=0.9995 if fall_back else 1.0,
            required_chars=SPACE,  # however rare
            user_defined_symbols=list(apart),
            add_dummy_prefix=word_starts,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 30,  # longer strings would be left out
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # one sum in one order: the same strings give the same bytes
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"sentencepiece cannot fit a vocabulary of {size:,} here: {error}") from error
    model = written.getvalue()
    pieces = load(model)
    return model, tuple(pieces.id_to_piece(i) for i in range(2, pieces.get_piece_size()))


def load(model: bytes) -> Any:
    """The sentencepiece processor of a trained model."""
    return _sentencepiece().SentencePieceProcessor(model_proto=model)


def _sentencepiece() -> Any:
    return lazy_import("sentencepiece", "sentencepiece")
