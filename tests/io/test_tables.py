"""Text tables: layouts are found, numbers are never wrong, and errors name line and column."""

import gzip
import tracemalloc

import numpy as np
import pandas
import pytest

from ptsne_keras.io import maps, tables
from ptsne_keras.io.rows import Choice, Reader


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rows.csv"


def read(file, text, **choice):
    file.write_text(text)
    return Reader(file, Choice(**choice)).read()


TWO = [[1, 2], [3, 4]]
LAYOUTS = {
    "quoted cells and blank lines": ('"a","b"\n"1","2"\n\n  \n3,4\n', {}),
    "a semicolon in a quoted name": ('"a;b","c"\n1,2\n3,4\n', {}),
    "a comma in a quoted name": ('"a, b";c\n1;2\n3;4\n', {}),
    "a semicolon in every name of a row": ("id,a,b\nx;y,1,2\nz;w,3,4\n", {"ids": "id"}),
    "line breaks in quoted cells": ('id,a,b\n"x\ny",1,2\n"z\nw",3,4\n', {"ids": "id"}),
    "a delimiter at the end of rows alone": ("a,b\n1,2,\n3,4,\n", {}),
    "a delimiter at the end of rows without a header": ("1,2,\n3,4,\n", {}),
    "sep= of Excel": ("sep=;\na;b\n1;2\n3;4\n", {}),
    "decimal commas": ("a;b\n1,0;2\n3;4,0\n", {}),
    "thousands": ("a;b\n1;2\n3;4\n", {"thousands": "."}),
    "a delimiter that is asked for": ("a|b\n1|2\n3|4\n", {"delimiter": "|"}),
    "blanks": ("  a   b\n  1   2\n  3   4\n", {}),
    "labels by number": ("1,2,x\n3,4,y\n", {"labels": "3"}),
    "the index of pandas": (",0,1\n10,1,2\n11,3,4\n", {}),
}


