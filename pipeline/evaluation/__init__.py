"""Embeddings, measures and baselines."""
