from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import from_json
from modalities.dna import LETTERS, UNCERTAIN, Dna, reverse_complement
from modalities.files.reading import ContentError
from modalities.tokens import UNKNOWN

DATA = os.environ.get("SENSORIUM_DATA")

certain = st.text("ACGT", min_size=8, max_size=80)
anything = st.text(LETTERS, min_size=8, max_size=80).filter(lambda text: any(base in text for base in "ACGT"))


def pieces(modality: Dna, sequence: str, rng: np.random.Generator | None = None) -> list[str]:
    """The tokens of a sequence as letters."""
    return modality.lexicon.decode(modality.tokenize(sequence, rng).ids[:, 0].tolist())


@pytest.mark.parametrize(
    ("options", "sequence", "expected"),
    [
        ({}, "ACGTTTTTGG", ["ACGT", "TTTT"]),
        ({"kmer": 3}, "ACGTTTTTGG", ["ACG", "TTT", "TTG"]),
        ({"kmer": 3, "stride": 1}, "ACGTT", ["ACG", "CGT", "GTT"]),
        ({"kmer": 4, "stride": 2}, "ACGTTGC", ["ACGT", "GTTG"]),
        ({"kmer": 1}, "ACGT", ["A", "C", "G", "T"]),
        ({"length": 8}, "ACGTACGTACGT", ["ACGT", "ACGT"]),
        ({}, "ACGTACNTACGTRRRR", ["ACGT", "<unknown>", "ACGT", "<unknown>"]),
        ({"vocabulary": "character"}, "ACNTR", ["A", "C", "N", "T", "R"]),
        ({"vocabulary": "character", "length": 2}, "ACNTR", ["A", "C"]),
    ],
)
def test_tokens(options: dict[str, Any], sequence: str, expected: list[str]) -> None:
    assert pieces(Dna(**options), sequence) == expected


@given(st.text("ACGTN", min_size=12, max_size=60), st.integers(1, 5), st.data())
def test_kmers_are_windows_of_the_sequence(sequence: str, kmer: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, kmer))
    modality = Dna(kmer=kmer, stride=stride)
    windows = [sequence[i : i + kmer] for i in range(0, len(sequence) - kmer + 1, stride)]
    expected = ["<unknown>" if "N" in window else window for window in windows]
    if set(expected) == {"<unknown>"}:
        with pytest.raises(ContentError, match="without a known token"):
            modality.parse(sequence)
    else:
        assert pieces(modality, sequence) == expected


@given(certain, st.integers(1, 4), st.data())
def test_kmers_join_to_the_original_letters(sequence: str, kmer: int, data: st.DataObject) -> None:
    modality = Dna(kmer=kmer, stride=data.draw(st.integers(1, kmer)))
    joined = modality.join(modality.tokenize(sequence).ids[:, 0])
    assert sequence.startswith(joined)
    assert len(sequence) - len(joined) < modality.step


def test_unknown_kmers_read_as_n() -> None:
    assert Dna().join(Dna().tokenize("ACGTNCGTACGT").ids[:, 0]) == "ACGTNNNNACGT"
    assert Dna(kmer=2, stride=1).join(Dna(kmer=2, stride=1).tokenize("ACGN").ids[:, 0]) == "ACNN"


@given(anything)
def test_letters_lose_nothing(sequence: str) -> None:
    modality = Dna(vocabulary="character")
    tokens = modality.tokenize(sequence)
    assert modality.join(tokens.ids[:, 0]) == sequence
    assert (tokens.ids != UNKNOWN).all()


@pytest.fixture(scope="module")
def learned() -> Dna:
    """Subwords of random sequences of three bases."""
    rng = np.random.default_rng(0)
    return Dna(vocabulary="learned", vocabulary_size=64).fit("".join(rng.choice(list("ACG"), 200)) for _ in range(20))


@given(anything)
def test_subwords_lose_nothing(learned: Dna, sequence: str) -> None:
    tokens = learned.tokenize(sequence)
    assert learned.join(tokens.ids[:, 0]) == sequence
    assert (tokens.ids > UNKNOWN).all(), "letters that training lacked are known too"


def test_subwords_are_longer_than_letters(learned: Dna) -> None:
    assert learned.num_ids == 64
    assert learned.tokenize("ACGACGACG" * 20).size < 100
    assert [piece for piece in learned.pieces if len(piece) > 1 and set(piece) & set(UNCERTAIN)] == []