HALVES = [[1.5, 2], [3, 4.25]]
WRITERS = {
    "R write.csv": '"","V1","V2"\n"1",1.5,2\n"2",3,4.25\n',
    "R write.csv, no row names": '"V1","V2"\n1.5,2\n3,4.25\n',
    "R write.csv2": '"";"V1";"V2"\n"1";1,5;2\n"2";3;4,25\n',
    "R write.table": '"V1" "V2"\n"1" 1.5 2\n"2" 3 4.25\n',
    "R write.table, tabs": '"V1"\t"V2"\n"1"\t1.5\t2\n"2"\t3\t4.25\n',
    "R write.table, names with blanks": 'V1 V2\n"cell 1" 1.5 2\n"cell 2" 3 4.25\n',
    "R write.table, decimal commas, tabs": "V1\tV2\n1,5\t2\n3\t4,25\n",
    "R write.table, decimal commas, no header": "1,5 2,0\n3,0 4,25\n",
    "pandas": ",x,y\n0,1.5,2.0\n1,3.0,4.25\n",
    "pandas without names": ",0,1\n0,1.5,2.0\n1,3.0,4.25\n",
    "no header": "1.5\t2\n3\t4.25\n",
    "NumPy savetxt": "1.500000e+00 2.000000e+00\n3.000000e+00 4.250000e+00\n",
    "comments, blank lines and blanks above": "\n# by hand\n  \nx, y\n1.5, 2\n3, 4.25\n   \n",
    "a comma at the end": "x,y,\n1.5,2,\n3,4.25,\n",
    "byte order mark and Windows lines": "\ufeffx,y\r\n1.5,2\r\n3,4.25\r\n\r\n",
    "R write.table, col.names=NA": '""\t"V1"\t"V2"\n"1"\t1.5\t2\n"2"\t3\t4.25\n',
    "R fwrite, row names": '"",V1,V2\n1,1.5,2\n2,3,4.25\n',
    "R fwrite, decimal commas": "V1;V2\n1,5;2\n3;4,25\n",
    "row names, and tabs at the ends": "x\ty\t\n1\t1.5\t2\t\n2\t3\t4.25\t\n",
    "polars, exponents": "x,y\n1.5e0,2.0e0\n3.0e0,4.25e0\n",
    "Excel, German": "\ufeffx;y\r\n1,5;2\r\n3;4,25\r\n",
    "Excel, German, empty columns": "x;y;;\r\n1,5;2;;\r\n3;4,25;;\r\n",
    "Excel, sep= a tab": "sep=\t\nx\ty\n1.5\t2\n3\t4.25\n",
    "Julia CSV.jl": "x,y\n1.5,2.0\n3.0,4.25\n",
    "Julia DelimitedFiles": "1.5\t2.0\n3.0\t4.25\n",
    "MATLAB writematrix": "1.5,2\n3,4.25\n",
    "MATLAB save -ascii": "   1.5e+00   2.0e+00\n   3.0e+00   4.25e+00\n",
    "blanks and some decimal commas": "a b\n1,5 2\n3 4,25\n",
    "commas in names": "a,1\tb\n1.5\t2\n3\t4.25\n",
    "a line break in a name": '"a\nx",b\n1.5,2\n3,4.25\n',
    "lines of old Macs": "x,y\r1.5,2\r3,4.25\r",
}
WITH_OPTIONS = {
    "pandas, several indices": ("i,j,x,y\na,0,1.5,2\nb,1,3,4.25\n", {"drop": ["i", "j"]}),
    "MATLAB writetable": ("Row,x,y\na,1.5,2\nb,3,4.25\n", {"ids": "Row"}),
    "German Google Sheets": ('x,y\n"1,5",2\n3,"4,25"\n', {"decimal": ","}),
    "German thousands": ("x;z;y\n1,5;1.234,5;2\n3;7;4,25\n", {"thousands": ".", "drop": ["z"]}),
    "a pipe": ("x|y\n1.5|2\n3|4.25\n", {"delimiter": "|"}),
}
GROUPED = {
    "Excel, German": ("x;y\r\n1.234,5;2\r\n3;4.000\r\n", {"thousands": "."}),
    "Excel, US": ('x,y\r\n"1,234.50",2\r\n3,"4,000"\r\n', {"thousands": ","}),
    "Swiss": ("x;y\n1'234.5;2\n3;4'000\n", {"thousands": "'"}),
    "French": ("x;y\n1\u202f234,5;2\n3;4\u202f000\n", {"thousands": "\u202f", "decimal": ","}),
}


@pytest.mark.parametrize(("text", "choice"), WITH_OPTIONS.values(), ids=WITH_OPTIONS)
def test_options_say_what_a_file_leaves_open(text, choice, file):
    assert read(file, text, **choice).X.tolist() == HALVES


@pytest.mark.parametrize(("text", "choice"), GROUPED.values(), ids=GROUPED)
def test_thousands_are_groups_of_three_digits(text, choice, file):
    with pytest.raises(ValueError, match=r"thousands.* in line \d, column|in line 2 .*thousands="):
        read(file, text)
    assert read(file, text, **choice).X.tolist() == [[1234.5, 2], [3, 4000]]
    mark = choice["thousands"]
    for wrong in (f"1{mark}5", f"1{mark}2345", f"1234{mark}567"):
        with pytest.raises(ValueError, match=r"'x'.* in line 2"):
            read(file, f"x;y\n{wrong};2\n3;4\n", **choice | {"delimiter": ";"})


def test_one_column_is_read(file):
    for text in ("x\n1.5\n3\n", "my x\n1.5\n3\n", "1.5\n3\n"):
        assert read(file, text).X.tolist() == [[1.5], [3]]
    decimal = "x\n1,5\n3,0\n"
    with pytest.raises(ValueError, match=r"decimal=',' or delimiter=',' should say.*'1,5'"):
        read(file, decimal)
    assert read(file, decimal, decimal=",").X.tolist() == [[1.5], [3]]
    assert read(file, decimal, delimiter=",").X.tolist() == [[5], [0]]


