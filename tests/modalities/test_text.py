from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import from_json
from modalities.files.reading import ContentError
from modalities.text import SMALLEST, Text
from modalities.tokens import UNKNOWN

TAXA = [
    f"Arthropoda Insecta {order} {family}"
    for order, families in {
        "Diptera": ("Cecidomyiidae", "Sciaridae", "Phoridae", "Chironomidae"),
        "Hymenoptera": ("Braconidae", "Ichneumonidae", "Platygastridae"),
        "Lepidoptera": ("Noctuidae", "Geometridae"),
    }.items()
    for family in families
]
KINDS = ["unigram", "bpe"]
letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\u2581"), min_size=1, max_size=40)


@pytest.fixture(scope="module", params=KINDS)
def learned(request: pytest.FixtureRequest) -> Text:
    """Either kind, fitted on taxa."""
    return Text(kind=request.param).fit(TAXA * 20)


@given(letters.filter(str.strip))
def test_every_text_round_trips(learned: Text, text: str) -> None:
    tokens = Text(**{**vars_of(learned), "length": 1000}).tokenize(learned.parse(text))
    assert (tokens.ids > UNKNOWN).all()
    assert learned.join(tokens.ids[:, 0]) == text


def vars_of(modality: Text) -> dict[str, Any]:
    return {name: getattr(modality, name) for name in ("vocabulary", "kind", "model", "pieces")}


def test_training_words_take_few_tokens(learned: Text) -> None:
    assert learned.tokenize("Arthropoda Insecta Diptera").size < (9 if learned.kind == "bpe" else 27)
    assert learned.tokenize("Zygentoma").size > learned.tokenize("Insecta").size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "texts", [["x"], [".", ".", "."], ["a b"] * 50, ["蝶" * 400], [" a\n\n b\t", ""], ["x" * 9000]]
)
def test_small_corpora_yield_smaller_vocabularies(kind: Any, texts: list[str]) -> None:
    fitted = Text(kind=kind).fit(texts)
    assert 256 < fitted.num_ids < 4096
    assert fitted.join(fitted.tokenize("Any thing").ids[:, 0]) == "Any thing"


def test_a_vocabulary_has_at_most_the_requested_size() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh "), 60)) for _ in range(200)]
    assert Text(vocabulary=320).fit(texts).num_ids == 320
    assert Text(vocabulary=320) != Text(vocabulary=320).fit(texts)


def test_more_letters_than_the_vocabulary_size() -> None:
    with pytest.raises(ValueError, match=r"cannot fit a vocabulary of 300 pieces: .*smaller than required_chars"):
        Text(vocabulary=300).fit(["".join(chr(0x4E00 + i) for i in range(200))])


def test_fitting_is_the_same_every_time(learned: Text) -> None:
    assert Text(kind=learned.kind).fit(iter(TAXA * 20)) == learned


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_nothing_to_fit_on(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="no text to fit"):
        Text().fit(texts)


def test_a_long_text_is_cut_to_its_first_tokens(learned: Text) -> None:
    all_tokens = learned.tokenize(" ".join(TAXA[:5]))
    cut = Text(**vars_of(learned), length=6).tokenize(" ".join(TAXA[:5]))
    assert cut.size == 6 < all_tokens.size
    assert (cut.ids == all_tokens.ids[:6]).all()
    assert " ".join(TAXA).startswith(learned.join(cut.ids[:, 0]))


def test_training_and_evaluation_tokenize_equally(learned: Text) -> None:
    for text in TAXA:
        assert (learned.tokenize(text, np.random.default_rng(0)).ids == learned.tokenize(text).ids).all()


@pytest.mark.parametrize("wrong", ["", " \n", None, 3, b"x", ["x"], "\ud800", "a\0b"])
def test_values_that_are_not_text_are_refused(wrong: object) -> None:
    with pytest.raises(ContentError):
        Text().parse(wrong)


@pytest.mark.parametrize("members", [{}, {"md": b"x"}, {"txt": b"\xff\xfe"}, {"txt": b" "}, {"txt": b"x" * 10_000_001}])
def test_wrong_bytes_are_refused(members: dict[str, bytes]) -> None:
    with pytest.raises(ContentError) as caught:
        Text().decode(members)
    assert "\\x" not in caught.value.reason


def test_the_sentencepiece_space_sign_is_a_space() -> None:
    assert Text().parse("a\u2581b") == "a b"


@pytest.mark.parametrize("options", [{"vocabulary": SMALLEST - 1}, {"length": 0}])
def test_invalid_settings_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"text (vocabulary|length) is"):
        Text(**options)  # type: ignore[arg-type]


def test_only_reading_needs_sentencepiece(learned: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = learned.tokenize("Insecta Diptera")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    stranger = from_json(learned.to_json())
    assert stranger.requires == ("sentencepiece",)
    assert stranger.embedding(8)
    assert stranger.head(8).out_features == learned.num_ids
    assert "Insecta" in stranger.show(tokens, np.zeros(tokens.size, bool), tokens)["original"]
    with pytest.raises(ValueError, match="pip install sentencepiece"):
        stranger.tokenize("Insecta")


def test_modalities_can_be_pickled_for_workers(learned: Text) -> None:
    learned.tokenize("Insecta")
    assert (pickle.loads(pickle.dumps(learned)).tokenize("Insecta").ids == learned.tokenize("Insecta").ids).all()
