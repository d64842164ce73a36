"""Rows matched by hashes give what a count of every row by hand gives, repeats and all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tables.matching import ROW, Buckets, match, rows_of

SIDE = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=20)


def rows(side: list[tuple[int, int]]) -> np.ndarray:
    keys, content = (np.array([row[at] for row in side], np.uint64) for at in (0, 1))
    return rows_of(keys, content, 0)


@given(SIDE, SIDE)
def test_counts_are_those_of_a_search_by_hand(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    found = match(rows(one), rows(other))
    mine, theirs = Counter(one), Counter(other)
    assert found.same == (mine & theirs).total()
    left, right = mine - theirs, theirs - mine
    changed = 0
    for key in range(5):
        here = sum(count for row, count in left.items() if row[0] == key)
        there = sum(count for row, count in right.items() if row[0] == key)
        changed += min(here, there)
    assert len(found.changed[0]) == len(found.changed[1]) == changed
    assert len(found.removed) == left.total() - changed
    assert len(found.added) == right.total() - changed
    for before, after in zip(*found.changed, strict=True):
        assert one[before][0] == other[after][0]
        assert one[before][1] != other[after][1]
    assert len({*found.removed, *found.changed[0]}) == len(found.removed) + changed


@given(SIDE, SIDE)
def test_the_order_of_the_rows_changes_no_count(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    straight, turned = match(rows(one), rows(other)), match(rows(one[::-1]), rows(other[::-1]))
    assert [len(each) for each in straight[:2]] == [len(each) for each in turned[:2]]
    assert (len(straight.changed[0]), straight.same) == (len(turned.changed[0]), turned.same)


def test_what_is_put_into_buckets_comes_out_of_them_once_and_in_its_order(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path, ROW, 3)
    for start in (0, 100):
        made = rows_of(np.arange(start, start + 100, dtype=np.uint64), np.zeros(100, np.uint64), start)
        buckets.add(0, made["key"] % np.uint64(3), made)
    found = [one for one, other in buckets if not len(other)]
    assert [list(one["key"] % 3) for one in found] == [[number] * len(one) for number, one in enumerate(found)]
    assert [list(one["row"]) for one in found] == [list(range(number, 200, 3)) for number in range(3)]
