"""What the platform decides before and without Ray: ports, folders, records, and whose a process is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import platform, processes
from cluster.code import pack
from cluster.environment import Folders, applied, choose_ports, drop_old_sessions, ray_token, serve_variables, write_haproxy_wrapper
from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def clean_socket_folders() -> Iterator[None]:
    """Folders of stores that lived in a test's own folder are of no use after it."""
    before = set(Path("/tmp").glob("rc-*"))
    yield
    for made in set(Path("/tmp").glob("rc-*")) - before:
        if not processes.belonging([made]):
            shutil.rmtree(made, ignore_errors=True)


def test_importing_the_modules_is_light() -> None:
    code = "import sys, cluster.session, cluster.platform, ledger.identities; print({'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_folders_are_private_short_and_each_stores_own(tmp_path: Path) -> None:
    one, two = Folders.of(Store.open(tmp_path / "one")), Folders.of(Store.open(tmp_path / ("long" * 20)))
    assert one.short != two.short
    for folders in (one, two):
        assert stat.S_IMODE(folders.short.stat().st_mode) == 0o700
        assert len(str(folders.ray)) <= 40  # Ray adds up to 64 bytes, a socket path holds 107
        assert len(str(folders.short / "h" / ("0" * 56) / "admin.sock.12345.tmp")) <= 107
    assert Folders.of(Store.open(tmp_path / "one")) == one
    assert Folders.of(Store.open(tmp_path / "one"), private=True).ray != one.ray


def test_a_socket_folder_of_someone_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "one")
    short = Folders.of(store).short
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (short / "ray").rmdir()
    short.rmdir()
    short.symlink_to(elsewhere)
    try:
        with pytest.raises(UsageError, match="belongs to someone else"):
            Folders.of(store)
    finally:
        short.unlink()


def test_two_stores_get_different_ports_even_before_they_listen(tmp_path: Path) -> None:
    one, two = (Folders.of(Store.open(tmp_path / name)) for name in "ab")
    ports = [choose_ports(folders, None) for folders in (one, two)]
    assert not set(ports[0].values()) & set(ports[1].values())
    assert choose_ports(one, None)["base"] == ports[0]["base"]
    with pytest.raises(UsageError, match="port is in use"):
        choose_ports(two, ports[0]["http"])


def test_a_block_that_is_partly_in_use_is_passed_over(tmp_path: Path) -> None:
    folders = Folders.of(Store.open(tmp_path / "a"))
    base = choose_ports(folders, None)["base"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 3))
        taken.listen()
        assert choose_ports(folders, None)["base"] != base


def test_the_ray_token_is_made_once_and_private(store: Store) -> None:
    file = ray_token(store)
    token = file.read_text()
    assert len(token) == 64 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ray_token(store).read_text() == token


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with applied({"RAY_AUTH_MODE": "token"}):
        assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == "elsewhere:6379" and "RAY_AUTH_MODE" not in os.environ


