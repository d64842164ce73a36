"""How columns may change: added ones are said, all else is refused with its fix, and what replaces a table tells what it changes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from cluster.store import Store
from conf.errors import UsageError
from tables import snapshots
from tables.evolution import additions, changes, delta_types, widened
from tables.rows import TableDigest

TABLE = pa.schema([("key", pa.int64()), ("wind_speed", pa.float64()), ("at", pa.timestamp("us", "UTC"))])


def without(name: str, *more: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([field for field in TABLE if field.name != name] + [pa.field(*each) for each in more])


def test_added_nullable_columns_are_accepted_in_any_order() -> None:
    wanted = pa.schema([("day", pa.date32()), *reversed(list(TABLE)), ("ok", pa.bool_())])
    assert additions("t", TABLE, wanted) == [pa.field("day", pa.date32()), pa.field("ok", pa.bool_())]
    assert additions("t", TABLE, TABLE) == []


@pytest.mark.parametrize(
    ("wanted", "what", "value", "allowed", "fix"),
    [
        (without("wind_speed"), "lacks columns", "wind_speed", "all columns of the table", "dataset.write=replace"),
        (without("wind_speed", ("wind_kmh", pa.float64())), "renamed", "wind_speed -> wind_kmh", "'wind_speed'", "keep the name"),
        (without("key", ("id", pa.int64())), "renamed", "key -> id", "'key'", "keep the name 'key'"),
        (without("key", ("id", pa.string())), "lacks columns", "key", "all columns", "keep them"),
        (without("wind_speed", ("wind_speed", pa.int64())), "another type", "wind_speed: double -> int64", "double", "keep the type"),
        (without("at", ("at", pa.timestamp("us"))), "another type", "tz=UTC] -> timestamp[us]", "tz=UTC", "keep the type"),
    ],
)
def test_what_is_removed_renamed_or_retyped_is_refused_with_the_fix(
    wanted: pa.Schema, what: str, value: str, allowed: str, fix: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        additions("t", TABLE, wanted)
    error = caught.value
    assert value in str(error.value) and allowed in error.allowed and fix in error.next and "dataset.write=replace" in error.next


def test_an_added_column_that_allows_no_nulls_is_refused() -> None:
    with pytest.raises(UsageError, match="must allow nulls"):
        additions("t", TABLE, pa.schema([*TABLE, pa.field("x", pa.int64(), nullable=False)]))


def test_changes_are_told_by_column() -> None:
    assert changes(TABLE, TABLE) == []
    wanted = without("at", ("new", pa.string())).set(0, pa.field("key", pa.string()))
    assert changes(TABLE, wanted) == ["new is new", "at is gone", "key was int64 and is string"]


def test_every_type_of_a_contract_is_one_that_delta_keeps() -> None:
    from tables.casting import ARROW

    schema = pa.schema(list(ARROW.items()))
    assert delta_types(schema) == schema


def test_widened_rows_have_the_columns_of_the_schema_in_its_order() -> None:
    table = pa.table({"b": [1, 2]})
    made = widened(table, pa.schema([("a", pa.string()), ("b", pa.int64())]))
    assert made.to_pydict() == {"a": [None, None], "b": [1, 2]} and made.schema.field("a").type == pa.string()


def rows(**columns: Any) -> pa.Table:
    return pa.table(columns)


def commit(store: Store, table: pa.Table, mode: Any = "append", **more: Any) -> snapshots.Snapshot:
    part = snapshots.write_part(snapshots.table_folder(store, "t"), table)
    return snapshots.commit(store, "t", table.schema, [part], mode, **more)


def test_a_refused_append_changes_nothing_and_its_part_can_be_discarded(store: Store) -> None:
    made = commit(store, rows(n=[1], kind=["a"]))
    part = snapshots.write_part(made.folder, rows(n=[2]))
    for act in (
        lambda: snapshots.commit(store, "t", rows(n=[2]).schema, [part], "append"),
        lambda: snapshots.refuse_unlike(store, "t", rows(n=[2]).schema),
    ):
        with pytest.raises(UsageError, match="lacks columns"):
            act()
    snapshots.discard(store, "t", [part])
    assert snapshots.open_snapshot(store, "t") == made and snapshots.drop_orphans(store, "t") == 0
    assert snapshots.refuse_unlike(store, "t", rows(n=[2], kind=["b"], x=[0.5]).schema) == ["x"]
    assert snapshots.refuse_unlike(store, "other", rows(n=[2]).schema) == [] and snapshots.head(store, "other") == -1


def test_a_replacement_may_change_columns_says_so_and_the_old_version_stays(store: Store) -> None:
    said: list[str] = []
    old = commit(store, rows(n=[1], kind=["a"]))
    new = commit(store, rows(n=["1"], x=[1.5]), "replace", say=said.append)
    assert said == ["the table has other columns than before: x is new, kind is gone, n was int64 and is string"]
    assert snapshots.read(new.files[0]).column_names == ["n", "x"]
    assert snapshots.read(snapshots.open_snapshot(store, "t", 0).files[0]).to_pydict() == {"n": [1], "kind": ["a"]} and old.version == 0
    assert snapshots.open_snapshot(store, "t").files[0].schema is None


def test_columns_can_be_added_again_and_replacing_starts_anew(store: Store) -> None:
    commit(store, rows(n=[1]))
    commit(store, rows(n=[2], a=["x"]))
    made = commit(store, rows(b=[True], n=[3], a=pa.array([None], pa.string())))
    found = pa.concat_tables([snapshots.read(file) for file in made.files]).sort_by("n")
    assert found.to_pydict() == {"n": [1, 2, 3], "a": [None, "x", None], "b": [None, None, True]}
    assert made.version == 4 and made.digest == TableDigest.of(found)
    assert commit(store, found, "replace") == made  # the same rows, in whatever files


def test_appending_over_many_versions_names_every_file_and_digest(store: Store) -> None:
    for n in range(20):
        made = commit(store, rows(n=[n]))
    assert made.version == 19 and len(made.files) == 20 and all(file.sha256 for file in made.files)
    assert sorted(value for file in made.files for value in snapshots.read(file)["n"].to_pylist()) == list(range(20))
    assert len(snapshots.open_snapshot(store, "t", 7).files) == 8


def test_rows_appended_once_are_not_appended_again_until_the_table_is_replaced(store: Store) -> None:
    first = commit(store, rows(n=[1]), once="june")
    assert commit(store, rows(n=[1]), once="june") == first
    assert commit(store, rows(n=[1]), once="july").rows == 2
    assert commit(store, rows(n=[1]), once="june").rows == 2
    commit(store, rows(n=[7]), "replace")
    assert commit(store, rows(n=[1]), once="june").rows == 2
