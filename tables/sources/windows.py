"""Point-in-time features: what was known about earlier events at the moment each row had to be answered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Minutes = NDArray[np.int64]


def trailing(known: Minutes, value: Minutes, at: Minutes, window: int) -> tuple[Minutes, Minutes]:
    """For each moment of `at`: how many events became known in [at - window, at), and the sum of their values.

    `known` and `value` are [events], in any order; `at` is [rows].
    """
    order = np.argsort(known, kind="stable")
    known, running = known[order], np.concatenate([[0], np.cumsum(value[order])])
    since, until = (np.searchsorted(known, at - shift, side="left") for shift in (window, 0))
    return until - since, running[until] - running[since]


def others(
    known: Minutes, value: Minutes, at: Minutes, own_known: Minutes, own_value: Minutes, window: int
) -> tuple[Minutes, NDArray[np.float64]]:
    """`trailing` without the row's own event: a row that became known early would otherwise tell itself its own outcome.

    Returns counts, and means that are NaN where there was no other event. `own_known` is -1 for a row whose event never happened.
    """
    count, total = trailing(known, value, at, window)
    own = (own_known >= at - window) & (own_known < at) & (own_known >= 0)
    count, total = count - own, total - np.where(own, own_value, 0)
    return count, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pending(due: Minutes, done: Minutes, at: Minutes, window: int) -> Minutes:
    """For each moment of `at`: how many events were due in [at - window, at) and not done before `at`; `done` is -1 for never."""
    order = np.argsort(due, kind="stable")
    due, done = due[order], done[order]
    since, until = (np.searchsorted(due, at - shift, side="left") for shift in (window, 0))
    length = until - since
    row = np.repeat(np.arange(len(at)), length)
    within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    event = since[row] + within
    waiting = (done[event] < 0) | (done[event] >= at[row])
    return np.bincount(row[waiting], minlength=len(at))


def around(due: Minutes, at: Minutes, reach: int) -> Minutes:
    """For each moment of `at`: how many events are planned within `reach` of it; plans are known ahead."""
    ordered = np.sort(due)
    return np.searchsorted(ordered, at + reach, side="right") - np.searchsorted(ordered, at - reach, side="left")
