"""The first difference between two tables, against a search that anyone can read."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.store import Store
from conf.errors import UsageError
from tables import difference
from tables.contract import Column, Contract
from tables.difference import Difference, first_difference
from tables.rows import TableDigest, row_hashes
from tables.snapshots import Snapshot, SnapshotFile, commit, table_folder, write_part

DAYS = [dt.date(2024, 1, 1), None, dt.date(2024, 1, 3)]
ROWS = pa.table({"id": ["a", "b", "c"], "x": [0.0, 2.5, None], "day": DAYS, "y": [True, False, True]})


def contract(*key: str) -> Contract:
    columns = {
        "id": Column(type="string", role="key"),
        "x": Column(type="double"),
        "day": Column(type="date"),
        "y": Column(type="bool", role="label"),
    }
    return Contract(name="t", task="binary", label="y", columns=columns, key=list(key))


def snapshot(store: Store, name: str, *tables: pa.Table) -> Snapshot:
    parts = [write_part(table_folder(store, name), table) for table in tables]
    return commit(store, name, tables[0].schema, parts)


def changed(column: str, values: list) -> pa.Table:
    at = ROWS.column_names.index(column)
    return ROWS.set_column(at, column, pa.array(values, ROWS.schema.field(column).type))


def test_the_same_rows_in_another_order_and_other_files_differ_in_nothing(store: Store) -> None:
    other = snapshot(store, "b", ROWS.slice(2), changed("x", [-0.0, 2.5, None]).slice(0, 2).take(pa.array([1, 0])))
    assert first_difference(snapshot(store, "a", ROWS), other, contract("id")) is None


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        (changed("x", [0.0, 2.5, float("nan")]), Difference("x", {"id": "c"}, None, pytest.approx(float("nan"), nan_ok=True))),
        (changed("x", [0.0, 2.0, None]), Difference("x", {"id": "b"}, 2.5, 2.0)),
        (changed("day", [dt.date(2024, 1, 1)] * 2 + [dt.date(2024, 1, 3)]), Difference("day", {"id": "b"}, None, dt.date(2024, 1, 1))),
        (ROWS.slice(0, 2), Difference(None, {"id": "c"}, ROWS.slice(2).to_pylist()[0], None)),
        (pa.concat_tables([ROWS, ROWS.slice(1, 1)]), Difference(None, {"id": "b"}, None, ROWS.slice(1, 1).to_pylist()[0])),
    ],
)
def test_row_column_and_both_values_are_told(store: Store, other: pa.Table, wanted: Difference) -> None:
    one, two = snapshot(store, "a", ROWS.slice(1), ROWS.slice(0, 1)), snapshot(store, "b", other)
    assert first_difference(one, two, contract("id")) == wanted
    assert first_difference(two, one, contract("id")) == Difference(wanted.column, wanted.key, wanted.other, wanted.one)


def test_the_first_column_of_the_contract_is_told_not_that_of_the_file(store: Store) -> None:
    other = changed("x", [1.0, 2.5, None]).set_column(3, "y", pa.array([False, False, True])).select(["y", "day", "x", "id"])
    found = first_difference(snapshot(store, "a", ROWS), snapshot(store, "b", other), contract("id"))
    assert found == Difference("x", {"id": "a"}, 0.0, 1.0)


def test_without_a_key_a_changed_row_is_in_one_table_only(store: Store) -> None:
    other = changed("x", [0.0, 2.0, None])
    found = first_difference(snapshot(store, "a", ROWS), snapshot(store, "b", other), contract())
    rows = [{"id": "b", "x": x, "day": None, "y": False} for x in (2.5, 2.0)]
    assert found in (Difference(None, rows[0], rows[0], None), Difference(None, rows[1], None, rows[1]))


def test_a_missing_column_is_named(store: Store) -> None:
    with pytest.raises(UsageError, match="b@0 has no such column: 'day'"):
        first_difference(snapshot(store, "a", ROWS), snapshot(store, "b", ROWS.drop_columns(["day"])), contract("id"))


cells = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, 0.0, -0.0, 1.0]), st.booleans()), max_size=8)


def table_of(rows: list[tuple[str, float | None, bool]]) -> pa.Table:
    columns = [[row[i] for row in rows] for i in range(3)]
    return pa.table({"id": columns[0], "x": columns[1], "day": [None] * len(rows), "y": columns[2]}, schema=contract().schema())


def hashes(table: pa.Table, wanted: Contract) -> Counter[tuple[int, int]]:
    keys = row_hashes(table, wanted.key or list(wanted.columns), "key")
    return Counter(zip(keys.tolist(), row_hashes(table, list(wanted.columns)).tolist(), strict=True))


@given(cells, cells, st.booleans())
@settings(max_examples=80)
def test_it_is_the_first_in_the_order_of_key_hashes(one: list, other: list, keyed: bool) -> None:
    wanted, tables = contract(*(["id"] if keyed else [])), {"a": table_of(one), "b": table_of(other)}
    sides = [Snapshot(name, 0, Path(), TableDigest.of(table), (SnapshotFile(Path(name)),)) for name, table in tables.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "read", lambda file: tables[file.name])
        found = first_difference(sides[0], sides[1], wanted)
    left, right = (hashes(table, wanted) for table in tables.values())
    differing = (left - right) + (right - left)
    assert (found is None) == (not differing)
    if found is not None:
        row = pa.table({name: pa.array([value], wanted.schema().field(name).type) for name, value in found.key.items()})
        assert int(row_hashes(row, row.column_names, "key")[0]) == min(differing)[0]
        assert found.one != found.other


def test_many_rows_take_no_loop_over_rows(store: Store) -> None:
    count = 200_000
    x, ids, odd = np.arange(count) / 7, np.arange(count).astype(str), np.arange(count) % 2 == 1
    table = pa.table({"id": ids, "x": x, "day": pa.nulls(count, pa.date32()), "y": odd})
    values = np.where(np.arange(count) == 123_456, x + 1e-9, x)
    other = table.set_column(1, "x", pa.array(values)).take(pa.array(np.random.default_rng(0).permutation(count)))
    one, two = snapshot(store, "a", table), snapshot(store, "b", other.slice(0, 1000), other.slice(1000))
    assert first_difference(one, two, contract("id")) == Difference("x", {"id": "123456"}, x[123_456], values[123_456])
