"""Each kind of source against the real thing, from its YAML to a snapshot: wherever the same rows lie, the same snapshot comes of them."""

from __future__ import annotations

import datetime as dt
import gc
import getpass
import gzip
import json
import sqlite3
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from databases import SERVER, fresh_database, open_database
from deltalake import write_deltalake
from moto.server import ThreadedMotoServer
from pyarrow import fs

from cluster.progress import Progress
from cluster.session import connect
from cluster.store import Store
from conf.compose import compose
from conf.errors import RaycycleError, UsageError, root_cause
from flows.made import Made
from flows.pipeline import run
from flows.plan import plan
from tables.sources.delta import Delta
from tables.sources.files import Files
from tables.sources.sql import Sql

PASSWORD = "hunter2-canary"
ROWS = 60
CONTRACT = {
    "name": "orders",
    "task": "binary",
    "label": "late",
    "key": ["id"],
    "max_bad_fraction": 0.1,
    "columns": {
        "id": {"type": "int64", "role": "key", "nullable": False},
        "at": {"type": "timestamp", "role": "observed"},
        "day": {"type": "date", "role": "observed"},
        "amount": {"type": "double", "min": 0},
        "city": {"type": "string"},
        "late": {"type": "bool", "role": "label", "nullable": False},
    },
}


def orders() -> list[dict[str, Any]]:
    """Decimals, moments of a zone, dates, text with quotes and nulls; the amount of row 7 breaks the contract."""
    start = dt.datetime(2024, 3, 30, 22, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    return [
        {
            "id": i,
            "at": start + dt.timedelta(hours=i, microseconds=i),
            "day": dt.date(2024, 1, 1) + dt.timedelta(days=i % 9),
            "amount": Decimal("-1.25") if i == 7 else Decimal(i) / 4,
            "city": None if i % 11 == 3 else f'Köln, "{i % 3}"',
            "late": i % 3 == 0,
        }
        for i in range(ROWS)
    ]


TYPES = {
    "id": pa.int64(),
    "at": pa.timestamp("us", "Europe/Berlin"),
    "day": pa.date32(),
    "amount": pa.decimal128(10, 2),
    "city": pa.string(),
    "late": pa.bool_(),
}
TABLE = pa.Table.from_pylist(orders(), schema=pa.schema(TYPES))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One Ray for all, and one store."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    with connect(store, num_cpus=2):
        yield store


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address=SERVER[0], port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, keys: None) -> tuple[str, fs.S3FileSystem]:
    """A fresh bucket on a real S3 server, and a way to write to it."""
    storage = fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True, background_writes=False)
    name = f"orders-{uuid.uuid4().hex[:12]}"
    storage.create_dir(name)
    return name, storage


@pytest.fixture
def database() -> Iterator[tuple[str, psycopg.Connection]]:
    """The name of a fresh PostgreSQL database, and a connection to it."""
    with fresh_database() as name, open_database(name) as connection:
        yield name, connection


def address(database: str) -> str:
    return f"postgresql://{getpass.getuser()}:${{oc.env:ORDERS_PASSWORD}}@{SERVER[0]}:{SERVER[1]}/{database}"


