"""Promises about the whole table: facts add up whatever the batches, and are judged by a clock that is handed in."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import RaycycleError
from tables import drift
from tables.contract import Column, Contract
from tables.promises import Distribution, Freshness, RowCount
from tables.sketches import LevelSketch, NumericSketch
from tables.table_checks import TableFacts, compares_with_last, judge, refuse_stopped

NOW = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)


def contract(**more: Any) -> Contract:
    columns = {"x": Column(type="double"), "c": Column(type="string"), "at": Column(type="timestamp", role="time")}
    return Contract(name="t", task="binary", label="y", columns={**columns, "y": Column(type="bool", role="label")}, **more)


WANTED = contract(
    freshness=Freshness(column="at", max_age="2d"),
    distributions={"x": Distribution(psi=0.2, ks=0.3), "c": Distribution(psi=0.2, severity="stop"), "y": Distribution(psi=0.2)},
)


def rows(x: list[float | None], c: str = "ab", day: int = 9) -> pa.Table:
    at = pa.array([dt.datetime(2026, 1, day, i % 24, tzinfo=dt.UTC) for i in range(len(x))], pa.timestamp("us", "UTC"))
    return pa.table(
        {"x": pa.array(x, pa.float64()), "c": [c[i % len(c)] for i in range(len(x))], "at": at, "y": [i % 2 == 0 for i in range(len(x))]}
    )


def names(wanted: Contract, facts: TableFacts, last: TableFacts | None = None) -> list[str]:
    return [each.name for each in judge(wanted, facts, last, NOW)]


@given(st.lists(st.none() | st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(0, 30))
def test_facts_are_those_of_the_rows_whatever_the_batches(x: list[float | None], cut: int) -> None:
    table = rows(x)
    whole, parts = TableFacts.of(WANTED, table), [TableFacts.of(WANTED, table.slice(cut)), TableFacts.of(WANTED, table.slice(0, cut))]
    assert json.dumps(sum(parts, TableFacts()).to_json()) == json.dumps(whole.to_json())
    assert TableFacts.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_a_contract_that_promises_nothing_costs_nothing() -> None:
    assert TableFacts.of(contract(), rows([1.0, 2.0])) == TableFacts(2)
    assert judge(contract(), TableFacts(2), TableFacts(200), NOW) == []
    assert not compares_with_last(contract(rows=RowCount(min=1))) and compares_with_last(WANTED)
    assert compares_with_last(contract(rows=RowCount(change=0.5)))


def test_the_number_of_rows_is_bounded_and_compared_with_the_last() -> None:
    wanted = contract(rows=RowCount(min=10, max=100, change=0.5, severity="warn"))
    assert names(wanted, TableFacts(9)) == ["rows.min"]
    assert names(wanted, TableFacts(101), TableFacts(101)) == ["rows.max"]
    assert [names(wanted, TableFacts(count), TableFacts(40)) for count in (19, 20, 60, 61)] == [["rows.change"], [], [], ["rows.change"]]
    assert judge(wanted, TableFacts(80), TableFacts(40), NOW)[0].said == "80 rows after 40: +100.0%, allowed is 50.0% either way"


def test_freshness_is_judged_against_the_time_handed_in() -> None:
    wanted = contract(freshness=Freshness(column="at", max_age="36h"))
    fresh, stale = (TableFacts.of(wanted, rows([1.0], day=day)) for day in (9, 8))
    assert names(wanted, fresh) == []
    (breach,) = judge(wanted, stale, None, NOW)
    assert breach == ("freshness", "stop", "the latest at is 2026-01-08T00:00:00+00:00, more than 36h ago")
    assert names(wanted, TableFacts(3)) == ["freshness"], "no time at all is not fresh"
    days = contract(freshness=Freshness(column="at", max_age="1d"))
    assert names(days, TableFacts.of(days, pa.table({"at": pa.array([dt.date(2026, 1, 9)])}))) == []


def test_a_column_that_moves_is_told_from_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    before, same, moved = (list(rng.normal(shift, 1, 2000)) for shift in (0, 0, 1))
    last = TableFacts.of(WANTED, rows(before))
    assert names(WANTED, TableFacts.of(WANTED, rows(same)), last) == []
    assert names(WANTED, TableFacts.of(WANTED, rows(moved)), last) == ["x.psi", "x.ks"]
    assert names(WANTED, TableFacts.of(WANTED, rows(same, c="abbbbb")), last) == ["c.psi"]
    assert names(WANTED, TableFacts.of(WANTED, rows(moved))) == [], "there is no last snapshot"


def test_a_column_that_turned_into_text_or_is_gone_is_a_breach() -> None:
    wanted = contract(distributions={"x": Distribution(psi=0.2)})
    numbers = TableFacts.of(wanted, rows([1.0]))
    text, gone = (TableFacts.of(wanted, pa.table(columns)) for columns in ({"x": ["1"]}, {"c": ["1"]}))
    assert (names(wanted, text, numbers), names(wanted, gone, numbers)) == (["x.psi"], ["x.distribution"])


def test_what_stops_is_raised_with_all_of_it_and_what_warns_is_told() -> None:
    wanted = contract(rows=RowCount(min=5), freshness=Freshness(column="at", max_age="1d", severity="warn"))
    breaches = judge(wanted, TableFacts(1), None, NOW)
    with pytest.raises(RaycycleError, match="the table has 1 rows, fewer than 5") as caught:
        refuse_stopped(wanted, breaches)
    assert caught.value.exit_code == 1
    assert list(refuse_stopped(wanted, breaches[1:])) == ["freshness"]


def test_psi_is_the_sum_over_tenths_of_the_older_table() -> None:
    before, after = (NumericSketch.of(pa.array(np.arange(1, 101) * 1.0 + shift)) for shift in (0, 10))
    shares = np.array([10.0] * 10 + [0]), np.array([0.0] + [10] * 8 + [20, 0])
    p, q = ((counts + 0.5) / (100 + 0.5 * 11) for counts in shares)
    assert drift.psi(before, after) == pytest.approx(np.sum((p - q) * np.log(p / q)))
    assert drift.psi(before, before) == 0
    assert drift.psi(LevelSketch.of(pa.array(["a"])), LevelSketch(lost=3)) is None


def test_a_rise_of_missing_values_is_a_move() -> None:
    before, after = (NumericSketch.of(pa.array([1.0] * (100 - nulls) + [None] * nulls)) for nulls in (0, 50))
    assert (drift.psi(before, after) or 0) > 1
    assert drift.ks(before, after) == 0


@given(st.lists(st.integers(-50, 50), min_size=1), st.lists(st.integers(-50, 50), min_size=1))
def test_ks_is_the_largest_gap_of_the_distribution_functions(one: list[int], other: list[int]) -> None:
    found = drift.ks(*(NumericSketch.of(pa.array(values, pa.float64())) for values in (one, other)))
    gaps = [abs(np.mean(np.array(one) <= value) - np.mean(np.array(other) <= value)) for value in {*one, *other}]
    assert found == pytest.approx(max(gaps))
