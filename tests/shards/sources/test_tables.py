"""Table files: what their rows and cells are."""

from __future__ import annotations

import codecs
import csv
import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from modalities.files.reading import counted_changes
from shards.sources.delimited import Line, read_lines
from shards.sources.tables import infer_types, parse_cell, read_rows, read_table


def written(tmp_path: Path, text: str | bytes, name: str = "a.csv") -> Path:
    """A table file of these contents."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def column(path: Path, name: str, **options: Any) -> list[Any]:
    """The cells of a column."""
    return [row[name] for row in read_rows(path, **options)[1]]


# Quotes and rows


NAMES = ["methanol", '"wood spirit, crude', 'the "heavy" one', '5" trap', "48°06'00\"N", ""]


def test_quotes_in_tsv_files_are_characters(tmp_path: Path) -> None:
    path = written(tmp_path, "name\tn\n" + "".join(f"{name}\t{i}\n" for i, name in enumerate(NAMES)), "a.tsv")
    assert column(path, "n") == list(range(6))
    assert read_table(path)["name"].to_list() == NAMES


def test_fully_quoted_cells_in_tsv_files_are_unquoted(tmp_path: Path) -> None:
    path = written(tmp_path, 'name\tn\n"a\tb"\t1\n"two\nlines"\t2\n"a ""b"""\t3\nplain\t4\n', "a.tsv")
    assert column(path, "name") == ["a\tb", "two\nlines", 'a "b"', "plain"]


def test_a_csv_with_quotes_inside_cells(tmp_path: Path) -> None:
    path = written(tmp_path, 'place,trap\n48°06\'00"N,5" trap\n"a ""b"", c",x\n')
    assert read_table(path).rows() == [("48°06'00\"N", '5" trap'), ('a "b", c', "x")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('n,name\n1,a\n2,"wood spirit\n3,b\n4,the "heavy" one\n', "line 3, a quoted cell without its end"),
        ('n,name\n1,a\n2,"wood spirit\n3,b\n', "line 3, a quoted cell without its end"),
        ("n,name\n1,a\n2,b,c\n", "line 3, 3 cells under a header of 2"),
        ("n,name\n1,a\n\n2\n", "line 4, 1 cells under a header of 2"),
    ],
)
def test_an_unreadable_row_is_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.csv cannot be read: {fault}"):
        read_table(written(tmp_path, text))


def test_a_broken_row_does_not_affect_other_rows(tmp_path: Path) -> None:
    path = written(tmp_path, 'n,name\n1,a\n2,"wood spirit\n3,b\n4,the "heavy" one\n5,c,d\n6,e\n')
    lines = list(read_lines(path))
    assert [line.number for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert [line.cells[0] for line in lines if not line.fault] == ["n", "1", "3", "4", "6"]
    assert lines[5] == Line(6, ["5", "c", "d"], "3 cells under a header of 2")


@pytest.mark.parametrize(("name", "mark"), [("a.csv", "\t"), ("a.csv", ";"), ("a.tsv", ","), ("a.txt", ";")])
def test_the_separator_is_detected_in_the_header(tmp_path: Path, name: str, mark: str) -> None:
    assert read_table(written(tmp_path, f"name{mark}mass\nx{mark}1.5\n", name)).rows() == [("x", "1.5")]


def test_the_separator_is_the_most_frequent_in_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, "site;length, mm;mass\nOslo;12,5;3,25\n")
    assert read_rows(path)[1] == [{"site": "Oslo", "length, mm": 12.5, "mass": 3.25}]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_unicode_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    data = mark + "site,n\nMünchen,1\nÅs,2\n".encode(encoding)
    path = written(tmp_path, gzip.compress(data) if suffix else data, f"a.csv{suffix}")
    assert read_table(path).rows() == [("München", "1"), ("Ås", "2")]


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv cannot be read: line 3 is not UTF-8, save it as UTF-8 text"):
        read_table(written(tmp_path, "site,n\nOslo,1\nMünchen,2\n".encode("latin-1")))
    with pytest.raises(ValueError, match=r"a\.csv cannot be read: it is not text in UTF-8"):
        read_table(written(tmp_path, "site,n\nOslo,1\n".encode("utf-16-le")))


# Types


def test_codes_with_leading_zeros_and_numbers_beyond_float_precision_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, "icd,id,n,b\n007,99999999999999999999,1,true\n0420,1,2,False\n12,2,3,TRUE\n")
    _, rows = read_rows(path)
    assert [tuple(row.values()) for row in rows] == [
        ("007", "99999999999999999999", 1, True),
        ("0420", "1", 2, False),
        ("12", "2", 3, True),
    ]


