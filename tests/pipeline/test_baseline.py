"""Plain features of every kind of data."""

from __future__ import annotations

import numpy as np

from modalities.base import Modality
from modalities.dna import Dna
from modalities.table import Table
from pipeline.baseline import features


def test_strings_are_the_shares_of_their_entries() -> None:
    dna, table = Dna(kmer=1), Table(min_count=1).fit([{"mass": 1.0}, {"mass": 3.0}])
    modalities: dict[str, Modality] = {"dna": dna, "table": table}
    samples = [({}, {"dna": dna.tokenize("AAAC"), "table": table.tokenize({"mass": 3.0})}), ({}, {})]
    found = features(samples, modalities)
    np.testing.assert_allclose(found, [[0, 0, 0.75, 0.25, 0, 0, 1, 0], [0] * 8])
