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

from modalities.files.reading import ContentError, counted_changes
from modalities.layers.cells import NUMBER
from modalities.masks.draw import draw_mask
from modalities.masks.masking import Masking, MaskRules
from modalities.strings.cells import Cell
from modalities.strings.columns import Row
from modalities.strings.scaling import compress, expand, find_codes, scale
from modalities.table import MAX_BYTES, Table
from modalities.tokens import maskable

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


def test_numbers_are_standardized_over_filled_cells(table: Table) -> None:
    assert table.scales["MolWt"] == (250.0, pytest.approx(np.std([100, 200, 300, 400])))
    for weight in (100.0, 250, 1000, "300", True):
        z = (float(weight) - 250) / np.std([100, 200, 300, 400])
        assert content(table, "MolWt", weight) == (NUMBER, pytest.approx(z, rel=1e-6))


def test_words_among_numbers_make_a_column_categorical(table: Table) -> None:
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


def test_a_word_in_a_numeric_column_is_missing_and_counted(table: Table) -> None:
    with counted_changes() as changes:
        assert content(table, "MolWt", "heavy") == (0, 0.0)
    assert changes == {"MolWt: cells that are no numbers are missing": 1}


@pytest.mark.parametrize("cell", MISSING_CELLS)
@pytest.mark.parametrize("column", ["MolWt", "colour", "never seen"])
def test_missing_cells_are_never_targets(table: Table, column: str, cell: Cell) -> None:
    tokens = table.tokenize({column: cell, "charge": 2})
    assert (tokens.ids[0, 0], tokens.values[0, 0]) == (0, 0.0)
    assert maskable(tokens).tolist() == [False, True]
    plan = draw_mask(tokens, np.random.default_rng(0), 0, MaskRules((Masking(ratio=1.0),), table.num_ids))
    assert plan.target.tolist() == [False, True]


def test_a_column_of_missing_cells_is_not_learned() -> None:
    table = Table().fit([{"a": 1, "b": None}, {"a": 2, "b": "NA"}])
    assert table.knows("a")
    assert not table.knows("b")
    with pytest.raises(ValueError, match="no table"):
        Table().fit([{"b": None}])
    with pytest.raises(ValueError, match="no table"):
        Table().fit([])


@given(finite, st.integers(1, 9), finite)
def test_constant_columns_have_a_std_of_one(constant: float, count: int, other: float) -> None:
    table = Table().fit([{"a": constant}] * count)
    assert table.scales["a"] == (pytest.approx(constant), 1.0)
    assert content(table, "a", constant) == (NUMBER, pytest.approx(0.0, abs=1e-9 * max(abs(constant), 1)))
    assert np.isfinite(content(table, "a", other)[1])


def test_an_outlier_does_not_flatten_its_column() -> None:
    heights = np.random.default_rng(0).normal(170, 10, 500)
    assert scale(np.append(heights, [9999.0, -1e30])) == (heights.mean(), heights.std())
    table = Table().fit([{"height": height} for height in (*heights, 9999.0)])
    low, high, stray = (content(table, "height", cell)[1] for cell in (160.0, 180.0, 9999.0))
    assert high - low == pytest.approx(20 / heights.std(), abs=1e-6)
    assert 10 < stray < 10 * (1 + math.log(100))