def test_the_wrapper_mends_what_ray_renders(store: Store, tmp_path: Path) -> None:
    """The lines come from ray 2.60's own template: when Ray changes them, this test says so."""
    spec = importlib.util.find_spec("ray")
    assert spec and spec.origin
    template = (Path(spec.origin).parent / "serve" / "_private" / "haproxy_templates.py").read_text()
    for line in ("bind :{{", "bind *:{{", "mode 666 level admin", "local0 info\n", "errorfile 503 {{", "if routes\n"):
        assert line in template
    folders = Folders.of(store)
    wrapper = write_haproxy_wrapper(folders)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "    log 127.0.0.1:514 local0 info\n    stats socket /s mode 666 level admin expose-fd listeners\n    log global\n"
        "    bind :9101\n    bind 127.0.0.1:8000\n  bind *:8404\n    errorfile 503 /tmp/500.http\n"
        "    http-request return status 200 content-type application/json string \"{}\" if routes\n"
    )  # fmt: skip
    text = wrapper.read_text()
    wrapper.write_text(text[: text.index("exec ")] + 'echo "$@"\n')
    done = subprocess.run([str(wrapper), "-db", "-f", str(config)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"-db -f {config}"
    assert config.read_text().splitlines() == [
        "    stats socket /s mode 600 level admin expose-fd listeners",
        "    log global",
        "    bind 127.0.0.1:9101",
        "    bind 127.0.0.1:8000",
        "  bind 127.0.0.1:8404",
        f"    errorfile 503 {folders.short}/503.http",
        "    http-request deny deny_status 404 if routes",
    ]


def test_every_serve_path_and_port_is_the_stores_own(tmp_path: Path) -> None:
    sets = []
    for name in "ab":
        folders = Folders.of(Store.open(tmp_path / name))
        variables = serve_variables(folders, choose_ports(folders, None))
        sets.append({value for key, value in variables.items() if "PORT" in key or "/" in value})
    assert not sets[0] & sets[1]


def test_a_process_belongs_by_its_folder_and_not_by_a_similar_one(tmp_path: Path) -> None:
    folder = tmp_path / "ray"
    sleeper = "import time; time.sleep(30)  # /ray/"
    mine = subprocess.Popen([sys.executable, "-c", sleeper, f"--temp-dir={folder}"])
    inside = subprocess.Popen([sys.executable, "-c", sleeper, f"--log={folder}/session/logs"])
    other = subprocess.Popen([sys.executable, "-c", sleeper, f"--temp-dir={folder}-own"])
    editor = subprocess.Popen(["sleep", "30"], env={"FOLDER": str(folder)})
    try:
        time.sleep(0.2)
        assert {process.pid for process in processes.belonging([folder])} == {mine.pid, inside.pid}
        assert processes.end([folder]) == 2
        assert processes.belonging([folder]) == []
        assert other.poll() is None and editor.poll() is None
    finally:
        for process in (mine, inside, other, editor):
            process.kill()
            process.wait()


def test_a_pid_taken_by_another_process_is_not_alive() -> None:
    import psutil

    created = psutil.Process().create_time()
    assert processes.is_alive(os.getpid(), created)
    assert not processes.is_alive(os.getpid(), created - 100)
    assert not processes.is_alive(2**22 + 1, created)


def test_a_stale_record_is_a_crash_and_down_removes_it(store: Store) -> None:
    folders = Folders.of(store)
    record = {
        "format": 1,
        "address": "127.0.0.1:1",
        "pid": 2**22 + 1,
        "created": 0.0,
        "ports": {"http": 8000},
        "ray_folder": str(folders.ray),
        "short_folder": str(folders.short),
        "log": "",
        "cpus": 1.0,
        "started": "",
        "versions": {},
    }
    write_json(store.root / "platform.json", record)
    assert platform.current(store) is None and platform.status(store).state == "crashed"
    assert platform.down(store) == 0
    assert platform.status(store).state == "down"
    write_json(store.root / "platform.json", {**record, "format": 99})
    with pytest.raises(RaycycleError, match="another version"):
        platform.status(store)


def test_old_sessions_go_and_the_newest_and_the_running_stay(tmp_path: Path) -> None:
    names = [f"session_2026-01-0{day}_00-00-00_1_4194305" for day in range(1, 6)] + [f"session_2025-01-01_00-00-00_1_{os.getpid()}"]
    for name in names:
        (tmp_path / name).mkdir()
    drop_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[2:5], names[5]])


def test_only_our_packages_are_packed_and_the_same_code_once(store: Store) -> None:
    code = pack(store)
    packed = {path.relative_to(code.folder).parts[0] for path in code.folder.rglob("*") if path.is_file()}
    assert packed == {"conf", "cluster", "ledger", "tables", "trainers", "serve", "flows"}
    assert code.files == sum(1 for path in code.folder.rglob("*") if path.is_file()) and code.bytes < 5_000_000
    assert pack(store) == code
    assert read_json(store.root / "format.json")