def test_columns_typed_as_text_are_text(tmp_path: Path) -> None:
    pl.DataFrame({"icd": ["7", "12"], "n": [7, 12], "big": [2**63 - 1, 5]}).write_parquet(tmp_path / "a.parquet")
    _, rows = read_rows(tmp_path / "a.parquet")
    assert rows == [{"icd": "7", "n": 7, "big": 2**63 - 1}, {"icd": "12", "n": 12, "big": 5}]


def test_a_column_has_one_type_in_all_files() -> None:
    first, second = pl.DataFrame({"plate": ["7", "10"]}), pl.DataFrame({"plate": ["007", "A12"]})
    assert [infer_types([first]).cell("plate", "7"), infer_types([first, second]).cell("plate", "7")] == [7, "7"]


def test_a_column_has_the_type_of_nearly_all_its_cells(tmp_path: Path) -> None:
    cells = ["<0.01", "ND", *map(str, range(98))]
    path = written(tmp_path, "lead\n" + "\n".join(cells))
    assert column(path, "lead") == ["<0.01", "ND", *range(98)]


@pytest.mark.parametrize(
    ("cells", "numbers", "notation"),
    [
        (["7,5", "12", "0,25"], [7.5, 12.0, 0.25], "decimal commas"),
        (["1,234", "56", "7,890,123"], [1234, 56, 7890123], "commas between thousands"),
        (["1,234.5", "56"], [1234.5, 56.0], "commas between thousands"),
        (["1.234,5", "56"], [1234.5, 56.0], "points between thousands and decimal commas"),
        (["1 234", "56.5", "\u22127"], [1234.0, 56.5, -7.0], "spaces between thousands"),
        (["1\u202f234,5", "2"], [1234.5, 2.0], "spaces between thousands and decimal commas"),
        (["1'234", "2"], [1234, 2], "apostrophes between thousands"),
        (["1,234", "5678"], [1.234, 5678.0], "decimal commas"),
    ],
)
def test_notations_of_numbers_are_recognized_and_counted(
    tmp_path: Path, cells: list[str], numbers: list[float], notation: str
) -> None:
    path = written(tmp_path, "x\ty\n" + "".join(f"{cell}\tz\n" for cell in cells), "a.tsv")
    with counted_changes() as changes:
        assert column(path, "x") == numbers
    assert changes == {f"x: numbers with {notation}": len(cells)}


def test_an_ambiguous_comma_is_not_a_number(tmp_path: Path) -> None:
    assert column(written(tmp_path, "x\ty\n1,234\tz\n5,678\tz\n", "a.tsv"), "x") == ["1,234", "5,678"]


# Missing cells


def test_words_for_missing_values_are_counted_and_case_sensitive(tmp_path: Path) -> None:
    path = written(tmp_path, "element,country,dose\nNa,NA,none\nK,NO,\nNA,DE,5\n")
    with counted_changes() as changes:
        assert column(path, "element") == ["Na", "K", None]
    assert changes == {"element: 'NA' is missing": 1, "country: 'NA' is missing": 1}
    assert column(path, "dose") == ["none", None, "5"]


def test_codes_replace_the_words_of_a_column(tmp_path: Path) -> None:
    path = written(tmp_path, "country,iron,age\nNA,-999,300\nDE,5,20\n,-999.0,30\n")
    codes = {"country": (), "iron": (-999,), "age": ("300",)}
    with counted_changes() as changes:
        _, rows = read_rows(path, codes)
    assert rows == [
        {"country": "NA", "iron": None, "age": None},
        {"country": "DE", "iron": 5, "age": 20},
        {"country": None, "iron": None, "age": 30},
    ]
    assert changes == {"iron: '-999' is missing": 1, "iron: '-999.0' is missing": 1, "age: '300' is missing": 1}


def test_codes_apply_to_typed_columns(tmp_path: Path) -> None:
    pl.DataFrame({"age": [300.0, 20.0], "n": [-9, 4]}).write_parquet(tmp_path / "a.parquet")
    with counted_changes() as changes:
        _, rows = read_rows(tmp_path / "a.parquet", {"age": (300,), "n": (-9,)})
    assert rows == [{"age": None, "n": None}, {"age": 20.0, "n": 4}]
    assert changes == {"age: '300.0' is missing": 1, "n: '-9' is missing": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("74", 74), (" 1.5 ", 1.5), ("-3", -3), ("1e-3", 0.001), ("Male", "Male"), ("a1", "a1"), ("007", "007"),
        ("1e5", "1e5"), ("9" * 20, "9" * 20), ("9" * 400, "9" * 400), ("426783006,1", "426783006,1"), ("1_0", "1_0"),
        ("", None), (" ", None), ("n/a", None), ("NaN", None), ("-", None), ("Na", "Na"), ("none", "none"),
        ("inf", "inf"), ("1e+999", "1e+999"),
    ],
)  # fmt: skip
def test_a_single_cell_is_a_number_if_the_conversion_is_lossless(text: str, value: Any) -> None:
    cell = parse_cell(text)
    assert cell == value
    assert type(cell) is type(value)


