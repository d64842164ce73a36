"""The endpoint on a real platform: through HAProxy, with real bundles, under load, and while parts of it die."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from cluster import platform, processes
from cluster.environment import Folders
from cluster.store import Store
from ledger.identities import Identity, add_token, read_token
from tables.contract import Column, Contract
from tables.encoder import Encoder, LevelSpec, NumericSpec
from tables.target import Target
from trainers import bundle
from trainers.linear import FittedLinear

ROOT = Path(__file__).resolve().parents[2]
PREDICT = "/v1/models/late/predict"
ROW = {"distance": 1.5, "carrier": "AA", "id": 7}
UP = """
import json, sys
from cluster import platform
from cluster.store import Store
from serve.app import ensure_app, warm
store = Store.open(sys.argv[1])
platform.up(store, meanwhile=warm)
print(ensure_app(store))
"""
RELEASE = """
import dataclasses, json, sys
from pathlib import Path
from cluster.store import Store
from conf.errors import RefusedError
from serve.releases import release
for name, version, folder, digest in json.loads(sys.argv[2]):
    try:
        made = release(Store.open(sys.argv[1]), name, version, Path(folder), digest, timeout_s=30)
        print(json.dumps(dataclasses.asdict(made)), flush=True)
    except RefusedError as error:
        print(json.dumps({"refused": error.what}), flush=True)
