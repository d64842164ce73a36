"""The parts of a joined source, met without Ray; a planted leak; and every mistake in the configuration named before Ray starts."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.compose import build
from conf.errors import UsageError
from tables.sources.files import Files
from tables.sources.formats import UNREADABLE
from tables.sources.joined import Joined
from tables.sources.measures import Aggregates, Features
from tables.sources.parts import KEY, Join, Part, key_kinds


def met(part: Part, rows: pa.Table, *blocks: pa.Table) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows after they met the table, and what was counted."""
    notes = Counter[str]()
    whole = pa.concat_tables([part.taken(block, notes) for block in blocks])
    if part.condenses:
        whole = part.condensed(whole, key_kinds(whole, KEY, part.said))
    found = part.meet(rows, part.indexed(whole), notes)
    return found.to_pylist(), {said: count for said, count in notes.items() if count}


def hours(*values: int | None) -> pa.Array:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    return pa.array([None if value is None else start + dt.timedelta(hours=value) for value in values], pa.timestamp("us", "UTC"))


ORDERS = pa.table({"id": [1, 2, 3], "customer": ["7", "8", None]})
CUSTOMERS = pa.table({"number": pa.array([7, 9], pa.int32()), "city": ["Bern", "Rome"], "id": ["a", "b"], "_row": [1, 2]})


def test_a_join_compares_keys_as_the_joined_table_has_them_and_counts_the_lonely() -> None:
    join = Join(source=CUSTOMERS, name="who", by={"customer": "number"}, columns={"city": "town"})
    rows, notes = met(join, ORDERS, CUSTOMERS)
    assert [row["town"] for row in rows] == ["Bern", None, None]
    assert notes == {"who: no partner": 2}


def test_an_inner_join_leaves_the_lonely_out_but_never_an_unreadable_row() -> None:
    orders = ORDERS.append_column(UNREADABLE, pa.array([None, None, "3 fields in line 4"]))
    rows, notes = met(Join(source=1, name="who", by={"customer": "number"}, columns=["city"], how="inner"), orders, CUSTOMERS)
    assert [row["id"] for row in rows] == [1, 3]
    assert notes == {"who: no partner, dropped": 1}


def test_a_key_that_occurs_twice_is_refused_by_name_unless_many_are_expected() -> None:
    twice = pa.table({"number": [7, 7, 9], "city": ["Bern", "Basel", "Rome"]})
    with pytest.raises(UsageError, match="more than once") as caught:
        met(Join(source=1, name="who", by={"customer": "number"}), ORDERS, twice)
    assert caught.value.value == "number=7"
    rows, _ = met(Join(source=1, name="who", by={"customer": "number"}, expect="many"), ORDERS, twice)
    assert sorted((row["id"], row["city"] or "") for row in rows) == [(1, "Basel"), (1, "Bern"), (2, ""), (3, "")]


def test_a_column_that_is_there_already_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="there already") as caught:
        met(Join(source=1, name="who", by={"customer": "number"}), ORDERS, CUSTOMERS)
    assert caught.value.next == "name it anew: columns: {id: other_name}"


def test_a_time_meets_text_only_if_told_to() -> None:
    rows, weather = pa.table({"hour": hours(1, 2)}), pa.table({"time": ["2024-01-01T01:00:00Z", "soon"], "temp": [3.5, 4.0]})
    with pytest.raises(UsageError, match="text in the other table"):
        met(Join(source=1, name="weather", by={"hour": "time"}), rows, weather)
    found, notes = met(Join(source=1, name="weather", by={"hour": "time"}, types={"time": "timestamp"}), rows, weather)
    assert [row["temp"] for row in found] == [3.5, None]
    assert notes == {"weather: time is no timestamp": 1, "weather: no partner": 1}


def test_aggregates_count_nothing_as_zero_and_measure_nothing_as_null() -> None:
    visits = pa.table({"number": ["7", "7", "9"], "minutes": ["3", "4.5", "x"]})
    part = Aggregates(source=1, name="visits", by={"customer": "number"}, columns={"visits": "count()", "spent": "sum(minutes)"})
    rows, _ = met(part, ORDERS, visits.slice(0, 1), visits.slice(1))
    assert [(row["visits"], row["spent"]) for row in rows] == [(2, 7.5), (0, None), (0, None)]