@given(st.integers(0, 99), st.integers(130, 600), st.data())
def test_scales_ignore_outliers(seed: int, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    bulk = rng.normal(rng.normal(0, 100), 3, count)
    sizes = st.floats(1e6, 1e38) | st.floats(-1e38, -1e6)
    wild = data.draw(st.lists(sizes, min_size=1, max_size=max(count // 110, 1)))
    assert scale(np.concatenate([wild, bulk])) == (pytest.approx(bulk.mean()), pytest.approx(bulk.std()))


@given(st.lists(finite, min_size=1, max_size=400))
def test_scales_ignore_few_numbers(numbers: list[float]) -> None:
    mean, std = scale(np.array(numbers))
    assert std > 0
    assert sum(abs(number - mean) > 10 * std for number in numbers) <= len(numbers) / 100 + 1e-9


@pytest.mark.parametrize(
    "numbers",
    [
        [0.0] * 20_000 + list(range(1, 30)) * 5,
        [0.3, 0.1 + 0.2] * 1_000 + [0.5, 0.6, 0.7],
        [1e6] * 5_000 + [0.0],
    ],
)
def test_a_nearly_constant_column_keeps_its_information(numbers: list[float]) -> None:
    assert scale(np.array(numbers)) == (np.mean(numbers), np.std(numbers))


def test_cell_values_are_shown_unchanged(table: Table) -> None:
    mean, std = table.scales["MolWt"]
    for number in (mean, mean + 3 * std, 1e9, -1e9):
        assert table._number("MolWt", table._standard("MolWt", number)) == pytest.approx(number)
    for number in (0.0, 1e6, -12.5):
        assert table._number("never seen", table._standard("never seen", number)) == pytest.approx(number)


def test_the_example_of_a_model_card_can_be_read() -> None:
    rows: list[Row] = [{"day": f"2026-01-{day:02d}", "width": f"{day} mm", "sex": "f"} for day in range(1, 20)]
    for more in ({"mass": 1.5}, {}):
        table = Table(min_count=1).fit([{**row, **more} for row in rows])
        example = table.parse(eval(table.example))
        kind = table.tokenize(example).ids[0, 0]
        assert kind == (NUMBER if more else 0)


@given(st.floats(-1e38, 1e38), st.floats(-1e38, 1e38))
def test_compression_keeps_order_and_expands_again(one: float, other: float) -> None:
    assert (compress(one) <= compress(other)) or one >= other
    assert compress(-one) == -compress(one)
    assert expand(compress(one)) == pytest.approx(one, rel=1e-9)
    assert compress(one) == one or 10 < abs(compress(one)) < 1000


@pytest.mark.parametrize("spread", [1e-300, 1e-12, 1.0, 1e30])
@pytest.mark.parametrize("wild", [1e38, -1e38, 10**38, "1e38"])
def test_extreme_numbers_stay_finite(spread: float, wild: Cell) -> None:
    table = Table().fit([{"a": 0.0}, {"a": spread}])
    kind, value = content(table, "a", wild)
    assert kind == NUMBER
    assert 1 < abs(value) < 1e9
    assert (value > 0) == (float(str(wild)) > 0)


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), cells), min_size=1, max_size=6), st.dictionaries(st.text(), cells)
)
def test_any_row_gives_finite_tokens_that_follow_the_contract(rows: list[Row], row: Row) -> None:
    table = Table(min_count=1).fit([*rows, {"a": 1.0}])
    for raw in (*rows, row):
        if not raw:
            continue
        tokens = table.tokenize(table.parse(raw))
        assert [part.dtype for part in tokens] == [np.float32, np.int64, np.float32]
        assert tuple(part.shape[1] for part in tokens) == table.widths
        assert tokens.size == len(raw)
        assert np.isfinite(tokens.values).all()
        assert tokens.ids[:, 0].max() < table.num_ids
        assert (tokens.values[tokens.ids[:, 0] != NUMBER] == 0).all()


def test_a_new_column_is_embedded_by_the_words_of_its_name(table: Table) -> None:
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


def test_names_that_differ_only_in_spacing_are_distinct() -> None:
    table = Table().fit([{"ab": 1, "a b": 1, "x1": 1, "x2": 1}])
    assert len(np.unique(table.tokenize({"ab": 1, "a b": 1, "x1": 1, "x2": 1}).ids, axis=0)) == 4


def test_excluded_columns_are_neither_learned_nor_tokenized() -> None:
    table = Table(exclude=("label",)).fit([{"a": 1, "label": "x"}, {"a": 2, "label": "x"}])
    assert not table.knows("label")
    assert table.tokenize({"a": 1, "label": "x"}).size == 1
    with pytest.raises(ContentError, match="without columns"):
        table.decode({"json": b'{"label": "x"}'})


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b'"a"', b"3", b"null", b"\xff", b'{"a": [1]}', b'{"a": {"b": 1}}', b"[" * 100_000]
)
def test_values_that_are_not_rows_are_refused(data: bytes) -> None:
    with pytest.raises(ContentError):
        Table().decode({"json": data})


