"""Readers of files: what kind a file is, pixels, waveforms and recordings."""