# As many programs write tables


def test_distant_quotes_do_not_merge_rows(tmp_path: Path) -> None:
    notes = [f"note {n}" for n in range(100)]
    notes[10], notes[70] = '"see note', 'trap 5"'
    path = written(tmp_path, "n\tnote\n" + "".join(f"{n}\t{note}\n" for n, note in enumerate(notes)), "a.tsv")
    assert read_table(path)["note"].to_list() == notes


def test_quotes_as_written_by_r(tmp_path: Path) -> None:
    path = written(tmp_path, '"trap"\t"n"\n"5 \\" trap"\t1\n"a"\t2\n', "a.txt")
    assert read_rows(path)[1] == [{"trap": '5 " trap', "n": 1}, {"trap": "a", "n": 2}]


def test_a_row_of_empty_cells_is_a_row(tmp_path: Path) -> None:
    assert column(written(tmp_path, "a\tb\n1\t2\n\t\n3\t4\n", "a.tsv"), "a") == [1, None, 3]


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("a.tsv", "length, min, max\tmass, g\n1,5\t2\n", {"length, min, max": 1.5, "mass, g": 2}),
        ("a.csv", '"Länge, mm";"Masse, g"\n12,5;3,25\n', {"Länge, mm": 12.5, "Masse, g": 3.25}),
        ("a.csv", "a;b;;\n1;x;;\n", {"a": 1, "b": "x"}),
        ("a.csv", ",b\nx,1\n", {"": "x", "b": 1}),
    ],
)
def test_headers_as_written_by_spreadsheets(tmp_path: Path, name: str, text: str, row: dict[str, Any]) -> None:
    assert read_rows(written(tmp_path, text, name))[1] == [row]


def test_a_boolean_column_with_other_words_keeps_them() -> None:
    frame = pl.DataFrame({"x": ["True", "FALSE", "unknown"]})
    types = infer_types([frame], kinds={"x": "boolean"})
    assert [types.cell("x", cell) for cell in frame["x"]] == [True, False, "unknown"]


def test_the_decimal_mark_follows_the_other_columns_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "mass;count;depth\n1,5;1.234;1,234\n2,25;12.300;2,500\n")
    assert [tuple(row.values()) for row in read_rows(path)[1]] == [(1.5, 1234, 1.234), (2.25, 12300, 2.5)]
    path = written(tmp_path, 'mass,count\n1.5,"1,234"\n2.25,"2,500"\n')
    assert column(path, "count") == [1234, 2500]


def test_codes_with_decimal_commas_are_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "y;z\n-999,0;1\n7,5;2\n")
    with counted_changes() as changes:
        assert column(path, "y", codes={"y": (-999,)}) == [None, 7.5]
    assert changes == {"y: '-999,0' is missing": 1, "y: numbers with decimal commas": 1}


def test_integers_with_exponents_among_others_are_identifiers(tmp_path: Path) -> None:
    assert column(written(tmp_path, "id\n1023\n1e5\n4711\n"), "id") == ["1023", "1e5", "4711"]
    assert column(written(tmp_path, "n\n1e5\n2.5e6\n"), "n") == [1e5, 2.5e6]


def test_minus_is_a_value_if_plus_is(tmp_path: Path) -> None:
    path = written(tmp_path, "gram,strand,dose\n+,+,-\n-,-,1\n-,,2\n")
    with counted_changes() as changes:
        _, rows = read_rows(path)
    assert [row["gram"] for row in rows] == ["+", "-", "-"]
    assert [row["strand"] for row in rows] == ["+", "-", None]
    assert [row["dose"] for row in rows] == [None, 1, 2]
    assert changes == {"dose: '-' is missing": 1}


def test_codes_for_missing_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.source\.missing names 'irn', but .*a\.csv has no such column"):
        read_rows(written(tmp_path, "iron\n1\n"), {"irn": (-999,)})


def test_cells_may_exceed_the_csv_field_limit(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)
    assert column(written(tmp_path, f"dna,n\n{'ACGT' * 50_000},1\n"), "n") == [1]


def test_very_long_cells_are_text_at_once(tmp_path: Path) -> None:
    cells = ["1" * 20_000 + "x!", "01" * 1024, "7" * 5000]
    assert column(written(tmp_path, "bits\n" + "\n".join(cells)), "bits") == cells


def test_typed_categories_are_text(tmp_path: Path) -> None:
    frame = pl.DataFrame({"site": pl.Series(["NA", "x"], dtype=pl.Categorical)})
    frame.write_parquet(tmp_path / "a.parquet")
    assert column(tmp_path / "a.parquet", "site") == [None, "x"]
