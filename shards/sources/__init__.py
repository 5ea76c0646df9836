"""Raw formats. A new one is one file here and one name in the line below."""

from shards.sources import audio, bioscan, edf, fasta, images, molecules, ptbxl, rows, wfdb  # noqa: F401  (registers)
