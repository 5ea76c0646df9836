"""What messages say of names that are not known."""

from __future__ import annotations

import pytest

from shards.names import listed, nearest, need_columns

MANY = [f"descriptor {number}" for number in range(100)]


def test_few_names_are_listed_whole_in_their_order() -> None:
    assert listed(["b", "a"]) == "b, a"
    assert listed([]) == "none"


def test_of_many_names_those_nearest_to_what_was_meant_come_first() -> None:
    said = listed([*MANY, "smiles"], "smile", most=3)
    assert said == "smiles, descriptor 0, descriptor 1 and 98 more"


def test_a_hint_is_the_nearest_name_or_what_there_is() -> None:
    assert nearest("smile", ["image", "smiles"]) == ": did you mean 'smiles'?"
    assert nearest("xyz", ["smiles", "image"]) == "; known: image, smiles"
    assert len(nearest("xyz", MANY)) < 1000


def test_a_column_that_is_not_there_is_named() -> None:
    need_columns("a.csv", ["smiles", "mass"], ["mass"])
    with pytest.raises(ValueError, match=r"^a\.csv has no column 'age'; it has smiles, mass$"):
        need_columns("a.csv", ["smiles", "mass"], ["mass", "age"])
