"""Window features against a loop that anyone can read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tables.sources import windows

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
