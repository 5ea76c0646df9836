"""Raw formats. A new one is one file here and one name in the line below."""

from shards.sources import audio, bioscan, fasta, molecules, rows  # noqa: F401  (importing registers them)