def test_oversized_rows_are_refused_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    row = b'{"a": 1}'
    longest = row + b" " * (MAX_BYTES - len(row))
    assert Table().decode({"json": longest}) == {"a": 1}
    monkeypatch.setattr("json.loads", lambda *_: pytest.fail("the row was parsed"))
    with pytest.raises(ContentError, match="more than 10,000,000 bytes"):
        Table().decode({"json": longest + b" "})


def test_decode_reads_json(table: Table) -> None:
    row = {"MolWt": 1.5, "charge": None, "colour": "red", "chiral": True}
    assert table.decode({"json": json.dumps(row).encode()}) == row
    with pytest.raises(ContentError):
        table.decode({"csv": b"a,b"})
    with pytest.raises(ContentError):
        table.parse({1: 2})


def test_loss_is_huber_for_numbers_and_cross_entropy_for_categories(table: Table) -> None:
    tokens = table.tokenize({"MolWt": 1000.0, "charge": 3, "colour": "red", "chiral": "perhaps"})
    prediction = np.random.default_rng(0).standard_normal((tokens.size, 1 + table.num_ids)).astype(np.float32)
    loss = table.loss(*map(torch.from_numpy, (prediction, tokens.values, tokens.ids)))
    assert loss.dtype == torch.float32

    expected = []
    for (guess, *logits), (value,), (kind, *_) in zip(prediction, tokens.values, tokens.ids, strict=True):
        error = abs(guess - value)
        huber = error**2 / 2 if error < 1 else error - 0.5
        expected.append(huber if kind == NUMBER else np.log(np.exp(logits).sum()) - logits[kind])
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5)


def test_reconstruct_gives_numbers_and_the_likeliest_category(table: Table) -> None:
    tokens = table.tokenize({"MolWt": 300.0, "colour": "red"})
    prediction = np.zeros((2, 1 + table.num_ids), np.float32)
    prediction[:, 0] = 0.5
    prediction[1, 1 + category(table, "colour", "blue")] = 9
    reconstruction = table.reconstruct(prediction, tokens)
    assert reconstruction.values.tolist() == [[0.5], [0.0]]
    assert reconstruction.ids[:, 0].tolist() == [NUMBER, category(table, "colour", "blue")]
    assert (reconstruction.ids[:, 1:] == tokens.ids[:, 1:]).all()


def read(html: str) -> dict[str, tuple[str, str]]:
    """Class and text of each cell by column."""
    return {
        name: (style, text) for name, style, text in re.findall(r"<th>(.*?)</th><td class=\"(.*?)\">(.*?)</td>", html)
    }


def test_show_prints_rows_in_original_units(table: Table) -> None:
    tokens = table.tokenize({"MolWt": 300.0, "charge": None, "colour": "red"})
    guess = tokens._replace(values=np.zeros((3, 1), np.float32), ids=tokens.ids.copy())
    guess.ids[2, 0] = category(table, "colour", "blue")
    parts = table.show(tokens, np.array([True, False, True]), guess)
    cells_by_column = {"charge": ("", "&lt;missing&gt;")}
    assert read(parts["original"]) == {"MolWt": ("target", "300"), "colour": ("target", "red"), **cells_by_column}
    assert read(parts["masked"]) == {"MolWt": ("hidden", "?"), "colour": ("hidden", "?"), **cells_by_column}
    assert read(parts["reconstructed"]) == {"MolWt": ("filled", "250"), "colour": ("filled", "blue"), **cells_by_column}


@pytest.mark.parametrize("cell", [170.0, 9999.0, -1e30])
def test_show_prints_extreme_numbers_unchanged(cell: float) -> None:
    table = Table().fit([{"height": height} for height in np.linspace(160, 180, 200)])
    tokens = table.tokenize({"height": cell})
    original = table.show(tokens, np.array([False]), tokens)["original"]
    assert float(read(original)["height"][1]) == pytest.approx(cell, rel=1e-3)


def test_show_prints_zero_as_zero() -> None:
    table = Table().fit([{"count": count} for count in (0, 1, 1, 2, 5, 0, 3)])
    tokens = table.tokenize({"count": 0})
    assert read(table.show(tokens, np.array([False]), tokens)["original"]) == {"count": ("", "0")}


