"""Training objectives. A new one is one file here and one name in the line below."""

from pipeline.objectives import contrastive, masked, regression  # noqa: F401  (importing registers them)
