"""Lists of strings with ids: 0 is missing, 1 is unknown, entries follow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

SPECIALS = ("<missing>", "<unknown>")


class Vocabulary:
    """Strings to ids and back."""

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
        """The entry's id, 1 (unknown) where there is none."""
        return self._ids.get(entry, 1)

    def encode(self, entries: Iterable[str]) -> np.ndarray:
        """`(N,)` int64."""
        return np.fromiter((self._ids.get(entry, 1) for entry in entries), np.int64)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The entries of ids."""
        return [self.entries[i] for i in ids]

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.entries))

    def pieces(self, word: str) -> list[int]:
        """Ids of the longest entries that spell `word`, left to right; letters in no entry are unknown (1)."""
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
    """A column's name as lower-case words: `NumHDonors`, `num_h_donors` and `num h donors` read alike."""
    return [word.lower() for word in _WORDS.findall(name)]


def common(items: Iterable[str], minimum: int) -> tuple[str, ...]:
    """Items seen at least `minimum` times, most frequent first, ties by name."""
    counts = Counter(items)
    return tuple(sorted((item for item, n in counts.items() if n >= minimum), key=lambda item: (-counts[item], item)))