def test_show_escapes_html() -> None:
    row: dict[str, Any] = {"<i>name</i>": "<script>alert(1)</script>", "a=b": "c=d"}
    table = Table(min_count=1).fit([row])
    tokens = table.tokenize(row)
    for html in table.show(tokens, np.zeros(2, bool), tokens).values():
        assert read(html) == {
            "&lt;i&gt;name&lt;/i&gt;": ("", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            "a=b": ("", "c=d"),
        }


# Dates

DATES = ["2015-11-05", "2016-02-29T12:00:00", "2014-07-01 06:00:00+02:00", "1969-12-31T00:00:00Z"]


@pytest.fixture(scope="module")
def dated() -> Table:
    return Table().fit([{"caught": date, "length": float(i)} for i, date in enumerate(DATES)])


def test_dates_are_days_and_seasons(dated: Table) -> None:
    days = np.array([16744.0, 16860.5, 16252 + 4 / 24, -1.0])
    assert (dated.dates, dated.widths) == (("caught",), (3, 1 + dated.name_length, 0))
    np.testing.assert_allclose(dated.scales["caught"], (days.mean(), days.std()))
    for date, day in zip(DATES, days, strict=True):
        tokens = dated.tokenize({"caught": date, "length": 1.0})
        angle = 2 * np.pi * day / 365.2425
        expected = [(day - days.mean()) / days.std(), np.sin(angle), np.cos(angle)]
        np.testing.assert_allclose(tokens.values, [expected, [-0.5 / np.std(range(4)), 0, 0]], atol=1e-5)
        assert tokens.ids[:, 0].tolist() == [NUMBER, NUMBER]
    summers = [dated.tokenize({"caught": f"{year}-07-01"}).values[0, 1:] for year in range(1950, 2050)]
    assert np.abs(np.array(summers) - summers[0]).max() < 0.04


@pytest.mark.parametrize("cells", [["2015-11-05", "soon"], ["2015-13-05"] * 2, ["20151105"] * 2, ["2015-11"] * 2])
def test_a_column_not_only_of_dates_is_categorical(cells: list[str]) -> None:
    table = Table(min_count=1).fit([{"when": cell} for cell in cells])
    assert (table.dates, table.widths[0]) == ((), 1)
    assert content(table, "when", cells[0]) == (category(table, "when", cells[0]), 0)


def test_an_invalid_date_among_dates_is_missing(dated: Table) -> None:
    for cell in ("soon", "2015-02-30", 16744.0, True):
        assert content(dated, "caught", cell) == (0, 0)
    assert content(dated, "caught", "NA") == (0, 0)


def test_date_losses_include_all_components(dated: Table) -> None:
    tokens = dated.tokenize({"caught": DATES[0], "length": 2.0})
    values, ids = (torch.from_numpy(part) for part in tokens[:2])
    prediction = torch.zeros(2, dated.head(8).out_features)
    prediction[:, :3] = values
    assert dated.loss(prediction, values, ids).tolist() == [0, 0]
    prediction[:, 1] += 3
    assert dated.loss(prediction, values, ids).tolist() == [pytest.approx(2.5 / 3), 0]


def test_dates_are_shown_as_dates(dated: Table) -> None:
    tokens = dated.tokenize({"caught": DATES[0]})
    prediction = np.zeros((1, dated.head(8).out_features), np.float32)
    prediction[:, 0] = 1e30
    parts = dated.show(tokens, np.array([True]), dated.reconstruct(prediction, tokens))
    assert read(parts["original"]) == {"caught": ("target", "2015-11-05")}
    assert "days since 1970" in read(parts["reconstructed"])["caught"][1]


# Units


@pytest.fixture(scope="module")
def measured() -> Table:
    return Table(min_count=1).fit(
        [
            {"length": "12 mm", "speed": "1.5e2m/s", "share": "5%"},
            {"length": " 14mm ", "speed": "-3 m/s", "share": "7 %"},
        ]
    )


def test_numbers_with_one_unit_are_numbers(measured: Table) -> None:
    assert dict(measured.units) == {"length": "mm", "speed": "m/s", "share": "%"}
    assert measured.scales == {"length": (13, 1), "speed": (73.5, 76.5), "share": (6, 1)}
    assert content(measured, "length", "15.0 mm") == (NUMBER, 2)
    assert content(measured, "length", None) == (0, 0)


@pytest.mark.parametrize("cell", ["15 cm", "15", 15.0, "mm", "long", "15 mm tall", "1e999 mm"])
def test_units_are_never_assumed_or_converted(measured: Table, cell: Cell) -> None:
    assert content(measured, "length", cell) == (0, 0)


@pytest.mark.parametrize("cells", [["12 mm", "3 cm"], ["12 mm", "tall"], ["12 mm", 3.0], ["1e5", "2e5"], ["12", "13"]])
def test_a_column_with_mixed_units_is_categorical(cells: list[Cell]) -> None:
    table = Table(min_count=1).fit([{"length": cell} for cell in cells])
    assert table.units == ()
    assert table.scales == {}


def test_units_are_words_of_the_name(measured: Table) -> None:
    named = Table().fit([{"length_mm": 1.0, "age (years)": 2.0, "depth [mm]": 3.0, "length": 4.0}])

    def pieces(table: Table, column: str) -> list[str]:
        ids = table.tokenize({column: None}).ids[0, 1:]
        return [table._names.entries[i] for i in ids if i]

    assert pieces(named, "length_mm") == ["length", "mm"]
    assert pieces(named, "age (years)") == ["age", "(", "years", ")"]
    assert pieces(named, "depth_mm") == ["depth", "mm"]
    assert pieces(measured, "length") == ["length", "mm"]
    tokens = measured.tokenize({"length": "12 mm"})
    original = measured.show(tokens, np.array([False]), tokens)["original"]
    assert read(original) == {"length": ("", "12 mm")}


# Many categories


def test_columns_of_many_categories_are_hashed() -> None:
    names = [f"species {i}" for i in range(50)]
    table = Table(max_categories=20).fit([{"species": name, "sex": "f"} for name in names * 2])
    assert (table.hashed, [column for column, _ in table.categories]) == (("species",), ["sex"])
    assert table.num_ids == 2 + 1 + 1 + 20
    ids = {name: content(table, "species", name)[0] for name in (*names, "one never seen")}
    assert all(table.vocabulary.entries[i].startswith("species#") for i in ids.values())
    assert len(set(ids.values())) > 10
    assert content(Table(max_categories=50).fit([{"species": n} for n in names * 2]), "species", names[3])[0] > NUMBER
    assert table.knows("species")
    rare = Table(max_categories=20).fit([{"id": name, "sex": "f"} for name in names])
    assert rare.hashed == ()  # no value was seen twice


def test_buckets_are_the_same_everywhere() -> None:
    table = Table(min_count=1, max_categories=1).fit([{"a": "x"}, {"a": "y"}])
    assert content(table, "a", "z") == (table.vocabulary.id("a#0"), 0)
    with pytest.raises(ValueError, match="max_categories"):
        Table(max_categories=0)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([*DATES, "3 mm", "4 mm", "x", 5, None])))
