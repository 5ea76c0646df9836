from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rdkit import RDConfig

from modalities.files.reading import ContentError
from modalities.smiles import ELEMENTS, Smiles, respell

HIV = Path(__file__).parents[3] / "shared" / "data" / "molecules" / "HIV.csv"
NCI = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"

atoms = st.builds(
    "[{}{}{}{}{}]".format,
    st.sampled_from(["", "2", "13", "125"]),
    st.sampled_from([*ELEMENTS, *"BCNOFPSIHKVWYUbcnops", "se", "as", "*"]),
    st.sampled_from(["", "@", "@@", "@TH1", "@SP3", "@OH26"]),
    st.sampled_from(["", "H", "H2", "H3"]),
    st.sampled_from(["", "+", "-", "++", "+2", "-3", "+:1", ":12"]),
)
bare = st.sampled_from([*"BCNOPSFIbcnops", "Cl", "Br", "*"])
strings = st.lists(
    st.one_of(atoms, bare, st.sampled_from(["1", "%12", "=", "#", "$", "/", "\\", ".", "(C)", "-", ":", "~", ">>"])),
    min_size=1,
    max_size=30,
).map("".join)


def joined(modality: Smiles, smiles: str) -> str:
    """The string after the way through ids; fails on any unknown token."""
    ids = modality.tokenize(modality.parse(smiles)).ids
    assert (ids >= 2).all(), smiles
    return modality.join(ids[:, 0])


@pytest.fixture(scope="module")
def few() -> Smiles:
    """Fitted on 300 molecules."""
    return Smiles(min_count=2).fit(nci()[:300])


def nci() -> list[str]:
    """The molecules that come with RDKit."""
    return [line.split()[0] for line in NCI.read_text().splitlines() if line.strip()]


@given(strings, st.lists(atoms, max_size=8))
def test_every_string_round_trips(smiles: str, lexicon: list[str]) -> None:
    assert joined(Smiles(), smiles) == smiles
    fitted = Smiles(min_count=1).fit([*lexicon, "C"])
    assert joined(fitted, smiles) == smiles
    assert fitted.tokenize(smiles).size <= Smiles().tokenize(smiles).size


@given(st.text([chr(code) for code in range(33, 127)], min_size=1, max_size=40))
def test_split_and_join_round_trip_printable_text(text: str) -> None:
    modality = Smiles(brackets=("[nH]", "[C@@H]"))
    assert "".join(modality.split(text)) == text
    assert modality.join(modality.tokenize(text).ids[:, 0]) == text


def test_all_molecules_of_rdkit(few: Smiles) -> None:
    molecules = nci()
    assert len(molecules) == 4999
    assert [joined(few, smiles) for smiles in molecules] == molecules


@pytest.mark.skipif(not HIV.is_file(), reason=f"MoleculeNet's HIV set is not at {HIV}")
def test_all_molecules_of_the_hiv_set(few: Smiles) -> None:
    with HIV.open(newline="") as file:
        molecules = [row["smiles"] for row in csv.DictReader(file)]
    assert len(molecules) == 41127
    assert [joined(few, smiles) for smiles in molecules] == molecules


@pytest.mark.parametrize(
    ("smiles", "pieces"),
    [
        ("CCl", ["C", "Cl"]),
        ("BrCCl", ["Br", "C", "Cl"]),
        ("C[Zn]C", ["C", "[", "Zn", "]", "C"]),
        ("[Cu-3]", ["[", "Cu", "-", "3", "]"]),
        ("c1cc[nH]c1", ["c", "1", "c", "c", "[nH]", "c", "1"]),
        ("N[C@@H](C)O", ["N", "[", "C", "@@", "H", "]", "(", "C", ")", "O"]),
        ("CSc1ccccc1", [*"CSc1ccccc1"]),
        ("[Sc]", ["[", "Sc", "]"]),
        ("C%12CC%12", [*"C%12CC%12"]),
    ],
)
def test_atoms_are_not_split(smiles: str, pieces: list[str]) -> None:
    assert Smiles(brackets=("[nH]",)).split(smiles) == pieces


def test_chlorine_and_zinc_are_not_carbon_and_nitrogen() -> None:
    modality = Smiles()
    content = {smiles: set(modality.tokenize(smiles).ids[:, 0].tolist()) for smiles in ("Cl", "C", "[Zn]", "n", "Zn")}
    assert not content["Cl"] & content["C"]
    assert not content["[Zn]"] & content["n"]


def test_frequent_brackets_have_their_own_tokens() -> None:
    fitted = Smiles(min_count=3).fit(["C[O-]", "[O-][O-]", "[][][]", "[Na+]", "[nH]1cccc1"])
    assert fitted.brackets == ("[O-]",)
    assert fitted.split("[O-][Na+]") == ["[O-]", "[", "Na", "+", "]"]
    assert fitted.num_ids == len(fitted.lexicon) == Smiles().num_ids + 1
    with pytest.raises(ValueError, match="no SMILES"):
        Smiles().fit([])


