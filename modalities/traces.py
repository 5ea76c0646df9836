"""Traces of a signal's channels as SVG."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

CHANNELS, POINTS = 12, 600
"""Channels drawn at most, and points of each."""
_WIDTH, _LEFT, _HEIGHT = 600, 60, 40


def draw(
    names: Sequence[str],
    rows: Sequence[np.ndarray],
    target: np.ndarray,
    high: float,
    values: np.ndarray,
    filled: np.ndarray | None = None,
) -> str:
    """The first channels, one below the other, targets shaded, what filled them in drawn in another colour.

    rows: the tokens of each channel in order of time. target `(N,)`. high: the value drawn at the edge of a channel's
    strip. values, filled `(N, points)`: patches, nan where nothing is to be drawn.
    """
    shown = list(zip(names, rows, strict=True))[:CHANNELS]
    parts = []
    for line, (name, row) in enumerate(shown):
        width, base = _WIDTH / len(row), _HEIGHT * line + _HEIGHT // 2
        parts.append(f'<text x="0" y="{base + 4}" font-size="11">{html.escape(name)}</text>')
        parts += (
            f'<rect x="{_LEFT + i * width:.1f}" y="{base - 19}" width="{width:.1f}" height="38" fill="#bfccdf"/>'
            for i in np.flatnonzero(target[row])
        )
        parts.append(_trace(values[row], base, high, "#222"))
        if filled is not None:
            parts.append(_trace(filled[row], base, high, "#c33"))
    size = f'viewBox="0 0 {_LEFT + _WIDTH} {_HEIGHT * len(shown)}" width="{_LEFT + _WIDTH}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'


def _trace(patches: np.ndarray, base: int, high: float, colour: str) -> str:
    """A path through patches `(n, points)`, broken where they are nan."""
    heights = base - (patches.ravel() / high).clip(-1, 1) * (_HEIGHT // 2 - 1)
    every = -(-len(heights) // POINTS)
    x = _LEFT + np.arange(len(heights)) * _WIDTH / len(heights)
    steps, pen = [], "M"
    for across, down in zip(x[::every], heights[::every], strict=True):
        if np.isnan(down):
            pen = "M"
        else:
            steps.append(f"{pen}{across:.1f} {down:.1f}")
            pen = "L"
    return f'<path d="{"".join(steps)}" fill="none" stroke="{colour}"/>' if steps else ""
