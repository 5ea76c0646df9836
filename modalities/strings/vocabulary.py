"""Vocabularies of strings, and words of column names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

SPECIALS = ("<missing>", "<unknown>")


class Vocabulary:
    """Maps strings to ids and back; id 0 is missing content, 1 an unknown string, and the entries follow."""

    def __init__(self, entries: Sequence[str]):
        self.entries = (*SPECIALS, *entries)

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {entry: i for i, entry in enumerate(self.entries)}

    def __contains__(self, entry: str) -> bool:
        return entry in self._ids

    def id(self, entry: str) -> int:
        """The id of an entry, 1 (unknown) if there is no such entry."""
        return self._ids.get(entry, 1)

    def encode(self, entries: Iterable[str]) -> np.ndarray:
        """`(N,)` int64."""
        return np.fromiter((self._ids.get(entry, 1) for entry in entries), np.int64)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Entries by id."""
        return [self.entries[i] for i in ids]

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.entries))

    def pieces(self, word: str) -> list[int]:
        """Spell `word` with the longest entries from left to right; letters without an entry are unknown (1)."""
        ids, start = [], 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                if (entry_id := self._ids.get(word[start:end])) is not None:
                    break
            else:
                entry_id, end = 1, start + 1
            ids.append(entry_id)
            start = end
        return ids


_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d|[^\W_]|[^\w\s]")


def words(name: str) -> list[str]:
    """Split a name into lower-case words: `NumHDonors`, `num_h_donors` and `num h donors` give the same ones."""
    return [word.lower() for word in _WORDS.findall(name)]


def common(items: Iterable[str], minimum: int) -> tuple[str, ...]:
    """Items that occur at least `minimum` times, from the most frequent, ties in alphabetical order."""
    counts = Counter(items)
    return tuple(sorted((item for item, n in counts.items() if n >= minimum), key=lambda item: (-counts[item], item)))