def test_any_columns_give_valid_tokens(row: Row) -> None:
    fitted = Table(min_count=1, max_categories=2).fit(
        [{"a": "2020-01-01", "b": "2 mm", "c": name, "d": 1} for name in "pqrs"]
    )
    if not row:
        return
    tokens = fitted.tokenize(row)
    assert tuple(part.shape[1] for part in tokens) == fitted.widths
    assert np.isfinite(tokens.values).all()
    assert tokens.ids[:, 0].max() < fitted.num_ids
    parts = [torch.from_numpy(part) for part in tokens]
    vectors, _ = fitted.embedding(8)(*parts)
    assert torch.isfinite(fitted.loss(fitted.head(8)(vectors), parts[0], parts[1])).all()


# What columns are


def mixed(name: str, odd: list[Cell], numbers: int = 97) -> list[Row]:
    """Rows of one column of numbers with some other cells."""
    return [{name: cell} for cell in [*(float(n) for n in range(numbers)), *odd]]


def test_a_column_has_the_type_of_nearly_all_its_cells() -> None:
    rows = mixed("lead", ["<0.01", "ND", "ND"])
    table = Table().fit(rows)
    assert table.scales["lead"] == (48.0, pytest.approx(np.std(range(97))))
    assert [content(table, "lead", cell) for cell in ("<0.01", "ND")] == [(0, 0), (0, 0)]
    assert content(table, "lead", "48.0") == (NUMBER, 0)
    line = "lead: 97 of 100 cells are numbers, 3 are not (ND, <0.01); these are missing"
    assert Table().survey(rows) == [line]


