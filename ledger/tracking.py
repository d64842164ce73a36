"""MLflow runs, by the client API alone: ids and URI are passed on, never taken from a thread or process."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlparse

from filelock import FileLock, Timeout

from cluster.store import Store
from conf.errors import RaycycleError, UsageError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from sqlalchemy import Engine

Status = Literal["FINISHED", "FAILED", "KILLED"]
MAX_PARAM_CHARS = 500
RUN_TAG, TRIAL_TAG, PARENT_TAG = "raycycle.run", "raycycle.trial", "mlflow.parentRunId"
PROBE_S, BUSY_S, OPEN_S = 2, 20, 300
_ADVISORY_LOCK = 0x7261796379636C65  # "raycycle" in ASCII
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|ceph|glusterfs|lustre|beegfs|gpfs|afs|ocfs2|gfs2|panfs|orangefs|"
    r"fuse\.(sshfs|ceph(-fuse)?|glusterfs|s3fs|gcsfuse|rclone|juicefs|davfs2?|beegfs|moosefs|mfs|blobfuse2?|goofys|mount-s3)"
)


class TrackingDown(RaycycleError):
    """The tracking store does not answer. What a run tells it waits in its spool."""


@dataclass(frozen=True)
class ChildRun:
    """A finished run to log in one go under a parent. Times are seconds since 1970."""

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    status: Status = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0


class Tracking:
    """The tracking store of a project. Workers never open it.

    Making one costs nothing: MLflow is imported, and the database opened, when `client` is first asked for.
    """

    def __init__(self, store: Store, uri: str | None = None) -> None:
        self.store, self.uri = store, _normal(uri, store)
        self._lock = threading.RLock()
        self._client: MlflowClient | None = None

    @classmethod
    def open(cls, store: Store, uri: str | None = None) -> Tracking:
        """Open the tracking store at `uri` (None: SQLite in the store); raises TrackingDown when it does not answer."""
        tracking = cls(store, uri)
        _ = tracking.client
        return tracking

    @property
    def client(self) -> MlflowClient:
        """The opened client; what dead processes left in the spool is applied first. Raises TrackingDown, and may be tried again."""
        with self._lock:
            if self._client is None:
                self._client = self._open()
                from ledger.spool import replay  # the spool is applied through this class

                replay(self)
            return self._client

    @property
    def sqlite_file(self) -> Path | None:
        """The database file, where the store is SQLite."""
        return Path(self.uri.removeprefix("sqlite:///").partition("?")[0]) if self.uri.startswith("sqlite:") else None

    def probe(self) -> None:
        """Raise TrackingDown unless the store answers within about two seconds; MLflow itself would retry for minutes, and import first."""
        try:
            if self.sqlite_file:
                _probe_sqlite(self.sqlite_file)
            elif self.uri.startswith("postgresql"):
                with _engine(self.uri).connect() as connection:
                    connection.exec_driver_sql("select 1")
            else:
                _probe_server(self.uri)
        except Exception as error:
            raise self._down(error) from None  # the cause may print what it connected with

    def answers(self) -> bool:
        try:
            self.probe()
        except TrackingDown:
            return False
        return True

    @contextmanager
    def asking(self) -> Iterator[MlflowClient]:
        """The client for some questions; an error of MLflow is raised as TrackingDown when the reason is that the store is down."""
        client = self.client
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException:
            self.probe()
            raise

    def mlflow_run_id(self, run_id: str) -> str | None:
        """MLflow's id of our run `run_id`; None when it is not there (yet)."""
        experiments = [each.experiment_id for each in pages(self.client.search_experiments)]
        found = self.client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def start(self, experiment: str, name: str, tags: Mapping[str, str], started: float | None = None) -> str:
        """Begin a run and return MLflow's id; where a run with the same tag `raycycle.run` is there, it is that one."""
        if (ours := tags.get(RUN_TAG)) and (known := self.mlflow_run_id(ours)):
            return known
        return str(self.client.create_run(self._experiment(experiment), _millis(started), dict(tags), name).info.run_id)

    def log(
        self,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        at: float | None = None,
        **tags: str,
    ) -> None:
        """Told twice with the same time `at`, it is there once."""
        from mlflow.entities import Metric, Param, RunTag

        when = _millis(at) or int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), when, 0) for key, value in (metrics or {}).items()],
            params=[Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        self.client.log_artifact(run_id, str(file), folder)

    def log_folder(self, run_id: str, source: Path, folder: str) -> Path:
        """Copy a folder into the run's artifacts and return where it is."""
        self.client.log_artifacts(run_id, str(source), folder)
        return local_path(str(self.client.get_run(run_id).info.artifact_uri)) / folder

    def end(self, run_id: str, status: Status = "FINISHED", at: float | None = None) -> None:
        self.client.set_terminated(run_id, status, end_time=_millis(at))

    def children(self, parent: str) -> dict[str, tuple[str, str]]:
        """`{trial number: (MLflow's id, status)}` of the runs below MLflow's run `parent`."""
        experiment = self.client.get_run(parent).info.experiment_id
        found = pages(lambda **page: self.client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent}'", **page))
        return {run.data.tags.get(TRIAL_TAG, run.info.run_id): (run.info.run_id, run.info.status) for run in found}

    def child(self, parent: str, run: ChildRun, known: str | None = None) -> str:
        """Log a child run, into the one that has the id `known` where it was begun before; returns its id."""
        if known is None:
            experiment = self.client.get_run(parent).info.experiment_id
            tags = {PARENT_TAG: parent, **run.tags}
            known = str(self.client.create_run(experiment, _millis(run.started or None), tags, run.name).info.run_id)
        ended = run.started + run.seconds
        self.log(known, run.params, run.metrics, at=ended or None)
        self.client.set_terminated(known, run.status, end_time=_millis(ended or None))
        return known

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name, (self.store.artifacts / name).as_uri()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment(name)  # another process was quicker

    def _open(self) -> MlflowClient:
        """A client whose database is there and migrated: the first to come does that while others wait."""
        _prepare_environment()
        from mlflow.tracking import MlflowClient

        with self._one_owner():
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            try:
                client.search_experiments(max_results=1)
                client.search_registered_models(max_results=1)
            except Exception as error:
                self.probe()
                raise self._down(error) from None
        return client

    @contextmanager
    def _one_owner(self) -> Iterator[None]:
        """One process at a time, for SQLite in this store, for PostgreSQL on all hosts; raises TrackingDown when the store is down."""
        if self.uri.startswith("postgresql"):
            self.probe()
            with _engine(self.uri).connect() as connection:
                try:
                    connection.exec_driver_sql(f"set lock_timeout = '{OPEN_S}s'")
                    connection.exec_driver_sql(f"select pg_advisory_lock({_ADVISORY_LOCK})")
                except Exception as error:
                    raise self._down(error) from None
                yield  # the lock ends with the connection
            return
        try:
            # SQLite is probed inside: a migration by another process holds the database longer than a probe waits.
            with FileLock(self.store.locks / "mlflow.lock", timeout=OPEN_S):
                self.probe()
                yield
        except Timeout as error:
            raise self._down(error) from None

    def _down(self, error: Exception) -> TrackingDown:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return TrackingDown(
            f"tracking does not answer ({_without_password(reason, self.uri)})",
            value=redacted(self.uri),
            next="start the database, or set store.tracking; what runs told meanwhile is kept and replayed",
        )


class ChildWriter:
    """Logs child runs from one background thread, so that the loop which makes them never waits for a database."""

    def __init__(self, tracking: Tracking, parent: str) -> None:
        self._tracking, self._parent = tracking, parent
        self._waiting: queue.Queue[ChildRun | None] = queue.Queue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._drain, name="tracking", daemon=True)

    def __enter__(self) -> ChildWriter:
        self._thread.start()
        return self

    def put(self, run: ChildRun) -> None:
        self._waiting.put(run)

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _drain(self) -> None:
        while (run := self._waiting.get()) is not None:
            try:
                self._tracking.child(self._parent, run)
            except Exception as error:  # kept for the thread that waits for us
                self._error = self._error or error


