from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import ContentError
from modalities.masking import Masking, Rules, mask, maskable
from modalities.table import NUMBER, Cell, Row, Table

ROWS: list[Row] = [
    {"MolWt": 100.0, "charge": 1, "colour": "red", "chiral": True, "constant": 0.1},
    {"MolWt": 200.0, "charge": None, "colour": "red", "chiral": False, "constant": 0.1},
    {"MolWt": 300.0, "charge": 3, "colour": "blue", "chiral": False, "constant": 0.1},
    {"MolWt": float("nan"), "charge": 5, "colour": " blue ", "chiral": True, "constant": 0.1},
    {"MolWt": 400.0, "charge": "NA", "colour": "green", "chiral": None, "constant": 0.1},
]
MISSING_CELLS: list[Any] = [
    None,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "  ",
    "NA",
    "n/a",
    "NaN",
    "null",
    "None",
    "?",
    pytest.param(10**400, id="huge"),
]

finite = st.floats(-1e30, 1e30)
cells = st.one_of(finite, st.integers(), st.booleans(), st.text(max_size=5), st.none(), st.floats())


@pytest.fixture(scope="module")
def table() -> Table:
    return Table().fit(ROWS)


def content(table: Table, column: str, cell: Cell) -> tuple[int, float]:
    """Content id and value of one cell."""
    tokens = table.tokenize({column: cell})
    return int(tokens.ids[0, 0]), float(tokens.values[0, 0])


def category(table: Table, column: str, value: str) -> int:
    return table.vocabulary.id(f"{column}={value}")


def test_numbers_are_standardised_by_the_filled_cells(table: Table) -> None:
    assert table.scales["MolWt"] == (250.0, pytest.approx(np.std([100, 200, 300, 400])))
    for weight in (100.0, 250, 1000, "300", True):
        z = (float(weight) - 250) / np.std([100, 200, 300, 400])
        assert content(table, "MolWt", weight) == (NUMBER, pytest.approx(z, rel=1e-6))


def test_words_among_numbers_make_a_column_of_categories(table: Table) -> None:
    assert "charge" in table.scales  # a cell that says nothing is there is no word
    mixed = Table(min_count=1).fit([{"dose": 1}, {"dose": "high"}])
    assert content(mixed, "dose", 1)[0] == category(mixed, "dose", "1") >= 3
    assert content(mixed, "dose", "high")[0] == category(mixed, "dose", "high") >= 3


def test_categories_and_booleans(table: Table) -> None:
    ids = {content(table, "colour", c)[0] for c in ("red", "blue")} | {
        content(table, "chiral", b)[0] for b in (True, False)
    }
    assert len(ids) == 4
    assert min(ids) > NUMBER
    assert content(table, "colour", "\tblue") == content(table, "colour", "blue")
    assert (
        content(table, "chiral", True) == content(table, "chiral", "true") == (category(table, "chiral", "true"), 0.0)
    )


@pytest.mark.parametrize("cell", ["green", "violet", 7, False])
def test_unseen_or_rare_categories_are_unknown(table: Table, cell: Cell) -> None:
    assert content(table, "colour", cell) == (1, 0.0)


def test_a_word_where_numbers_stood_is_unknown(table: Table) -> None:
    assert content(table, "MolWt", "heavy") == (1, 0.0)


@pytest.mark.parametrize("cell", MISSING_CELLS)
@pytest.mark.parametrize("column", ["MolWt", "colour", "never seen"])
def test_missing_cells_are_never_targets(table: Table, column: str, cell: Cell) -> None:
    tokens = table.tokenize({column: cell, "charge": 2})
    assert (tokens.ids[0, 0], tokens.values[0, 0]) == (0, 0.0)
    assert maskable(tokens).tolist() == [False, True]
    made = mask(tokens, np.random.default_rng(0), 0, Rules((Masking(ratio=1.0),), table.entries))
    assert made.target.tolist() == [False, True]