def test_a_phase_within_a_kmer_is_drawn_only_in_training() -> None:
    modality = Dna(kmer=4)
    sequence = "AAAACCCCGGGGTTTT"
    tokenizations = {tuple(pieces(modality, sequence, np.random.default_rng(seed))) for seed in range(60)}
    starts = {sequence.index("".join(pieces_of_one)) for pieces_of_one in tokenizations}
    assert starts == {0, 1, 2, 3}
    assert pieces(modality, sequence) == ["AAAA", "CCCC", "GGGG", "TTTT"]
    assert modality.tokenize("ACGT", np.random.default_rng(1)).size == 1, "never beyond the only k-mer"
    longer = {tuple(pieces(Dna(length=8), "ACGTACGTACGT", np.random.default_rng(seed))) for seed in range(60)}
    assert {len(pieces_of_one) for pieces_of_one in longer} == {2}, "the phase is taken before the cut"


@pytest.mark.parametrize("vocabulary", ["character", "learned"])
def test_other_vocabularies_have_no_phase(learned: Dna, vocabulary: str) -> None:
    modality = learned if vocabulary == "learned" else Dna(vocabulary="character")
    for seed in range(9):
        assert pieces(modality, "ACGTACGTGG", np.random.default_rng(seed)) == pieces(modality, "ACGTACGTGG")


def test_reverse_complement_is_an_option_of_training() -> None:
    modality = Dna(kmer=1, reverse_complement=True)
    read = ["".join(pieces(modality, "AACG", np.random.default_rng(seed))) for seed in range(200)]
    assert set(read) == {"AACG", "CGTT"}
    assert 60 < read.count("CGTT") < 140
    assert "".join(pieces(modality, "AACG")) == "AACG"
    assert {"".join(pieces(Dna(kmer=1), "AACG", np.random.default_rng(seed))) for seed in range(20)} == {"AACG"}


@given(anything)
def test_the_reverse_complement_is_its_own_inverse(sequence: str) -> None:
    from Bio.Seq import Seq

    assert reverse_complement(reverse_complement(sequence)) == sequence
    assert reverse_complement(sequence) == str(Seq(sequence).reverse_complement())


def test_the_same_rng_gives_the_same_tokens() -> None:
    modality = Dna(reverse_complement=True)
    for seed in range(5):
        first, second = (modality.tokenize("ACGTTGCAAC" * 9, np.random.default_rng(seed)) for _ in range(2))
        assert (first.ids == second.ids).all()


@pytest.mark.parametrize(
    ("options", "overlap"),
    [
        ({}, 0),
        ({"kmer": 6, "stride": 1}, 5),
        ({"kmer": 6, "stride": 2}, 2),
        ({"kmer": 6, "stride": 4}, 1),
        ({"kmer": 1}, 0),
        ({"vocabulary": "character", "kmer": 6, "stride": 1}, 0),
        ({"vocabulary": "learned"}, 0),
    ],
)
def test_overlap_counts_neighbors_that_share_letters(options: dict[str, Any], overlap: int) -> None:
    modality = Dna(**options)
    assert modality.overlap == overlap
    if modality.vocabulary == "kmer":
        starts = np.arange(20) * modality.step
        shares = [d for d in range(1, 20) if starts[d] < starts[0] + modality.kmer]
        assert len(shares) == overlap


def test_long_sequences_are_cut_or_refused() -> None:
    assert Dna(length=9).tokenize("ACGT" * 5).size == 2
    with pytest.raises(ContentError) as caught:
        Dna(length=9, too_long="refuse").decode({"txt": b"ACGT" * 5})
    assert caught.value.reason == "DNA of more than 9 nucleotides"
    assert Dna(length=20, too_long="refuse").tokenize("ACGT" * 5, np.random.default_rng(0)).size >= 4
    assert Dna().tokenize("ACGT" * 500).size == 165


def test_short_sequences_are_refused() -> None:
    with pytest.raises(ContentError, match="shorter than a k-mer"):
        Dna(kmer=5).decode({"txt": b"ACGT"})
    with pytest.raises(ContentError, match="without a known token"):
        Dna(kmer=4, length=8).decode({"txt": b"ACGNNCGTACGT"})
    assert Dna(kmer=5, vocabulary="character").decode({"txt": b"ACGT"}) == "ACGT"


