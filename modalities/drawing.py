"""Draw patches as HTML: channels of signals as SVG, images as PNG."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np

from modalities.files.reading import lazy_import

MAX_CHANNELS, MAX_POINTS = 12, 600
"""Largest number of channels drawn, and of points of each."""
_WIDTH, _MARGIN, _HEIGHT = 600, 60, 40
"""Pixels: width of a trace, of the channel names on its left, and height of a channel."""


def draw_png(pixels: np.ndarray, style: str = "") -> str:
    """An `img` element of pixels `(H, W, 3)` uint8."""
    buffer = io.BytesIO()
    lazy_import("PIL.Image", "pillow").fromarray(pixels).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt=""{style and f" style={chr(34)}{style}{chr(34)}"} src="data:image/png;base64,{data}">'


def draw_channels(
    names: Sequence[str],
    rows: Sequence[np.ndarray],
    target: np.ndarray,
    peak: float,
    values: np.ndarray,
    predicted: np.ndarray | None = None,
) -> str:
    """Draw the first channels below each other, with targets shaded and predicted patches in another color.

    rows: indices of the tokens of each channel in order of time. target: `(N,)` bool. peak: the value at the edge of a
    channel's strip. values, predicted: `(N, P)`, NaN for patches that are not drawn.
    """
    channels = list(zip(names, rows, strict=True))[:MAX_CHANNELS]
    parts = []
    for number, (name, row) in enumerate(channels):
        width, middle = _WIDTH / len(row), _HEIGHT * number + _HEIGHT // 2
        parts.append(f'<text x="0" y="{middle + 4}" font-size="11">{html.escape(name)}</text>')
        parts += (
            f'<rect x="{_MARGIN + i * width:.1f}" y="{middle - 19}" width="{width:.1f}" height="38" fill="#bfccdf"/>'
            for i in np.flatnonzero(target[row])
        )
        parts.append(_draw_trace(values[row], middle, peak, "#222"))
        if predicted is not None:
            parts.append(_draw_trace(predicted[row], middle, peak, "#c33"))
    size = f'viewBox="0 0 {_MARGIN + _WIDTH} {_HEIGHT * len(channels)}" width="{_MARGIN + _WIDTH}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'


def _draw_trace(patches: np.ndarray, middle: int, peak: float, color: str) -> str:
    """A path through patches `(n, P)`, interrupted at NaN."""
    y = middle - (patches.ravel() / peak).clip(-1, 1) * (_HEIGHT // 2 - 1)
    step = -(-len(y) // MAX_POINTS)
    x = _MARGIN + np.arange(len(y)) * _WIDTH / len(y)
    commands, command = [], "M"
    for across, down in zip(x[::step], y[::step], strict=True):
        if np.isnan(down):
            command = "M"
        else:
            commands.append(f"{command}{across:.1f} {down:.1f}")
            command = "L"
    return f'<path d="{"".join(commands)}" fill="none" stroke="{color}"/>' if commands else ""
