"""Window features against a loop that anyone can read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tables.sources import windows
from tables.sources.aggregates import Measure, measured

moments = st.integers(0, 60)
events = st.lists(st.tuples(moments, st.none() | st.tuples(moments, st.integers(-9, 9))), max_size=25)
WINDOW = 10


def columns(rows: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """When each event is due, when it happened (-1 for never), and its value."""
    due = np.array([due for due, _ in rows], np.int64)
    done = np.array([-1 if happened is None else happened[0] for _, happened in rows], np.int64)
    return due, done, np.array([0 if happened is None else happened[1] for _, happened in rows], np.int64)


@given(events, st.lists(moments, max_size=10))
def test_trailing_counts_what_became_known_before(rows: list, at: list[int]) -> None:
    _, done, value = columns(rows)
    count, total = windows.trailing(done[done >= 0], value[done >= 0], np.array(at, np.int64), WINDOW)
    for i, moment in enumerate(at):
        known = [v for d, v in zip(done, value, strict=True) if d >= 0 and moment - WINDOW <= d < moment]
        assert (count[i], total[i]) == (len(known), sum(known))


@given(events)
def test_a_row_sees_the_others_but_never_itself(rows: list) -> None:
    due, done, value = columns(rows)
    count, mean = windows.others(done[done >= 0], value[done >= 0], due, done, value, WINDOW)
    for i, moment in enumerate(due):
        known = [value[j] for j in range(len(due)) if j != i and done[j] >= 0 and moment - WINDOW <= done[j] < moment]
        assert count[i] == len(known)
        assert np.isnan(mean[i]) if not known else mean[i] == sum(known) / len(known)


@given(events, st.lists(moments, max_size=10))
def test_pending_counts_what_was_due_and_had_not_happened(rows: list, at: list[int]) -> None:
    due, done, _ = columns(rows)
    waiting = windows.pending(due, done, np.array(at, np.int64), WINDOW)
    wanted = [sum(m - WINDOW <= d < m and (h < 0 or h >= m) for d, h in zip(due, done, strict=True)) for m in at]
    assert waiting.tolist() == wanted


@given(events, st.lists(moments, max_size=10))
def test_around_counts_plans_on_both_sides(rows: list, at: list[int]) -> None:
    due, _, _ = columns(rows)
    assert windows.around(due, np.array(at, np.int64), 3).tolist() == [sum(abs(d - m) <= 3 for d in due) for m in at]


# -- features of the events of an entity


people = st.sampled_from(["ann", "bob", None])
known = st.none() | moments
happened = st.lists(st.tuples(people, known, st.none() | st.integers(-9, 9), st.integers(0, 4) | st.none()), max_size=25)
asked = st.lists(st.tuples(people, st.none() | moments, st.integers(0, 4) | st.none()), min_size=1, max_size=10)
MEASURES = {
    "count": None,
    "sum": "value",
    "mean": "value",
    "min": "value",
    "max": "value",
    "distinct": "value",
    "first": "value",
    "last": "value",
}


def slow(events: list, row: tuple, window: int | None, lag: int, own: bool) -> dict[str, object]:
    """What anyone would write down: no sorting, no sums that run."""
    who, at, key = row
    if at is None:
        return dict.fromkeys(MEASURES)
    seen = [
        event
        for event in events
        if who is not None and event[0] == who and event[1] is not None and event[1] < at - lag and not (own and event[3] == key)
    ]
    seen = [event for event in seen if window is None or event[1] >= at - lag - window]
    values = [value for _, _, value, _ in seen if value is not None]
    found: dict[str, object] = {"count": len(seen), "distinct": len(set(values)), "sum": sum(values) if values else None}
    found["mean"] = sum(values) / len(values) if values else None
    found |= {"min": min(values, default=None), "max": max(values, default=None)}
    return found


@given(happened, asked, st.none() | st.integers(1, 30), st.integers(0, 9), st.booleans())
def test_an_entitys_events_are_those_known_before(events: list, rows: list, window: int | None, lag: int, own: bool) -> None:
    def column(rows: list, index: int, kind: pa.DataType) -> pa.Array:
        return pa.array([row[index] for row in rows], kind)

    table = pa.table({"value": column(events, 2, pa.int64()), "at": column(events, 1, pa.int64())})
    mine = [column(events, 3, pa.int64())] if own else []
    line = windows.Events.of([column(events, 0, pa.string())], column(events, 1, pa.int64()), table, mine)
    asking = [column(rows, 2, pa.int64())] if own else []
    at = column(rows, 1, pa.int64())
    ranges = line.known([column(rows, 0, pa.string())], at, window, lag, asking)
    measures = {name: Measure(name, of) for name, of in MEASURES.items()}
    found = {
        name: measured(each, ranges, each.column and line.values.column(each.column).combine_chunks()) for name, each in measures.items()
    }
    times = {
        name: measured(Measure(name, "at"), ranges, line.values.column("at").combine_chunks()).to_pylist() for name in ("first", "last")
    }
    for i, row in enumerate(rows):
        wanted = slow(events, row, window, lag, own)
        if row[1] is None:
            assert found["count"][i].as_py() == 0, "the part makes it null"
            continue
        assert {name: found[name][i].as_py() for name in wanted} == wanted
        seen = [e[1] for e in events if e[0] == row[0] is not None and e[1] is not None and not (own and e[3] == row[2])]
        seen = [at for at in seen if at < row[1] - lag and (window is None or at >= row[1] - lag - window)]
        assert (times["first"][i], times["last"][i]) == (min(seen, default=None), max(seen, default=None))


@given(happened, st.randoms())
def test_the_order_of_events_changes_nothing(events: list, random: object) -> None:
    mixed = list(events)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    answers = []
    for each in (events, mixed):
        columns = [pa.array([event[i] for event in each], kind) for i, kind in enumerate((pa.string(), pa.int64(), pa.int64()))]
        line = windows.Events.of(columns[:1], columns[1], pa.table({"value": columns[2]}))
        who, at = [pa.array(["ann", "bob"] * 30)], pa.array(np.repeat(np.arange(30), 2))
        ranges = line.known(who, at, 20, 0)
        value = line.values.column("value").combine_chunks()
        answers.append([measured(Measure(name, "value"), ranges, value).to_pylist() for name in ("first", "last", "mean")])
    assert answers[0] == answers[1]
