"""Measures against plain Python, and sums of floats that no order changes."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from tables.sources.aggregates import BY_KEY, IN_TIME, Measure, by_key
from tables.sources.exact import exact_sums

floats = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e300, max_value=1e300)


def total(values: list[float]) -> float:
    return float(exact_sums(np.array(values, np.float64), lambda digits: np.array([digits.sum()]))[0])


@given(st.lists(floats, max_size=12))
def test_a_sum_is_the_exact_one_rounded_once(values: list[float]) -> None:
    assert total(values) == math.fsum(values)


@given(st.lists(floats, min_size=2, max_size=12), st.randoms())
def test_no_order_changes_a_bit_of_a_sum(values: list[float], random: object) -> None:
    mixed = list(values)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert struct.pack("d", total(mixed)) == struct.pack("d", total(values))


def test_what_cancels_leaves_what_was_small() -> None:
    assert total([1e16, 1.0, -1e16]) == 1.0
    assert total([1.0, 2.0**-53, 2.0**-200]) > 1.0, "above halfway by a little"
    assert total([math.inf, 1.0]) == math.inf
    assert math.isnan(total([math.inf, -math.inf]))
    assert total([5e-324] * 3) == 1.5e-323


rows = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.none() | floats, st.sampled_from(["x", "y", None])), min_size=1, max_size=20
)


@given(rows)
def test_measures_by_key_are_those_of_each_keys_rows(rows: list) -> None:
    table = pa.table(
        {
            "key": pa.array([row[0] for row in rows], pa.string()),
            "number": pa.array([row[1] for row in rows], pa.float64()),
            "word": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    asked = {"rows": "count()", "numbers": "count(number)", "sum": "sum(number)", "mean": "mean(number)"}
    asked |= {"low": "min(number)", "high": "max(number)", "words": "distinct(word)", "first_word": "min(word)"}
    found = by_key(table, ["key"], {name: Measure.parse(text, BY_KEY, name) for name, text in asked.items()}, ["string"])
    by = {row["key"]: row for row in found.to_pylist()}
    assert set(by) == {row[0] for row in rows} - {None}
    for key, row in by.items():
        numbers = [number for k, number, _ in rows if k == key and number is not None]
        words = {word for k, _, word in rows if k == key and word is not None}
        assert (row["rows"], row["numbers"]) == (sum(k == key for k, _, _ in rows), len(numbers))
        assert row["sum"] == (math.fsum(numbers) if numbers else None)
        assert row["mean"] == (math.fsum(numbers) / len(numbers) if numbers else None)
        assert (row["low"], row["high"]) == ((min(numbers), max(numbers)) if numbers else (None, None))
        assert (row["words"], row["first_word"]) == (len(words), min(words, default=None))


def test_keys_of_several_columns_are_told_apart() -> None:
    table = pa.table({"a": [1, 1, 2, 2, None], "b": ["x", "y", "x", "x", "x"], "n": [1, 2, 3, 4, 5]})
    found = by_key(table, ["a", "b"], {"sum": Measure("sum", "n")}, ["int64", "string"])
    assert sorted(found.to_pylist(), key=str) == [
        {"a": 1, "b": "x", "sum": 1},
        {"a": 1, "b": "y", "sum": 2},
        {"a": 2, "b": "x", "sum": 7},
    ]


def test_a_sum_of_whole_numbers_that_does_not_fit_is_refused_not_wrapped() -> None:
    with pytest.raises(UsageError, match="64 bits"):
        by_key(pa.table({"k": [1, 1], "n": [2**62, 2**62]}), ["k"], {"sum": Measure("sum", "n")}, ["int64"])
    fits = by_key(pa.table({"k": [1, 1, 2], "n": [2**62, -(2**62), 2**63 - 1]}), ["k"], {"sum": Measure("sum", "n")}, ["int64"])
    assert fits.column("sum").to_pylist() == [0, 2**63 - 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("meen(delay)", "did you mean 'mean'"),
        ("last(delay)", "no known function"),
        ("__import__('os')", "no known function"),
        ("mean(delay) + 1", "no measure"),
        ("mean()", "no measure"),
        ("count(a, b)", "no measure"),
        ("delay", "no measure"),
        ("mean(", "no measure"),
    ],
)
def test_what_is_no_measure_is_refused_with_what_is_one(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Measure.parse(text, BY_KEY, "aggregate 'x': y")
    assert "mean(column)" in caught.value.allowed


def test_measures_may_name_odd_columns_and_last_is_one_in_time() -> None:
    assert Measure.parse("mean('dep delay (min)')", BY_KEY, "") == Measure("mean", "dep delay (min)")
    assert Measure.parse("last(x)", IN_TIME, "") == Measure("last", "x")
    assert Measure.parse(" count( ) ".strip(), BY_KEY, "") == Measure("count", None)
