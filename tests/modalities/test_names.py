"""Error messages about unknown names."""

from __future__ import annotations

from modalities.names import did_you_mean, format_names

DESCRIPTORS = [f"descriptor {number}" for number in range(100)]


def test_few_names_are_listed_completely_and_in_order() -> None:
    assert format_names(["b", "a"]) == "b, a"
    assert format_names([]) == "none"


def test_names_similar_to_the_intended_one_come_first() -> None:
    text = format_names([*DESCRIPTORS, "smiles"], "smile", limit=3)
    assert text == "smiles, descriptor 0, descriptor 1 and 98 more"


def test_a_hint_is_the_nearest_name_or_all_names() -> None:
    assert did_you_mean("smile", ["image", "smiles"]) == ": did you mean 'smiles'?"
    assert did_you_mean("xyz", ["smiles", "image"]) == "; known: image, smiles"
    assert len(did_you_mean("xyz", DESCRIPTORS)) < 1000