"""


def write_bundle(folder: Path, bias: float) -> str:
    """A tiny linear model: its score falls with `bias`, so that each version can be told by its answer."""
    columns = {
        "distance": Column(type="double"),
        "carrier": Column(type="string"),
        "late": Column(type="string", role="label", nullable=False),
        "id": Column(type="int64", role="key", nullable=False),
    }
    contract = Contract(name="late", task="binary", label="late", columns=columns, positive="late", key=["id"])
    encoder = Encoder([NumericSpec("distance", 0.0, False), LevelSpec("carrier", ["AA", "UA"], 0)], {})
    coefficients = np.array([[0.5], [0.0], [0.3], [-0.3]])
    fitted = FittedLinear("binary", (0, 3), coefficients, np.array([bias]), np.zeros(2), np.ones(2))
    golden = pa.table({"distance": np.linspace(-2, 2, 32), "carrier": ["AA", "UA", None, "B6"] * 8})
    folder.mkdir(parents=True)
    return bundle.write(
        folder,
        name="late",
        trainer="trainers.linear.Linear",
        family="linear",
        params={},
        contract=contract,
        encoder=encoder,
        fitted=fitted,
        target=Target("binary", ("ok", "late"), False),
        threshold=0.5,
        golden=golden,
        reference={},
    )


def driver(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A command of its own, as a user's would be: this process may hold another Ray."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str], timeout_s: float = 90) -> list[str]:
    out, errors = process.communicate(timeout=timeout_s)
    assert (process.returncode, errors) == (0, ""), errors
    return out.splitlines()


@dataclass
class Served:
    store: Store
    url: str
    token: str
    bundles: dict[int, tuple[Path, str]]
    seconds: float

    def release(self, *versions: int) -> subprocess.Popen[str]:
        wanted = [("late", version, str(self.bundles[version][0]), self.bundles[version][1]) for version in versions]
        return driver(RELEASE, str(self.store.root), json.dumps(wanted))

    def client(self, token: str | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {token or self.token}"}, timeout=15)

    def predict(self, row: dict[str, Any] | None = None) -> dict[str, Any]:
        with self.client() as client:
            answer = client.post(PREDICT, json={"rows": [row or ROW]})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def processes(self) -> list[psutil.Process]:
        running = platform.current(self.store)
        assert running
        return processes.belonging([running.folders.ray, running.folders.short])

    def process(self, title: str) -> psutil.Process:
        (found,) = [each for each in self.processes() if each.cmdline()[0].startswith(title)]
        return found


def end(store: Store) -> None:
    platform.down(store)
    shutil.rmtree(Folders.of(store).short, ignore_errors=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("endpoint")
    store = Store.open(folder / "store")
    bundles = {number: (folder / f"bundle{number}", write_bundle(folder / f"bundle{number}", -number / 10)) for number in range(1, 8)}
    try:
        begin = time.monotonic()
        (url,) = output(driver(UP, str(store.root)))
        seconds = time.monotonic() - begin
        assert httpx.get(f"{url}/v2/health/ready").status_code == 503  # up, with no model
        made = Served(store, url, read_token(store), bundles, seconds)
        (line,) = output(made.release(1))
        assert json.loads(line)["url"] == f"{url}{PREDICT}"
        yield made
    finally:
        end(store)


def test_up_took_a_bearable_time(served: Served) -> None:
    print(f"up to an answering endpoint: {served.seconds:.1f} s")
    assert served.seconds < 60


def test_predict_needs_a_token_and_answers_as_the_bundle_does(served: Served) -> None:
    assert httpx.post(served.url + PREDICT, json={"rows": [ROW]}).status_code == 401
    answer = served.predict()
    opened = bundle.Bundle.open(*served.bundles[1])
    expected = opened.predict(pa.RecordBatch.from_pylist([ROW], schema=opened.input_schema())).to_pylist()
    assert answer["predictions"] == expected and answer["version"] == 1
    assert httpx.get(served.url + "/v2/health/ready").json() == {"ready": True}


def test_every_route_through_the_proxy_without_and_with_roles(served: Served) -> None:
    viewer = add_token(served.store, Identity("eyes", frozenset({"viewer"})))
    with served.client(viewer) as client:
        assert client.post(PREDICT, json={"rows": [ROW]}).status_code == 403
        assert client.get("/v1/models").status_code == 200
    for method, path in [("GET", "/v1/models"), ("GET", "/v1/models/late"), ("POST", PREDICT), ("GET", "/docs"), ("GET", "/")]:
        assert httpx.request(method, served.url + path).status_code == 401, path
    assert httpx.get(served.url + "/-/routes").status_code == 404
    with served.client() as client:
        assert [each["name"] for each in client.get("/v1/models").json()["models"]] == ["late"]
        about = client.get("/v1/models/late").json()
        assert client.post(PREDICT, json=about["example"]).status_code == 200


def test_bad_bodies_are_refused_through_the_proxy(served: Served) -> None:
    json_type = {"content-type": "application/json"}
    with served.client() as client:
        assert client.post(PREDICT, content=b"x" * (9 * 2**20), headers=json_type).status_code == 413
        assert client.post(PREDICT, content=iter([b"x" * 2**20] * 9), headers=json_type).status_code == 413
        assert client.post(PREDICT, content=b"\x80\x04pickle", headers={"content-type": "application/x-pickle"}).status_code == 415
        assert client.post(PREDICT, content=b"[" * 200_000, headers=json_type).status_code == 422
        wrong = client.post(PREDICT, json={"rows": [ROW, {**ROW, "distance": "far"}]})
        assert wrong.status_code == 422 and wrong.json()["error"]["value"] == "far"
        assert client.post(PREDICT, json={"rows": [ROW]}).status_code == 200


def test_abandoning_clients_hurt_nobody(served: Served) -> None:
    body = json.dumps({"rows": [ROW] * 50}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.token}\r\ncontent-type: application/json\r\n"
    address = ("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
    for number in range(60):
        with socket.create_connection(address) as raw:
            raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[: len(body) if number % 2 else 100])
    begin = time.monotonic()
    assert served.predict()["model"] == "late"
    assert time.monotonic() - begin < 2


def test_releases_under_load_fail_no_request(served: Served) -> None:
    """Eight clients; six releases, one of them damaged: every answer is whole, and of the version it names."""
    expected = {}
    for number, place in served.bundles.items():
        opened = bundle.Bundle.open(*place)
        expected[number] = opened.predict(pa.RecordBatch.from_pylist([ROW], schema=opened.input_schema())).to_pylist()
    damaged = served.bundles[4][0] / "model"
    victim = max((file for file in damaged.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    stop = threading.Event()
    slowest, versions = [0.0] * 8, set()

    def load(number: int) -> int:
        count = 0
        with served.client() as client:
            while not stop.is_set():
                begin = time.monotonic()
                answer = client.post(PREDICT, json={"rows": [ROW]})
                slowest[number] = max(slowest[number], time.monotonic() - begin)
                assert answer.status_code == 200, answer.text
                made = answer.json()
                assert made["predictions"] == expected[made["version"]]
                versions.add(made["version"])
                count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(load, number) for number in range(8)]
        try:
            lines = [json.loads(line) for line in output(served.release(2, 3, 4, 5, 6, 7))]
        finally:
            stop.set()
        requests = sum(client.result() for client in clients)
    assert [line.get("version") for line in lines] == [2, 3, None, 5, 6, 7]
    assert "differs from its digest" in lines[2]["refused"]
    assert lines[3]["previous"] == 3
    assert versions >= {1, 2, 3, 5, 6, 7} and 4 not in versions
    print(f"{requests} requests during 6 releases, slowest {max(slowest):.3f} s, releases {[round(x.get('seconds', 0), 2) for x in lines]}")
    assert max(slowest) < 2.0


def test_predictions_go_on_while_the_releases_actor_is_dead(served: Served) -> None:
    before = served.predict()["version"]
    served.process("ray::Releases").kill()
    for _ in range(20):
        assert served.predict()["version"] == before
    (line,) = output(served.release(1))  # the actor is back, and remembers
    assert json.loads(line)["previous"] == before
    assert served.predict()["version"] == 1


def test_a_killed_replica_comes_back_with_its_models(served: Served) -> None:
    before = served.predict()["version"]
    old = served.process("ray::ServeReplica")
    old.kill()
    end, answer = time.monotonic() + 30, None
    while time.monotonic() < end:
        with served.client() as client:
            answer = client.post(PREDICT, json={"rows": [ROW]})
        if answer.status_code == 200:
            break
        assert answer.status_code in (502, 503, 504)
        assert "error" in answer.json()
        time.sleep(0.1)
    assert answer and answer.status_code == 200 and answer.json()["version"] == before


def test_everything_listens_on_loopback_but_one_port_that_the_token_protects(served: Served) -> None:
    others = []
    for process in served.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            title = process.cmdline()[0]
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.ip.removeprefix("::ffff:") != "127.0.0.1":
                    others.append((title.split(":raycycle")[0], each.laddr.ip, each.laddr.port))
    assert [title for title, _, _ in others] == ["ray::ServeReplica"], others
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{others[0][2]}") as channel:
        for call in ("/ray.serve.ASGIService/HandleRequest", "/ray.serve.ASGIService/HandleRequestStreaming"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(call)(b"", timeout=5)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    running = platform.current(served.store)
    assert running
    sockets = list((running.folders.short / "h").rglob("admin.sock"))
    assert sockets and all(stat.S_IMODE(each.stat().st_mode) == 0o600 for each in sockets)


def test_the_token_is_in_no_command_line_and_no_log(served: Served) -> None:
    running = platform.current(served.store)
    assert running
    ray_token = (served.store.keys / "ray-token").read_text()
    for process in served.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            assert served.token not in line and ray_token not in line
    for log in (running.folders.ray / "session_latest").resolve().joinpath("logs").rglob("*"):
        if log.is_file():
            content = log.read_bytes()
            assert served.token.encode() not in content and ray_token.encode() not in content, log


def test_two_stores_are_up_at_once_and_down_leaves_nothing(served: Served, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    try:
        (url,) = output(driver(UP, str(other.root)))
        assert url != served.url
        assert httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {read_token(other)}"}).json() == {"models": []}
        assert httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {served.token}"}).status_code == 401
        running = platform.current(other)
        assert running
        assert platform.down(other) > 0
        assert processes.belonging([running.folders.ray, running.folders.short]) == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/v2/health/live")
    finally:
        end(other)
    assert served.predict()["model"] == "late"
