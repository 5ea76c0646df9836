"""Classical features and models, to hold beside what was pretrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch

import numpy as np

from modalities.base import Modality
from modalities.files.reading import lazy_import
from modalities.image import Image
from modalities.lightcurve import LightCurve
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.strings.sequence import TokenSequence
from modalities.table import Table
from modalities.tokens import Tokens
from pipeline.data.labelled import Task
from shards.read import Members
from shards.sources.chemistry import chemistry

THUMBNAIL_PX = 16
RHYTHMS_HZ = ((0.5, 4), (4, 8), (8, 13), (13, 30), (30, 45))
"""Delta, theta, alpha, beta and gamma, which are also where baseline wander, T, P and QRS waves of an ECG lie."""


def features(samples: Sequence[tuple[Members, dict[str, Tokens]]], modalities: Mapping[str, Modality]) -> np.ndarray:
    """Plain features `(N, F)` of all modalities side by side; zero where a sample lacks one."""
    parts = []
    for name, modality in modalities.items():
        held = {i: (members[name], tokens[name]) for i, (members, tokens) in enumerate(samples) if name in tokens}
        rows = {i: plain(modality, *sample) for i, sample in held.items()}
        part = np.zeros((len(samples), len(next(iter(rows.values()))) if rows else 0), np.float32)
        for i, row in rows.items():
            part[i] = row
        parts.append(part)
    return np.concatenate(parts, axis=1)


@singledispatch
def plain(modality: Modality, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """Plain features `(F,)` of one sample of a modality: for want of better, mean and std of the values."""
    return np.concatenate([tokens.values.mean(0), tokens.values.std(0)])


@plain.register
def _molecule(modality: Smiles, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """Morgan fingerprint."""
    return morgan(members["txt"])


@plain.register
def _sequence(modality: TokenSequence, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """How often each entry is met, as a share: k-mer spectra of DNA, bags of words of text."""
    return np.bincount(tokens.ids[:, 0], minlength=modality.num_ids) / tokens.size


@plain.register
def _thumbnail(modality: Image, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """A thumbnail's pixels, mean and std of each known band, zero where the image lacks it."""
    pixels, bands, incomplete = modality.decode(dict(members))
    places = [modality.band_names.index(band) for band in bands]
    if incomplete:  # a pixel without data has its band's mean
        pixels = np.where(np.isnan(pixels), np.array(modality.mean, np.float32)[places], pixels)
    shrink = lazy_import("PIL.Image", "pillow")
    planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(pixels, 2, 0)]
    small = np.zeros((len(modality.band_names), THUMBNAIL_PX, THUMBNAIL_PX), np.float32)
    moments = np.zeros((2, len(modality.band_names)), np.float32)
    small[places] = [shrink.fromarray(each).resize(small.shape[1:], shrink.Resampling.BOX) for each in planes]
    moments[:, places] = pixels.mean((0, 1)), pixels.std((0, 1))
    return np.concatenate([small.ravel(), moments.ravel()])


@plain.register
def _sound(modality: Spectrogram, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """Mean and std over time of every mel band, and how long the sound is."""
    height, width = modality.patch
    rows = [
        tokens.values[tokens.coords[:, 1] == low].reshape(-1, height, width) for low in np.unique(tokens.coords[:, 1])
    ]
    means, stds = ([getattr(row, name)((0, 2)) for row in rows] for name in ("mean", "std"))
    return np.concatenate([*means, *stds, [tokens.coords[:, 0].max()]])


@plain.register
def _bands(modality: Signal, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """Logarithms of each known channel's power in five bands by Welch's method, and of its variance."""
    if modality.sample_rate_hz < 2 * RHYTHMS_HZ[0][1]:  # too slow for any of the bands
        return np.concatenate([tokens.values.mean(0), tokens.values.std(0)])
    rate_hz = modality.sample_rate_hz
    found = np.zeros((len(modality.vocabulary), len(RHYTHMS_HZ) + 1), np.float32)
    for channel in np.unique(tokens.ids[:, 1]):
        series = tokens.values[tokens.ids[:, 1] == channel].ravel()
        hz, power = lazy_import("scipy.signal", "scipy").welch(
            series, rate_hz, nperseg=min(len(series), round(2 * rate_hz))
        )
        bands = [power[(low <= hz) & (hz < high)] for low, high in RHYTHMS_HZ]
        found[channel] = np.log(np.array([*(band.sum() for band in bands), series.var()]) + 1e-9)
    return found.ravel()


@plain.register
def _curve(modality: LightCurve, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """Mean and std of each position in a patch, over all patches."""
    return np.concatenate([tokens.values.mean(0), tokens.values.std(0)])


@plain.register
def _row(modality: Table, members: Mapping[str, bytes], tokens: Tokens) -> np.ndarray:
    """Of every known column the standardised number, 0 where it is missing, and the category one-hot."""
    row = modality.decode(dict(members))
    cells = [modality.tokenize({column: row.get(column)}) for column in modality.columns]
    numbers = np.concatenate([cell.values[0] for cell in cells])
    kinds = np.concatenate([cell.ids[:, 0] for cell in cells])
    missing = kinds == 0
    return np.concatenate([numbers, missing, np.bincount(kinds, minlength=modality.num_ids) > 0])


def morgan(smiles: bytes, bits: int = 2048) -> np.ndarray:
    """Morgan fingerprint of radius 2 (Rogers & Hahn 2010) `(bits,)`, zero where there is no molecule."""
    molecule = chemistry().MolFromSmiles(smiles.decode()) if smiles else None
    if molecule is None:
        return np.zeros(bits, np.float32)
    generator = lazy_import("rdkit.Chem.rdFingerprintGenerator", "rdkit").GetMorganGenerator(radius=2, fpSize=bits)
    return generator.GetFingerprintAsNumPy(molecule).astype(np.float32)


def predict(task: Task, x: np.ndarray, y: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Fit ridge, its strength chosen by cross-validation on the training rows, or logistic regression.

    Returns standardised numbers `(N,)` or probabilities `(N, classes)` for `unseen`. Where all rows are of one class
    that is what is predicted.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.preprocessing import StandardScaler

    if task.kind == "regression":
        return RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(x, y).predict(unseen)
    if (y == y[0]).all():
        return np.tile(np.eye(task.outputs)[y[0]], (len(unseen), 1))
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
    probabilities = np.zeros((len(unseen), task.outputs))
    probabilities[:, model.classes_] = model.predict_proba(scaler.transform(unseen))
    return probabilities
