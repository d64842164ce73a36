"""MLflow runs, by the client API alone: ids and URI are passed on, never taken from a thread or process."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from cluster.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
MAX_PARAM_CHARS = 500


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
    """The tracking store of a project. One process, the driver, owns it; workers never open it."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        # MLflow reads these when it is imported: no telemetry leaves the machine, and no progress bars are drawn.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        self.uri, self._artifacts = uri, artifacts
        self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)

    @classmethod
    def open(cls, store: Store) -> Tracking:
        """Open the store's tracking database; the first to come creates and migrates it while others wait."""
        with FileLock(store.locks / "mlflow.lock"):
            tracking = cls(f"sqlite:///{store.root / 'mlflow.db'}", store.artifacts)
            tracking.client.search_experiments(max_results=1)
        return tracking

    def start(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Begin a run and return its id."""
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment, (self._artifacts / experiment).as_uri())
        return str(self.client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)

    def log(self, run_id: str, params: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None, **tags: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in (metrics or {}).items()],
            params=[Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        self.client.log_artifact(run_id, str(file), folder)

    def log_folder(self, run_id: str, source: Path, folder: str) -> Path:
        """Copy a folder into the run's artifacts and return where it is."""
        self.client.log_artifacts(run_id, str(source), folder)
        return local_path(str(self.client.get_run(run_id).info.artifact_uri)) / folder

    def end(self, run_id: str, status: Status = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def child(self, parent: str, run: ChildRun) -> None:
        experiment_id = self.client.get_run(parent).info.experiment_id
        tags = {"mlflow.parentRunId": parent, **run.tags}
        started = int(run.started * 1000) or None
        child = self.client.create_run(experiment_id, start_time=started, run_name=run.name, tags=tags).info.run_id
        self.log(child, run.params, run.metrics)
        self.client.set_terminated(child, run.status, end_time=int((run.started + run.seconds) * 1000) or None)


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


def local_path(uri: str) -> Path:
    from urllib.parse import unquote, urlparse

    return Path(unquote(urlparse(uri).path))
