"""Checks of the columns of tables."""

from __future__ import annotations

import pytest

from shards.columns import require_columns


def test_a_missing_column_is_named() -> None:
    require_columns("a.csv", ["smiles", "mass"], ["mass"])
    with pytest.raises(ValueError, match=r"^a\.csv has no column 'age'; it has smiles, mass$"):
        require_columns("a.csv", ["smiles", "mass"], ["mass", "age"])
