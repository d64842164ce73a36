"""SQL sources: parts that hold each row once, values that do not hang on their neighbours, and passwords that nobody sees."""

from __future__ import annotations

import datetime as dt
import functools
import pickle
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.compose import build
from conf.errors import RaycycleError, UsageError
from conf.uris import concealed
from tables.sources.databases import database_of
from tables.sources.sql import Sql, _read_one, bounds, conditions_of

PASSWORD = "hunter2-canary"


def read(source: Sql, conditions: list[str] | None = None) -> pa.Table:
    database = source.database
    queries = [f"select * from {source._rows}{f' where {each}' if each else ''}" for each in conditions or [""]]
    one = functools.partial(_read_one, database=database, view=database.view(), queries=queries, name=source.table or "query")
    return pa.concat_tables([table for i in range(len(queries)) for table in one(pa.table({"id": [i]}))])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        connection.execute('create table "odd ""table" (k, v)')
        connection.executemany('insert into "odd ""table" values (?, ?)', [(1, "é"), (2, 2.5), (2**53 + 1, b"bytes"), (None, None)])
        connection.commit()
    return tmp_path / "t.db"


NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.decimals(-1000, 1000, places=2)


@given(values=st.lists(NUMBERS | st.none(), max_size=20), parts=st.integers(1, 7))
def test_each_row_is_in_one_part(values: list[Any], parts: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table t (k)")
        connection.executemany("insert into t values (?)", [(float(v) if isinstance(v, Decimal) else v,) for v in values])
        low, high = connection.execute("select min(k), max(k) from t").fetchone()
        conditions = conditions_of("k", bounds(low, high, parts, "k"))
        assert len(conditions) <= parts
        found = [connection.execute(f"select count(*) from t{f' where {each}' if each else ''}").fetchone()[0] for each in conditions]
    assert sum(found) == len(values)


@pytest.mark.parametrize(
    ("low", "high", "cuts"),
    [
        (0, 10, [2, 5, 7]),
        (3, 3, []),
        (None, None, []),
        (0, 2, [1]),
        (0.0, 1.0, [0.25, 0.5, 0.75]),
        (0.0, float("inf"), []),
        (dt.date(2024, 1, 1), dt.date(2024, 1, 9), [dt.date(2024, 1, 3), dt.date(2024, 1, 5), dt.date(2024, 1, 7)]),
        (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 5), [dt.datetime(2024, 1, day) for day in (2, 3, 4)]),
    ],
)
def test_ranges_are_cut_evenly(low: Any, high: Any, cuts: list[Any]) -> None:
    assert bounds(low, high, 4, "k") == cuts


def test_text_has_no_range_to_cut() -> None:
    with pytest.raises(UsageError, match="no column of numbers"):
        bounds("a", "b", 2, "name")


def test_sqlite_values_are_text_each_by_itself(file: Path) -> None:
    source = Sql(url=f"sqlite:///{file}", table='odd "table')
    assert read(source).to_pydict() == {
        "k": ["1", "2", "9007199254740993", None],
        "v": ["é", "2.5", "bytes", None],
        "_file": ['odd "table'] * 4,
        "_row": [None] * 4,
    }
    parts = conditions_of('"k"', [2, 5])
    assert sorted(map(str, read(source, parts)["k"].to_pylist())) == sorted(map(str, read(source)["k"].to_pylist()))


def test_sqlite_is_not_made_nor_written_and_a_change_meanwhile_is_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="database file is missing"):
        read(Sql(url=f"sqlite:///{tmp_path}/none.db", table="t"))
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(UsageError, match="refuses the query"):
        read(Sql(url=f"sqlite:///{file}", query="select nothing from nowhere"))
    source = Sql(url=f"sqlite:///{file}", query='select k from "odd ""table"')
    before = source.fingerprint()
    view = pickle.loads(pickle.dumps(source.database.view()))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute('delete from "odd ""table" where k = 1')
        connection.commit()
    with pytest.raises(RaycycleError, match="changed or removed while it was read"):
        list(source.database.rows("select 1", view.seen))
    assert source.fingerprint() != before


def test_a_log_beside_the_file_counts_too(file: Path) -> None:
    source = Sql(url=f"sqlite:///{file}", query='select k from "odd ""table"')
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("pragma journal_mode=wal")
        before, view = source.fingerprint(), source.database.view()
        writer.execute('insert into "odd ""table" values (7, 7)')
        writer.commit()
        assert source.fingerprint() != before
        assert read(source).num_rows == 5
        with pytest.raises(RaycycleError, match="changed"):
            list(source.database.rows("select 1", view.seen))


def test_a_query_can_tell_whether_anything_changed(file: Path) -> None:
    source = Sql(url=f"sqlite:///{file}", table='odd "table', fingerprint_query='select count(*) from "odd ""table";')
    before = source.fingerprint()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute('update "odd ""table" set v = 1')
        connection.commit()
        assert source.fingerprint() == before, "only what the query tells is asked for"
        connection.execute('insert into "odd ""table" values (7, 7)')
        connection.commit()
    assert source.fingerprint() != before
    assert Sql(url="postgresql://a@nowhere.invalid/b", table="t").fingerprint() is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": f"{PASSWORD}"}, "not a URL"),
        ({"url": f"mysql://me:{PASSWORD}@host/db"}, "unknown database: 'mysql'"),
        ({"url": "sqlite://"}, "names no file"),
        ({"query": "select 1"}, "one of query and table"),
        ({"table": None}, "one of query and table"),
        ({"partitions": 0}, "out of range"),
        ({"partitions": 2}, "needs a column"),
    ],
)
def test_wrong_options_are_refused_without_the_password(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Sql(**{"url": f"postgresql://me:{PASSWORD}@host/db", "table": "t", **options})
    assert PASSWORD not in caught.value.message


def test_no_representation_shows_the_password() -> None:
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:9/db"
    source = Sql(url=url, table="t")
    assert PASSWORD not in repr(source) + repr(source.database) + repr(database_of(url))
    with pytest.raises(UsageError, match=r"cannot be read .*refused") as caught:
        source.database.view()
    assert "postgresql://me:***@127.0.0.1:9/db" in caught.value.message and PASSWORD not in caught.value.message


def test_no_password_of_a_source_is_written_down() -> None:
    node = {
        "left": {"_target_": "x.Sql", "url": f"postgresql://me:{PASSWORD}@h/d", "password": PASSWORD},
        "right": {"_target_": "x.Reader", "args": {"deep": [{"api_key": PASSWORD, "user": "me"}], "uri": f"a://b?token={PASSWORD}"}},
        "numbers": {"token": "1,234.5"},
    }
    assert concealed(node) == {
        "left": {"_target_": "x.Sql", "url": "postgresql://me:***@h/d", "password": "***"},
        "right": {"_target_": "x.Reader", "args": {"deep": [{"api_key": "***", "user": "me"}], "uri": "a://b?token=***"}},
        "numbers": {"token": "1,234.5"},
    }
    with pytest.raises(UsageError, match="cannot be made") as caught:
        build({"_target_": "tables.sources.reader.RayReader", "args": {"password": PASSWORD}})
    assert PASSWORD not in caught.value.message


def test_a_password_of_the_environment_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert database_of("postgresql://me@host/db").url.password == PASSWORD  # type: ignore[attr-defined]
    assert database_of("postgresql://me:own@host/db").url.password == "own"  # type: ignore[attr-defined]
