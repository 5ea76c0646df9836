"""Evaluation of models: embeddings, metrics, probes, baselines and plots."""
