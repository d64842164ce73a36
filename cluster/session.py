"""How a command meets Ray: it joins the store's platform, an existing cluster, or starts a private Ray for itself alone."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster import platform, processes
from cluster.code import Code, pack
from cluster.environment import LOOPBACK, Folders, applied, drop_old_sessions, quiet_variables, ray_token, ray_variables
from cluster.store import Store
from conf.errors import RaycycleError, UsageError

NAMESPACE = "raycycle"
STARTS = 3


@dataclass(frozen=True)
class Session:
    """A connection to Ray. `kind` is `platform`, `cluster`, `private`, or `given` (the caller had connected before)."""

    kind: str
    address: str
    code: Code | None


@contextlib.contextmanager
def connect(store: Store, address: str | None = None, *, num_cpus: float | None = None) -> Iterator[Session]:
    """Connect to Ray for the length of the block; nothing of Ray's reaches the terminal, and workers import our packages.

    `address` joins an existing cluster; without it the store's platform if it is up, else a private Ray with `num_cpus`.
    """
    running = None if address else platform.current(store)
    if given := _given(address or (running.address if running else None)):
        yield given
        return
    code = pack(store)
    if address:
        _probe(address)
        kind, variables = "cluster", quiet_variables()  # its token, if it wants one, is the person's to give, by Ray's own variables
        options: dict[str, Any] = {"address": address, "runtime_env": {"working_dir": str(code.folder)}}
    elif running:
        kind, variables = "platform", running.variables(store)
        options = {"address": running.address, "runtime_env": {"working_dir": f"local://{code.folder}"}}
    else:
        kind, variables = "private", ray_variables(ray_token(store))
        options = {"address": "local", "runtime_env": {"working_dir": f"local://{code.folder}"}, **_private(store, num_cpus)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(applied(variables, ours=kind != "cluster"))
        import ray

        _quieten()
        try:
            _init(kind, options)
        except Exception as error:  # a node that starts too slowly is reported by Ray as a bare Exception
            raise _cannot_connect(kind, options["address"], running, error) from error
        try:
            yield Session(kind, ray.get_runtime_context().gcs_address, code)
        finally:
            if _command.stays:
                _command.private = kind == "private"
                _command.kept = stack.pop_all()  # its variables too: a connection shows its token again and again
            else:
                ray.shutdown()


def _init(kind: str, options: dict[str, Any]) -> None:
    """Start or join Ray. Its limit of 30 s for a start cannot be changed, and a busy machine needs longer: a private one is tried again."""
    import ray

    for left in reversed(range(STARTS if kind == "private" else 1)):
        try:
            ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            processes.end_children()


@dataclass
class _Command:
    """A command of one process: it `stays` connected until it ends. `private`: the Ray it is connected to is its own."""

    stays: bool = False
    private: bool = False
    kept: contextlib.ExitStack | None = None


_command = _Command()


def stay_connected() -> None:
    """From now on this process keeps its first connection, and `leave` ends it.

    Disconnecting is a race in Ray 2.60: its I/O thread may read what is freed and crash a command whose work is done.
    """
    _command.stays = True


def leave() -> None:
    """Just before the process ends without clean-up: end the Ray that it started for itself; any other notices by itself."""
    if _command.private:
        processes.end_children()


def end_left_over(store: Store) -> None:
    """End what a killed command of this store left of its own Ray; starting a new one does so too, but a command may need none."""
    folders = Folders.of(store, private=True)
    if next(folders.ray.iterdir(), None):
        processes.end_orphans([folders.ray])


def _given(wanted: str | None) -> Session | None:
    """A connection that this process already has: it is used as it is, unless it leads elsewhere."""
    if "ray" not in sys.modules:
        return None
    import ray

    if not ray.is_initialized():
        return None
    address = ray.get_runtime_context().gcs_address
    if wanted and wanted not in ("auto", address):
        raise RaycycleError(
            "this process is already connected to another Ray", value=address, allowed=wanted, next="ray.shutdown() before this call"
        )
    return Session("given", address, None)


def _probe(address: str) -> None:
    """Ray itself would try a dead address for minutes, and complain on the terminal."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise _cannot_connect("cluster", address, None, error) from None


def _private(store: Store, num_cpus: float | None) -> dict[str, Any]:
    folders = Folders.of(store, private=True)
    processes.end_orphans([folders.ray])
    drop_old_sessions(folders.ray)
    return {
        "num_cpus": num_cpus or os.cpu_count(),
        "include_dashboard": False,
        # Else Ray lets the driver wait until workers that it started ahead have registered: for ever, when one of them was killed.
        "_system_config": {"prestart_worker_first_driver": False},
        "resources": {"serve": 1000},
        "_node_ip_address": LOOPBACK,
        "_temp_dir": str(folders.ray),
    }


def _quieten() -> None:
    """Keep Ray's warnings and progress off the terminal; its logs are in its files."""
    for name in ("ray", "ray.serve", "ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")


def _cannot_connect(kind: str, address: str, running: platform.Platform | None, error: Exception) -> RaycycleError:
    said = " ".join(str(error).split())[:300]
    if kind == "cluster":
        return UsageError(
            f"no Ray cluster answers ({said})", value=address, allowed="HOST:PORT of a running head", next="raycycle cluster doctor"
        )
    if running:
        return RaycycleError(f"the platform does not answer ({said})", value=address, next=f"read {running.logs}, then raycycle down, up")
    return RaycycleError(f"Ray did not start ({said})", next="free memory and disk, then run again")