def test_the_least_of_text_is_refused_until_somebody_says_what_it_is() -> None:
    visits = pa.table({"number": ["7", "7"], "minutes": ["9", "10"]})
    spec: dict[str, Any] = {"source": 1, "name": "visits", "by": {"customer": "number"}, "columns": {"least": "min(minutes)"}}
    with pytest.raises(UsageError, match="9 comes after 10"):
        met(Aggregates(**spec), ORDERS, visits)
    assert met(Aggregates(**spec, types={"minutes": "int64"}), ORDERS, visits)[0][0]["least"] == 9
    assert met(Aggregates(**spec, types={"minutes": "string"}), ORDERS, visits)[0][0]["least"] == "10"


# -- the leak guard


def test_an_event_known_at_the_rows_moment_or_later_is_never_used() -> None:
    """The planted event gives the label away: it is about the same customer, it happened before, and it became known an hour late."""
    rows = pa.table({"customer": ["7", "7", "7"], "at": hours(10, 11, 12)})
    events = pa.table({"who": ["7", "7", "7"], "happened": hours(1, 9, 9), "known": hours(2, 11, None), "late": [5.0, 1e9, 1e9]})
    part = Features(
        source=1,
        name="past",
        by={"customer": "who"},
        at="at",
        known_at="known",
        window="30d",
        columns={"events": "count()", "mean_late": "mean(late)", "worst": "max(late)", "last_late": "last(late)"},
    )
    found, _ = met(part, rows, events)
    honest = {"events": 1, "mean_late": 5.0, "worst": 5.0, "last_late": 5.0}
    assert [{name: row[name] for name in honest} for row in found[:2]] == [honest, honest], "known at the moment itself is too late"
    assert (found[2]["events"], found[2]["worst"]) == (2, 1e9), "an hour later it may be used: the test can fail"


def test_a_lag_moves_the_window_back_and_keeps_its_length() -> None:
    rows, events = pa.table({"who": ["7"], "at": hours(10)}), pa.table({"who": ["7"] * 5, "known": hours(5, 6, 7, 8, 9), "n": range(5)})
    spec: dict[str, Any] = {"source": 1, "name": "past", "by": {"who": "who"}, "at": "at", "known_at": "known", "columns": {"n": "sum(n)"}}
    assert met(Features(**spec, window="2h"), rows, events)[0][0]["n"] == 3 + 4
    assert met(Features(**spec, window="2h", lag="2h"), rows, events)[0][0]["n"] == 1 + 2
    assert met(Features(**spec, window="all", lag="4h"), rows, events)[0][0]["n"] == 0


def test_of_the_main_tables_own_rows_a_row_sees_the_others_but_not_itself() -> None:
    """The first row was answered before it was due, and would tell itself its own outcome."""
    table = pa.table(
        {"id": [1, 2, None, None], "who": ["7"] * 4, "at": hours(10, 11, 12, 12), "known": hours(9, 9, 9, 9), "y": [100, 1, 7, 8]}
    )
    part = Features(
        name="past", by={"who": "who"}, at="at", known_at="known", window="1d", key=["id"], columns={"s": "sum(y)", "n": "count()"}
    )
    found, _ = met(part, table, table)
    assert [(row["s"], row["n"]) for row in found] == [(16, 3), (115, 3), (101, 2), (101, 2)], "rows without a key see none of their kind"


def test_a_row_without_a_moment_gets_nulls_and_an_unknown_entity_nothing() -> None:
    rows, events = pa.table({"who": ["7", "8"], "at": ["then", "2024-01-02"]}), pa.table({"who": ["7"], "known": hours(1)})
    found, notes = met(
        Features(source=1, name="p", by={"who": "who"}, at="at", known_at="known", window="9w", columns={"n": "count()"}), rows, events
    )
    assert [row["n"] for row in found] == [None, 0]
    assert notes == {"p: at is no timestamp": 1}


# -- mistakes


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    pq.write_table(CUSTOMERS.drop_columns("_row"), tmp_path / "customers.parquet")
    target = "tables.sources.files.Files"
    return {name: {"_target_": target, "path": str(tmp_path / f"{name}.parquet")} for name in ("orders", "customers")}


