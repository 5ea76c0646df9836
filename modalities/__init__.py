"""Kinds of data. A new one is one file here and one name in the line below."""

from modalities import dna, image, lightcurve, signal, smiles, spectrogram, table, text  # noqa: F401  (importing registers them)
