"""What a run tells MLflow is first a line in a file of its own, then applied to MLflow by one thread, or later by another command.

Applying a line twice changes nothing, so a spool may be applied again from its first line however often that was interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from cluster.processes import is_alive
from cluster.store import Store, write_atomic
from conf.errors import RaycycleError
from ledger.environment import process
from ledger.registry import CANDIDATE, Registered, Registry
from ledger.tracking import MAX_PARAM_CHARS, RUN_TAG, TRIAL_TAG, ChildRun, Tracking

FORMAT = 1
DRAIN_S, REGISTER_S = 10.0, 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S, CLOSING_PAUSE_S = 1.0, 30.0, 0.3
UNTOUCHED_S = 600.0
ARTIFACT = "model"  # the folder of a run's artifacts that holds its bundle

Entry = dict[str, Any]
Say = Callable[[str], None]


class Refused(Exception):
    """MLflow answers and will never take this entry."""


class Spool:
    """The words of one run to MLflow, kept until they have arrived. Use as a context: its end is the run's end.

    Nothing here waits for MLflow but `register`, and nothing raises because MLflow is down.
    """

    def __init__(
        self, tracking: Tracking, experiment: str, name: str, tags: Mapping[str, str], say: Say, run_id: str | None = None
    ) -> None:
        self.run_id = run_id or uuid.uuid4().hex
        self._say, self._registry, self.tracking = say, Registry(tracking), tracking
        self._file = SpoolFile.create(tracking.store, self.run_id)
        self._applier = _Applier(tracking, self.run_id)
        self._changed = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._closing = self._leaving = self._failing = self._hurry = False
        self._refused: list[str] = []
        self._registered: Registered | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._put("start", experiment=experiment, name=name, tags=dict(tags))

    def begin(self) -> None:
        """Apply entries from now on. A run in which nothing was made never begins: it is told by the next command that opens MLflow."""
        if self._thread.ident is None:
            self._thread.start()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._put("end", status="KILLED" if killed else "FAILED" if kind else "FINISHED")
        self._close()

    def child(self, number: int, run: ChildRun) -> None:
        """A finished trial; told twice under the same number, it is there once."""
        fields = {"name": run.name, "status": run.status, "tags": dict(run.tags), "started": run.started, "seconds": run.seconds}
        self._put("child", number=number, params=_params(run.params), metrics=_metrics(run.metrics), **fields)

    def log(self, params: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None, **tags: str) -> None:
        self._put("log", params=_params(params or {}), metrics=_metrics(metrics or {}), tags=tags)

    def log_file(self, file: Path, folder: str | None = None) -> None:
        """The file must stay where it is: it may be copied by a later command."""
        self._put("file", path=str(file.absolute()), folder=folder)

    def log_folder(self, source: Path, folder: str) -> None:
        """The folder must stay where it is: it may be copied by a later command."""
        self._put("folder", path=str(source.absolute()), folder=folder)

    def register(self, name: str, bundle: Path, digest: str, *, passed: bool, tags: Mapping[str, str]) -> Registered | None:
        """Copy the bundle into the run's artifacts and make it the next version and candidate, waiting for what was told before.

        None when tracking is down: a later command registers it, from `bundle`, which must then stay where it is.
        """
        self.begin()
        self._registered = None
        self._put("register", name=name, path=str(bundle.absolute()), digest=digest, passed=passed, tags=dict(tags))
        if not self.tracking.answers():
            return None
        with self._changed:
            self._failing, self._hurry = False, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failing or not self._waiting, REGISTER_S)
        return self._registered

    def _put(self, op: str, **fields: Any) -> None:
        entry = {"op": op, "time": time.time(), **fields}
        with self._changed:
            self._file.append(entry)
            self._waiting.append(entry)
            self._changed.notify_all()

    def _close(self) -> None:
        """Wait for the thread as long as tracking answers, at most `DRAIN_S`, and say what is left."""
        if self._thread.ident is None:
            self._file.append({"op": "left", "time": time.time()})
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._waiting and not self.tracking.answers():
            reason = "does not answer"
        else:
            self._thread.join(DRAIN_S)
            reason = "is slow"
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        self._thread.join(0.5)
        for text in self._refused:
            self._say(text)
        if count := len(self._waiting):
            entries = "1 entry waits" if count == 1 else f"{count} entries wait"
            self._say(f"tracking {reason}: {entries} in {self._file.path}; the next raycycle command replays them")

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while (entry := self._next()) is not None:
            try:
                self._apply(entry)
            except Exception:  # down, locked, forbidden: the entry stays, and the run goes on
                self._wait(CLOSING_PAUSE_S if self._closing else pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause = FIRST_PAUSE_S
                with self._changed:
                    self._waiting.popleft()
                    self._failing = False
                    self._changed.notify_all()
        if self._waiting:
            self._file.append({"op": "left", "time": time.time()})
        else:
            self._file.path.unlink(missing_ok=True)
            self._registry.remember()

    def _next(self) -> Entry | None:
        """The entry to apply; None when the run has ended and nothing is left, or nobody waits any longer."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting[0] if self._waiting and not self._leaving else None

    def _apply(self, entry: Entry) -> None:
        try:
            made = self._applier.apply(entry)
        except Refused as error:
            self._refused.append(str(error))
        else:
            self._registered = made or self._registered

    def _wait(self, pause: float) -> None:
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            closing = self._closing
            self._changed.wait_for(lambda: self._leaving or self._hurry or self._closing != closing, pause)
            self._hurry = False


