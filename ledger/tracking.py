"""MLflow runs, by the client API alone: ids and URI are passed on, never taken from a thread or process."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlparse

from filelock import FileLock, Timeout

from cluster.store import Store
from conf.errors import RaycycleError
from conf.uris import redacted
from ledger import places

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
MAX_PARAM_CHARS = 500
RUN_TAG, TRIAL_TAG, PARENT_TAG = "raycycle.run", "raycycle.trial", "mlflow.parentRunId"
OPEN_S = 300
_ADVISORY_LOCK = 0x7261796379636C65  # "raycycle" in ASCII


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
        self.store, self.uri = store, places.normal(uri, store)
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
        return places.sqlite_file(self.uri)

    def probe(self) -> None:
        """Raise TrackingDown unless the store answers within about two seconds; MLflow itself would retry for minutes, and import first."""
        try:
            places.probe(self.uri)
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
            with places.engine(self.uri).connect() as connection:
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
            f"tracking does not answer ({places.without_password(reason, self.uri)})",
            value=redacted(self.uri),
            next="start the database, or set store.tracking; what runs told meanwhile is kept and replayed",
        )


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


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
