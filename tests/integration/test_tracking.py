"""Tracking on SQLite and PostgreSQL: many starts at once, and runs that go on while it is down and are whole and single afterwards."""

from __future__ import annotations

import contextlib
import getpass
import http.server
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import SERVER, fresh_database
from filelock import FileLock

from cluster.store import Store
from ledger.registry import CANDIDATE, CHAMPION, Registry
from ledger.spool import Spool, read, replay
from ledger.tracking import RUN_TAG, ChildRun, Tracking, TrackingDown

DIGEST = "d" * 64


class Proxy:
    """A TCP way to a server that can be closed and opened again at the same port."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server, self.port = server, 0
        self._open: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        for each in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._server)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking database in which nothing was told yet: making one takes longer than most tests."""
    store = Store.open(tmp_path_factory.mktemp("migrated"))
    Tracking.open(store)
    return store.root / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("ledger.places.PROBE_S", 1)  # not to wait two seconds for each lock
    store = Store.open(tmp_path / "store")
    shutil.copy(migrated, store.root)
    return store


@pytest.fixture
def database() -> Iterator[str]:
    """The name of a fresh PostgreSQL database."""
    with fresh_database() as name:
        yield name


def postgres(database: str, port: int = SERVER[1]) -> str:
    return f"postgresql://{getpass.getuser()}@127.0.0.1:{port}/{database}"


