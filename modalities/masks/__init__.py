"""Masks: how tokens are selected (shapes), hidden (modes) and coordinated over modalities (plans)."""

from modalities.masks.block import Block
from modalities.masks.random import Random
from modalities.masks.span import Span

BUILT_IN = (Random, Span, Block)
"""Shapes of this package; importing them registers them."""
