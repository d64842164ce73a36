"""Two versions compared: exact counts by key, with repeats and without a key, in any files; private values are not told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables_in import CONTRACT, made_by, written

from cluster.progress import Progress
from cluster.store import Store
from conf.errors import UsageError
from flows import diff_page, table_diff
from flows.table_diff import TableDiff
from tables import distributions
from tables.snapshots import Snapshot, SnapshotFile

SCHEMA = pa.schema(
    [("id", pa.int64()), ("day", pa.date32()), ("price", pa.float64()), ("city", pa.string()), ("email", pa.string()), ("late", pa.bool_())]
)
ROW = {"id": 1, "day": None, "price": 1.0, "city": "Bern", "email": "ann@example.org", "late": True}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{**ROW, **row} for row in rows], SCHEMA)


def compared(store: Store, one: Snapshot, other: Snapshot) -> TableDiff:
    return table_diff.diff(store, one, other, Progress(quiet=True))


def counts(found: TableDiff) -> tuple[int, int, int, int]:
    return found.added, found.removed, found.changed, found.same


def test_rows_are_matched_by_key_and_cells_counted_by_column(store: Store) -> None:
    one = written(store, table({"id": 1}, {"id": 2}), table({"id": 3}, {"id": 4}))
    other = written(store, table({"id": 4, "price": 2.0, "city": None}, {"id": 3, "price": 3.0}, {"id": 5}, {"id": 1}))
    made_by(store, one, "1a" * 16)
    found = compared(store, one, other)
    assert found.key == ["id"]
    assert counts(found) == (1, 1, 2, 1)
    assert found.cells == {"price": 2, "city": 1}
    again = compared(store, other, one)
    assert counts(again) == (1, 1, 2, 1)
    assert "1 added, 1 removed, 2 changed, 1 the same" in "\n".join(found.lines())


VALUES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, 0.0, -0.0, 1.5])), min_size=1, max_size=12)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, VALUES, st.integers(1, 12), st.booleans())
def test_counts_are_exact_for_repeats_in_any_files_with_and_without_a_key(
    store: Store, one: list[Any], other: list[Any], cut: int, keyed: bool
) -> None:
    name = "keyed" if keyed else "plain"
    tables = [table(*({"id": key, "price": price} for key, price in side)) for side in (one, other)]
    first = written(store, *(part for part in (tables[0].slice(0, cut), tables[0].slice(cut)) if len(part)), name=name)
    second = written(store, tables[1], name=name)
    contract = CONTRACT if keyed else CONTRACT.replace("key: [id]\n", "")
    if not list(store.runs.glob(f"*{'e' if keyed else 'f'}")):
        made_by(store, first, ("e" if keyed else "f") * 32, contract)
    mine, theirs = Counter(one), Counter(other)
    left, right = mine - theirs, theirs - mine
    changed = sum(min(_of(left, key), _of(right, key)) for key in range(4)) if keyed else 0
    expected = (right.total() - changed, left.total() - changed, changed, (mine & theirs).total())
    assert counts(compared(store, first, second)) == expected


def _of(rows: Counter[Any], key: int) -> int:
    return sum(count for row, count in rows.items() if row[0] == key)


def test_many_buckets_give_what_one_gives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(store, *(table(*({"id": i, "price": float(i)} for i in range(at, at + 50))) for at in (0, 50, 100)))
    other = written(store, *(table(*({"id": i, "price": float(i % 90)} for i in range(at, at + 40))) for at in (20, 60, 100, 140)))
    made_by(store, one, "1a" * 16)
    whole = compared(store, one, other)
    monkeypatch.setattr(table_diff, "BUCKET_ROWS", 7)
    monkeypatch.setattr(table_diff, "BUCKET_CELLS", 11)
    assert compared(store, one, other) == whole
    assert counts(whole) == (30, 20, 60, 70)
    assert whole.cells == {"price": 60}


def test_files_that_both_versions_have_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(store, table({"id": 1}), table({"id": 2}))
    other = written(store, table({"id": 3}), mode="append")
    read: list[str] = []

    def noted(file: SnapshotFile, schema: pa.Schema) -> pa.Table:
        read.append(file.name)
        return distributions.read_as(file, schema)

    monkeypatch.setattr(table_diff, "read_as", noted)
    assert counts(compared(store, one, other)) == (1, 0, 0, 2)
    assert len(read) == len(set(read)) == 3


def test_an_added_column_changes_no_row_and_a_retyped_one_is_not_compared(store: Store) -> None:
    plain = table({"id": 1}, {"id": 2})
    one = written(store, plain)
    retyped = plain.set_column(2, "price", plain.column("price").cast(pa.int64())).append_column("size", pa.array([1, 2]))
    found = compared(store, one, written(store, retyped))
    assert counts(found) == (0, 0, 0, 2)
    assert found.columns == ["size was added (int64)", "price is int64, was double"]
    assert found.retyped == ["price"]


def test_a_column_that_came_with_an_append_is_null_in_older_rows(store: Store) -> None:
    plain = table({"id": 1}, {"id": 2})
    one = written(store, plain)
    other = written(store, table({"id": 3}).append_column("size", pa.array([7])), mode="append")
    found = compared(store, one, other)
    assert counts(found) == (1, 0, 0, 2)
    assert found.columns == ["size was added (int64)"]


def test_tables_that_share_no_column_cannot_be_compared(store: Store) -> None:
    one, other = written(store, table(ROW)), written(store, pa.table({"n": [1]}), name="numbers")
    with pytest.raises(UsageError, match="no column in common"):
        compared(store, one, other)


def test_private_values_are_neither_on_the_page_nor_in_the_facts(store: Store) -> None:
    one = written(store, *[table(*({"id": i, "email": f"secret-{i % 3}", "city": f"<b>{i % 2}"} for i in range(30)))])
    other = written(store, *[table(*({"id": i, "email": f"secret-{i % 4}", "city": f"<b>{i % 3}"} for i in range(30)))])
    before = compared(store, one, other)
    assert all(each.private for each in before.drawn), "no run tells what the columns hold"
    made_by(store, one, "1a" * 16)
    found = compared(store, one, other)
    page = diff_page.render(found)
    assert [each.name for each in found.drawn if each.private] == ["email"]
    assert found.cells["email"] == 21
    assert "secret-" not in page + str(found.as_json()) + str(found.lines())
    assert "<b>" not in page.replace("<b>{", "").split("<h2>Distributions")[1]
    assert "&lt;b&gt;1" in page
    assert next(each.shift for each in found.drawn if each.name == "city") == pytest.approx(1 / 3, abs=0.01)
    assert page == diff_page.render(compared(store, one, other))


def test_a_wide_table_is_a_small_page_that_says_what_it_left_out(store: Store) -> None:
    wide = {f"c{i}": pa.array([i, i + 1]) for i in range(400)}
    one = written(store, pa.table(wide), name="wide")
    other = written(store, pa.table(wide | {"c0": pa.array([7, 8])}), name="wide")
    contract = CONTRACT.replace("  price:", "".join(f"  c{i}: {{type: int64}}\n" for i in range(400)) + "  price:")
    made_by(store, one, "1a" * 16, contract)
    found = compared(store, one, other)
    assert (found.left_out, counts(found)) == (200, (2, 2, 0, 0))
    page = diff_page.render(found)
    assert "200 more columns are left out" in page
    assert len(page) < 1_000_000