def test_bounds_are_read_if_the_recipe_says_so() -> None:
    rows = mixed("lead", ["<0.01", ">100", "ca. 5", "5?", "ND"])
    table = Table(invalid_cells="bound").fit(rows)
    assert table.scales["lead"][0] == pytest.approx((sum(range(97)) + 110.01) / 101)
    assert [content(table, "lead", cell)[0] for cell in ("<0.01", ">100", "≤ 3", "ca. 5", "ND")] == [2, 2, 2, 2, 0]
    assert content(table, "lead", "ca. 5") == content(table, "lead", 5) == content(table, "lead", "5?")


def test_non_numeric_cells_are_refused_if_the_recipe_says_so() -> None:
    rows = [{**row, "clean": 1.0} for row in mixed("lead", ["<0.01", "ND"])]
    message = r"lead: 97 of 99 cells are numbers, 2 are not \(<0.01, ND\): correct them, or set `invalid_cells`"
    strict = Table(invalid_cells={"lead": "error"})
    for refuse in (strict.fit, strict.survey):
        with pytest.raises(ValueError, match=message):
            refuse(rows)
    table = strict.fit(rows[:97])
    with pytest.raises(ContentError, match="table cell of 'lead' that is no number"):
        table.tokenize({"lead": "<0.01"})
    assert Table(invalid_cells={"clean": "error"}).fit(rows).knows("lead")
    with pytest.raises(ValueError, match="table `invalid_cells` names 'laed', which is no column of it"):
        Table(invalid_cells={"laed": "error"}).fit(rows)


def test_one_partial_date_among_dates_is_missing() -> None:
    rows: list[Row] = [{"day": f"2019-05-{day:02}"} for day in range(1, 31)] + [{"day": "2019-05"}]
    table = Table().fit(rows)
    assert table.dates == ("day",)
    assert Table().survey(rows) == ["day: 30 of 31 cells are dates, 1 is not (2019-05); these are missing"]


def test_codes_for_missing_values_are_reported_and_excluded_from_the_mean() -> None:
    rows = mixed("iron", [-999.0] * 10 + [9999.0] * 3)
    table = Table().fit(rows)
    assert table.scales["iron"] == (48.0, pytest.approx(np.std(range(97))))
    assert Table().survey(rows) == [
        f"iron: {times} of 110 cells are {code}, far from all others: if that means missing, say `missing: {{iron: "
        f"[{code}]}}` in data.source"
        for times, code in ((10, -999), (3, 9999))
    ]
    with_codes = Table(missing={"iron": (-999, 9999)})
    assert with_codes.survey(rows) == []
    assert with_codes.fit(rows).scales == table.scales
    assert content(with_codes.fit(rows), "iron", "-999.0") == (0, 0)
    meant = Table(missing={"iron": ()}).fit(rows)
    assert meant.scales["iron"][0] > 200
    assert content(meant, "iron", -999)[0] == NUMBER


@pytest.mark.parametrize(
    "numbers",
    [
        [0.0] * 90 + [5.0] * 10,
        [float(n) for n in range(50)] * 2 + [300.0],
        np.random.default_rng(0).lognormal(2, 1, 3000).round(1).tolist(),
        np.random.default_rng(0).poisson(0.7, 3000).tolist(),
        np.random.default_rng(0).standard_cauchy(3000).tolist(),
    ],
    ids=["two values", "one outlier", "lognormal", "counts", "heavy tails"],
)
def test_outliers_that_are_not_codes(numbers: list[float]) -> None:
    assert find_codes(np.array(numbers)) == ()


def test_ages_of_300_are_a_code() -> None:
    ages = np.random.default_rng(0).normal(60, 17, 5000).clip(18, 89).round()
    assert find_codes(np.append(ages, [300] * 60)) == (300,)


def test_words_for_missing_may_be_values() -> None:
    rows: list[Row] = [{"country": "NA"}] * 3 + [{"country": "DE"}] * 3
    assert Table().fit(rows).categories == (("country", ("DE",)),)
    assert Table(missing={"country": ()}).fit(rows).categories == (("country", ("DE", "NA")),)
    element = Table().fit([{"element": "Na"}, {"element": "Na"}])
    assert content(element, "element", "Na") == (category(element, "element", "Na"), 0)


