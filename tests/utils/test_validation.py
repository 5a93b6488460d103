import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse

from ptsne_keras import (
    MapRegressor,
    ParametricTSNE,
    affinities,
    callbacks,
    data,
    evaluate,
    losses,
    metrics,
    networks,
    plotting,
    serving,
    training,
)
from ptsne_keras.io import maps
from ptsne_keras.utils import validation
from ptsne_keras.utils.validation import (
    check_integer,
    check_not_negative,
    check_rows,
    estimator_rows,
)

HOLED = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(5), r"2-D array .* Received: shape \(5,\)"),
        (np.ones((0, 5)), r"X should have at least 1 row\. .* shape \(0, 5\)"),
        (np.ones((5, 0)), r"X should have columns; .*\(shape=\(5, 0\)\)"),
        (np.array([["a", "b"]]), "should be numeric"),
        (np.eye(2) * 1j, "should be real"),
        (np.array([[1, None]]), "should be finite"),
        (np.array([[1, "a"]], dtype=object), "should be numeric; .* 'a' in row 0, column 1"),
        (HOLED.tolist(), "NaN in 2 of 3 rows, the first at index 1"),
        (scipy.sparse.csr_matrix(np.eye(3)), r"should be dense here: give X\.toarray\(\)"),
    ],
)
def test_bad_rows_are_named(X, message):
    with pytest.raises(ValueError, match=message):
        check_rows(X)


DIGITS = ["00007", "1", "2"]
DATES = [datetime.date(2020, 1, day) for day in (1, 2, 3)]
WORDS = {
    "objects": np.array([[1, "7"], [2, "8"]], dtype=object),
    "bytes": np.array([[1, b"7"], [2, b"8"]], dtype=object),
    "object column": pd.DataFrame({"a": [1.0, 2, 3], "zip": pd.Series(DIGITS, dtype=object)}),
    "string column": pd.DataFrame({"a": [1.0, 2, 3], "zip": pd.Series(DIGITS, dtype="string")}),
    "category": pd.DataFrame({"a": [1.0, 2, 3], "zip": pd.Categorical(DIGITS)}),
    "arrow column": pd.DataFrame({"zip": pd.array(DIGITS, pd.ArrowDtype(pa.string()))}),
    "dates": pd.DataFrame({"a": [1.0, 2, 3], "zip": DATES}),
    "times": pd.DataFrame({"a": [1.0, 2, 3], "zip": pd.to_datetime(DATES)}),
    "Arrow table": pa.table({"a": [1.0, 2, 3], "zip": DIGITS}),
    "dates of Arrow": pa.table({"zip": DATES}),
}
NUMBERS = {
    "whole numbers": pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": pd.Categorical([1, 2])}),
    "decimals": pd.DataFrame({"a": [Decimal("1"), Decimal("2")], "b": [True, 2.0]}),
    "Arrow table": pa.table({"a": [1, 2], "b": pa.array([1, 2], pa.decimal128(4, 2))}),
}


@pytest.mark.parametrize("X", WORDS.values(), ids=WORDS)
def test_words_made_of_digits_are_no_numbers(X):
    place = "column 1" if isinstance(X, np.ndarray) else "column 'zip'"
    for check in (check_rows, lambda X: estimator_rows(MapRegressor(), X, reset=True)):
        with pytest.raises(ValueError, match=rf"X should be numeric; .*{place}\.$"):
            check(X)


@pytest.mark.parametrize("X", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_any_kind_stay_numbers(X):
    assert check_rows(X).tolist()[1] == [2, 2]
    assert estimator_rows(MapRegressor(), X, reset=True).tolist()[1] == [2, 2]


def test_whole_numbers_that_no_float_holds_are_named():
    with pytest.raises(ValueError, match=r"X should be numeric.* too large"):
        check_rows(np.array([[10**400]], dtype=object))


class TestRounding:
    rows = np.random.default_rng(0).normal(size=(300, 3))

    @pytest.mark.parametrize(
        ("X", "column"),
        [
            (rows + 1e7, "2"),
            (pd.DataFrame(rows + np.array([0, 0, 1e9]), columns=[*"abt"]), "'t'"),
            (np.rint(1000 * rows).astype("int64") + 10**10, "2"),
        ],
        ids=["offset", "frame", "integers"],
    )
    def test_columns_too_far_from_zero_are_named(self, X, column):
        with pytest.warns(UserWarning, match=f"X should lie nearer to 0.*: column {column} of"):
            estimator_rows(MapRegressor(), X, reset=True)

    @pytest.mark.parametrize(
        "X",
        [rows + 1e3, np.column_stack([rows, np.full(300, 1e12)]), (rows + 1e7).astype("float32")],
        ids=["near", "constant", "float32"],
    )
    def test_others_are_not(self, X):
        estimator_rows(MapRegressor(), X, reset=True)  # warnings are errors

    def test_rows_on_disk_are_looked_at_as_well(self, tmp_path):
        np.save(tmp_path / "X.npy", self.rows + 1e7)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
        with pytest.warns(UserWarning, match="X should lie nearer to 0"):
            MapRegressor().fit(X, self.rows[:, :2])


def test_options_of_check_rows():
    with pytest.raises(ValueError, match=r"Y should .* infinity or a value above 3\.4e38 in 1 of"):
        check_rows([[1e39]], name="Y", dtype=np.float32)
    with pytest.raises(ValueError, match="1 of the first 41 rows, the first at index 40"):
        check_rows([[np.inf]], start=40)
    with pytest.raises(ValueError, match="NaN in 2 of 3 rows, the first at index 1"):
        check_rows(scipy.sparse.coo_array(HOLED), sparse=True)
    assert check_rows(scipy.sparse.coo_array(np.eye(3)), sparse=True).format == "csr"


@pytest.mark.parametrize(
    ("X", "dtype"),
    [
        (np.ones((2, 2), "int64"), "float32"),
        (np.ones((2, 2), "float32"), "float32"),
        (np.ones((2, 2), "float64"), "float64"),
        (np.ones((2, 2), ">f8"), "float64"),
        (np.ones((2, 2), "bool"), "float32"),
        (np.array([[1, True], [1, 1.0]], dtype=object), "float64"),
    ],
)
def test_numeric_rows_become_float(X, dtype):
    found = check_rows(X)
    assert found.dtype == dtype
    assert found.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("value", [1, 2.0, True, "2", None])
def test_bad_integers_are_named(value):
    assert check_integer(np.int64(2), "k", 2) == 2
    with pytest.raises(ValueError, match=f"integer of at least 2. Received: {value!r}"):
        check_integer(value, "k", 2)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, True, "a"])
