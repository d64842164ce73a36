"""Sketches give the same counts whatever the order and partition of the rows."""

from __future__ import annotations

import datetime as dt
import itertools
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


def partitioned(array: pa.Array, data: st.DataObject) -> list[pa.Array]:
    """The values in another order, cut into up to six parts, some of them perhaps empty."""
    mixed = array.take(pa.array(data.draw(st.permutations(range(len(array)))), pa.int64()))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(array)), max_size=5)))
    return [mixed.slice(start, stop - start) for start, stop in itertools.pairwise([0, *cuts, len(array)])]


def merged(parts: list[sketches.Sketch], data: st.DataObject) -> sketches.Sketch:
    """The parts merged in pairs drawn at random, as a tree of any shape."""
    parts = list(parts)
    while len(parts) > 1:
        one, other = (parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(2))
        parts.append(one.merge(other))  # type: ignore[arg-type]
    return parts[0]


@given(st.lists(st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0]), max_size=30), st.data())
def test_any_order_layout_and_tree_of_merges_gives_the_same_numbers(values: list[float | None], data: st.DataObject) -> None:
    array = pa.array(values, pa.float64())
    found = merged([NumericSketch.of(part) for part in partitioned(array, data)], data)
    assert found == NumericSketch.of(array)
    assert json.dumps(found.to_json()) == json.dumps(NumericSketch.of(array).to_json())


@given(st.lists(st.none() | st.sampled_from("abcdefghij"), max_size=40), st.integers(0, 10), st.integers(0, 10), st.data())
def test_any_order_layout_and_tree_of_merges_gives_the_same_levels(
    values: list[str | None], levels: int, characters: int, data: st.DataObject
) -> None:
    array = pa.array(values, pa.string())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketches, "MAX_LEVELS", levels)
        patch.setattr(sketches, "MAX_CHARACTERS", characters)
        found = merged([LevelSketch.of(part) for part in partitioned(array, data)], data)
        assert found == LevelSketch.of(array)
        assert json.dumps(found.to_json()) == json.dumps(LevelSketch.of(array).to_json())
    distinct = len(set(values) - {None})
    assert found.overflowed == (distinct > min(levels, characters))
    assert found.rows == len(values) - values.count(None)
    assert len(found.counts) == (0 if found.overflowed else distinct)


def test_past_the_most_levels_none_is_kept_and_all_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MAX_LEVELS", 2)
    found = LevelSketch.of(pa.array(["a", "a", "b"])).merge(LevelSketch.of(pa.array(["c", "c", "c", None])))
    assert (dict(found.counts), found.lost, found.nulls, found.overflowed) == ({}, 6, 1, True)
    assert LevelSketch.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.merge(LevelSketch.of(pa.array(["a"]))) == LevelSketch(nulls=1, lost=7)


def test_columns_merge_by_name_and_nothing_is_neutral() -> None:
    one = {"x": NumericSketch.of(pa.array([1.0]))}
    assert merge({}, one) is one
    assert merge(one, {}) is one
    assert merge(one, one)["x"].to_json() == NumericSketch.of(pa.array([1.0, 1.0])).to_json()  # type: ignore[union-attr]


def test_dates_count_days_and_timestamps_seconds() -> None:
    moment = dt.datetime(1970, 1, 2, 0, 0, 30, tzinfo=dt.UTC)
    assert as_floats(pa.array([moment.date()])).tolist() == as_floats(pa.array([moment.date()], pa.date64())).tolist() == [1.0]
    assert as_floats(pa.array([moment.replace(tzinfo=None)], pa.timestamp("ms"))).tolist() == [86_430.0]
    assert as_floats(pa.array([moment], pa.timestamp("us", "UTC"))).tolist() == [86_430.0]
    assert as_floats(pa.array([True, False])).tolist() == [1.0, 0.0]