def joined(files: dict[str, Any], **parts: Any) -> Joined:
    found = build({"_target_": "tables.sources.joined.Joined", "table": files["orders"], **parts}, where="dataset.source")
    assert isinstance(found, Joined)
    return found


def test_nodes_inside_a_source_are_built_and_its_columns_are_known(files: dict[str, Any]) -> None:
    source = joined(files, joins=[{"source": files["customers"], "by": {"customer": "number"}, "columns": {"city": "town"}}])
    assert isinstance(source.table, Files)
    assert source.column_names() == ["id", "customer", "town"]
    assert source.parts[0].name == "joins[0]"
    assert source.rejected().num_rows == 0


WHO = {"by": {"customer": "number"}, "columns": ["city"]}
PAST = {"by": {"customer": "number"}, "at": "id", "known_at": "id", "columns": {"n": "count()"}, "window": "1d"}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"joins": [{**WHO, "by": {"custmer": "number"}}]}, "did you mean 'customer'"),
        ({"joins": [{**WHO, "by": {"customer": "numbr"}}]}, "did you mean 'number'"),
        ({"joins": [{**WHO, "columns": ["citty"]}]}, "did you mean 'city'"),
        ({"joins": [{**WHO, "columns": {"city": "id"}}]}, "there already"),
        ({"joins": [{**WHO, "columns": {"city": "x", "id": "x"}}]}, "there already"),
        ({"joins": [{**WHO, "how": "outer"}]}, "how is unknown"),
        ({"joins": [{**WHO, "expect": "two"}]}, "expect is unknown"),
        ({"joins": [{True: {"customer": "number"}, "columns": ["city"]}]}, "YAML reads as true"),
        ({"joins": [{**WHO, "exspect": "many"}]}, "did you mean 'expect'"),
        ({"joins": [{**WHO, "types": {"city": "text"}}]}, "types.city is unknown"),
        ({"joins": [WHO, {**WHO, "name": "joins[0]"}]}, "one name"),
        ({"aggregates": [{"by": {"customer": "number"}, "columns": {"n": "meen(id)"}}]}, "did you mean 'mean'"),
        ({"aggregates": [{"by": {}, "columns": {"n": "count()"}}]}, "by is no mapping"),
        ({"features": [{**PAST, "window": "1 month"}]}, "no length of time"),
        ({"features": [{**PAST, "lag": "-1h"}]}, "no length of time"),
        ({"features": [{**PAST, "known_at": "paid"}]}, "not there"),
        ({"partitions": 0}, "partitions is out of range"),
    ],
)
def test_mistakes_are_named_before_ray_starts(files: dict[str, Any], parts: dict[str, Any], said: str) -> None:
    with_source = {
        kind: [{"source": files["customers"], **part} for part in these] if isinstance(these, list) else these
        for kind, these in parts.items()
    }
    with pytest.raises(UsageError, match=said):
        joined(files, **with_source).fingerprint()


def test_features_of_the_main_table_need_a_key_and_other_parts_a_source(files: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="which of them a row is"):
        joined(files, features=[PAST])
    with pytest.raises(UsageError, match="has no source"):
        joined(files, joins=[WHO])
    with pytest.raises(UsageError, match="not allowed"):
        joined(files, joins=[{**WHO, "source": {"_target_": "os.system", "command": "true"}}])


def test_the_fingerprint_hangs_on_all_tables_and_on_what_is_asked_not_on_how_it_is_done(files: dict[str, Any]) -> None:
    who = {"source": files["customers"], **WHO}
    first = joined(files, joins=[who]).fingerprint()
    assert first == joined(files, joins=[who], small_mib=1, partitions=7).fingerprint()
    assert first != joined(files, joins=[{**who, "how": "inner"}]).fingerprint()
    pq.write_table(CUSTOMERS.slice(0, 1).drop_columns("_row"), files["customers"]["path"])
    assert first != joined(files, joins=[who]).fingerprint()

    class Unknown:
        def read(self) -> None: ...

    assert Joined(table=Files(path=files["orders"]["path"]), joins=[{**WHO, "source": Unknown()}]).fingerprint() is None
