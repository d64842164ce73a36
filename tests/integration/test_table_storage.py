"""Tables on local disk and behind a real S3 protocol server: the same versions, whoever writes at once, is killed, reads or vacuums."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from homes import Home
from pyarrow.csv import write_csv

from cluster.objects import ObjectPath, filesystem, listed
from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from tables import log, retention, snapshots
from tables.rows import TableDigest

APPENDER = Path(__file__).parents[1] / "appender.py"
ROOT = Path(__file__).parents[2]
ROWS = pa.table({"n": [1, 2, 3, 4], "t": ["a", None, "ü", "a"]})


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of an S3 protocol server with one bucket."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def objects(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place for tables in the bucket, with the environment that leads there."""
    import boto3

    told = {"AWS_ENDPOINT_URL": server, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "canary", "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="tables")
    return f"s3://tables/{time.monotonic_ns()}"


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", request.getfixturevalue("objects") if request.param == "objects" else None)


def commit(store: Store, *tables: pa.Table, mode: Any = "replace", **more: Any) -> snapshots.Snapshot:
    parts = [snapshots.write_part(snapshots.table_folder(store, "t"), table) for table in tables]
    return snapshots.commit(store, "t", tables[0].schema, parts, mode, **more)


def read(snapshot: snapshots.Snapshot) -> pa.Table:
    return pa.concat_tables([snapshots.read(file) for file in snapshot.files]).sort_by("n")


def files(store: Store) -> set[str]:
    return {file.name for file in listed(snapshots.table_folder(store, "t")) if file.name.endswith(".parquet")}


def newest(count: int) -> Any:
    return lambda versions: retention.retained(versions, [], count)


def appender(store: Store, writer: int, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, str(APPENDER), str(store.root), store.tables_uri or "-", str(writer), str(count)]
    return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_same_commits_are_the_same_versions_wherever_they_lie(store: Store) -> None:
    first, second = commit(store, ROWS.slice(0, 1), ROWS.slice(1)), commit(store, ROWS.slice(0, 2))
    assert (first.version, second.version, first.digest) == (0, 1, TableDigest.of(ROWS))
    assert commit(store, ROWS.slice(1, 1), ROWS.slice(0, 1)) == second == snapshots.open_snapshot(store, "t")
    assert read(snapshots.open_snapshot(store, "t", 0)).equals(ROWS)
    more = commit(store, ROWS.slice(2), mode="append")
    assert (more.version, more.digest) == (2, first.digest) and read(more).equals(ROWS)
    assert snapshots.read(more.files[0], ["t"], pc.field("n") > 9).num_rows == 0
    assert [(each.number, each.mode, each.rows) for each in log.history(store, "t")] == [
        (2, "append", 4),
        (1, "replace", 2),
        (0, "replace", 4),
    ]
    with pytest.raises(UsageError, match="no snapshot 7"):
        snapshots.open_snapshot(store, "t", 7)
    with pytest.raises(UsageError, match="no snapshot of"):
        snapshots.open_snapshot(store, "other")


def test_four_processes_that_append_at_once_lose_and_double_no_row(store: Store) -> None:
    running = [appender(store, writer, 5) for writer in range(4)]
    for process in running:
        said = process.communicate(timeout=100)
        assert process.returncode == 0, said
    found = snapshots.open_snapshot(store, "t")
    rows = sorted(map(tuple, (row.values() for row in read(found).to_pylist())))
    assert rows == [(writer, n) for writer in range(4) for n in range(5)]
    assert found.version == 19 and found.digest == TableDigest.of(read(found))
    assert files(store) == {file.name for file in found.files}
    one = snapshots.open_snapshot(store, "t", 11)
    assert one.rows == 12 and one.digest == TableDigest.of(read(one))


def test_a_writer_that_is_killed_and_starts_again_adds_each_row_once(store: Store) -> None:
    for _ in range(3):
        process = appender(store, 0, 4)
        assert process.stdout is not None
        if not process.stdout.readline():
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = appender(store, 0, 4)
    assert process.communicate(timeout=60) and process.returncode == 0
    assert read(snapshots.open_snapshot(store, "t"))["n"].to_pylist() == [0, 1, 2, 3]


def test_a_replacement_of_an_older_version_is_refused_and_loses_nothing(store: Store) -> None:
    commit(store, ROWS.slice(0, 2))
    seen = snapshots.head(store, "t")
    commit(store, ROWS.slice(2), mode="append")
    with pytest.raises(UsageError, match="would lose what another writer made") as caught:
        commit(store, ROWS.slice(3), onto=seen)
    assert "1 (append, 4 rows)" in caught.value.allowed and caught.value.value == "t@0"
    assert read(snapshots.open_snapshot(store, "t")).equals(ROWS)
    assert commit(store, ROWS.slice(3), onto=snapshots.head(store, "t")).version == 2


def test_a_writer_beaten_in_the_last_moment_appends_to_what_is_there_or_refuses(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, ROWS.slice(0, 1))
    write, others = snapshots.write, iter([ROWS.slice(1, 1), ROWS.slice(3)])

    def late(*given: Any) -> int:
        monkeypatch.setattr(snapshots, "write", write)
        commit(store, next(others), mode="append")
        return write(*given)

    monkeypatch.setattr(snapshots, "write", late)
    made = commit(store, ROWS.slice(2, 1), mode="append")
    assert made.version == 2 and read(made).equals(ROWS.slice(0, 3))
    monkeypatch.setattr(snapshots, "write", late)
    with pytest.raises(UsageError, match="another writer"):
        commit(store, ROWS.slice(0, 1))
    assert read(snapshots.open_snapshot(store, "t")).equals(ROWS)


def test_a_commit_whose_answer_was_lost_is_not_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, ROWS.slice(0, 2))
    write = snapshots.write

    def lost(*given: Any) -> int:
        write(*given)
        return write(*given)  # as a store's client does that heard nothing: the second is refused by what the first one made

    monkeypatch.setattr(snapshots, "write", lost)
    made = commit(store, ROWS.slice(2), mode="append")
    assert made.version == 1 == snapshots.head(store, "t") and read(made).equals(ROWS)


