"""What a token's neighbours add to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from modalities.layers.context import Context, find_neighbors


@given(st.data(), st.integers(1, 3), st.integers(1, 2))
def test_neighbors_are_at_the_offset_within_a_group(data: st.DataObject, axes: int, columns: int) -> None:
    numbers = st.tuples(*[st.integers(0, 2)] * columns, *[st.integers(0, 3)] * axes)
    rows = data.draw(st.lists(numbers, min_size=1, max_size=12, unique=True))
    is_present = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    offsets = data.draw(st.lists(st.tuples(*[st.integers(-3, 3)] * axes), min_size=1, max_size=5))
    table = torch.tensor(rows)
    neighbors = find_neighbors(
        table[:, columns:].float(), table[:, :columns], torch.tensor(is_present), torch.tensor(offsets)
    )
    for i, row in enumerate(rows):
        for j, offset in enumerate(offsets):
            neighbor = (*row[:columns], *np.add(row[columns:], offset).tolist())
            at = rows.index(neighbor) if neighbor in rows else None
            assert neighbors[i, j] == (len(rows) if at is None or not is_present[at] else at)


@pytest.mark.parametrize("axes", [1, 2])
def test_context_on_a_full_grid_equals_a_convolution(axes: int) -> None:
    torch.manual_seed(0)
    context, side = Context(4, axes, 3), 5
    coords = torch.cartesian_prod(*[torch.arange(side)] * axes).view(-1, axes)
    x = torch.randn(len(coords), 4)
    output = context(x, coords.float(), torch.zeros(len(x), 1, dtype=torch.int64), torch.ones(len(x), dtype=torch.bool))
    grid = context.norm(x).T.reshape(1, 4, *[side] * axes)
    kernel = context.mix.weight.view(4, *[3] * axes, 4).movedim(-1, 1)
    convolve = F.conv1d if axes == 1 else F.conv2d
    mixed = convolve(grid, kernel, context.mix.bias, padding=1)[0].flatten(1).T
    torch.testing.assert_close(output, x + F.silu(mixed))