def test_the_whole_file_decides_on_the_decimal_mark(file):
    for mark, delimiter in ((",", "\t"), (".", ";")):
        many = f"a{delimiter}b\n" + f"1{delimiter}270{mark}516\n" * 200
        expected = r"(commas|points) that may be decimal or group.*'270.516' in line 2, column 'b'"
        with pytest.raises(ValueError, match=expected):
            read(file, many)
        rows = read(file, f"{many}1{delimiter}2{mark}5\n")
        np.testing.assert_allclose(rows.X[[0, -1], 1], [270.516, 2.5])
    late = "a;b\n" + "1;2\n" * 200
    with pytest.raises(ValueError, match=r"points that may.*'1.234' in line 202, column 'b'"):
        read(file, late + "1;1.234\n")
    assert read(file, late + "1;1.234\n1;.5\n").X[-1, 1] == 0.5


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("ending", ["csv", "TXT", "tsv.gz"])
def test_tables_of_every_writer_are_read(writer, ending, tmp_path):
    file = tmp_path / f"map.{ending}"
    text = WRITERS[writer].encode()
    file.write_bytes(gzip.compress(text) if ending == "tsv.gz" else text)
    found = maps.read(file)
    assert found.Y.tolist() == HALVES == Reader(file).read().X.tolist()
    names = {"R write.csv": ["1", "2"], "pandas": ["0", "1"], "no header": None}
    if writer in names:
        assert (found.ids if found.ids is None else found.ids.tolist()) == names[writer]