@pytest.fixture
def ingested(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    """`raycycle run dataset=orders --until ingest` of a source as its YAML says it."""
    monkeypatch.setenv("ORDERS_PASSWORD", PASSWORD)

    def ingest(source: dict[str, Any], *overrides: str) -> Made:
        dataset = {
            "name": "orders",
            "contract": "orders",
            "source": source,
            "split": {"_target_": "tables.splits.HashSplit"},
        }
        for folder, document in (("dataset", dataset), ("contract", CONTRACT)):
            (tmp_path / "conf" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "conf" / folder / "orders.yaml").write_text(yaml.safe_dump(document))
        composed = compose(["dataset=orders", "deploy=none", *overrides], tmp_path / "conf")
        return run(plan(composed, until="ingest"), store, Progress(quiet=True))

    return ingest


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """What each kind of source came to."""
    return {}


def holds(made: Made, digests: dict[str, str], origins: list[tuple[str | None, int | None]]) -> None:
    """The good rows are all there and the same as of every other source; the bad one tells where it came from."""
    assert made.ingested is not None
    assert (made.ingested.snapshot.rows, made.ingested.quarantined) == (ROWS - 1, {"amount.min": 1})
    digests.setdefault("rows", str(made.ingested.snapshot.digest))
    assert str(made.ingested.snapshot.digest) == digests["rows"]
    assert made.ingested.quarantine is not None
    bad = pa.concat_tables([pq.read_table(file) for file in made.ingested.quarantine.glob("*.parquet")])
    assert [(row.get("_file"), row.get("_row")) for row in bad.to_pylist()] == origins


def test_files_on_s3(bucket: tuple[str, fs.S3FileSystem], endpoint: str, ingested: Callable[..., Made], digests: dict[str, str]) -> None:
    name, storage = bucket
    for number in range(2):
        pq.write_table(TABLE.slice(number * 40, 40), f"{name}/in/half={number}/part.parquet", filesystem=storage)
    source = {"_target_": "tables.sources.files.Files", "path": f"s3://{name}/in", "endpoint": endpoint}
    holds(ingested(source), digests, [("half=0/part.parquet", 8)])
    again = ingested(source)
    assert again.ingested is not None and not json.loads((again.folder / "record.json").read_text())["stages"][0]["ran"]


def test_delta_at_a_version(tmp_path: Path, ingested: Callable[..., Made], digests: dict[str, str]) -> None:
    write_deltalake(tmp_path / "delta", TABLE, partition_by=["late"])
    write_deltalake(tmp_path / "delta", TABLE, mode="append")
    source = Delta(path=str(tmp_path / "delta"), version=0)
    file = next(name for name, _ in source.opened.files if name.startswith("late=false"))
    made = ingested({"_target_": "tables.sources.delta.Delta", "path": str(tmp_path / "delta"), "version": 0})
    holds(made, digests, [(file, 5)])
    assert Delta(path=str(tmp_path / "delta")).fingerprint() != source.fingerprint()


def test_postgres_in_parts(database: tuple[str, psycopg.Connection], ingested: Callable[..., Made], digests: dict[str, str]) -> None:
    name, connection = database
    connection.execute('create table orders (id int, at timestamptz, day date, amount numeric(10, 2), "city" text, late bool)')
    with connection.cursor() as cursor:
        cursor.executemany("insert into orders values (%(id)s, %(at)s, %(day)s, %(amount)s, %(city)s, %(late)s)", orders())
    source = {"_target_": "tables.sources.sql.Sql", "url": address(name), "table": "public.orders"}
    made = ingested({**source, "partition_by": "id", "partitions": 3})
    holds(made, digests, [("public.orders", None)])
    holds(ingested({**source, "partition_by": "at", "partitions": 2}), digests, [("public.orders", None)])
    written = b"".join(file.read_bytes() for file in made.folder.rglob("*") if file.is_file())
    assert b"public.orders" in written and PASSWORD.encode() not in written


def test_sqlite(tmp_path: Path, ingested: Callable[..., Made], digests: dict[str, str]) -> None:
    with sqlite3.connect(tmp_path / "orders.db") as connection:
        connection.execute("create table orders (id, at, day, amount, city, late)")
        rows = [{**row, "at": str(row["at"]), "day": str(row["day"]), "amount": float(row["amount"])} for row in orders()]
        connection.executemany("insert into orders values (:id, :at, :day, :amount, :city, :late)", rows)
    connection.close()
    source = {"_target_": "tables.sources.sql.Sql", "url": f"sqlite:///{tmp_path}/orders.db", "query": "select * from orders;"}
    holds(ingested({**source, "partition_by": "id", "partitions": 4}), digests, [("query", None)])


def test_a_reader_of_ray(tmp_path: Path, ingested: Callable[..., Made], digests: dict[str, str]) -> None:
    pyarrow.csv.write_csv(TABLE.set_column(1, "at", TABLE["at"].cast(pa.timestamp("us", "UTC"))), tmp_path / "orders.csv")
    source = {"_target_": "tables.sources.reader.RayReader", "reader": "csv", "args": {"paths": [str(tmp_path / "orders.csv")]}}
    holds(ingested(source), digests, [(None, None)])


def test_a_source_of_ones_own(
    tmp_path: Path, ingested: Callable[..., Made], digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(TABLE, tmp_path / "orders.parquet")
    (tmp_path / "warehouse.py").write_text(
        "import dataclasses, ray.data\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass Orders:\n    file: str\n\n"
        "    def read(self):\n        return ray.data.read_parquet(self.file)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = {"_target_": "warehouse.Orders", "file": str(tmp_path / "orders.parquet")}
    with pytest.raises(UsageError, match="_target_ is not allowed"):
        ingested(source)
    holds(ingested(source, "plugins=[warehouse]"), digests, [(None, None)])
    sys.modules.pop("warehouse", None)


def rows_of(source: Files | Delta | Sql) -> list[dict[str, Any]]:
    return sorted(source.read().take_all(), key=lambda row: int(row["id"]))


def test_a_glob_of_packed_text_on_s3(
    store: Store, bucket: tuple[str, fs.S3FileSystem], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, storage = bucket
    files = {"in/a.csv.gz": gzip.compress(b"id,x\n1,a\n2,\n"), "in/b.csv": b"id,x\n3,c\n", "in/c.txt": b"id,y\n4,d\n", "in/_SUCCESS": b""}
    for key, data in files.items():
        with storage.open_output_stream(f"{name}/{key}", compression=None) as stream:
            stream.write(data)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    source = Files(path=f"s3://{name}/in/*.csv*")
    assert [(row["id"], row["x"], row["_file"], row["_row"]) for row in rows_of(source)] == [
        ("1", "a", "a.csv.gz", 2),
        ("2", None, "a.csv.gz", 3),
        ("3", "c", "b.csv", 2),
    ]
    before = source.fingerprint()
    assert Files(path=f"s3://{name}/in/*.csv*").fingerprint() == before
    reading = source.read()
    with storage.open_output_stream(f"{name}/in/b.csv") as stream:
        stream.write(b"id,x\n9,z\n")  # the same size
    assert source.fingerprint() != before
    with pytest.raises(Exception) as caught:
        reading.take_all()
    assert "was changed or removed while it was read" in str(root_cause(caught.value)) and "b.csv" in str(root_cause(caught.value))
    with pytest.raises(UsageError, match=r"c\.txt has no column 'x'"):
        list(Files(path=f"s3://{name}/in").batches())


def test_delta_on_s3(store: Store, bucket: tuple[str, fs.S3FileSystem], endpoint: str) -> None:
    options = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    write_deltalake(f"s3://{bucket[0]}/t", pa.table({"id": [1, 2], "x": ["a", "b"]}), partition_by=["x"], storage_options=options)
    source = Delta(path=f"s3://{bucket[0]}/t", endpoint=endpoint)
    assert [(row["id"], row["x"], row["_row"]) for row in rows_of(source)] == [(1, "a", 1), (2, "b", 1)]
    with pytest.raises(UsageError, match="is a Delta table"):
        Files(path=f"s3://{bucket[0]}/t", endpoint=endpoint).found()


@pytest.mark.parametrize(
    ("path", "said"),
    [("s3://{bucket}/none", "no object has this name"), ("s3://no-such-bucket-{bucket}/x", "no object has this name"), ("s3://", "bucket")],
)
def test_objects_that_are_not_there(bucket: tuple[str, fs.S3FileSystem], endpoint: str, path: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Files(path=path.format(bucket=bucket[0]), endpoint=endpoint).found()


def test_a_storage_that_refuses_or_is_away_shows_no_key(bucket: tuple[str, fs.S3FileSystem], endpoint: str) -> None:
    """The real server checks signatures once it is told to."""

    def checked_after(actions: bytes) -> None:
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=actions, headers=headers)).close()

    said = []
    checked_after(b"0")
    try:
        for source in (Files(path=f"s3://{bucket[0]}/in", endpoint=endpoint), Delta(path=f"s3://{bucket[0]}/t", endpoint=endpoint)):
            with pytest.raises(UsageError, match=r"refuses access|cannot be opened") as caught:
                source.fingerprint()
            said.append(caught.value.message)
    finally:
        checked_after(b"inf")
    with pytest.raises(UsageError, match=r"cannot be read \(NETWORK_CONNECTION\)") as caught:
        Files(path=f"s3://{bucket[0]}/in", endpoint="http://127.0.0.1:9").found()
    assert not any(secret in "".join([*said, caught.value.message]) for secret in (PASSWORD, "someone"))


def test_all_parts_of_a_query_see_one_state(store: Store, database: tuple[str, psycopg.Connection]) -> None:
    name, connection = database
    connection.execute("create table t as select i as id, i * 1.5 as x from generate_series(1, 100) i")
    url = f"postgresql://{getpass.getuser()}@{SERVER[0]}:{SERVER[1]}/{name}"
    reading = Sql(url=url, query="select id, x from t;", partition_by="id", partitions=4).read()
    connection.execute("insert into t select i, 0 from generate_series(-50, 0) i")
    connection.execute("update t set x = 0")
    found = reading.take_all()
    assert sorted((row["id"], row["x"]) for row in found) == [(i, f"{Decimal(i) * Decimal('1.5')}") for i in range(1, 101)]
    del reading
    gc.collect()
    open_ones = "select count(*) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
    assert connection.execute(open_ones, [name]).fetchall() == [(0,)], "nothing is held when nobody reads any more"


def test_postgres_values_are_typed_the_same_whatever_the_server_is_set_to(database: tuple[str, psycopg.Connection]) -> None:
    name, connection = database
    connection.execute(f"alter database {name} set timezone to 'Asia/Tokyo'")
    connection.execute(f"alter database {name} set datestyle to 'German'")
    query = """select timestamptz '2024-03-31 02:30:00.000001+02' as at, timestamp '2024-03-31 02:30' as local, date '2024-02-29' as day,
        true as yes, 1.10::numeric as money, 'NaN'::float8 as nan, 0.1::float4 as real, null::text as none, '' as empty,
        'a"b,' || chr(10) || 'é' as word, '{"a": 1}'::json as doc, 2::smallint as small,
        interval '1 day 2 s' as lasted, '\\xff'::bytea as raw"""
    database_ = Sql(url=f"postgresql://{getpass.getuser()}@{SERVER[0]}:{SERVER[1]}/{name}", query=query).database
    view = database_.view()
    (table,) = database_.rows(query, view.seen)
    assert {str(field.type) for field in table.schema} == {
        "timestamp[us, tz=UTC]",
        "timestamp[us]",
        "date32[day]",
        "bool",
        "string",
        "double",
        "int64",
    }
    row = table.to_pylist()[0]
    assert row.pop("nan") != 0
    assert row == {
        "at": dt.datetime(2024, 3, 31, 0, 30, 0, 1, tzinfo=dt.UTC),
        "local": dt.datetime(2024, 3, 31, 2, 30),
        "day": dt.date(2024, 2, 29),
        "yes": True,
        "money": "1.10",
        "real": 0.1,
        "none": None,
        "empty": "",
        "word": 'a"b,\né',
        "doc": '{"a": 1}',
        "small": 2,
        "lasted": "P1DT2S",
        "raw": "\\xff",
    }
    for wrong, said in (
        ("select 'infinity'::date", "cast its column"),
        ("select no", "does not exist"),
        ("select 1 a, 2 a", "several columns"),
    ):
        with pytest.raises(UsageError, match=said):
            list(database_.rows(wrong, view.seen))
    with pytest.raises(RaycycleError, match="state of the database that is read is gone"):
        list(database_.rows("select 1", "00000000-00000000-1"))


@pytest.mark.parametrize(
    "where", ["nobody_here:{password}@{host}:{port}/postgres", "me:{password}@127.0.0.1:9/d", "me:{password}@no.invalid/d"]
)
def test_a_database_that_refuses_or_is_away_shows_no_password(where: str) -> None:
    url = "postgresql://" + where.format(password=PASSWORD, host=SERVER[0], port=SERVER[1])
    with pytest.raises(UsageError, match="the database cannot be read") as caught:
        Sql(url=url, table="t").read()
    assert PASSWORD not in caught.value.message and ":***@" in caught.value.message


def test_nothing_that_was_written_holds_a_password(store: Store) -> None:
    """The last test: everything that the runs of this file left in the store."""
    files = [file for file in store.root.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(files) > 20
    assert not [file for file in files if PASSWORD.encode() in file.read_bytes()]
