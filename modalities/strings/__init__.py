"""Strings: vocabularies, subwords, sequences and cells of tables."""
