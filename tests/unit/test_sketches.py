"""Sketches give the same counts whatever the order and partition of the rows."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import sketches
from tables.sketches import LevelSketch, NumericSketch, as_floats, merge, sketch

usual = st.floats(-1e30, 1e30).filter(lambda x: x == 0 or abs(x) > 1e-30)


@given(st.lists(st.none() | usual, max_size=40), st.integers(0, 40), st.integers(0, 99))
def test_numbers_merge_in_any_order(values: list[float | None], cut: int, seed: int) -> None:
    shuffled = [values[i] for i in np.random.default_rng(seed).permutation(len(values))]
    whole = NumericSketch.of(pa.array(values, pa.float64()))
    halves = [NumericSketch.of(pa.array(part, pa.float64())) for part in (shuffled[:cut], shuffled[cut:])]
    assert halves[0].merge(halves[1]).to_json() == halves[1].merge(halves[0]).to_json() == whole.to_json()
    assert whole.count + whole.missing == len(values)


@given(st.lists(st.none() | st.text(max_size=2), max_size=40), st.integers(0, 40))
def test_levels_merge_in_any_order(values: list[str | None], cut: int) -> None:
    whole = LevelSketch.of(pa.array(values, pa.string()))
    halves = [LevelSketch.of(pa.array(part, pa.string())) for part in (values[:cut], values[cut:])]
    assert halves[0].merge(halves[1]).to_json() == halves[1].merge(halves[0]).to_json() == whole.to_json()


@given(st.lists(usual, min_size=1, max_size=60), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_quantiles_are_exact_to_a_twentieth_of_a_percent(values: list[float], q: float) -> None:
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert NumericSketch.of(pa.array(values)).quantile(q) == pytest.approx(exact, rel=5e-4)


@pytest.mark.parametrize("value", [0, 1, -7, 4095, 0.5, 0.375, -0.25])
def test_small_whole_numbers_and_simple_fractions_come_back_exact(value: float) -> None:
    assert NumericSketch.of(pa.array([value], pa.float64())).quantile(0.5) == value


def test_numbers_beyond_float32_stay_numbers() -> None:
    found = NumericSketch.of(pa.array([1e300, 1e300, -1e300]))
    assert np.isfinite(found.quantile(0.5))
    assert found.quantile(0.5) > 1e38
    assert found.quantile(0.0) < -1e38


def test_the_smallest_and_the_largest_are_exact() -> None:
    found = NumericSketch.of(pa.array([1013.1, None])).merge(NumericSketch.of(pa.array([1013.3, float("inf")])))
    assert (found.low, found.high) == (1013.1, 1013.3)
    assert NumericSketch.of(pa.array([None], pa.float64())).low is None


def test_infinities_and_nulls_are_missing() -> None:
    found = NumericSketch.of(pa.array([1.0, None, float("inf"), float("-inf"), float("nan")]))
    assert (found.count, found.nulls, found.infinite, found.missing) == (1, 2, 2, 4)


@given(st.lists(st.none() | st.integers(-(2**40), 2**40), max_size=20))
def test_sketches_survive_json(values: list[int | None]) -> None:
    numbers = sketch(pa.array(values, pa.int64()))
    levels = sketch(pa.array([None if v is None else str(v) for v in values], pa.string()))
    assert isinstance(numbers, NumericSketch)
    assert isinstance(levels, LevelSketch)
    for one in (numbers, levels):
        assert type(one).from_json(json.loads(json.dumps(one.to_json()))).to_json() == one.to_json()


def test_top_levels_fall_by_count_then_name_and_rare_ones_go() -> None:
    found = LevelSketch.of(pa.array(["b", "a", "c", "c", "b", "a", "d"]))
    assert found.top(2, 1) == ["a", "b"]
    assert found.top(9, 2) == ["a", "b", "c"]


def test_past_the_most_levels_the_rarest_are_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MAX_LEVELS", 2)
    found = LevelSketch.of(pa.array(["a", "a", "b"])).merge(LevelSketch.of(pa.array(["c", "c", "c", None])))
    assert (dict(found.counts), found.lost, found.nulls) == ({"c": 3, "a": 2}, 1, 1)


def test_columns_merge_by_name_and_nothing_is_neutral() -> None:
    one = {"x": NumericSketch.of(pa.array([1.0]))}
    assert merge({}, one) is one
    assert merge(one, {}) is one
    assert merge(one, one)["x"].to_json() == NumericSketch.of(pa.array([1.0, 1.0])).to_json()  # type: ignore[union-attr]


def test_dates_count_days_and_timestamps_seconds() -> None:
    moment = dt.datetime(1970, 1, 2, 0, 0, 30, tzinfo=dt.UTC)
    assert as_floats(pa.array([moment.date()])).tolist() == [1.0]
    assert as_floats(pa.array([moment], pa.timestamp("us", "UTC"))).tolist() == [86_430.0]
    assert as_floats(pa.array([True, False])).tolist() == [1.0, 0.0]
