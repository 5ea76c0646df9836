"""What a molecule is: its SMILES, identity and scaffold, whatever form it is written in."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from modalities.base import Modality
from modalities.files.reading import ContentError, counted_changes
from modalities.smiles import Smiles
from modalities.strings.chemistry import Structure, canonical, scaffold, smiles_in, smiles_of, structure
from shards.build import SplitBy, build
from shards.read import Split
from shards.sources.hub import Hub, Row
from shards.sources.molecules import Molecules
from shards.sources.rows import Rows

SMILES: dict[str, Modality] = {"smiles": Smiles()}
NO_SPLIT = SplitBy(validation=0, test=0)

MAPS = "atom-map numbers removed from a SMILES"
STAR = "atom written * (R group, attachment point or polymer end)"
LONE = "racemic or unknown configuration of a center left out of a SMILES"
RELATIVE = "relative configuration of a racemate or unknown enantiomer written as one enantiomer"
AXIAL = "axial chirality (atropisomer) left out: SMILES cannot say it"
HAPTIC = "haptic bond written as a dative bond of each atom"
DOUBLE = "unknown configuration of a double bond left out of a SMILES"
QUERY = "SDF record of a query (such as an atom list, A, Q, X or M), not of a molecule"


def read(smiles: str) -> tuple[Structure, Counter[str]]:
    with counted_changes() as changes:
        return structure(smiles), changes


def scaffold_of(smiles: str) -> str:
    return scaffold(structure(smiles).molecule)


def fault(smiles: str) -> str:
    with pytest.raises(ContentError) as caught:
        structure(smiles)
    return caught.value.reason


AMINE = "CN1CCC(CC1)Oc1ccc(F)cc1"
PAMOATE = "OC(=O)c1cc2ccccc2c(Cc2c(O)c(cc3ccccc23)C(O)=O)c1O"


@pytest.mark.parametrize(
    "other",
    [
        "Cl", "Cc1ccc(S(O)(=O)=O)cc1", PAMOATE, "OC(=O)/C=C\\C(O)=O", "OC(=O)c1ccccc1O", "O.O.[Cl-].[Cl-]",
        "Oc1c([N+](=O)[O-])cc([N+](=O)[O-])cc1[N+](=O)[O-]",
    ],
)  # fmt: skip
def test_a_drug_and_its_salts_share_a_scaffold(other: str) -> None:
    charged = AMINE.replace("CN1", "C[NH+]1")
    labelled = AMINE.replace("ccc(F)", "[13cH]cc(F)")
    assert scaffold_of(AMINE) == "c1ccc(OC2CCNCC2)cc1"
    for form in (f"{AMINE}.{other}", f"{other}.{charged}", charged, labelled, f"{AMINE}.{AMINE}.{other}"):
        assert scaffold_of(form) == scaffold_of(AMINE)
    assert structure(f"{AMINE}.{other}").identity != structure(AMINE).identity, "a salt is a substance of its own"


def test_acids_and_their_salts_share_a_scaffold() -> None:
    pairs = [
        ("O=C1NS(=O)(=O)c2ccccc12", "O=C1[N-]S(=O)(=O)c2ccccc12.[Na+]"),
        ("Cc1ccccc1-c1nnn[nH]1", "Cc1ccccc1-c1nnn[n-]1.[K+]"),
        ("OC(=O)c1ccccc1", "[O-]C(=O)c1ccccc1.C[NH+]1CCCCC1"),
    ]
    for acid, salt in pairs[:2]:
        assert scaffold_of(acid) == scaffold_of(salt)
    acid, salt = pairs[2]
    assert (scaffold_of(acid), scaffold_of(salt)) == ("c1ccccc1", "C1CCNCC1"), "benzoate is a counter-ion"
    assert scaffold_of("[O-]C(=O)c1ccccc1.[Na+]") == "c1ccccc1", "where all are counter-ions the largest is taken"
    assert scaffold_of("C[n+]1ccccc1.[I-]") == scaffold_of("C[n+]1ccccc1"), "charges that no proton carries stay"
    assert scaffold_of("[cH-]1cccc1.[Na+]"), "carbanions in rings have a scaffold"


def test_atom_maps_are_ignored() -> None:
    mapped, changes = read("[cH:1]1[cH:2][cH:3][cH:4][cH:5][c:6]1[CH2:7][CH3:8]")
    assert mapped[:2] == ("CCc1ccccc1", "CCc1ccccc1")
    assert changes == {MAPS: 1}
    assert scaffold(mapped.molecule) == "c1ccccc1"
    assert scaffold(Chem.MolFromSmiles("[cH:1]1ccccc1C")) == "c1ccccc1"
    assert structure("[CH3:1][C@H](F)[CH3:2]").smiles == "CC(C)F", "centers that maps alone told apart are none"
    assert structure("[CH3:1][C@H](F)[NH2:2]").smiles == canonical("C[C@H](F)N")
    label, changes = read("[*:1]c1ccccc1")
    assert (label.smiles, changes) == ("c1ccc([*:1])cc1", {STAR: 1}), "maps of * say which attachment point it is"
    assert read("CCO")[1] == {}


ENANTIOMERS = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"


def test_a_racemate_differs_from_its_enantiomer() -> None:
    one, other = (structure(smiles) for smiles in ENANTIOMERS)
    racemates = {structure(f"{smiles} |&1:1|").identity for smiles in ENANTIOMERS}
    unknown = {structure(f"{smiles} |o3:1|").identity for smiles in ENANTIOMERS}
    flat = structure("CC(N)C(=O)O").identity
    assert len(racemates) == len(unknown) == 1
    assert len({one.identity, other.identity, flat} | racemates | unknown) == 5
    assert structure(f"{ENANTIOMERS[0]} |a:1|").identity == one.identity == one.smiles


def test_the_smiles_of_a_racemate_claims_no_configuration() -> None:
    assert [(s.smiles, c) for s, c in (read(f"{smiles} |&1:1|") for smiles in ENANTIOMERS)] == [
        ("CC(N)C(=O)O", {LONE: 1})
    ] * 2
    mixed, changes = read("C[C@H](N)[C@@H](O)F |a:1,o1:3|")
    assert (mixed.smiles, changes) == ("C[C@H](N)C(O)F", {LONE: 1})
    relative = [read(f"{smiles} |&1:1,3|") for smiles in ("C[C@H](N)[C@@H](O)F", "C[C@@H](N)[C@H](O)F")]
    assert relative[0][0][:2] == relative[1][0][:2]
    assert relative[0][1] == {RELATIVE: 1}
    diastereomer = structure("C[C@H](N)[C@H](O)F |&1:1,3|")
    assert diastereomer.smiles != relative[0][0].smiles
    assert relative[0][0].smiles in (canonical("C[C@H](N)[C@@H](O)F"), canonical("C[C@@H](N)[C@H](O)F"))
    assert " " not in relative[0][0].smiles


def test_configurations_removed_by_wavy_bonds_are_counted() -> None:
    coordinates = "(0,0,;1,0,;1,1,;2,0,;3,0,)"
    for extension in ("|w:1.0|", f"|{coordinates},w:1.1|", "|w:1.0,&1:1|", "|$;x;;;$,w:1.0|"):
        for center in ("[C@H]", "[C@@H]"):
            flat, changes = read(f"C{center}(O)CC {extension}")
            assert (flat.identity, changes) == ("CCC(C)O", {LONE: 1})
    one, changes = read("C[C@H](O)C[C@H](F)C |w:1.0|")
    assert (one.smiles, changes) == (canonical("CC(O)C[C@H](F)C"), {LONE: 1})
    assert read("CC(O)CC |w:1.0|")[1] == read("C[C@H](O)CC |wU:1.0|")[1] == {}, "nothing is lost"
    for extension in ("|w:1.1|", "|ctu:1|"):
        bond, changes = read(f"C/C=C/C {extension}")
        assert (bond.smiles, changes) == ("CC=CC", {DOUBLE: 1})


@pytest.mark.parametrize(
    ("meso", "centers", "chiral"),
    [
        ("OC(=O)[C@H](O)[C@H](O)C(=O)O", "3,5", "OC(=O)[C@H](O)[C@@H](O)C(=O)O"),
        ("C[C@H]1CC[C@@H](O)CC1", "1,4", ""),
        ("C[C@H]1CCCC[C@H]1C", "1,6", "C[C@H]1CCCC[C@@H]1C"),
    ],
)
def test_a_racemate_of_a_meso_compound_is_that_compound(meso: str, centers: str, chiral: str) -> None:
    pure = structure(meso)
    for kind in ("&1", "o1"):
        racemate, changes = read(f"{meso} |{kind}:{centers}|")
        assert racemate[:2] == pure[:2] == (pure.smiles, pure.smiles)
        assert changes == {}
        if chiral:
            racemate, changes = read(f"{chiral} |{kind}:{centers}|")
            assert racemate.identity != structure(chiral).identity
            assert changes == {RELATIVE: 1}
    first, second = centers.split(",")
    mixtures = [f"{meso} |&1:{first},&2:{second}|", f"{meso} |&1:{first}|"]
    assert len({pure.identity, *(structure(mixture).identity for mixture in mixtures)}) == 3


def test_mirrored_branches_are_meso_if_otherwise_equal() -> None:
    """Centers 1 and 9 of an oxime: of unknown geometry either is cis, of known geometry one is."""
    unknown, stereo = "C[C@H](F)C(=NO[C@H](C)Cl)[C@@H](C)F", "C[C@H](F)/C(=N/O[C@H](C)Cl)[C@@H](C)F"
    assert Chem.MolFromSmiles(stereo).GetAtomWithIdx(9).GetDegree() == 3
    assert structure(f"{unknown} |&1:1,9|").identity == structure(unknown).identity
    assert structure(f"{stereo} |&1:1,9|").identity != structure(stereo).identity
    assert read(f"{stereo} |&1:1,9|")[1] == {RELATIVE: 1}


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](N)[C@@H](O)F |&1:1,3|", "C[C@H](N)[C@@H](O)[C@H](Cl)Br |a:1,o2:3,5|", "C[C@H]1CC[C@@H](O)CC1 |&1:1,4|",
        "C[C@H](N)[C@@H](O)F |&1:1,&2:3|", "F/C=C/[C@H](C)O |o1:3|",
    ],
)  # fmt: skip
def test_stereochemical_groups_are_canonical(smiles: str) -> None:
    molecule, expected = Chem.MolFromSmiles(smiles), structure(smiles)
    writing = Chem.SmilesWriteParams()
    writing.canonical = False
    for seed in range(30):
        order = list(range(molecule.GetNumAtoms()))
        random.Random(seed).shuffle(order)
        other = Chem.RenumberAtoms(molecule, order)
        text = Chem.MolToCXSmiles(other, writing, Chem.CXSmilesFields.CX_ENHANCEDSTEREO)
        assert structure(text)[:2] == expected[:2], text
    assert structure(expected.identity).identity == expected.identity
    assert canonical(expected.smiles) == expected.smiles


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("C[C@H](N)O |&1:1| a name\n", "C[C@H](N)O |&1:1|"),
        (" C[C@H](N)O\t|o1:1,$a b;;;$|\tname", "C[C@H](N)O\t|o1:1,$a b;;;$|"),
        ("CCO ethanol |x", "CCO"),
        ("CCO |x", "CCO"),
        ("CCO a |b| c", "CCO"),
        ("CCO", "CCO"),
    ],
)
def test_smi_lines_keep_their_cxsmiles_extension(line: str, expected: str) -> None:
    assert smiles_in(line) == expected


def test_an_unreadable_cxsmiles_extension_is_named() -> None:
    assert fault("CCO |bad|") == "CXSMILES extension that RDKit cannot read"
    assert fault("C1CC |&1:1|") == "invalid SMILES"


def block_v3000(smiles: str) -> str:
    molecule = Chem.MolFromSmiles(smiles)
    AllChem.Compute2DCoords(molecule)
    return Chem.MolToV3KMolBlock(molecule)


def test_racemates_of_all_files_keep_their_labels(tmp_path: Path) -> None:
    """Of a racemate and its enantiomers in .smi, CSV and SDF all are taken, and each form but once."""
    forms = [*ENANTIOMERS, f"{ENANTIOMERS[1]} |&1:1|", f"{ENANTIOMERS[0]} |o1:1|"]
    (tmp_path / "a.smi").write_text("".join(f"{form} alanine\n" for form in forms))
    (tmp_path / "b.csv").write_text("smiles\n" + "".join(f'"{form}"\n' for form in forms))
    blocks = [block_v3000(form) for form in forms]
    assert "MDLV30/STERAC1 ATOMS=(1 2)" in blocks[2]
    assert "MDLV30/STEREL1 ATOMS=(1 2)" in blocks[3]
    (tmp_path / "c.sdf").write_text("".join(f"{b}\n> <y>\n{n}\n\n$$$$\n" for n, b in enumerate(blocks)))
    manifest = build(Molecules(files="*"), SMILES, NO_SPLIT, tmp_path, tmp_path / "all")
    assert (manifest.fields, manifest.skipped) == ({"smiles.txt": 4}, {"duplicate": 8})
    assert manifest.changed == {LONE: 2}
    build(Molecules(files="c.sdf", properties=("y",)), SMILES, NO_SPLIT, tmp_path, tmp_path / "sdf")
    split = Split(tmp_path / "sdf", "train")
    members = [split.read(shard, number) for _, _, shard, number in split.locations()]
    assert {(s["smiles"]["txt"].decode(), json.loads(s["labels"]["json"])["y"]) for s in members} == {
        (ENANTIOMERS[0], 0), (ENANTIOMERS[1], 1), ("CC(N)C(=O)O", 2), ("CC(N)C(=O)O", 3),
    }  # fmt: skip


def test_rows_and_data_sets_read_cxsmiles_extensions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('drug\n"C[C@H](N)[C@@H](O)F |&1:1,3|"\n[CH3:1]c1ccccc1.Cl\n')
    rows = Rows(columns={"smiles": "drug"})
    samples = [rows.make(item, SMILES) for item in rows.items(tmp_path)]
    hub = Hub(dataset="csv", columns={"smiles": "drug"})
    cells = ["C[C@H](N)[C@@H](O)F |&1:1,3|", "[CH3:1]c1ccccc1.Cl"]
    samples += [hub.make(Row(number, {"drug": cell}), SMILES) for number, cell in enumerate(cells)]
    for racemate, salt in (samples[:2], samples[2:]):
        assert racemate.members == {"smiles.txt": b"C[C@H](N)[C@@H](O)F"}
        assert racemate.canonical == {"smiles": "C[C@H](N)[C@@H](O)F |&1:1,3|"}
        assert salt.members == {"smiles.txt": b"Cc1ccccc1.Cl"}
        assert salt.groups["scaffold"] == "c1ccccc1"


def metallocene(order: int, attach: str, reverse: bool) -> str:
    """Ferrocene as programs write it: dummy atoms, each bound to the metal, stand for the atoms of a ring."""
    rings = [(-1.2, 0.1), (-0.5, -1.1), (0.8, -0.8), (0.9, 0.5), (-0.3, 1.1)]
    atoms = [f"C {x} {y} 0 0{' CHG=-1' if i == 4 else ''}" for i, (x, y) in enumerate(rings)]
    lower = [f"C {x} {y - 6} 0 0{' CHG=-1' if i == 4 else ''}" for i, (x, y) in enumerate(rings)]
    atoms = [*atoms, "* 0 0 0 0", "Fe 0 -3 0 0 CHG=2", *lower, "* 0 -6 0 0"]
    ring = [(2, 0, 1), (1, 1, 2), (2, 2, 3), (1, 3, 4), (1, 4, 0)]
    bonds = [f"{kind} {a + start} {b + start}" for start in (1, 8) for kind, a, b in ring]
    for dummy, points in ((6, "1 2 3 4 5"), (13, "8 9 10 11 12")):
        ends = f"7 {dummy}" if reverse else f"{dummy} 7"
        bonds.append(f"{order} {ends} ENDPTS=(5 {points}) ATTACH={attach}")
    lines = ["", "  test", "", "  0  0  0     0  0            999 V3000", "M  V30 BEGIN CTAB"]
    lines += [f"M  V30 COUNTS {len(atoms)} {len(bonds)} 0 0 0", "M  V30 BEGIN ATOM"]
    lines += [f"M  V30 {i} {atom}" for i, atom in enumerate(atoms, 1)]
    lines += ["M  V30 END ATOM", "M  V30 BEGIN BOND", *(f"M  V30 {i} {bond}" for i, bond in enumerate(bonds, 1))]
    return "\n".join([*lines, "M  V30 END BOND", "M  V30 END CTAB", "M  END"])


@pytest.mark.parametrize("order", [1, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_haptic_bonds_become_dative_bonds(order: int, reverse: bool) -> None:
    with counted_changes() as changes:
        smiles = structure(smiles_of(metallocene(order, "ALL", reverse))).smiles
    iron = Chem.MolFromSmiles(smiles).GetSubstructMatch(Chem.MolFromSmarts("[Fe]"))[0]
    ferrocene = Chem.MolFromSmiles(smiles)
    assert (ferrocene.GetNumAtoms(), ferrocene.GetAtomWithIdx(iron).GetDegree()) == (11, 10)
    assert "*" not in smiles
    assert changes == {HAPTIC: 1}
    assert structure("c1ccccc1.*->[Cr] |m:6:0.1.2.3.4.5|").molecule.GetNumAtoms() == 7


def test_bonds_to_any_of_several_atoms_are_refused() -> None:
    with pytest.raises(ContentError, match="position variation"):
        smiles_of(metallocene(1, "ANY", False))
    assert fault("*Cl.c1ccccc1 |m:0:2.3.4.5|") == "bond to any one of several atoms (position variation)"


def block_v2000(third: str, extra: str = "", bond: int = 1) -> str:
    """Ethane with a third atom."""
    atoms = "".join(f"{x:10.4f}{0:10.4f}{0:10.4f} {name:<3} 0  0\n" for x, name in enumerate(("C", "C", third)))
    return (
        f"\n  test\n\n  3  2  0  0  0  0            999 V2000\n{atoms}  1  2  1  0\n  2  3{bond:3d}  0\n{extra}M  END\n"
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (block_v2000("R#", "M  RGP  1   3   1\n"), "[1*]CC"),
        (block_v2000("*"), "*CC"),
        (block_v2000("R1"), "[1*]CC"),
        (block_v2000("Pol"), "*CC"),
        (block_v2000("O", bond=8), "CC~O"),
        (Chem.MolToMolBlock(Chem.MolFromSmiles("[*:1]CC")), "CC[*:1]"),
        (Chem.MolToV3KMolBlock(Chem.MolFromSmiles("[*:12]CC")), "CC[*:12]"),
    ],
)
def test_r_groups_and_attachment_points_are_counted(block: str, expected: str) -> None:
    with counted_changes() as changes:
        assert structure(smiles_of(block)).smiles == expected
    assert changes == ({STAR: 1} if "*" in expected else {})


@pytest.mark.parametrize(
    "block",
    [
        *map(block_v2000, ("A", "Q", "X", "M")),
        block_v2000("L", "M  ALS   3  2 F N   O   \n"),
        block_v2000("O", bond=5),
        block_v2000("A").replace(" A   0  0", " A   0  0  0  0  0  0  0  0  0  7  0  0"),
    ],
)
def test_queries_are_not_molecules(block: str) -> None:
    with pytest.raises(ContentError) as caught:
        smiles_of(block)
    assert caught.value.reason == QUERY


def test_polymers_need_end_groups() -> None:
    brackets = "M  STY  1   1 SRU\nM  SAL   1  3   1   2   3\nM  SMT   1 n\n"
    reason = "polymer in brackets without ends *: its SMILES would be another molecule"
    with pytest.raises(ContentError) as caught:
        smiles_of(block_v2000("O", brackets))
    assert caught.value.reason == reason
    assert fault("CCO |Sg:n:0,1,2::ht|") == reason
    polymer, changes = read("*CCO* |Sg:n:1,2,3::ht|")
    assert (polymer.smiles, changes) == ("*CCO*", {STAR: 1})


def test_axial_chirality_is_counted_as_lost() -> None:
    """A block of 1,1'-bi-2-naphthol with a wedge beside its axis, and the same without one."""
    molecule = Chem.MolFromSmiles("Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12")
    AllChem.Compute2DCoords(molecule)
    Chem.Kekulize(molecule, True)
    block = Chem.MolToMolBlock(molecule)
    bond = next(line for line in block.splitlines() if line in (" 10 11  1  0", " 11  2  1  0"))
    wedge = f" 11{(bond[:3] if bond[3:6] == ' 11' else bond[3:6])}  1  1"
    for text, expected in ((block, {}), (block.replace(bond, wedge), {AXIAL: 1})):
        with counted_changes() as changes:
            assert smiles_of(text) == canonical("Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12")
        assert changes == expected
