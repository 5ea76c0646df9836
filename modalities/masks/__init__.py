"""Masks: which tokens are hidden, and how masks of one sample go together."""