def test_bad_numbers_are_named(value):
    assert check_not_negative(np.float32(0.5), "jitter") == 0.5
    with pytest.raises(ValueError, match="jitter should be a finite number of at least 0"):
        check_not_negative(value, "jitter")


def test_the_rows_of_a_fit_are_checked_once(X, monkeypatch):
    """What a fit calls takes rows that are checked; y is checked beside X."""
    checked = []
    is_finite = validation._is_finite
    monkeypatch.setattr(
        validation, "_is_finite", lambda values: checked.append(values) or is_finite(values)
    )
    ParametricTSNE(hidden_units=(8,), epochs=1).fit(X)
    assert [values.shape for values in checked] == [X.shape]
    checked.clear()
    MapRegressor().fit(X, X[:, :2])
    assert sorted(values.shape for values in checked) == [(90, 2), (90, 5)]


def with_masked_cells():
    """Return what each public function does with the rows, maps or labels it takes."""
    X = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    names = np.ma.masked_where(np.arange(20) == 3, np.arange(20))
    rows = np.ma.masked_where(np.arange(40).reshape(20, 2) == 7, X)
    encoder, P = networks.encoder(2), np.full((20, 20), 1 / 400)
    table = maps.Map(X, np.arange(20).astype(str))
    fitted = MapRegressor(n_neighbors=5, perplexity=2, random_state=0).fit(X, X)
    return {
        "fit": lambda: ParametricTSNE().fit(rows),
        "fit a map": lambda: MapRegressor().fit(X, rows),
        "fit rows to a map": lambda: MapRegressor().fit(rows, X),
        "fit one coordinate": lambda: MapRegressor().fit(X, names),
        "transform": lambda: fitted.transform(rows),
        "novelty": lambda: fitted.novelty(rows),
        "evaluate": lambda: evaluate(fitted, rows),
        "evaluate labels": lambda: evaluate(fitted, X, labels=names),
        "nearest": lambda: affinities.nearest(rows, 3),
        "joint": lambda: affinities.joint_probabilities(rows, 5),
        "conditional": lambda: affinities.conditional_probabilities(rows, 5),
        "neighbours": lambda: affinities.neighbor_probabilities(abs(rows), 1.5),
        "batches": lambda: data.from_array(rows, 3, 10),
        "graph": lambda: data.from_graph(rows, 3, 10),
        "loss": lambda: losses.tsne(P, rows),
        "kl": lambda: metrics.kl_divergence(P, rows),
        "align": lambda: metrics.align(rows),
        "align to": lambda: metrics.align(X, rows),
        "procrustes": lambda: metrics.procrustes_correlation(X, rows),
        "trustworthiness": lambda: metrics.trustworthiness(X, rows),
        "recall": lambda: metrics.neighborhood_recall(rows, X),
        "accuracy": lambda: metrics.knn_accuracy(X, names),
        "distances": lambda: metrics.distance_correlation(X, rows),
        "pretrain": lambda: training.pretrain(rows, (5,)),
        "refine": lambda: training.refine(rows, affinities.nearest(X, 5), P[:, :5]),
        "placement": lambda: networks.Placement.from_reference(rows, X),
        "scatter": lambda: plotting.scatter(rows),
        "labels": lambda: plotting.scatter(X, names),
        "overlay": lambda: plotting.overlay(X, None, rows, None),
        "shepard": lambda: plotting.shepard(X, rows),
        "page": lambda: plotting.html(X, "page.html", values={"a": names}),
        "snapshots": lambda: callbacks.MapSnapshots(rows, "maps"),
        "labels of snapshots": lambda: callbacks.MapSnapshots(X, "maps", labels=names),
        "export": lambda: serving.export_saved_model(encoder, "model", reference=rows),
        "ids": lambda: table.of(names),
        "write": lambda: maps.write("map.csv", [(rows, {})]),
        "write an array": lambda: maps.write("map.npy", [(rows, {})]),
        "write labels": lambda: maps.write("map.csv", [(X, {"label": names})]),
    }


def test_masked_cells_are_refused_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken = {}
    for name, call in with_masked_cells().items():
        try:
            call()
        except ValueError as error:
            if "should have no masked cells" not in str(error):
                taken[name] = str(error)
        else:
            taken[name] = "nothing"
    assert not taken
    assert not list(tmp_path.iterdir())