@pytest.fixture(params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else postgres(request.getfixturevalue("database"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    return folder


def begun(tracking: Tracking, *args: Any) -> Spool:
    """A run whose first thing is being made."""
    spool = Spool(tracking, *args)
    spool.begin()
    return spool


def tell(spool: Spool, bundle: Path, children: int) -> None:
    """What a small run says."""
    (bundle.parent / "page.html").write_text("report")
    for number in range(children):
        metrics = {"loss": number / 10}
        spool.child(
            number, ChildRun(f"trial-{number}", {"depth": number}, metrics, tags={"raycycle.status": "done"}, started=1e9, seconds=2)
        )
    spool.log({"seed": 7}, {"holdout.auc": 0.9})
    spool.log_file(bundle.parent / "page.html")
    spool.register("m", bundle, DIGEST, passed=True, tags={"raycycle.trainer": "linear"})


def check(tracking: Tracking, run_id: str, children: int, status: str = "FINISHED") -> None:
    """The run is there once, whole, and nothing of it twice."""
    client = tracking.client
    experiments = [each.experiment_id for each in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{run_id}'")
    assert (run.info.status, run.data.params, run.data.metrics) == (status, {"seed": "7"}, {"holdout.auc": 0.9})
    assert len(client.get_metric_history(run.info.run_id, "holdout.auc")) == 1
    found = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert sorted(int(child.data.params["depth"]) for child in found) == list(range(children))
    assert sorted(int(child.data.tags["raycycle.trial"]) for child in found) == list(range(children))
    assert {(child.info.status, child.info.start_time, child.info.end_time) for child in found} == {
        ("FINISHED", 1_000_000_000_000, 1_000_000_002_000)
    }
    assert all(len(client.get_metric_history(child.info.run_id, "loss")) == 1 for child in found[:3])
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["model", "page.html"]
    (version,) = Registry(tracking).versions("m")
    assert (version.run_id, version.digest, version.passed, version.aliases) == (run_id, DIGEST, True, (CANDIDATE,))
    assert (version.folder / "bundle.json").read_text() == "{}"
    assert version.folder.is_relative_to(tracking.store.artifacts)
    assert not list((tracking.store.root / "spool").iterdir())


def eventually(holds: Callable[[], bool], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


# Sixteen processes that have all imported MLflow (by one import before they part), and open at the same moment.
AT_ONCE = """
import os, sys
from multiprocessing import get_context
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from cluster.store import Store
from ledger.tracking import Tracking
root, uri = sys.argv[1], sys.argv[2] or None
fork = get_context("fork")
barrier = fork.Barrier(16)

def begin(number):
    barrier.wait()
    Tracking.open(Store.open(root), uri).start("same", f"run-{number}", {"raycycle.run": str(number)})

processes = [fork.Process(target=begin, args=(number,)) for number in range(16)]
[process.start() for process in processes]
[process.join() for process in processes]
sys.exit(sum(process.exitcode != 0 for process in processes))
"""


def test_sixteen_processes_start_at_once_on_an_empty_store(store: Store, uri: str | None) -> None:
    (store.root / "mlflow.db").unlink()
    done = subprocess.run([sys.executable, "-c", AT_ONCE, str(store.root), uri or ""], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    client = Tracking.open(store, uri).client
    assert [each.name for each in client.search_experiments(order_by=["name"])] == ["Default", "same"]
    runs = client.search_runs([client.get_experiment_by_name("same").experiment_id])
    assert sorted(int(run.data.tags[RUN_TAG]) for run in runs) == list(range(16))


def test_a_hundred_children_put_at_once_are_a_hundred(store: Store, uri: str | None, bundle: Path) -> None:
    said: list[str] = []
    tracking = Tracking(store, uri)
    start = time.monotonic()
    with begun(tracking, "exp", "run", {}, said.append) as spool:
        for number in range(99):
            spool.child(number, ChildRun(f"trial-{number}", {"depth": number}, {"loss": 0.1}, started=1e9, seconds=2))
        assert time.monotonic() - start < 1, "the run waited"
        spool.child(98, ChildRun("trial-98", {"depth": 98}, {"loss": 0.1}, started=1e9, seconds=2))
        spool.child(99, ChildRun("trial-99", {"depth": 99}, {"loss": 0.1}, started=1e9, seconds=2))
        spool.log({"seed": 7}, {"holdout.auc": 0.9})
        (bundle.parent / "page.html").write_text("report")
        spool.log_file(bundle.parent / "page.html")
        made = spool.register("m", bundle, DIGEST, passed=True, tags={})
        assert made is not None
        assert (made.version, made.run_id, made.aliases) == (1, spool.run_id, (CANDIDATE,))
    assert said == []
    check(tracking, spool.run_id, 100)


@pytest.mark.parametrize("down", ["before", "during", "after"])
def test_a_run_on_postgres_is_whole_though_tracking_was_down(store: Store, database: str, bundle: Path, down: str) -> None:
    proxy, said = Proxy(SERVER), []
    tracking = Tracking(store, postgres(database, proxy.port))
    if down == "before":
        proxy.stop()
    with begun(tracking, "exp", "run", {}, said.append) as spool:
        if down != "before":
            eventually(lambda: not spool._waiting)
            proxy.stop()
        tell(spool, bundle, 4)
        if down == "during":
            proxy.start()
        closing = time.monotonic()
    if down == "during":
        assert said == []
    else:
        assert time.monotonic() - closing < 3
        (text,) = said
        assert "entries wait" in text
        assert str(store.root / "spool" / spool.run_id) in text
        proxy.start()
        tracking = Tracking.open(store, postgres(database, proxy.port))
    check(tracking, spool.run_id, 4)
    proxy.stop()


LOCKED = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin exclusive")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another process holds the database for itself."""
    holder = subprocess.Popen([sys.executable, "-c", LOCKED, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"locked\n"
    yield
    holder.communicate()


@pytest.mark.parametrize("down", ["before", "during", "after"])
def test_a_run_on_sqlite_is_whole_though_the_database_was_locked(store: Store, bundle: Path, down: str) -> None:
    said: list[str] = []
    tracking = Tracking(store)
    with contextlib.ExitStack() as lock:
        if down == "before":
            (store.root / "mlflow.db").unlink()
            lock.enter_context(locked(store.root / "mlflow.db"))
        with begun(tracking, "exp", "run", {}, said.append) as spool:
            if down != "before":
                eventually(lambda: not spool._waiting)
                lock.enter_context(locked(store.root / "mlflow.db"))
            tell(spool, bundle, 4)
            if down == "during":
                lock.close()
            closing = time.monotonic()
        if down == "during":
            assert said == []
        else:
            assert time.monotonic() - closing < 5
            assert "entries wait" in said[0]
    file = store.root / "spool" / f"{spool.run_id}.jsonl"
    eventually(lambda: not file.exists() or read(file)[-1]["op"] == "left")
    tracking = Tracking.open(store)
    check(tracking, spool.run_id, 4)


# Replays killed after their n-th write to MLflow, n in steps, each in a copy of the store (or all in the one database), and then once more.
KILLED_REPLAY = """
import os, shutil, signal, sys
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from mlflow.tracking import MlflowClient
from cluster.store import Store
from ledger.tracking import Tracking

root, uri, step = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
WRITES = ("create_experiment", "create_run", "log_batch", "set_terminated", "log_artifact", "log_artifacts", "create_registered_model",
          "create_model_version", "set_registered_model_alias")
calls = 0

def killing_after(limit, write):
    def call(*args, **kwargs):
        global calls
        found = write(*args, **kwargs)
        calls += 1
        if calls == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return call

def attempt(place, limit):
    child = os.fork()
    if child == 0:
        for name in WRITES:
            setattr(MlflowClient, name, killing_after(limit, getattr(MlflowClient, name)))
        Tracking.open(Store.open(place), uri)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

limit, killed = 1, True
while killed:
    place = root if uri else shutil.copytree(root, f"{root}-{limit}")
    killed = attempt(place, limit)
    assert not attempt(place, 0) if not uri else True
    limit += step
print(limit - step)
"""


@pytest.mark.parametrize(("kind", "step"), [("sqlite", 2), ("postgres", 4)])
def test_a_replay_killed_after_any_write_and_repeated_makes_no_duplicates(
    store: Store, bundle: Path, kind: str, step: int, request: pytest.FixtureRequest
) -> None:
    said: list[str] = []
    with begun(Tracking(store, "http://127.0.0.1:1"), "exp", "run", {}, said.append) as spool:
        tell(spool, bundle, 2)
    assert "7 entries wait" in said[0]
    eventually(lambda: read(store.root / "spool" / f"{spool.run_id}.jsonl")[-1]["op"] == "left")
    uri = None if kind == "sqlite" else postgres(request.getfixturevalue("database"))
    script = [sys.executable, "-c", KILLED_REPLAY, str(store.root), uri or "", str(step)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    if uri:
        check(Tracking.open(store, uri), spool.run_id, 2)
    else:
        assert last > 15
        for limit in range(1, last + 1, step):
            check(Tracking.open(Store.open(f"{store.root}-{limit}")), spool.run_id, 2)


DYING = """
import os, signal, sys, time
from cluster.store import Store
from ledger.spool import Spool
from ledger.tracking import ChildRun, Tracking
tracking = Tracking(Store.open(sys.argv[1]))
with Spool(tracking, "exp", "run", {}, print, run_id="a" * 32) as spool:
    spool.begin()
    spool.child(0, ChildRun("trial-0", {"depth": 0}, {}, started=1e9, seconds=2))
    while spool._waiting:
        time.sleep(0.05)
    spool.child(1, ChildRun("trial-1", {"depth": 1}, {}, started=1e9, seconds=2))
    parent = tracking.mlflow_run_id(spool.run_id)
    tags = {"mlflow.parentRunId": parent, "raycycle.trial": "7"}
    tracking.client.create_run(tracking.client.get_run(parent).info.experiment_id, tags=tags)
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_the_run_of_a_killed_process_ends_as_killed_and_not_while_it_lives(store: Store) -> None:
    owner = subprocess.Popen([sys.executable, "-c", DYING, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout and owner.stdout.readline() == b"begun\n"
    tracking = Tracking.open(store)
    parent = tracking.mlflow_run_id("a" * 32)
    assert parent is not None
    assert replay(tracking) == 0
    assert tracking.client.get_run(parent).info.status == "RUNNING"
    owner.kill()
    owner.communicate()
    with FileLock(store.locks / "spool.lock"):
        assert replay(tracking) == 0, "two replayed at the same time"
    assert replay(tracking) == 1
    assert tracking.client.get_run(parent).info.status == "KILLED"
    assert {number: status for number, (_, status) in tracking.children(parent).items()} == {
        "0": "FINISHED",
        "1": "FINISHED",
        "7": "KILLED",
    }
    assert replay(tracking) == 0


def test_a_run_that_made_nothing_opens_no_tracking_and_is_told_by_the_next_command(store: Store) -> None:
    said: list[str] = []
    with Spool(Tracking(store), "exp", "run", {}, said.append) as spool:
        spool.log({"seed": 7})
    assert said == []
    assert spool.tracking._client is None
    tracking = Tracking.open(store)
    assert tracking.client.get_run(tracking.mlflow_run_id(spool.run_id) or "").info.status == "FINISHED"
    assert not list((store.root / "spool").iterdir())


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_a_run_that_raises_ends_as_failed_or_killed(store: Store, error: type[BaseException], status: str) -> None:
    tracking = Tracking(store)
    with pytest.raises(error), begun(tracking, "exp", "run", {}, print) as spool:
        raise error
    assert tracking.client.get_run(tracking.mlflow_run_id(spool.run_id) or "").info.status == status


def test_what_mlflow_refuses_or_has_gone_is_said_and_the_rest_arrives(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    tracking = Tracking(store)
    with begun(tracking, "exp", "run", {}, said.append) as spool:
        spool.log({"a": 1})
        spool.log({"a": 2})
        spool.log_file(tmp_path / "gone.html")
        spool.log({"b": 3})
    assert len(said) == 2
    assert "log" in said[0]
    assert "gone.html is gone" in said[1]
    run = tracking.client.get_run(tracking.mlflow_run_id(spool.run_id) or "")
    assert (run.data.params, run.info.status) == ({"a": "1", "b": "3"}, "FINISHED")


def test_the_same_bundle_is_the_same_version_and_the_memo_fits_after_each_change(store: Store, bundle: Path) -> None:
    tracking = Tracking(store)
    for _ in range(2):
        with begun(tracking, "exp", "run", {}, print) as spool:
            made = spool.register("m", bundle, DIGEST, passed=True, tags={})
            assert made is not None and made.version == 1
        memo = Registry(Tracking(store))
        assert memo.champion_now("m").version is None
        assert memo._tracking._client is None, "the memo was not believed"
    champion = Registry(tracking).set_alias(made, CHAMPION)
    memo = Registry(Tracking(store))
    assert memo.champion_now("m").version == champion == Registry(tracking).find("m")
    assert memo._tracking._client is None, "the memo was not believed"
    tracking.client.set_registered_model_tag("m", "another", "program")
    assert memo.champion_now("m").version == champion
    assert memo._tracking._client is not None, "the memo was believed after a change"


def test_with_tracking_down_the_champion_is_the_last_known(store: Store, bundle: Path) -> None:
    registry = Registry(Tracking(store))
    with begun(registry._tracking, "exp", "run", {}, print) as spool:
        made = spool.register("m", bundle, DIGEST, passed=True, tags={})
    assert made is not None
    champion = registry.set_alias(made, CHAMPION)
    registry._tracking.client.set_registered_model_tag("m", "another", "program")
    with locked(store.root / "mlflow.db"):
        found = Registry(Tracking(store)).champion_now("m")
        with pytest.raises(TrackingDown, match="locked"):
            Registry(Tracking(store)).names()
    assert (found.version, found.stale) == (champion, True)
    assert Registry(Tracking(store)).champion_now("m").stale is False


@pytest.mark.parametrize(("status", "answers"), [(200, True), (404, True), (503, False)])
def test_a_server_answers_by_its_health_page(store: Store, status: int, answers: bool) -> None:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/at/health" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert Tracking(store, f"http://me:s3cret@127.0.0.1:{server.server_port}/at/").answers() is answers
    server.shutdown()
    server.server_close()
