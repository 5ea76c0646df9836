from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.strings.vocabulary import SPECIALS, Vocabulary, common, words

entries = st.lists(st.text("abcxyz=", min_size=1, max_size=4), unique=True, max_size=12)


@given(entries)
def test_ids_and_strings_invert_each_other(strings: list[str]) -> None:
    vocabulary = Vocabulary(strings)
    ids = vocabulary.encode(strings)
    assert ids.dtype == np.int64
    assert ids.tolist() == list(range(2, len(strings) + 2)) == [vocabulary.id(s) for s in strings]
    assert vocabulary.decode(ids.tolist()) == strings
    assert len(vocabulary) == len(strings) + 2
    assert all(s in vocabulary for s in strings)


def test_unseen_strings_are_unknown() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.encode(["b", "c", "a"]).tolist() == [3, 1, 2]
    assert "c" not in vocabulary
    assert tuple(vocabulary.decode([0, 1])) == SPECIALS
    assert vocabulary.encode([]).shape == (0,)


@given(entries, st.text("abcxyz=", max_size=20))
def test_pieces_spell_the_word(strings: list[str], word: str) -> None:
    vocabulary = Vocabulary(sorted({*strings, *"abcxyz="}))
    assert "".join(vocabulary.decode(vocabulary.pieces(word))) == word


def test_pieces_are_the_longest_and_unseen_letters_are_unknown() -> None:
    vocabulary = Vocabulary(["a", "b", "ab", "abc"])
    assert vocabulary.decode(vocabulary.pieces("abcab")) == ["abc", "ab"]
    assert vocabulary.pieces("aéb") == [2, 1, 3]
    assert vocabulary.pieces("") == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NumHDonors", ["num", "h", "donors"]),
        ("num_h_donors", ["num", "h", "donors"]),
        ("num h donors", ["num", "h", "donors"]),
        ("IC50", ["ic", "5", "0"]),
        ("pH (7.4)", ["p", "h", "(", "7", ".", "4", ")"]),
        ("Länge", ["l", "ä", "nge"]),
        ("__", []),
    ],
)
def test_a_column_name_is_split_into_words(name: str, expected: list[str]) -> None:
    assert words(name) == expected


@given(st.text(max_size=30))
def test_words_drop_only_case_underscores_and_spaces(name: str) -> None:
    assert "".join(words(name)) == "".join(c.lower() for c in name if c != "_" and not c.isspace())


@given(st.lists(st.sampled_from("abcde"), max_size=40), st.integers(1, 5))
def test_common_strings_are_counted_and_ordered(items: list[str], minimum: int) -> None:
    selection = common(items, minimum)
    assert set(selection) == {item for item in items if items.count(item) >= minimum}
    assert list(selection) == sorted(selection, key=lambda item: (-items.count(item), item))
