"""Layers that several modalities share."""