def replay(tracking: Tracking) -> int:
    """Apply the spools whose owners are gone and return how many; never raises because of a spool or of tracking.

    A run that did not end is ended as KILLED. While another process does this, nothing is done.
    """
    store, done = tracking.store, 0
    if not any(_folder(store).glob("*.jsonl")):
        return 0
    try:
        with FileLock(store.locks / "spool.lock", timeout=0):
            for path in sorted(_folder(store).glob("*.jsonl")):
                entries = read(path)
                if not is_left(path, entries):
                    continue
                try:
                    _replay(tracking, path.stem, entries)
                except Exception as error:
                    if not tracking.answers():
                        break
                    logging.getLogger(__name__).warning("%s is not replayed yet: %s", path, error)
                else:
                    path.unlink(missing_ok=True)
                    done += 1
    except Timeout:
        return 0
    if done:
        Registry(tracking).remember()
    return done


def read(path: Path) -> list[Entry]:
    """The entries of a spool in order, its owner first; a line that was torn by the end of its process is ignored."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:  # its owner was quicker
        return []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line) if line.endswith(b"\n") else None)
        except ValueError:
            continue
    return [entry for entry in entries if isinstance(entry, dict)]


class SpoolFile:
    """One JSON object a line, each written by one `write`, so that a killed process leaves at most the last one torn."""

    def __init__(self, path: Path) -> None:
        self.path, self._torn = path, False

    @classmethod
    def create(cls, store: Store, run_id: str) -> SpoolFile:
        owner = {"op": "owner", "format": FORMAT, **process()}
        return cls(write_atomic(_folder(store) / f"{run_id}.jsonl", json.dumps(owner) + "\n"))

    def append(self, entry: Entry) -> None:
        line = (b"\n" if self._torn else b"") + json.dumps(entry, default=str).encode() + b"\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                self._torn = os.write(handle, line) != len(line)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._full(error.strerror) from error
        if self._torn:
            raise self._full("the disk is full")

    def _full(self, reason: str | None) -> RaycycleError:
        return RaycycleError(f"could not write the spool ({reason})", value=str(self.path), next="free space or fix permissions")


class _Applier:
    """Applies the entries of one run to MLflow. Each may be applied again: what is there already is found by its tag."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking, self._run_id = tracking, run_id
        self._parent: str | None = None
        self._children: dict[str, tuple[str, str]] | None = None

    def apply(self, entry: Entry) -> Registered | None:
        """The version when the entry registers one. Raises Refused when MLflow will never take the entry."""
        apply = {
            "start": self._start,
            "child": self._child,
            "log": self._log,
            "file": self._copy_file,
            "folder": self._copy_folder,
            "register": self._register,
            "end": self._end,
        }.get(entry["op"])
        if apply is None:  # about the spool itself
            return None
        _ = self._tracking.client  # opened before the entry is blamed for anything
        from mlflow.exceptions import MlflowException

        try:
            return apply(entry)
        except Exception as error:
            self._children = None  # an answer may have been lost on its way
            for_ever = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
            gone = "path" in entry and not Path(entry["path"]).exists()
            if not for_ever and not gone:
                raise
            reason = f"{entry['path']} is gone" if gone else str(error).splitlines()[0]
            raise Refused(f"tracking refused an entry ({entry['op']}) of run {self._run_id}: {reason}") from error

    def end_as_killed(self, at: float) -> None:
        for child, status in self._tracking.children(self._id()).values():
            if status == "RUNNING":
                self._tracking.end(child, "KILLED", at)
        self._tracking.end(self._id(), "KILLED", at)

    def _id(self) -> str:
        if self._parent is None:
            self._parent = self._tracking.mlflow_run_id(self._run_id)
        if self._parent is None:
            raise RaycycleError("tracking does not know the run", value=self._run_id)
        return self._parent

    def _start(self, entry: Entry) -> None:
        tags = {**entry["tags"], RUN_TAG: self._run_id}
        self._parent = self._tracking.start(entry["experiment"], entry["name"], tags, entry["time"])

    def _child(self, entry: Entry) -> None:
        if self._children is None:
            self._children = self._tracking.children(self._id())
        number = str(entry["number"])
        fields = {key: entry[key] for key in ("name", "params", "metrics", "status", "started", "seconds")}
        run = ChildRun(**fields, tags={**entry["tags"], TRIAL_TAG: number})
        known, _ = self._children.get(number, (None, ""))
        self._children[number] = (self._tracking.child(self._id(), run, known), run.status)

    def _log(self, entry: Entry) -> None:
        self._tracking.log(self._id(), entry["params"], entry["metrics"], at=entry["time"], **entry["tags"])

    def _copy_file(self, entry: Entry) -> None:
        self._tracking.log_file(self._id(), Path(entry["path"]), entry["folder"])

    def _copy_folder(self, entry: Entry) -> None:
        self._tracking.log_folder(self._id(), Path(entry["path"]), entry["folder"])

    def _register(self, entry: Entry) -> Registered:
        registry = Registry(self._tracking)
        version = registry.registered(entry["name"], entry["digest"])
        if version is None:
            stored = self._tracking.log_folder(self._id(), Path(entry["path"]), ARTIFACT)
            tags = {**entry["tags"], RUN_TAG: self._run_id}
            version = registry.register(entry["name"], self._id(), stored, entry["digest"], passed=entry["passed"], tags=tags)
        return registry.set_alias(version, CANDIDATE)

    def _end(self, entry: Entry) -> None:
        self._tracking.end(self._id(), entry["status"], entry["time"])


def _replay(tracking: Tracking, run_id: str, entries: list[Entry]) -> None:
    applier = _Applier(tracking, run_id)
    for entry in entries:
        try:
            applier.apply(entry)
        except Refused as error:
            logging.getLogger(__name__).warning("%s", error)
    if not any(entry["op"] == "end" for entry in entries) and any(entry["op"] == "start" for entry in entries):
        applier.end_as_killed(entries[-1]["time"])


def is_left(path: Path, entries: list[Entry]) -> bool:
    """Whether nobody will write to or apply this spool any more."""
    owner = entries[0] if entries else {}
    if owner.get("op") != "owner" or owner["format"] != FORMAT:
        return False
    ops = {entry["op"] for entry in entries}
    if "left" in ops:
        return True
    if owner["host"] == socket.gethostname():
        return not is_alive(owner["pid"], owner["created"])
    # Whether a process of another host lives cannot be told; but a run that has ended adds nothing after its last seconds.
    return "end" in ops and path.exists() and time.time() - path.stat().st_mtime > UNTOUCHED_S


def _folder(store: Store) -> Path:
    return store.folder("spool")


def _params(params: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:MAX_PARAM_CHARS] for key, value in params.items()}


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items()}