@pytest.mark.parametrize(
    ("value", "sequence"),
    [
        ("acgt", "ACGT"),
        ("AC-GT--", "ACGT"),
        ("AC..GT", "ACGT"),
        ("ACGU", "ACGT"),
        (" AC GT\r\nAC\tGT\n", "ACGTACGT"),
        ("acgtryswkmbdhvn", "ACGTRYSWKMBDHVN"),
    ],
)
def test_cleaning(value: str, sequence: str) -> None:
    assert Dna().parse(value) == sequence
    assert Dna().decode({"txt": value.encode()}) == sequence


@pytest.mark.parametrize(
    "wrong", ["", "--", " ", "ACGTX", "MEEPQSDPSV*", "ACGT1", ">id\nACGT", None, 4, b"ACGT", "NNNN"]
)
def test_strings_that_are_not_dna_are_refused(wrong: object) -> None:
    with pytest.raises(ContentError) as caught:
        Dna().parse(wrong)
    assert "ACGT" not in caught.value.reason


@pytest.mark.parametrize(
    "members", [{}, {"fasta": b"ACGT"}, {"txt": b"\xff\xfe"}, {"txt": "ACG\u0422".encode()}, {"txt": b""}]
)
def test_wrong_bytes_are_refused(members: dict[str, bytes]) -> None:
    with pytest.raises(ContentError):
        Dna().decode(members)


def test_oversized_bytes_are_refused() -> None:
    with pytest.raises(ContentError, match="more than 10,000,000 bytes"):
        Dna().decode({"txt": b"A" * 10_000_001})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kmer": 0}, "kmer is 0"),
        ({"kmer": 9}, "between 1 and 8"),
        ({"kmer": 4, "stride": 5}, "stride is 5"),
        ({"stride": 0}, "stride is 0"),
        ({"length": 3}, "length 3 is shorter"),
        ({"vocabulary": "learned", "vocabulary_size": 10}, "at least 1 and 18"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dna(**options)


def test_fitting_counts_unknown_letters() -> None:
    assert Dna().fit(["ACGTNNNN", "ACGTACGT"]).unknown == 0.25
    assert Dna(length=4).fit(["ACGTNNNN", "ACGTACGT"]).unknown == 0
    assert Dna(vocabulary="character").fit(["ACGTN"]).unknown == 0
    with pytest.raises(ValueError, match="no DNA to fit on"):
        Dna().fit(["ACG"])
    with pytest.raises(ValueError, match="no DNA to fit on"):
        Dna(vocabulary="learned").fit([])


def test_only_reading_with_a_learned_vocabulary_needs_a_package(learned: Dna, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learned.requires == ("sentencepiece",)
    assert Dna().requires == Dna(vocabulary="character").requires == ()
    tokens = learned.tokenize("ACGTACGT")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    stranger = from_json(learned.to_json())
    assert stranger.embedding(8)
    assert stranger.head(8).out_features == 64
    assert stranger.show(tokens, np.ones(tokens.size, bool), tokens)
    with pytest.raises(ValueError, match="pip install sentencepiece"):
        stranger.tokenize("ACGTACGT")
    assert Dna().tokenize("ACGTACGT").size == 2


def test_modalities_can_be_pickled_for_workers(learned: Dna) -> None:
    learned.tokenize("ACGT")
    assert (pickle.loads(pickle.dumps(learned)).tokenize("ACGTAACC").ids == learned.tokenize("ACGTAACC").ids).all()


@pytest.mark.skipif(not DATA, reason="SENSORIUM_DATA names no folder of real data")
def test_real_barcodes() -> None:
    from shards.sources.fasta import records

    sequences = [record.sequence for record in records(Path(DATA or "") / "bird_barcodes" / "barcodes.fasta")]
    assert len(sequences) == 3960
    fitted = Dna().fit(sequences)
    assert 0 < (fitted.unknown or 0) < 0.002
    letters = Dna(vocabulary="character", length=2000)
    for sequence in sequences:
        assert fitted.tokenize(fitted.parse(sequence)).size == min(len(sequence), 660) // 4
        assert letters.join(letters.tokenize(letters.parse(sequence)).ids[:, 0]) == sequence