def test_an_added_column_is_null_in_older_rows_and_the_digest_is_theirs(store: Store) -> None:
    said: list[str] = []
    commit(store, ROWS.slice(0, 2))
    wide = ROWS.slice(2).append_column("x", pa.array([1.5, None]))
    made = commit(store, wide, mode="append", say=said.append)
    whole = ROWS.append_column("x", pa.array([None, None, 1.5, None]))
    assert said == ["x added to t: null in the 2 rows that are there (version 1)"]
    assert made.version == 2 and read(made).equals(whole) and made.digest == TableDigest.of(whole)
    assert read(snapshots.open_snapshot(store, "t", 0)).equals(ROWS.slice(0, 2))
    found = [snapshots.read(file, ["x"], pc.field("x").is_null()) for file in made.files]
    assert pa.concat_tables(found).to_pydict() == {"x": [None, None, None]}
    assert commit(store, wide.slice(0, 1), mode="append").rows == 5 and len(said) == 1


def test_vacuum_removes_what_no_kept_version_names_and_says_so_from_then_on(store: Store) -> None:
    first, second, third = commit(store, ROWS), commit(store, ROWS.slice(0, 2)), commit(store, ROWS.slice(2, 1), mode="append")
    orphan = snapshots.write_part(third.folder, ROWS)
    seen = retention.vacuum(store, "t", newest(1), safe_age_s=0)
    assert seen.dry_run and seen.gone == (1, 0) and seen.kept == {2: ("newest",)}
    assert {file.name for file in seen.files} == {first.files[0].name, orphan.path} and seen.size > 0
    assert read(snapshots.open_snapshot(store, "t", 0)).equals(ROWS)
    done = retention.vacuum(store, "t", newest(1), dry_run=False, safe_age_s=0)
    assert done.files == seen.files and files(store) == {file.name for file in third.files}
    with pytest.raises(UsageError, match=rf"vacuumed on 20..-..-..: 4 rows, digest {first.digest}") as caught:
        snapshots.open_snapshot(store, "t", 0)
    assert caught.value.value == "t@0"
    with pytest.raises(RaycycleError, match="vacuumed on"):  # a reader that had opened it before
        snapshots.read(first.files[0])
    assert read(snapshots.open_snapshot(store, "t")).equals(ROWS.slice(0, 3)) and read(second).equals(ROWS.slice(0, 2))
    assert [each.vacuumed is None for each in log.history(store, "t")] == [True, False, False]
    again = retention.vacuum(store, "t", newest(1), dry_run=False, safe_age_s=0)
    assert (again.gone, again.files) == ((), ())
    assert commit(store, ROWS).version == 3


