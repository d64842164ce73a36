"""A real local Ray per store: it starts once, survives its starter, is found again after a crash, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import platform, processes
from cluster.environment import Folders
from cluster.store import Store
from conf.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
JOIN = """
import json, sys
from cluster.session import connect
from cluster.store import Store
with connect(Store.open(sys.argv[1]), num_cpus=1) as session:
    import ray

    @ray.remote
    def where():
        import os, warnings
        import cluster.session, conf.errors, serve.requests
        print("noise of a worker")
        warnings.warn("noise of a worker")
        return [conf.errors.__file__, serve.requests.__file__, os.environ.get("OMP_NUM_THREADS")]

    print(json.dumps([session.kind, session.address, session.code.bytes, ray.get(where.remote())]))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("platform") / "store")
    yield store
    platform.down(store)
    for private in (False, True):
        shutil.rmtree(Folders.of(store, private=private).short, ignore_errors=True)


def left(store: Store) -> list[int]:
    folders = [Folders.of(store), Folders.of(store, private=True)]
    return [process.pid for each in folders for process in processes.belonging([each.ray, each.short])]


def join(store: Store, folder: Path) -> tuple[str, str, int, list[str]]:
    """Connect from a folder that has a `conf` and a `serve` of its own; nothing may reach the terminal but our own line."""
    for name in ("conf", "serve"):
        (folder / "alien" / name).mkdir(parents=True, exist_ok=True)
        (folder / "alien" / name / "__init__.py").write_text("raise ImportError('the wrong package')")
    (folder / "join.py").write_text(JOIN)
    command = [sys.executable, str(folder / "join.py"), str(store.root)]
    done = subprocess.run(
        command, cwd=folder / "alien", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    kind, address, size, seen = json.loads(line)
    return kind, address, size, seen


def test_up_is_idempotent_and_status_knows_it(shared: Store) -> None:
    said: list[str] = []
    first = platform.up(shared, say=said.append)
    assert first.fresh and psutil.pid_exists(first.pid)
    again = platform.up(shared)
    assert not again.fresh and again.pid == first.pid
    state = platform.status(shared)
    assert state.state == "up" and state.processes > 3 and state.as_json()["endpoint"] == first.url
    with pytest.raises(UsageError, match="already up on port"):
        platform.up(shared, http_port=first.http_port + 1)


def test_workers_import_our_code_and_stay_quiet(shared: Store, tmp_path: Path) -> None:
    kind, address, size, (conf, serve, threads) = join(shared, tmp_path)
    running = platform.current(shared)
    assert running and (kind, address) == ("platform", running.address)
    assert conf.startswith(str(shared.root)) and serve.startswith(str(shared.root))
    assert size < 5_000_000 and threads == "1"


def test_a_killed_head_is_noticed_and_replaced(shared: Store) -> None:
    before = platform.up(shared)
    os.kill(before.pid, signal.SIGKILL)
    time.sleep(0.3)
    assert platform.status(shared).state == "crashed"
    assert platform.current(shared) is None
    said: list[str] = []
    after = platform.up(shared, say=said.append)
    assert after.fresh and after.pid != before.pid
    assert any("crashed" in line for line in said)
    assert platform.status(shared).state == "up"


def test_down_leaves_no_process_and_is_idempotent(shared: Store) -> None:
    platform.up(shared)
    assert platform.down(shared) > 0
    assert left(shared) == []
    assert platform.status(shared).state == "down" and not (shared.root / "platform.json").exists()
    assert platform.down(shared) == 0


def test_a_wanted_port_in_use_is_refused_before_anything_starts(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="port is in use") as caught:
            platform.up(store, http_port=port)
    assert caught.value.value == port and caught.value.allowed and caught.value.next.startswith("raycycle up")
    assert left(store) == []


def test_without_a_platform_a_private_ray_serves_one_command(store: Store, tmp_path: Path) -> None:
    kind, _, _, (conf, _, _) = join(store, tmp_path)
    assert kind == "private" and conf.startswith(str(store.root))
    end = time.monotonic() + 10
    while left(store) and time.monotonic() < end:
        time.sleep(0.1)
    assert left(store) == []


def test_an_address_where_nothing_answers_is_a_usage_error(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cluster.session import connect\nfrom cluster.store import Store\nfrom conf.errors import UsageError\n"
        "try:\n    with connect(Store.open(sys.argv[1]), '127.0.0.1:1'): pass\n"
        "except UsageError as error: print(error.value)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout.strip(), done.stderr) == ("127.0.0.1:1", "")
