"""Rows that meet a table bucket by bucket are those that meet it whole, however both are cut into blocks."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.rows import TableDigest
from tables.sources import together
from tables.sources.measures import Aggregates, Features
from tables.sources.parts import KEY, Join, Part, key_kinds

names, numbers, moments = st.sampled_from(["a", "b", "c", None]), st.none() | st.integers(0, 2), st.none() | st.integers(0, 9)
there = st.lists(st.tuples(names, numbers, moments, st.none() | st.floats(-1e9, 1e9)), min_size=1, max_size=12)
here = st.lists(st.tuples(st.integers(0, 99), names, numbers, moments), min_size=1, max_size=12)
CUTS = st.lists(st.integers(1, 11), max_size=3, unique=True)
BY = {"name": "who", "number": "code"}
PAST: dict[str, Any] = {
    "at": "at",
    "known_at": "known",
    "window": "4s",
    "columns": {"n": "count()", "mean": "mean(value)", "last": "last(value)"},
}
PARTS = [
    Join(source=1, name="join", by=BY, columns=["value"], expect="many"),
    Join(source=1, name="inner", by=BY, columns=["value"], expect="many", how="inner"),
    Features(source=1, name="past", by=BY, **PAST),
]


def tables(rows: list, events: list) -> tuple[pa.Table, pa.Table]:
    time = pa.timestamp("s", "UTC")
    left = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate((pa.int64(), pa.string(), pa.int64(), time))]
    right = [pa.array([row[i] for row in events], kind) for i, kind in enumerate((pa.string(), pa.int64(), time, pa.float64()))]
    return pa.table(left, ["id", "name", "number", "at"]), pa.table(right, ["who", "code", "known", "value"])


def blocks(table: pa.Table, cuts: list[int]) -> list[pa.Table]:
    bounds = [0, *sorted(cut for cut in cuts if cut < table.num_rows), table.num_rows]
    return [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]


def by_buckets(part: Part, rows: list[pa.Table], taken: list[pa.Table], buckets: int) -> pa.Table:
    """What Ray does with the pieces, in a loop."""
    schema = taken[0].schema
    kinds = key_kinds(schema.empty_table(), KEY, part.said)
    cut = [together._cut(block, part, kinds, schema, together.ROWS, buckets) for block in rows]
    cut += [together._cut(block, part, kinds, schema, together.TABLE, buckets) for block in taken]
    both = pa.concat_tables(cut)
    found: list[pa.Table] = []
    for bucket in set(both.column("bucket").to_pylist()):
        found += together._bucket_met(both.filter(pc.equal(both.column("bucket"), bucket)), part, schema, None)
    return pa.concat_tables(found)


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
@given(rows=here, events=there, cuts=CUTS, others=CUTS, buckets=st.integers(1, 5))
def test_buckets_and_blocks_change_no_row(part: Part, rows: list, events: list, cuts: list[int], others: list[int], buckets: int) -> None:
    left, right = tables(rows, events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "_tell", lambda *told: None)
        taken = [part.taken(block, Counter()) for block in blocks(right, others)]
        whole = part.meet(left, part.indexed(part.taken(right, Counter())), Counter())
        found = by_buckets(part, blocks(left, cuts), taken, buckets)
    assert found.schema == whole.schema
    assert TableDigest.of(found) == TableDigest.of(whole)


@given(rows=here, events=there)
def test_a_join_is_every_pair_of_equal_keys(rows: list, events: list) -> None:
    left, right = tables(rows, events)
    found = PARTS[0].meet(left, PARTS[0].indexed(PARTS[0].taken(right, Counter())), Counter()).to_pylist()
    wanted = []
    for number, name, code, _ in rows:
        partners = [value for who, key, _, value in events if None not in (name, code) and (who, key) == (name, code)]
        wanted += [(number, name, code, value) for value in partners or [None]]
    assert Counter((row["id"], row["name"], row["number"], row["value"]) for row in found) == Counter(wanted)


@given(events=there, others=CUTS, buckets=st.integers(1, 5))
def test_aggregates_of_buckets_are_those_of_the_whole(events: list, others: list[int], buckets: int) -> None:
    part = Aggregates(
        source=1, name="sums", by=BY, columns={"n": "count()", "sum": "sum(value)", "low": "min(value)", "kinds": "distinct(value)"}
    )
    _, right = tables([], events)
    taken = [part.taken(block, Counter()) for block in blocks(right, others)]
    kinds = key_kinds(taken[0], KEY, part.said)
    cut = pa.concat_tables([together._cut(block, part, kinds, taken[0].schema, together.TABLE, buckets) for block in taken])
    groups = [cut.filter(pc.equal(cut.column("bucket"), bucket)) for bucket in set(cut.column("bucket").to_pylist())]
    found = pa.concat_tables([together._bucket_condensed(group, part, kinds, taken[0].schema) for group in groups])
    assert TableDigest.of(found) == TableDigest.of(part.condensed(pa.concat_tables(taken), kinds))
