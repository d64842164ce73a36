"""Rows on their way into a table, on a real Ray: each key once, whatever the layout; killed anywhere and started again, the same table.

$RAYCYCLE_KILLS says how often each kind of store is put through a kill -9.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chaos.experiment import Command, nothing_half_done
from ingester import CONTRACT, LATEST, NAME, UNIQUE, both

from cluster.progress import Progress
from cluster.session import Session, connect
from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from flows import quarantine as kept
from flows.ingest import Ingested, ingest
from ledger import digests
from tables import log, snapshots
from tables.duplicates import Once
from tables.sources.files import Files

SCRIPT = Path(__file__).parents[1] / "ingester.py"
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("RAYCYCLE_KILLS", "2"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    """The environment that leads to an S3 protocol server with a bucket `ingest`, before Ray starts: its workers inherit it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="ingest")
        yield
    server.stop()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, bucket: None) -> Iterator[Session]:
    with connect(Store.open(tmp_path_factory.mktemp("ray")), num_cpus=2) as session:
        yield session


def write_csv(folder: Path, rows: list[tuple[Any, ...]], files: int = 3) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = [",".join(map(str, row)) for row in rows[number::files]]
        (folder / f"{number}.csv").write_text("\n".join(["id,code,at,word,y", *lines, ""]))
    return Files(path=str(folder))


def people(start: int, count: int) -> list[tuple[Any, ...]]:
    """Each tenth row in an older form too, and every 25th with a label that is none; two rows share a code."""
    rows: list[tuple[Any, ...]] = [(i, i, float(i % 7), f"w{i % 5}", "none" if i % 25 == 0 else i / 2) for i in range(start, start + count)]
    older = [(row[0], row[1], -1.0, "older", 0.5) for row in rows[1::10]]
    return [*rows, *older, (10**6 + start, start + 3, 0.0, "twin", 1.0)]


def made(store: Store, source: Files, onces: tuple[Once, ...] = LATEST, write: str = "replace", contract: Any = CONTRACT) -> Ingested:
    return ingest(NAME, source, contract, store, Progress(quiet=True), onces, write)


def rows_of(made: Ingested) -> list[dict[str, Any]]:
    return pa.concat_tables([snapshots.read(file) for file in made.snapshot.files]).sort_by("id").to_pylist()


