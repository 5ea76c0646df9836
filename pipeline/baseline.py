"""Classical features and models, to hold beside what was pretrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modalities.base import Modality, Tokens, parser
from modalities.sequence import TokenSequence
from modalities.smiles import Smiles
from pipeline.labelled import Task
from shards.read import Members
from shards.sources.molecules import chemistry


def features(samples: Sequence[tuple[Members, dict[str, Tokens]]], modalities: Mapping[str, Modality]) -> np.ndarray:
    """Plain features `(N, F)`: Morgan fingerprints of SMILES, shares of the entries of DNA and text, the mean and
    deviation of other modalities' values.
    """
    parts = []
    for name, modality in modalities.items():
        if isinstance(modality, Smiles):
            parts.append(np.stack([morgan(members.get(name, {}).get("txt", b"")) for members, _ in samples]))
        elif isinstance(modality, TokenSequence):
            parts.append(np.stack([_shares(tokens.get(name), modality.entries) for _, tokens in samples]))
        else:
            parts.append(np.stack([_summary(tokens.get(name), modality.widths[0]) for _, tokens in samples]))
    return np.concatenate(parts, axis=1)


def morgan(smiles: bytes, bits: int = 2048) -> np.ndarray:
    """Morgan fingerprint of radius 2 (Rogers & Hahn 2010) `(bits,)`, zero where there is no molecule."""
    molecule = chemistry().MolFromSmiles(smiles.decode()) if smiles else None
    if molecule is None:
        return np.zeros(bits, np.float32)
    generator = parser("rdkit.Chem.rdFingerprintGenerator", "rdkit").GetMorganGenerator(radius=2, fpSize=bits)
    return generator.GetFingerprintAsNumPy(molecule).astype(np.float32)


def _shares(tokens: Tokens | None, entries: int) -> np.ndarray:
    """How often each entry is met, as a share; zero where there are no tokens."""
    if tokens is None:
        return np.zeros(entries, np.float32)
    return (np.bincount(tokens.ids[:, 0], minlength=entries) / tokens.size).astype(np.float32)


def _summary(tokens: Tokens | None, width: int) -> np.ndarray:
    if tokens is None:
        return np.zeros(2 * width, np.float32)
    return np.concatenate([tokens.values.mean(0), tokens.values.std(0)])


def predict(task: Task, x: np.ndarray, y: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Fit ridge or logistic regression, its strength chosen by cross-validation on the training rows.

    Returns standardised numbers `(N,)` or probabilities `(N, classes)` for `unseen`.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.preprocessing import StandardScaler

    if task.kind == "regression":
        return RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(x, y).predict(unseen)
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
    probabilities = np.zeros((len(unseen), task.outputs))
    probabilities[:, model.classes_] = model.predict_proba(scaler.transform(unseen))
    return probabilities
