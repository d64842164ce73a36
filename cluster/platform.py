"""The local platform: one living Ray per store, which stays after the command that started it.

$ raycycle up
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster import processes
from cluster.code import pack
from cluster.environment import (
    LOOPBACK,
    Folders,
    applied,
    child_environment,
    choose_ports,
    drop_old_sessions,
    ray_token,
    ray_variables,
    serve_variables,
    write_haproxy_wrapper,
)
from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, UsageError

FORMAT = 1
DEFAULT_PORT = 8000


def _nothing(text: str) -> None:
    """What is said to nobody."""


@dataclass(frozen=True)
class Platform:
    """A running platform as recorded in `<store>/platform.json`. `fresh` is true for the command that started it."""

    address: str
    pid: int
    created: float
    ports: dict[str, int]
    ray_folder: str
    short_folder: str
    log: str
    cpus: float
    started: str
    versions: dict[str, str]
    fresh: bool = False

    @property
    def http_port(self) -> int:
        return self.ports["http"]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def folders(self) -> Folders:
        return Folders(Path(self.ray_folder), Path(self.short_folder))

    @property
    def logs(self) -> Path:
        """Where Ray writes the logs of this platform's processes."""
        return Path(self.ray_folder) / "session_latest" / "logs"

    def variables(self, store: Store) -> dict[str, str]:
        """What a driver must have in its environment to join."""
        return {**ray_variables(ray_token(store)), **serve_variables(self.folders, self.ports)}


@dataclass(frozen=True)
class PlatformStatus:
    """`state` is `up`, `down`, or `crashed` (its head process is gone without `down`); `processes` counts what still runs."""

    state: str
    platform: Platform | None
    processes: int

    def as_json(self) -> dict[str, Any]:
        of = self.platform
        return {
            "state": self.state,
            "processes": self.processes,
            "endpoint": of.url if of and self.state == "up" else None,
            "platform": asdict(of) if of else None,
        }


def current(store: Store) -> Platform | None:
    """The store's platform if it is up."""
    platform = _recorded(store)
    return platform if platform and processes.is_alive(platform.pid, platform.created) else None


def status(store: Store) -> PlatformStatus:
    platform = _recorded(store)
    found = processes.belonging(_every_folder(store, platform))
    if platform and processes.is_alive(platform.pid, platform.created):
        return PlatformStatus("up", platform, len(found))
    return PlatformStatus("crashed" if platform or found else "down", platform, len(found))


def up(
    store: Store,
    *,
    http_port: int | None = None,
    cpus: float | None = None,
    timeout_s: float = 60.0,
    say: Callable[[str], None] = _nothing,
    meanwhile: Callable[[], None] | None = None,
) -> Platform:
    """Start the platform, or return the one that is up (`fresh` tells which). Serve and the endpoint are started by `serve.app`.

    `meanwhile` is run in a thread while Ray starts, with the platform's environment: the place for slow imports.
    """
    with _lock(store):
        if running := current(store):
            if http_port not in (None, running.http_port):
                raise UsageError(
                    f"the platform is already up on port {running.http_port}",
                    value=http_port,
                    allowed=str(running.http_port),
                    next=f"raycycle down, then raycycle up serve.port={http_port}",
                )
            return running
        if left := _clean(store):
            say(f"cleaned up after a crashed platform ({left} processes)")
        folders = Folders.of(store)
        ports = choose_ports(folders, http_port)
        if http_port is None and ports["http"] != DEFAULT_PORT:
            say(f"port {DEFAULT_PORT} is in use; the endpoint takes {ports['http']}")
        drop_old_sessions(folders.ray)
        write_haproxy_wrapper(folders)
        try:
            with _beside(meanwhile, {**ray_variables(ray_token(store)), **serve_variables(folders, ports)}):
                return _start(store, folders, ports, cpus or float(os.cpu_count() or 1), timeout_s)
        except BaseException:
            _clean(store)
            raise


def down(store: Store, *, timeout_s: float = 20.0) -> int:
    """End the platform and whatever a crashed one left; returns how many processes were ended (0: it was not up)."""
    with _lock(store):
        return _clean(store, timeout_s)


@contextlib.contextmanager
def _beside(work: Callable[[], None] | None, variables: dict[str, str]) -> Iterator[None]:
    if work is None:
        yield
        return
    with applied(variables):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join(30)


def _start(store: Store, folders: Folders, ports: dict[str, int], cpus: float, timeout_s: float) -> Platform:
    log = store.ray / "start.log"
    variables = {**ray_variables(ray_token(store)), **serve_variables(folders, ports)}
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", "--no-monitor"),
        *(f"--node-ip-address={LOOPBACK}", f"--port={ports['gcs']}", f"--ray-client-server-port={ports['client']}"),
        *("--include-dashboard=false", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={ports['dashboard']}"),
        *(f"--dashboard-agent-listen-port={ports['agent']}", "--include-log-monitor=false"),
        *(f"--temp-dir={folders.ray}", f"--num-cpus={cpus:g}", f"--resources={json.dumps({'serve': 1000})}"),
    ]
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folders.short,
            env=child_environment(variables),
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    while b"Ray runtime started" not in log.read_bytes():
        if child.poll() is not None or time.monotonic() > deadline:
            raise _failure(child.poll(), log, timeout_s)
        time.sleep(0.05)
    import psutil

    platform = Platform(
        address=f"{LOOPBACK}:{ports['gcs']}",
        pid=child.pid,
        created=psutil.Process(child.pid).create_time(),
        ports=ports,
        ray_folder=str(folders.ray),
        short_folder=str(folders.short),
        log=str(log),
        cpus=cpus,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"ray": version("ray"), "python": sys.version.split()[0], "code": pack(store).digest},
        fresh=True,
    )
    write_json(store.root / "platform.json", {"format": FORMAT, **{k: v for k, v in asdict(platform).items() if k != "fresh"}})
    return platform


def _failure(code: int | None, log: Path, timeout_s: float) -> RaycycleError:
    tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    what = f"Ray ended with code {code} while starting" if code is not None else f"Ray did not start within {timeout_s:g} s"
    return RaycycleError(f"{what}: {' | '.join(tail)[-400:]}", value=str(log), allowed="", next=f"read {log}, then raycycle up")


def _recorded(store: Store) -> Platform | None:
    file = store.root / "platform.json"
    if not file.exists():
        return None
    state = read_json(file)
    if state.pop("format", None) != FORMAT:
        raise RaycycleError(
            f"{file} was written by another version of raycycle", next="end that platform with that version, remove the file"
        )
    return Platform(**state)


def _every_folder(store: Store, platform: Platform | None) -> list[Path]:
    now = Folders.of(store)
    return list({now.ray, now.short, *((platform.folders.ray, platform.folders.short) if platform else ())})


def _clean(store: Store, timeout_s: float = 20.0) -> int:
    """Leave no process of the store's platform, and no record of it."""
    platform = _recorded(store)
    folders = _every_folder(store, platform)
    ended = processes.end(folders, timeout_s)
    if left := processes.belonging(folders):
        raise RaycycleError("processes of the platform do not end", value=[process.pid for process in left], next="end them by hand")
    (store.root / "platform.json").unlink(missing_ok=True)
    for folder in folders:
        (folder / "ports.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "h", ignore_errors=True)
    return ended


@contextlib.contextmanager
def _lock(store: Store) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(store.locks / "platform.lock", timeout=90):
            yield
    except Timeout:
        raise RaycycleError("another command has been starting or ending this platform for 90 s", next="raycycle status") from None