def test_a_column_of_nothing_but_missing_cells_is_not_learned() -> None:
    table = Table().fit([{"a": 1, "b": None}, {"a": 2, "b": "NA"}])
    assert table.knows("a")
    assert not table.knows("b")
    with pytest.raises(ValueError, match="no table"):
        Table().fit([{"b": None}])
    with pytest.raises(ValueError, match="no table"):
        Table().fit([])


@given(finite, st.integers(1, 9), finite)
def test_constant_columns_have_a_deviation_of_one(constant: float, count: int, other: float) -> None:
    table = Table().fit([{"a": constant}] * count)
    assert table.scales["a"] == (pytest.approx(constant), 1.0)
    assert content(table, "a", constant) == (NUMBER, pytest.approx(0.0, abs=1e-9 * max(abs(constant), 1)))
    assert np.isfinite(content(table, "a", other)[1])


@pytest.mark.parametrize("spread", [1e-300, 1e-12, 1.0, 1e30])
@pytest.mark.parametrize("wild", [1e38, -1e38, 10**38, "1e38"])
def test_wild_numbers_stay_finite(spread: float, wild: Cell) -> None:
    table = Table().fit([{"a": 0.0}, {"a": spread}])
    kind, value = content(table, "a", wild)
    assert kind == NUMBER
    assert 1 < abs(value) < 1e9
    assert (value > 0) == (float(str(wild)) > 0)


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), cells), min_size=1, max_size=6), st.dictionaries(st.text(), cells)
)
def test_any_row_gives_finite_tokens_that_fit_the_contract(rows: list[Row], row: Row) -> None:
    table = Table(min_count=1).fit([*rows, {"a": 1.0}])
    for raw in (*rows, row):
        if not raw:
            continue
        tokens = table.tokenize(table.parse(raw))
        assert [part.dtype for part in tokens] == [np.float32, np.int64, np.float32]
        assert tuple(part.shape[1] for part in tokens) == table.widths
        assert tokens.size == len(raw)
        assert np.isfinite(tokens.values).all()
        assert tokens.ids[:, 0].max() < table.entries
        assert (tokens.values[tokens.ids[:, 0] != NUMBER] == 0).all()


def test_a_new_column_is_known_by_the_words_of_its_name(table: Table) -> None:
    number, value = content(table, "MolWtSquared", -99.0)
    assert (number, value) == (NUMBER, pytest.approx(-math.log(100)))
    assert content(table, "new", "word") == (1, 0.0)
    ids = {
        name: table.tokenize({name: 1}).ids[0, 1:].tolist()
        for name in ("MolWt", "mol_wt", "MolWtSquared", "wt7", "wt8")
    }
    assert ids["MolWt"] == ids["mol_wt"]
    assert ids["MolWtSquared"][:2] == ids["MolWt"][:2]
    assert len(set(map(tuple, ids.values()))) == 4
    assert all(1 not in spelled for spelled in ids.values())


@pytest.mark.parametrize("names", [("NumHDonors", "num_h_donors"), ("a b", "a_b"), ("A", "a"), ("_", " ")])
def test_homonyms_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="read alike"):
        Table().fit([dict.fromkeys(names, 1.0)])
    assert Table(exclude=names[:1]).fit([dict.fromkeys(names, 1.0)]).knows(names[1])


def test_names_that_only_run_together_differ() -> None:
    table = Table().fit([{"ab": 1, "a b": 1, "x1": 1, "x2": 1}])
    assert len(np.unique(table.tokenize({"ab": 1, "a b": 1, "x1": 1, "x2": 1}).ids, axis=0)) == 4


