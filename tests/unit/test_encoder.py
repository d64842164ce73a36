"""The encoder: decided by training rows alone, the same bits for a row wherever it is encoded."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import RaycycleError, UsageError
from tables import sketches
from tables.casting import ARROW
from tables.contract import Column, Contract
from tables.encoder import Encoder
from tables.sketches import merge, sketch

TYPES = {"n": "double", "i": "int64", "b": "bool", "c": "string", "d": "date", "t": "timestamp"}


def rows(**columns: list) -> pa.Table:
    return pa.table({name: pa.array(values, ARROW[TYPES[name[0]]]) for name, values in columns.items()})


def promise(table: pa.Table) -> Contract:
    columns = {name: Column(type=TYPES[name[0]]) for name in table.column_names}  # type: ignore[arg-type]
    return Contract(name="t", task="binary", label="y", columns={**columns, "y": Column(type="bool", role="label")})


def fit(table: pa.Table, *, time_column: str | None = None, max_levels: int = 250, min_rows: int = 1) -> Encoder:
    found = {name: sketch(table.column(name).combine_chunks()) for name in table.column_names}
    return Encoder.fit(promise(table), found, time_column=time_column, max_levels=max_levels, min_rows=min_rows)


MOMENTS = [dt.datetime(2020, 1, 6, 7, 30, tzinfo=dt.UTC), None, dt.datetime(2020, 12, 31, 23, 59, 59, tzinfo=dt.UTC), None]
TABLE = rows(
    n=[1.5, None, -2.0, float("inf")],
    i=[1, 2, 3, 4],
    b=[True, False, None, True],
    c=["x", None, "x", "y"],
    d=[dt.date(2020, 1, 6), dt.date(2020, 1, 7), dt.date(2020, 2, 29), dt.date(1969, 12, 31)],
    t=MOMENTS,
)


def test_every_type_becomes_the_numbers_its_feature_says() -> None:
    encoder = fit(TABLE)
    named = {feature.name: column for feature, column in zip(encoder.features, encoder.encode(TABLE).T, strict=True)}
    assert {name: column.tolist() for name, column in named.items()} == {
        "n": [1.5, -2.0, -2.0, -2.0],
        "n is missing": [0, 1, 0, 1],
        "i": [1, 2, 3, 4],
        "b": [1, 0, 1, 1],
        "b is missing": [0, 0, 1, 0],
        "c": [1, 3, 1, 2],
        "d weekday": [0, 1, 5, 2],
        "d day_of_year": [6, 7, 60, 365],
        "d days": [18_267, 18_268, 18_321, -1],
        "t weekday": [0, 3, 3, 3],
        "t hour": [7, 12, 23, 12],
        "t day_of_year": [6, 182, 366, 182],
        "t days": [18_267, 18_265, 18_627, 18_265],
        "t is missing": [0, 1, 0, 1],
    }
    assert encoder.encode(TABLE).dtype == np.float32


def test_missing_where_training_had_none_is_the_median_or_unseen() -> None:
    encoder = fit(rows(n=[1.0, 2.0, 3.0], c=["x", "x", "y"]))
    assert [f.name for f in encoder.features] == ["n", "c"]
    assert encoder.encode(rows(n=[None, float("-inf")], c=[None, "new"])).tolist() == [[2.0, 0.0], [2.0, 0.0]]


def test_levels_are_cut_to_the_most_frequent_and_the_rare_share_a_code_with_the_unseen() -> None:
    column = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"]
    encoder = fit(rows(c=column), max_levels=2)
    assert encoder.encode(rows(c=["a", "b", "c", "d", "z"]))[:, 0].tolist() == [1, 2, 0, 0, 0]
    assert encoder.features[0].levels == 3
    small = fit(rows(c=["a", "b", "c"]), min_rows=10)
    assert small.encode(rows(c=["a"]))[0, 0] == 1, "a small table keeps its levels"


@given(st.lists(st.none() | st.sampled_from("abcdef"), min_size=2, max_size=30), st.integers(1, 6))
def test_codes_stay_below_the_number_of_levels(column: list[str | None], most: int) -> None:
    if len(set(column)) < 2:
        return
    encoder = fit(rows(c=column, i=list(range(len(column)))), max_levels=most)
    codes = encoder.encode(rows(c=[*column, None, "unseen"], i=list(range(len(column) + 2))))
    for at, feature in enumerate(encoder.features):
        if feature.kind == "categorical":
            assert codes[:, at].min() >= 0
            assert codes[:, at].max() < feature.levels


def test_columns_that_tell_nothing_are_dropped_by_name() -> None:
    encoder = fit(rows(n=[1.0, 2.0], n2=[5.0, 5.0], i=[None, None], c=["a", "a"], c2=[None, None], b=[True, True]))
    assert encoder.columns == ["n"]
    assert encoder.dropped == {"n2": "constant", "i": "all null", "c": "constant", "c2": "all null", "b": "constant"}
    with pytest.raises(UsageError, match="no feature varies"):
        fit(rows(n=[1.0, 1.0]))


@pytest.mark.parametrize("column", ["n", "i", "d", "t"])
def test_values_close_together_are_no_constant(column: str) -> None:
    week = [dt.datetime(2024, 5, 6 + i, 8, i, tzinfo=dt.UTC) for i in range(4)]
    close = {
        "n": [1013.1, 1013.2, 1013.15, 1013.1],
        "i": [5_000_000 + i for i in range(4)],
        "d": [moment.date() for moment in week],
        "t": week,
    }
    table = rows(**{column: close[column]})
    encoder = fit(table)
    assert encoder.dropped == {}
    assert len(np.unique(encoder.encode(table), axis=0)) > 1


def test_a_constant_with_gaps_still_says_where_they_are() -> None:
    assert fit(rows(n=[5.0, None])).encode(rows(n=[None, 5.0])).tolist() == [[5, 1], [5, 0]]


def test_along_the_time_of_the_split_only_what_comes_round_again_is_a_feature() -> None:
    encoder = fit(TABLE.select(["t", "d"]), time_column="t")
    assert [f.name for f in encoder.features if f.source == "t"] == ["t weekday", "t hour", "t is missing"]
    assert "d days" in [f.name for f in encoder.features]


values = st.fixed_dictionaries({"n": st.none() | st.floats(), "c": st.none() | st.sampled_from("xyz"), "d": st.none() | st.dates()})


@given(st.lists(values, min_size=1, max_size=20))
def test_a_row_has_the_same_bits_alone_in_any_batch_and_after_a_reload(batch: list[dict]) -> None:
    encoder = fit(TABLE.select(["n", "c", "d"]))
    table = rows(**{name: [row[name] for row in batch] for name in ("n", "c", "d")})
    whole = encoder.encode(table)
    assert np.isfinite(whole).all()
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert encoder.encode(chunked).tobytes() == whole.tobytes()
    single = [encoder.encode(table.slice(i, 1).to_batches()[0]) for i in range(len(batch))]
    assert np.concatenate(single).tobytes() == whole.tobytes()
    assert encoder.encode(table.slice(0, 0)).shape == (0, len(encoder.features))


def test_a_stored_encoder_is_the_same_bytes_and_the_same_numbers(tmp_path: Path) -> None:
    encoder = fit(TABLE)
    for folder in ("a", "b"):
        encoder.save(tmp_path / folder)
    assert (tmp_path / "a" / "encoder.json").read_bytes() == (tmp_path / "b" / "encoder.json").read_bytes()
    again = Encoder.load(tmp_path / "a")
    assert again.features == encoder.features
    assert again.encode(TABLE).tobytes() == encoder.encode(TABLE).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"more": 1},
        {"specs": [{"type": "pickle", "column": "x"}]},
        {"specs": [{"type": "numeric", "column": "n", "fill": "x", "indicator": True}]},
        {"specs": [{"type": "numeric", "column": "n", "fill": 1, "indicator": True, "more": 1}]},
    ],
)
def test_an_encoder_of_another_kind_is_refused(tmp_path: Path, change: dict) -> None:
    fit(TABLE).save(tmp_path)
    file = tmp_path / "encoder.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RaycycleError, match="not an encoder"):
        Encoder.load(tmp_path)


def test_median_of_huge_numbers_can_be_stored(tmp_path: Path) -> None:
    encoder = fit(rows(n=[1e300, 2e300, None]))
    encoder.save(tmp_path)
    assert np.isfinite(Encoder.load(tmp_path).encode(rows(n=[None, -1e308]))).all()


cells = st.tuples(st.none() | st.floats(width=32), st.none() | st.sampled_from("abcd"), st.none() | st.datetimes())


@given(st.lists(cells, min_size=2, max_size=20), st.data())
def test_one_encoder_comes_of_the_rows_in_any_order_and_layout(made: list, data: st.DataObject) -> None:
    table = rows(n=[n for n, _, _ in made], c=[c for _, c, _ in made], t=[t for _, _, t in made], i=list(range(len(made))))
    mixed = table.take(pa.array(data.draw(st.permutations(range(len(made))))))
    cut = data.draw(st.integers(0, len(made)))
    parts = [{name: sketch(part.column(name).combine_chunks()) for name in table.column_names} for part in (mixed[cut:], mixed[:cut])]
    found = Encoder.fit(promise(table), merge(*parts), time_column=None, max_levels=3, min_rows=1)
    wanted = fit(table, max_levels=3)
    assert (found.specs, found.dropped) == (wanted.specs, wanted.dropped)


def test_a_column_with_too_many_levels_is_no_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MAX_LEVELS", 2)
    encoder = fit(rows(c=["x", "x", "y", "z"], i=[1, 2, 3, 4]))
    assert encoder.columns == ["i"]
    assert encoder.dropped == {"c": "more than 1,000,000 levels, or 64,000,000 characters in them"}