def quarantine(made: Ingested) -> list[dict[str, Any]]:
    assert made.quarantine is not None
    return [row for file in sorted(made.quarantine.glob("rows1-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_each_key_once_and_what_is_not_unique_is_quarantined(session: Session, store: Store, tmp_path: Path) -> None:
    found = made(store, write_csv(tmp_path / "one", people(0, 200)))
    rows = rows_of(found)
    assert found.duplicates == 20 and "older" not in {row["word"] for row in rows}
    assert found.quarantined == {"y.type": 8, "unique:code": 1}
    codes = [row["code"] for row in rows]
    assert len(codes) == len(set(codes)) == len(rows) == 192
    bad = quarantine(found)
    assert {row["y"] for row in bad if row["_rule"] == "y.type"} == {"none"}, "values stand there as they were read"
    assert {row["_reason"] for row in bad if row["_rule"] == "unique:code"} == {"another row has the same code"}
    assert [path.name for path in store.quarantine.iterdir()] == [NAME]


def test_the_layout_of_the_source_makes_no_difference(session: Session, store: Store, tmp_path: Path) -> None:
    from ray.data import DataContext

    rows = people(0, 300)
    first = made(store, write_csv(tmp_path / "one", rows, files=1))
    random.Random(2).shuffle(rows)
    context = DataContext.get_current()
    before, context.target_max_block_size = context.target_max_block_size, 3_000
    try:
        other = made(Store.open(tmp_path / "other"), write_csv(tmp_path / "seven", rows, files=7))
    finally:
        context.target_max_block_size = before
    assert (other.snapshot.digest, other.outputs, other.duplicates) == (first.snapshot.digest, first.outputs, first.duplicates)


def test_appended_rows_meet_those_that_are_there(session: Session, store: Store, tmp_path: Path) -> None:
    first = made(store, write_csv(tmp_path / "one", [(1, 1, 1.0, "a", 1.0), (2, 2, 1.0, "a", 1.0)], files=1))
    more = write_csv(tmp_path / "two", [(1, 1, 2.0, "later", 2.0), (3, 2, 1.0, "taken", 1.0), (4, 4, 1.0, "new", 1.0)], files=1)
    unique = made(store, more, UNIQUE, "append")
    assert [row["word"] for row in rows_of(unique)] == ["a", "a", "new"]
    assert unique.quarantined == {"unique:code": 2}
    assert made(store, more, UNIQUE, "append").snapshot.version == unique.snapshot.version, "the same rows are not appended again"
    again = made(store, write_csv(tmp_path / "one", [(1, 1, 1.0, "a", 1.0), (2, 2, 1.0, "a", 1.0)], files=1))
    assert again.snapshot.digest == first.snapshot.digest
    merged = made(store, more, LATEST, "append")
    assert [(row["id"], row["word"]) for row in rows_of(merged)] == [(1, "later"), (2, "a"), (4, "new")]
    assert merged.duplicates == 1


def test_a_promise_about_the_whole_table_stops_before_anything_is_seen(session: Session, store: Store, tmp_path: Path) -> None:
    import msgspec

    from tables.promises import RowCount

    source = write_csv(tmp_path / "one", people(0, 30))
    first = made(store, source)
    strict = msgspec.structs.replace(CONTRACT, rows=RowCount(max=20))
    with pytest.raises(RaycycleError, match="more than 20"):
        made(store, write_csv(tmp_path / "two", people(0, 40)), contract=strict)
    assert snapshots.open_snapshot(store, NAME) == first.snapshot
    nothing_half_done(store)
    warned = made(store, source, contract=msgspec.structs.replace(CONTRACT, rows=RowCount(max=20, severity="warn")))
    assert list(warned.promises) == ["rows.max"]
    assert Ingested.load(_saved(warned, tmp_path / "saved"), store) == warned


def _saved(made: Ingested, folder: Path) -> Path:
    folder.mkdir()
    made.save(folder)
    return folder


def test_too_many_rows_that_are_not_unique_are_beyond_the_budget(session: Session, store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaycycleError, match="8 of 9 rows break the contract"):
        made(store, write_csv(tmp_path / "one", [(i, 7, 1.0, "a", 1.0) for i in range(9)]))
    with pytest.raises(UsageError, match="no snapshot"):
        snapshots.open_snapshot(store, NAME)
    nothing_half_done(store)


@dataclass
class Trials:
    """Runs of the script on stores of one kind, each in a folder of its own beside the same source."""

    folder: Path
    kind: str
    address: str

    def start(self, name: str) -> Command:
        store = Store.open(self.folder / name, None if self.kind == "folder" else f"s3://ingest/{self.folder.name}/{name}")
        out = self.folder / f"{name}-{time.monotonic_ns()}.out"
        words = [sys.executable, str(SCRIPT), self.address, str(store.root), store.tables_uri or "-"]
        with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
            process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=stdout, stderr=stderr)
        return Command(process, store, out)


def begun(command: Command, folder: str) -> None:
    while f"begins {folder}" not in command.out.read_text() and not command.ended:
        time.sleep(0.02)


def told_by(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.out.read_text().splitlines() if line.startswith("{")]


def seen(store: Store) -> set[str]:
    """The digest of each version that a reader finds."""
    with contextlib.suppress(UsageError):
        return {str(snapshots.open_snapshot(store, NAME, each.number).digest) for each in log.history(store, NAME)}
    return set()


@pytest.fixture(scope="module", params=["folder", "objects"])
def trials(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, session: Session) -> Trials:
    folder = tmp_path_factory.mktemp("kills")
    write_csv(folder / "one", people(0, 200))
    write_csv(folder / "two", people(200, 100))
    return Trials(folder, request.param, session.address)


@pytest.mark.timeout(120 + 60 * KILLS)
def test_killed_anywhere_and_started_again_it_is_the_same_table(trials: Trials) -> None:
    undisturbed = trials.start("undisturbed")
    begun(undisturbed, "one")
    began = time.monotonic()
    assert undisturbed.finish() == 0, undisturbed.said
    took, wanted = time.monotonic() - began, told_by(undisturbed)
    bad, versions = digests.of_folder(undisturbed.store.quarantine / NAME), seen(undisturbed.store)
    assert versions == {each["digest"] for each in wanted}
    for number in range(KILLS):
        chance = random.Random(f"{os.environ.get('RAYCYCLE_SEED', '1')}:{number}")
        killed = trials.start(f"trial-{number}")
        begun(killed, "one")
        time.sleep((number + chance.random()) / KILLS * took)
        killed.process.kill()
        killed.process.wait()
        assert told_by(killed) == wanted[: len(told_by(killed))]
        assert seen(killed.store) <= versions
        assert list(both(killed.store)) == wanted
        assert seen(killed.store) == versions
        assert digests.of_folder(killed.store.quarantine / NAME) == bad
        if trials.kind == "folder":
            nothing_half_done(killed.store)


def test_killed_after_the_commit_it_is_not_appended_twice(
    session: Session, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment that kills rarely meet: the rows are in the table, and the quarantine is not published yet."""
    made(store, write_csv(tmp_path / "one", people(0, 60)))
    more = write_csv(tmp_path / "two", [*people(60, 60), (7_000, 3, 1.0, "taken", 1.0)])

    def die(*of: Any, **more: Any) -> None:
        snapshots.commit(*of, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("flows.ingest.snapshots", _but(snapshots, commit=die))
        made(store, more, UNIQUE, "append")
    appended = snapshots.open_snapshot(store, NAME)
    again = made(store, more, UNIQUE, "append")
    assert again.snapshot == appended
    assert again.quarantined == {"y.type": 2, "unique:code": 8}
    assert len(quarantine(again)) == 10


def _but(module: Any, **changed: Any) -> Any:
    return SimpleNamespace(**{**vars(module), **changed})


def test_mended_rows_go_in_and_leave_the_quarantine_once(
    session: Session, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(store, write_csv(tmp_path / "one", people(0, 60), files=1))
    assert kept.counts(store, NAME) == {"y.type": 3, "unique:code": 1}
    out = tmp_path / "bad.csv"
    assert kept.export(store, NAME, out) == 4
    assert out.stat().st_mode & 0o77 == 0
    lines = out.read_text().splitlines()
    mended = [line.replace('"none"', '"7.5"') for line in lines if "unique" not in line][:3]
    out.write_text("\n".join([*mended, ""]))

    def die(*of: Any, **more: Any) -> None:
        snapshots.commit(*of, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("flows.ingest.snapshots", _but(snapshots, commit=die))
        kept.reingest(NAME, CONTRACT, UNIQUE, store, Progress(quiet=True), out)
    assert kept.counts(store, NAME) == {"y.type": 3, "unique:code": 1}
    again, left = kept.reingest(NAME, CONTRACT, UNIQUE, store, Progress(quiet=True), out)
    assert (again.snapshot.rows, again.snapshot.version, left) == (first.snapshot.rows + 2, 1, 2)
    assert [row["y"] for row in rows_of(again) if row["id"] % 25 == 0] == [7.5, 7.5]
    assert kept.counts(store, NAME) == {"y.type": 1, "unique:code": 1}
    with pytest.raises(UsageError, match="does not name rows of the quarantine"):
        kept.reingest(NAME, CONTRACT, UNIQUE, store, Progress(quiet=True), out)
    with pytest.raises(RaycycleError, match="2 of 2 rows break"):
        kept.reingest(NAME, CONTRACT, UNIQUE, store, Progress(quiet=True))
    nothing_half_done(store)


def test_quarantined_rows_go_in_as_they_are_when_the_contract_was_mended(session: Session, store: Store, tmp_path: Path) -> None:
    made(store, write_csv(tmp_path / "one", people(0, 60), files=1))
    whole, left = kept.reingest(NAME, CONTRACT, (), store, Progress(quiet=True))
    assert (whole.quarantined, left) == ({"y.type": 3}, 3), "the rule of uniqueness is gone, the labels are what they were"
    shown = kept.some_rows(store, NAME, 2)
    assert [row["_rule"] for row in shown] == ["y.type"] * 2
    assert {row["word"] for row in shown} == {kept.HIDDEN}, "no run tells what the columns hold, so nobody is shown it"
