"""The training step and all around it."""
