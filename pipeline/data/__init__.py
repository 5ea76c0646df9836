"""Batches from shards, and labelled data."""