def test_excluded_columns_are_neither_learned_nor_tokenized() -> None:
    table = Table(exclude=("label",)).fit([{"a": 1, "label": "x"}, {"a": 2, "label": "x"}])
    assert not table.knows("label")
    assert table.tokenize({"a": 1, "label": "x"}).size == 1
    with pytest.raises(ContentError, match="without columns"):
        table.tokenize({"label": "x"})


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b'"a"', b"3", b"null", b"\xff", b'{"a": [1]}', b'{"a": {"b": 1}}', b"[" * 100_000]
)
def test_what_is_no_row_is_refused(data: bytes) -> None:
    with pytest.raises(ContentError):
        Table().decode({"json": data})


def test_decode_reads_json(table: Table) -> None:
    row = {"MolWt": 1.5, "charge": None, "colour": "red", "chiral": True}
    assert table.decode({"json": json.dumps(row).encode()}) == row
    with pytest.raises(ContentError):
        table.decode({"csv": b"a,b"})
    with pytest.raises(ContentError):
        table.parse({1: 2})


def test_loss_is_huber_for_numbers_and_cross_entropy_for_categories(table: Table) -> None:
    tokens = table.tokenize({"MolWt": 1000.0, "charge": 3, "colour": "red", "chiral": "perhaps"})
    prediction = np.random.default_rng(0).standard_normal((tokens.size, 1 + table.entries)).astype(np.float32)
    loss = table.loss(*map(torch.from_numpy, (prediction, tokens.values, tokens.ids)))
    assert loss.dtype == torch.float32

    expected = []
    for (guess, *logits), (value,), (kind, *_) in zip(prediction, tokens.values, tokens.ids, strict=True):
        error = abs(guess - value)
        huber = error**2 / 2 if error < 1 else error - 0.5
        expected.append(huber if kind == NUMBER else np.log(np.exp(logits).sum()) - logits[kind])
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5)


def test_reconstruct_takes_numbers_and_the_likeliest_category(table: Table) -> None:
    tokens = table.tokenize({"MolWt": 300.0, "colour": "red"})
    prediction = np.zeros((2, 1 + table.entries), np.float32)
    prediction[:, 0] = 0.5
    prediction[1, 1 + category(table, "colour", "blue")] = 9
    made = table.reconstruct(prediction, tokens)
    assert made.values.tolist() == [[0.5], [0.0]]
    assert made.ids[:, 0].tolist() == [NUMBER, category(table, "colour", "blue")]
    assert (made.ids[:, 1:] == tokens.ids[:, 1:]).all()


def read(html: str) -> dict[str, tuple[str, str]]:
    """Class and text of each cell by column."""
    return {
        name: (style, text) for name, style, text in re.findall(r"<th>(.*?)</th><td class=\"(.*?)\">(.*?)</td>", html)
    }


def test_show_gives_rows_in_their_own_units(table: Table) -> None:
    tokens = table.tokenize({"MolWt": 300.0, "charge": None, "colour": "red"})
    made = tokens._replace(values=np.zeros((3, 1), np.float32), ids=tokens.ids.copy())
    made.ids[2, 0] = category(table, "colour", "blue")
    shown = table.show(tokens, np.array([True, False, True]), made)
    kept = {"charge": ("", "&lt;missing&gt;")}
    assert read(shown["original"]) == {"MolWt": ("target", "300"), "colour": ("target", "red"), **kept}
    assert read(shown["masked"]) == {"MolWt": ("hidden", "?"), "colour": ("hidden", "?"), **kept}
    assert read(shown["reconstructed"]) == {"MolWt": ("filled", "250"), "colour": ("filled", "blue"), **kept}


def test_show_escapes_html() -> None:
    row: dict[str, Any] = {"<i>name</i>": "<script>alert(1)</script>", "a=b": "c=d"}
    table = Table(min_count=1).fit([row])
    tokens = table.tokenize(row)
    for html in table.show(tokens, np.zeros(2, bool), tokens).values():
        assert read(html) == {
            "&lt;i&gt;name&lt;/i&gt;": ("", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            "a=b": ("", "c=d"),
        }