def test_a_vacuum_that_is_killed_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = commit(store, ROWS.slice(0, 2), ROWS.slice(2))
    commit(store, ROWS.slice(1))

    class Killed(BaseException):
        pass

    def kill(self: object, missing_ok: bool = False) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(type(first.files[0].path), "unlink", kill)
        retention.vacuum(store, "t", newest(1), dry_run=False, safe_age_s=0)
    with pytest.raises(UsageError, match="vacuumed on"):
        snapshots.open_snapshot(store, "t", 0)
    assert {file.name for file in first.files} < files(store)
    done = retention.vacuum(store, "t", newest(1), dry_run=False, safe_age_s=0)
    assert done.gone == () and {file.name for file in done.files} == {file.name for file in first.files}
    assert len(files(store)) == 1


def test_what_is_young_stays_where_other_machines_may_write(objects: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", objects)
    commit(store, ROWS)
    last = commit(store, ROWS.slice(1))
    part = snapshots.write_part(last.folder, ROWS)
    assert snapshots.drop_orphans(store, "t") == 0
    seen = retention.vacuum(store, "t", newest(1), dry_run=False)
    assert seen.gone == () and seen.files == () and seen.kept[0] == ("was the latest less than 168 hours ago",)
    assert part.path in files(store)


def test_a_damaged_object_is_named_and_mended(objects: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", objects)
    (file,) = commit(store, ROWS).files
    assert isinstance(file.path, ObjectPath)
    file.path.write_bytes(file.path.read_bytes()[:-9])
    with pytest.raises(RaycycleError, match=r"damaged .its SHA-256") as caught:
        snapshots.read(file)
    assert str(file.path) in str(caught.value) and str(file.path).startswith(objects)
    assert commit(store, ROWS).version == 1
    file.path.unlink()
    with pytest.raises(RaycycleError, match="No such file"):
        snapshots.read(file)


def test_a_store_that_is_not_there_is_told_without_its_keys(objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Store.open(tmp_path / "store", "s3://no-such-bucket/t")
    for act in (lambda: snapshots.open_snapshot(lost, "t"), lambda: commit(lost, ROWS)):
        with pytest.raises(UsageError, match="no such bucket") as caught:
            act()
        assert "canary" not in caught.value.message
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for act in (lambda: snapshots.open_snapshot(lost, "t"), lambda: commit(lost, ROWS)):
        with pytest.raises(RaycycleError, match="does not answer") as refused:
            act()
        assert "canary" not in refused.value.message and "AWS_ENDPOINT_URL" in refused.value.next


def test_names_that_lead_elsewhere_reach_no_object(objects: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", objects)
    for name in ("../t", "a/b", "", "..", "%2e%2e", "t%2f..%2fu", "a\x00", "t?versionId=1", "t#u", "s3://tables/t", "a\\b"):
        with pytest.raises(UsageError, match="name is not usable"):
            snapshots.table_folder(store, name)
    assert listed(ObjectPath.parse(objects)) == [] and filesystem().get_file_info("tables").is_file is False


def test_a_run_keeps_its_table_among_the_objects_and_no_key_anywhere(objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCYCLE_TABLES", objects)
    home = Home(tmp_path)
    rows = pa.table({"n": range(400), "kind": ["ab"[n % 7 % 2] for n in range(400)], "y": [n % 3 for n in range(400)]})
    write_csv(rows, tmp_path / "people.csv")
    home.raycycle("init", "people.csv", "--label", "y")
    made = home.raycycle("run", "dataset=people", "store=objects", "--until", "prepare")
    store = Store.open(home.store.root, objects)
    found = snapshots.open_snapshot(store, "people")
    assert made["snapshot"] == str(found) == "people@0" and found.rows == 400
    assert all(str(file.path).startswith(objects) for file in found.files) and not list((home.store.root / "tables").glob("*"))
    told = home.raycycle("explain", "people@0", "store=objects")
    assert (told["digest"], told["gone"]) == (str(found.digest), None)
    assert home.raycycle("data", "snapshots", "people", "store=objects")["snapshots"][0]["rows"] == found.rows
    written = [file for file in tmp_path.rglob("*") if file.is_file() and os.environ["AWS_SECRET_ACCESS_KEY"].encode() in file.read_bytes()]
    assert written == []
