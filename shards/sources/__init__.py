"""Raw formats. A new one is one file here and one name in the line below."""

from shards.sources import (  # noqa: F401  (importing registers them)
    audio,
    bioscan,
    edf,
    fasta,
    hub,
    images,
    join,
    molecules,
    ptbxl,
    rows,
    wfdb,
)
