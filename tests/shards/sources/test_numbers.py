"""Numbers in texts."""

from __future__ import annotations

from typing import Any

import pytest

from shards.sources.numbers import number_or_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("74", 74), (" 1.5 ", 1.5), ("-3", -3), ("1e3", 1000.0), ("9" * 20, 1e20), ("Male", "Male"), ("a1", "a1"),
        ("426783006,1", "426783006,1"), ("1_0", "1_0"), ("", None), (" ", None), ("n/a", None), ("NaN", None),
        ("inf", None), ("1e999", None), ("9" * 400, None), ("-", "-"),
    ],
)  # fmt: skip
def test_texts_that_are_numbers(text: str, value: Any) -> None:
    made = number_or_text(text)
    assert made == value
    assert type(made) is type(value)
