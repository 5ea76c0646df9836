#!/usr/bin/env bash
# RDKit's FragmentRemover does not remove common counter-ions, and LargestFragmentChooser takes a large one for the drug.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet rdkit==2026.9.1 numpy==2.4.6 pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import rdkit
from rdkit import Chem, RDLogger
from rdkit.Chem.MolStandardize import rdMolStandardize

RDLogger.DisableLog("rdApp.*")
remover, chooser = rdMolStandardize.FragmentRemover(), rdMolStandardize.LargestFragmentChooser()
print("rdkit", rdkit.__version__)
drug = "CCN1CCCC1CNC(=O)c1cc(S(N)(=O)=O)ccc1OC"
acids = {
    "tosylate": "Cc1ccc(S(=O)(=O)O)cc1",
    "maleate": "O=C(O)/C=C\\C(=O)O",
    "besylate": "O=S(=O)(O)c1ccccc1",
    "salicylate": "O=C(O)c1ccccc1O",
}
expected = Chem.CanonSmiles(drug)
for name, acid in acids.items():
    observed = Chem.MolToSmiles(remover.remove(Chem.MolFromSmiles(f"{drug}.{acid}")))
    print(f"FragmentRemover on a {name}: expected {expected}, observed {observed}")
    assert observed != expected, "the behavior has changed"
pyrantel = "CN1CCCN=C1/C=C/c1cccs1"
pamoate = "O=C(O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"
observed = Chem.MolToSmiles(chooser.choose(Chem.MolFromSmiles(f"{pyrantel}.{pamoate}")))
print(f"LargestFragmentChooser on pyrantel pamoate: expected {pyrantel}, observed {observed}")
assert observed == Chem.CanonSmiles(pamoate), "the behavior has changed"
PYTHON