def test_long_smiles_are_refused_and_never_cut() -> None:
    modality = Smiles(length=5)
    assert modality.tokenize("CCCCC").size == 5
    assert modality.tokenize("ClClClClCl").size == 5
    for wrong in ("CCCCCC", "[13CH4]CCCCC"):
        with pytest.raises(ContentError, match="6 tokens"):
            modality.decode({"txt": wrong.encode()})
    with pytest.raises(ContentError, match="11 tokens"):
        modality.tokenize(modality.parse("CCCC[13CH4]"))  # would be of 5 with the bracket learned


@pytest.mark.parametrize(
    "wrong",
    ["", "  ", "CC O", "C\nC", "C[NH", "CN]", "C(C", "CC)", "Cé", "C\x00C", "C\tname", None, 3, 2.5, b"C", ["C"]],
)
def test_strings_that_are_not_smiles_are_refused(wrong: object) -> None:
    with pytest.raises(ContentError):
        Smiles().parse(wrong)


@pytest.mark.parametrize(
    "members", [{"txt": b"\xff\xfe"}, {"txt": "C\u0421".encode()}, {"txt": b""}, {"smi": b"C"}, {}]
)
def test_wrong_bytes_are_refused(members: dict[str, bytes]) -> None:
    with pytest.raises(ContentError):
        Smiles().decode(members)


def test_decode_strips_the_line_end() -> None:
    assert Smiles().decode({"txt": b" CCO\r\n"}) == "CCO"


@given(strings)
def test_tokens_have_the_shapes_in_the_contract(smiles: str) -> None:
    modality = Smiles()
    tokens = modality.tokenize(smiles)
    assert tuple(part.shape[1] for part in tokens) == modality.widths == (0, 1, 1)
    assert [part.dtype for part in tokens] == [np.float32, np.int64, np.float32]
    assert tokens.coords[:, 0].tolist() == list(range(tokens.size))


def test_loss_is_cross_entropy_over_the_vocabulary() -> None:
    modality = Smiles()
    ids = modality.tokenize("CC(=O)Oc1ccccc1Br").ids
    logits = np.random.default_rng(0).standard_normal((len(ids), modality.num_ids))
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(ids)), ids[:, 0]]
    prediction = torch.from_numpy(logits)
    loss = modality.loss(prediction, torch.zeros(len(ids), 0), torch.from_numpy(ids))
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5)
    best = np.eye(modality.num_ids)[ids[:, 0]]
    assert (modality.reconstruct(best, modality.tokenize("CC(=O)Oc1ccccc1Br")).ids == ids).all()


def test_show_marks_targets_and_predictions() -> None:
    modality = Smiles()
    tokens = modality.tokenize("C>>O")
    guess = tokens._replace(ids=np.array([*tokens.ids[:3, 0], modality.lexicon.id("N")])[:, None])
    html = modality.show(tokens, np.array([False, False, True, True]), guess)
    assert html == {
        "original": '<code>C&gt;<b class="target">&gt;</b><b class="target">O</b></code>',
        "masked": '<code>C&gt;<b class="hidden">_</b><b class="hidden">_</b></code>',
        "reconstructed": '<code>C&gt;<b class="right">&gt;</b><b class="wrong">N</b></code>',
    }


def test_randomized_spellings_are_the_same_molecule() -> None:
    from modalities.strings.chemistry import canonical

    changed = 0
    for number, smiles in enumerate(nci()[:400]):
        try:
            expected = canonical(smiles)
        except ContentError:
            continue
        spelled = respell(smiles, np.random.default_rng(number))
        assert canonical(spelled) == expected
        changed += spelled != smiles
    assert changed > 300


def test_randomizing_is_an_option_of_training() -> None:
    aspirin = "CC(=O)Oc1ccccc1C(=O)O"

    def read(modality: Smiles, seed: int | None) -> str:
        rng = None if seed is None else np.random.default_rng(seed)
        return modality.join(modality.tokenize(aspirin, rng).ids[:, 0])

    always, half, never = (Smiles(randomize=share) for share in (1.0, 0.5, 0.0))
    assert len({read(always, seed) for seed in range(50)}) > 20
    assert [read(always, seed) for seed in range(9)] == [read(always, seed) for seed in range(9)]
    assert 30 < sum(read(half, seed) == aspirin for seed in range(100)) < 70
    assert {read(never, seed) for seed in range(20)} == {read(always, None)} == {aspirin}


def test_long_randomized_spellings_are_not_used() -> None:
    modality = Smiles(randomize=1.0, length=10)
    for seed in range(30):
        assert modality.tokenize("CCCCCC(C)C", np.random.default_rng(seed)).size <= 10


def test_randomizing_smiles_that_rdkit_cannot_read() -> None:
    with pytest.raises(ContentError) as caught:
        Smiles(randomize=1.0).tokenize("C1CC", np.random.default_rng(0))
    assert caught.value.reason == "invalid SMILES"
    with pytest.raises(ValueError, match=r"randomize is 1\.5"):
        Smiles(randomize=1.5)