def pages(search: Callable[..., Any]) -> list[Any]:
    """Everything that a paged search of MLflow finds."""
    found = search()
    rows = list(found)
    while found.token:
        found = search(page_token=found.token)
        rows += found
    return rows


def local_path(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path))


def redacted(uri: str) -> str:
    """The URI as it may be shown: with `***` for a password or token, wherever it stands."""
    uri = re.sub(r"://([^:/@?]*):.*@", r"://\1:***@", uri)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", uri)


def refuse_shared_sqlite(uri: str | None, hosts: Collection[str], root: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise UsageError when tracking is SQLite (null: in the store) where its locks do not hold: Ray on several hosts, a network disk."""
    if uri is not None and not uri.startswith("sqlite:"):
        return
    folder = root if uri is None else Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent
    kind = _file_system(folder, mounts)
    if len(set(hosts)) > 1:
        reason, value = "SQLite cannot track a Ray cluster of several hosts", f"{len(set(hosts))} hosts"
    elif _NETWORK.fullmatch(kind):
        reason, value = f"SQLite's locks do not hold on a network file system ({kind})", str(folder)
    else:
        return
    raise UsageError(
        reason,
        value=value,
        allowed="store.tracking=postgresql+psycopg://USER@HOST/DATABASE, or https:// of an MLflow server",
        next="createdb mlflow; export RAYCYCLE_TRACKING=postgresql+psycopg://USER@HOST/mlflow; raycycle run store=tracked ...",
    )


def _file_system(folder: Path, mounts: Path) -> str:
    """The type of the file system that `folder` lies on; empty where the system does not say."""
    place, best, kind = folder.resolve(), Path(), ""
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, point, found, *_ = [*line.split(), "", "", ""]
            # Spaces and the like are written in octal; the last mount on a point hides those before it.
            at = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
            if place.is_relative_to(at) and len(at.parts) >= len(best.parts):
                best, kind = at, found
    return kind


def _normal(uri: str | None, store: Store) -> str:
    """The URI as MLflow takes it: absolute paths, psycopg 3, and no wait on a dead host longer than some seconds."""
    if uri is None:
        return f"sqlite:///{store.root / 'mlflow.db'}?timeout={BUSY_S}"
    if uri.startswith("sqlite:///"):
        file, _, options = uri.removeprefix("sqlite:///").partition("?")
        return f"sqlite:///{Path(file).absolute()}?{options or f'timeout={BUSY_S}'}"
    if re.match(r"postgresql(\+psycopg)?://", uri):
        rest = uri.partition("://")[2]
        waits = [f"{key}={value}" for key, value in {"connect_timeout": 5, "tcp_user_timeout": 10_000}.items() if f"{key}=" not in rest]
        return f"postgresql+psycopg://{rest}" + (("&" if "?" in rest else "?") + "&".join(waits) if waits else "")
    if re.match(r"https?://", uri):
        return uri.rstrip("/")
    raise UsageError(
        "store.tracking has an unknown scheme",
        value=uri.partition(":")[0],
        allowed="null, sqlite:///FILE, postgresql+psycopg://..., http://..., https://...",
    )


def _probe_sqlite(file: Path) -> None:
    # Never by `open`: closing any handle of the file would drop the locks that SQLite holds on it in this process.
    with contextlib.closing(sqlite3.connect(file, timeout=PROBE_S, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        connection.execute("rollback")


def _probe_server(uri: str) -> None:
    import urllib.error
    import urllib.request

    address = re.sub(r"://.*@", "://", uri)  # the health page needs no user
    try:
        urllib.request.urlopen(f"{address}/health", timeout=PROBE_S).close()  # noqa: S310 (the scheme was checked)
    except urllib.error.HTTPError as error:  # it answers, and whether it lets us in is for MLflow to find out
        if error.code >= 500:
            raise


def _engine(uri: str) -> Engine:
    import sqlalchemy

    return sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": PROBE_S})


def _prepare_environment() -> None:
    """What MLflow reads: no telemetry leaves the machine, nothing is printed, and a server that is down is not asked for minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # It prints the traceback of every failed statement, which the spool retries.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _without_password(text: str, uri: str) -> str:
    found = re.search(r"://[^:/@?]*:(.*)@", uri)
    for secret in {found[1], unquote(found[1])} - {""} if found else set():
        text = text.replace(secret, "***")
    return text


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