def test_identifiers_are_text_regardless_of_their_type() -> None:
    rows: list[Row] = [{"plate": cell} for cell in ("007", 10, "007", 10, 12, 12)]
    table = Table().fit(rows)
    assert table.categories == (("plate", ("007", "10", "12")),)
    assert content(table, "plate", "10") == content(table, "plate", 10)
    assert content(table, "plate", 7) == (1, 0)


def test_booleans_are_equal_in_every_spelling() -> None:
    table = Table().fit([{"treated": True}, {"treated": True}, {"treated": False}, {"treated": False}])
    for cell in (True, "True", "TRUE", " true "):
        assert content(table, "treated", cell) == (category(table, "treated", "true"), 0)
    assert table.column_kinds() == {"treated": "boolean"}


def test_new_values_are_unknown_and_counted() -> None:
    table = Table().fit([{"plate": "A1"}] * 2)
    with counted_changes() as changes:
        table.tokenize({"plate": "B7"})
    assert changes == {"plate: cells that training did not have are unknown": 1}


def test_columns_of_nearly_unique_texts_are_reported() -> None:
    rows: list[Row] = [{"remark": f"text {n}"} for n in range(30)]
    assert Table().survey(rows) == ["remark: 30 of 30 cells are too rare to be learned"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(20150713.0, "20150713"), (30000.0, "30000"), (1e-4, "0.0001"), (12.0, "12"), (3e20, "3e+20"), (-0.25, "-0.25")],
)
def test_numbers_are_shown_without_exponents(number: float, text: str) -> None:
    table = Table().fit([{"n": number * share} for share in (0.5, 1, 1.5)])
    tokens = table.tokenize({"n": number})
    assert f">{text}</td>" in table.show(tokens, np.array([False]), tokens)["original"]


def test_advice_on_codes_can_be_copied() -> None:
    rows = mixed("v", [-99999999.0] * 3) + [{"day": f"2019-05-{n % 28 + 1:02}"} for n in range(60)]
    rows += [{"day": "9999-12-31"}] * 3 + [{"size": f"{n} mm"} for n in range(60)] + [{"size": "-999 mm"}] * 3
    lines = Table().survey(rows)
    assert [line.partition("`")[2].partition("`")[0] for line in lines] == [
        'missing: {day: ["9999-12-31"]}',
        'missing: {size: ["-999 mm"]}',
        "missing: {v: [-99999999]}",
    ]
    with_advice = Table(missing={"day": ("9999-12-31",), "size": (-999,), "v": (-99999999,)})
    assert with_advice.survey(rows) == []
    assert with_advice.fit(rows).scales["size"] == (29.5, pytest.approx(np.std(range(60))))
    assert len(Table(missing={"v": (-1,)}).survey(rows)) == 3, "a code that is not there hides no other"


def test_bounds_in_a_unit_and_with_decimal_commas() -> None:
    rows: list[Row] = [{"size": f"{n},5 mm"} for n in range(40)] + [{"size": "<0,5 mm"}]
    table = Table(invalid_cells="bound").fit(rows)
    assert table.units == (("size", "mm"),)
    assert content(table, "size", "<0,5 mm") == content(table, "size", "0.5 mm")


def test_dates_in_other_orders_are_reported() -> None:
    rows: list[Row] = [{"day": f"{n:02}.11.2019"} for n in range(1, 30)] * 2
    (line,) = Table().survey(rows)
    assert line == "day: text, for 01.11.2019 is no date of ISO 8601: write the year first, as 2019-11-05"


def test_minus_is_a_value_if_plus_is() -> None:
    rows: list[Row] = [{"strand": "+"}, {"strand": "-"}] * 2 + [{"dose": "-"}, {"dose": 1.0}]
    table = Table().fit(rows)
    assert table.categories == (("strand", ("+", "-")),)
    assert content(table, "strand", "-") == (category(table, "strand", "-"), 0)
    assert content(table, "dose", "-") == (0, 0)


def test_a_column_typed_numeric_by_its_source_stays_numeric_in_any_subset_of_rows() -> None:
    rows = mixed("x", ["ND"] * 29, 221)
    assert Table().fit(rows).scales["x"][0] == 110