@pytest.mark.parametrize(("text", "choice"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_are_found(text, choice, file):
    assert read(file, text, **choice).X.tolist() == TWO


def test_ids_may_look_like_huge_numbers(file):
    rows = read(file, "id;a\n3e12345678901;1,5\nx;2\n", ids="id")
    assert (rows.ids.tolist(), rows.X.tolist()) == (["3e12345678901", "x"], [[1.5], [2]])


def test_truth_values_are_numbers(file):
    assert read(file, "a,b\nTrue,2\nFalse,4\n").X.tolist() == [[1, 2], [0, 4]]


@pytest.mark.parametrize(
    "text",
    [
        "#id,kind,x\na,u,1\nb,v,2\n",
        "## of 2009\n# by hand\n# id,kind,x\na,u,1\nb,v,2\n",
        "# by hand\nid,kind,x\na,u,1\nb,v,2\n",
        "# x, kind, id\nid,kind,x\na,u,1\nb,v,2\n",
        "#id\tkind\tx\na\tu\t1\nb\tv\t2\n",
    ],
)
def test_a_header_may_begin_with_a_hash(text, file):
    rows = read(file, text, ids="id", labels="kind")
    assert (rows.X.tolist(), rows.ids.tolist()) == ([[1], [2]], ["a", "b"])
    assert rows.labels.tolist() == ["u", "v"]


@pytest.mark.parametrize("head", ["#id,x", "id,x"])
def test_rows_below_the_header_are_not_comments(head, file):
    rows = read(file, f"{head}\n#1,5\n#2,6\n", ids="id")
    assert (rows.X.tolist(), rows.ids.tolist()) == ([[5], [6]], ["#1", "#2"])


HEADERS = {
    "words": ("a,b\n1,2\n", True),
    "words and numbers": ("id,2019,2020\nx,6,0\ny,8,1\n", False),
    "an empty corner": (",4000,3998\n0,1,2\n1,3,4\n", True),
    "as pandas numbers columns": ("0,1,2\n5,6,7\n8,9,1\n", True),
    "two numbers": ("3,1\n2,5\n", False),
    "0 and 1": ("0,1\n3.5,4\n", False),
    "1, 2, 3": ("1,2,3\n4.5,5,6\n", False),
    "a mark for a missing value": ("?,2,1\n1,2,3\n", False),
    "one row": ("1,2,3\n", False),
    "rows that all rise": ("1,2,3\n4,5,6\n7,8,9\n", False),
    "names of rows": ("s0,1.5,2.5\ns1,3.5,4.5\n", False),
}


@pytest.mark.parametrize(("text", "header"), HEADERS.values(), ids=HEADERS)
def test_a_header_is_words_or_what_pandas_writes(text, header, file):
    file.write_text(text)
    assert Reader(file).source.named is header
    for asked in (True, False) if text.count("\n") > 1 else (False,):
        assert Reader(file, Choice(header=asked)).source.named is asked


NAMES_AS_NUMBERS = {
    "years": "2019,2020,2021\n0.5,0.7,0.1\n",
    "wavenumbers": "4000;3998;3996;id\n0,1;0,3;0,2;x\n0,2;0,1;0,3;y\n",
    "fractions": "1100.5,1101,1101.5\n.1,.2,.3\n.2,.3,.4\n",
    "far numbers": "500,100,900\n.1,.2,.3\n.2,.1,.4\n",
}


@pytest.mark.parametrize("text", NAMES_AS_NUMBERS.values(), ids=NAMES_AS_NUMBERS)
def test_a_first_row_unlike_all_others_gets_a_warning(text, file):
    file.write_text(text)
    with pytest.warns(UserWarning, match="first line.* is read as a row; header=True if"):
        assert not Reader(file).source.named
    for header in (True, False):  # and no warning
        assert Reader(file, Choice(header=header)).source.named is header


def test_numbers_are_names_if_that_is_said(file):
    years = "id,2019,2020\nx,6,0\ny,8,1\n"
    rows = read(file, years, header=True, ids="id")
    assert (rows.X.tolist(), rows.ids.tolist()) == ([[6, 0], [8, 1]], ["x", "y"])
    for choice in ({"columns": ["2019"]}, {"ids": "id"}):
        with pytest.raises(ValueError, match=r"should be .*; header=True if its first line has"):
            read(file, years, **choice)
    with pytest.raises(ValueError, match=r"'id' in line 1 \(header=True if that line names"):
        read(file, years)


HEAD = "a,b\n1,2\n"
BAD = {
    "text": (HEAD + "3,four\n", r"Column 'b' .*drop=.*'four' in line 3"),
    "an underscore": (HEAD + "1_0,3\n", r"Column 'a'.*'1_0' in line 3"),
    "missing": (HEAD + "3,\n", "finite number in every cell.*NaN in row 2, column 'b'"),
    "NA": (HEAD + "NA,1\n", "finite number in every cell.*NaN in row 2, column 'a'"),
    "infinite": (HEAD + "1e60,1\n", "finite number.*inf|1e.60 in row 2, column 'a'"),
    "a huge exponent": (HEAD + "1.5e4354782104492,1\n", "finite number.*inf in row 2"),
    "another": ("a;b\n1,5;1E4294967296\n", "finite number.*inf in row 1, column 'b'"),
    "half an exponent": (HEAD + "1.5e4354782104492e,1\n", "Column 'a'.*'1.5e43.* in line 3"),
    "ragged": (HEAD + "3\n", "2 cells in every row.*1 in line 3"),
    "wider": (HEAD + "3,4,5\n", "2 cells in every row.*3 in line 3"),
    "wider from the first": ("x,y\n1,2,3,4\n5,6,7,8\n", "2 cells in every row.*4 in line 2"),
    "row names twice": ("x,y\na,1,2\na,3,4\n", "2 cells in every row.*3 in line 2"),
    "after a line break": ('"a\nb",c\n1,2\n3,x\n', "Column 'c'.*'x' in line 4"),
    "empty": ("", "should be a table of rows.*0 lines"),
    "header alone": ("a,b\n", "should be a table of rows.*1 lines"),
    "twice": ("a,a\n1,2\n", "name of its own for each column.*'a'"),
    "several indices of pandas": (
        ",,x,y\na,0,1.5,2\nb,1,3,4\n",
        "name of its own for each column.*''",
    ),
    "several headers of pandas": (",a,b\n,x,y\n0,1,2\n", "Column 'a'.*'x' in line 2"),
    "the same name above two": (",a,a\n,x,y\n0,1,2\n", "name of its own for each column.*'a'"),
    "nullable of pandas": ("x,y\n<NA>,2\n3,4\n", "NaN in row 1, column 'x'"),
    "null of polars": ("x,y\nnull,2\n3,4\n", "NaN in row 1, column 'x'"),
    "missing of Julia": ("x,y\nmissing,2\n3,4\n", "Column 'x'.*drop=.*'missing' in line 2"),
    "complex of MATLAB": ("1+2i,2\n3,4\n", r"Column '1'.*'1\+2i' in line 1"),
    "per cent of Excel": ("x,y\r\n5.00%,2\r\n", "Column 'x'.*drop=.*'5.00%' in line 2"),
    "an error of Excel": ("x,y\r\n#DIV/0!,2\r\n", "Column 'x'.*drop=.*'#DIV/0!' in line 2"),
    "a date of Excel": ("x,y\r\n1/5/2020,2\r\n", "Column 'x'.*drop=.*'1/5/2020' in line 2"),
    "a title of Excel": (
        "T,\r\n,\r\nx,y\r\n1,2\r\n",
        "names for all.*header=.*column 2",
    ),
    "escaped quotes of R": ('"a" "b"\n"x \\"y\\" z" 1 2\n', "2 cells.*delimiter=.*4 in line 2"),
    "exponents of Fortran": (HEAD + "1D5,3\n", "Column 'a'.*'1D5' in line 3"),
    "another delimiter": ("a|b\n1|2\n", r"'1\|2' in line 2 \(delimiter= sets"),
    "a comma or a point": ("a\tb\n1,5\t2.5\n", "decimal=',' or thousands=',' should.*'1,5'"),
    "groups of three": ("a\tb\n7\t270,516\n", "decimal=',' or thousands=',' should.*'270,516'"),
    "a late decimal comma": ("a;b\n" + "1;2\n" * 200 + "1;2,5\n", "'2,5' in line 202"),
    "a late decimal point": ("a;b\n" + "1,5;2\n" * 200 + "1;2.5\n", "'2.5' in line 202"),
    "an open quote": (HEAD + '"3,4\n5,6\n', "cells in every row.*1 in line"),
    "Latin-1": (b"a,b\n\xe9,2\n", "UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-8"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_what_is_wrong_with_a_table_is_said_in_one_line(zipped, text, words, tmp_path):
    file = tmp_path / ("rows.csv" + ".gz" * zipped)
    text = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(gzip.compress(text) if zipped else text)
    with pytest.raises(ValueError, match=words) as raised:
        Reader(file).read()
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


def test_rows_that_are_cut_are_found_behind_missing_labels(file):
    rows = read(file, "a,kind\n1,x\n2,\n", labels="kind")
    assert rows.labels.tolist() == ["x", None]
    with pytest.raises(ValueError, match=r"2 cells in every row.*1 in line 3"):
        read(file, "a,kind\n1,x\n2\n", labels="kind")
    with pytest.raises(ValueError, match=r"2 cells in every row.*3 in line 202"):
        read(file, "a,b,\n" + "1,2,\n" * 200 + "1,2,3\n")


def test_damaged_gzip_is_named(rng, tmp_path):
    file = tmp_path / "rows.csv.gz"
    pandas.DataFrame(rng.normal(size=(3000, 5))).to_csv(file, index=False)
    body = bytearray(file.read_bytes())
    file.write_bytes(body[:-20])
    with pytest.raises(ValueError, match="should be a whole gzip file"):
        Reader(file).read()
    body[100:40_000] = bytes(reversed(body[100:40_000]))
    file.write_bytes(body)
    with pytest.raises(ValueError, match="gzip file") as raised:
        Reader(file).read()
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_large_table_is_never_held_twice(rng, file, monkeypatch):
    X = rng.normal(size=(40_000, 20)).astype(np.float32)
    pandas.DataFrame(X).add_prefix("c").to_csv(file, index=False)
    monkeypatch.setattr(tables, "_CELLS", 20 * 1000)
    tracemalloc.start()
    rows = Reader(file).read()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(rows.X, X, rtol=1e-5)
    assert most < 1.5 * X.nbytes


def test_a_wide_table_is_read(rng, file):
    X = rng.normal(size=(6, 20_000)).astype(np.float32)
    pandas.DataFrame(X).add_prefix("c").assign(kind=list("abcdef")).to_csv(file, index=False)
    rows = Reader(file, Choice(labels="kind")).read()
    np.testing.assert_allclose(rows.X, X, rtol=1e-5)
