"""The endpoint without Ray: routes, roles, statuses, and the swap of versions."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.requests import Request

from conf.errors import RaycycleError
from ledger.identities import Identity
from serve.batching import Limits
from serve.endpoint import Endpoint, Settings, uuid7
from serve.models import Release
from tables.contract import Column, Contract

PREDICT = "/v1/models/flights/predict"
ROWS = {"rows": [{"distance": 2.0}, {"distance": 3.0}]}
TOKENS = {
    "all": Identity("local", frozenset({"admin"})),
    "app": Identity("app", frozenset({"predictor"}), ("flights",)),
    "eyes": Identity("eyes", frozenset({"viewer"})),
    "label": Identity("label", frozenset({"labeler"})),
}


@dataclass
class FakeBundle:
    """Multiplies the distance; can be told to fail, to hang, or to have changed since it was made."""

    factor: float = 10.0
    broken: bool = False
    hold: threading.Event | None = None
    task: str = "regression"
    example: dict[str, Any] = field(default_factory=lambda: {"distance": 1.0, "carrier": "AA"})
    contract: Contract = field(
        default_factory=lambda: Contract(
            name="flights",
            task="regression",
            label="delay",
            columns={
                "distance": Column(type="double", nullable=False),
                "carrier": Column(type="string"),
                "delay": Column(type="double", role="label"),
            },
        )
    )

    def input_schema(self) -> pa.Schema:
        return self.contract.schema(self.contract.features)

    def check_golden(self) -> None:
        if self.broken:
            raise RaycycleError("golden predictions do not match", value=0.5)

    def predict(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        distances = rows.column("distance").to_pylist()
        if 666.0 in distances:
            raise ArithmeticError("row 666 is secret")
        if self.hold and 42.0 in distances:
            self.hold.wait(10)
        return pa.record_batch({"prediction": [distance * self.factor for distance in distances]})


def release(version: int = 1, name: str = "flights") -> Release:
    return Release(name=name, version=version, folder=f"/bundles/{name}/{version}", digest=f"sha{version}")


def endpoint(bundles: dict[int, FakeBundle] | None = None, **settings: Any) -> Endpoint:
    bundles = bundles or {1: FakeBundle()}

    def load(folder: Path, digest: str | None) -> FakeBundle:
        return bundles[int(folder.name)]

    return Endpoint(load, TOKENS.get, Settings(**settings))


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str]


async def call(
    target: Endpoint,
    method: str = "POST",
    path: str = PREDICT,
    body: Any = ROWS,
    token: str | None = "all",
    headers: dict[str, str] | None = None,
    chunks: list[bytes] | None = None,
) -> Answer:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", "content-length": str(len(payload)), **(headers or {})}
    if token is not None:
        sent.setdefault("authorization", f"Bearer {token}")
    if chunks is not None:
        del sent["content-length"]
    pieces = chunks if chunks is not None else [payload]
    messages = [{"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)} for i, piece in enumerate(pieces)]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items() if value is not None],
    }

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    response = await target(Request(scope, receive))
    return Answer(response.status_code, json.loads(response.body), dict(response.headers))


def serving(test: Callable[[Endpoint], Coroutine[Any, Any, None]], target: Endpoint | None = None) -> None:
    async def run() -> None:
        made = target or endpoint()
        assert await made.follow({"flights": release()}) == {}
        await asyncio.wait_for(test(made), 20)

    asyncio.run(run())


def test_predict_answers_with_id_version_and_one_prediction_a_row() -> None:
    async def test(target: Endpoint) -> None:
        answer = await call(target)
        assert answer.status == 200
        assert uuid.UUID(answer.body.pop("id")).version == 7
        assert answer.body == {"model": "flights", "version": 1, "predictions": [{"prediction": 20.0}, {"prediction": 30.0}]}
        assert (await call(target, body={"columns": {"distance": [1]}})).body["predictions"] == [{"prediction": 10.0}]

    serving(test)


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/v2/health/live", None, 200),
        ("GET", "/v2/health/ready", None, 200),
        ("GET", "/v2/health/other", None, 404),
        ("POST", "/v2/health/live", None, 405),
        ("POST", PREDICT, None, 401),
        ("POST", PREDICT, "wrong", 401),
        ("POST", PREDICT, "eyes", 403),
        ("POST", PREDICT, "label", 403),
        ("POST", PREDICT, "app", 200),
        ("POST", "/v1/models/other/predict", "app", 403),
        ("POST", "/v1/models/flihgts/predict", "all", 404),
        ("GET", PREDICT, "all", 405),
        ("DELETE", "/v1/models/flights", "all", 405),
        ("GET", "/v1/models", None, 401),
        ("GET", "/v1/models", "app", 403),
        ("GET", "/v1/models", "eyes", 200),
        ("GET", "/v1/models/flights", None, 401),
        ("GET", "/v1/models/flights", "app", 403),
        ("GET", "/v1/models/flights", "eyes", 200),
        ("GET", "/v1/models/../../etc/passwd", "all", 404),
        ("POST", "/v1/models/flights/predict/more", "all", 404),
        ("POST", "/v1/models/flights/other", "all", 404),
        ("GET", "/v1/modelsx", "all", 404),
        ("GET", "/", None, 401),
        ("GET", "/", "all", 404),
        ("GET", "", "all", 404),
        ("GET", "/v1", "all", 404),
    ],
)
def test_every_route_has_its_status(method: str, path: str, token: str | None, status: int) -> None:
    async def test(target: Endpoint) -> None:
        answer = await call(target, method, path, token=token)
        assert answer.status == status
        if status >= 400:
            assert set(answer.body["error"]) == {"what", "value", "allowed", "next"}
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
        if status == 405:
            assert answer.headers["allow"]

    serving(test)


@pytest.mark.parametrize("authorization", ["all", "Basic all", "Bearer", "Bearer  ", "bearer wrong", "Bearer \xff"])
def test_only_a_bearer_token_opens(authorization: str) -> None:
    async def test(target: Endpoint) -> None:
        assert (await call(target, token=None, headers={"authorization": authorization})).status == 401

    serving(test)


def test_unknown_model_gets_a_suggestion_only_of_what_the_caller_may_see() -> None:
    async def test(target: Endpoint) -> None:
        assert "did you mean 'flights'" in (await call(target, path="/v1/models/flihgts/predict")).body["error"]["what"]

    serving(test)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-pickle", "application/jsonx", "multipart/form-data"])
def test_other_content_types_are_415(kind: str) -> None:
    async def test(target: Endpoint) -> None:
        assert (await call(target, headers={"content-type": kind})).status == 415
        assert (await call(target, headers={"content-type": "Application/JSON; charset=utf-8"})).status == 200

    serving(test)


def test_large_bodies_are_413_whether_announced_or_not() -> None:
    async def test(target: Endpoint) -> None:
        assert (await call(target, body=b"x" * 1001)).status == 413
        assert (await call(target, chunks=[b"x" * 400] * 3)).status == 413
        assert (await call(target, headers={"content-length": "9" * 30})).status == 413
        assert (await call(target, headers={"content-length": "-1"})).status == 413
        body = json.dumps(ROWS).encode()
        assert (await call(target, chunks=[body[:10], body[10:]])).status == 200

    serving(test, endpoint(max_body_bytes=1000))


def test_a_client_that_goes_away_is_no_fault_of_ours() -> None:
    async def test(target: Endpoint) -> None:
        assert (await call(target, chunks=[])).status == 400

    serving(test)


def test_a_schema_error_is_422_and_named() -> None:
    async def test(target: Endpoint) -> None:
        answer = await call(target, body={"rows": [{"distance": "far"}]})
        assert answer.status == 422
        assert answer.body["error"]["value"] == "far" and "rows[0].distance" in answer.body["error"]["what"]

    serving(test)


def test_a_model_that_fails_says_nothing_of_the_row() -> None:
    async def test(target: Endpoint) -> None:
        bad, good = await asyncio.gather(call(target, body={"rows": [{"distance": 666}]}), call(target))
        assert (bad.status, good.status) == (500, 200)
        assert "secret" not in json.dumps(bad.body)

    serving(test)


def test_a_full_queue_is_503_and_a_late_answer_504() -> None:
    hold = threading.Event()

    async def test(target: Endpoint) -> None:
        slow = asyncio.create_task(call(target, body={"rows": [{"distance": 42}]}))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(call(target))
        await asyncio.sleep(0.01)
        shed = await call(target)
        assert shed.status == 503 and shed.headers["retry-after"] == "1"
        assert (await call(target, "GET", "/v2/health/live", token=None)).status == 200
        assert (await slow).status == 504
        hold.set()
        assert (await waiting).status in (200, 504)

    serving(test, endpoint({1: FakeBundle(hold=hold)}, limits=Limits(queue_rows=3, deadline_s=0.3)))


def test_listing_shows_what_the_caller_may_see_and_the_contract_with_an_example() -> None:
    async def test(target: Endpoint) -> None:
        listed = (await call(target, "GET", "/v1/models")).body["models"]
        assert listed == [{"name": "flights", "version": 1, "digest": "sha1", "task": "regression"}]
        about = (await call(target, "GET", "/v1/models/flights")).body
        assert about["contract"]["columns"]["distance"] == {**about["contract"]["columns"]["distance"], "type": "double", "nullable": False}
        assert about["ignored"] == ["delay"]
        assert (await call(target, body=about["example"])).status == 200

    serving(test)


def test_ready_needs_every_released_model_verified() -> None:
    async def run() -> None:
        target = endpoint({1: FakeBundle(), 2: FakeBundle(broken=True)})
        assert (await call(target, "GET", "/v2/health/ready", token=None)).status == 503  # nothing heard yet
        assert (await call(target)).status == 503
        await target.follow({})
        assert (await call(target, "GET", "/v2/health/ready", token=None)).status == 503  # no model
        assert (await call(target)).status == 404
        await target.follow({"flights": release(1)})
        assert (await call(target, "GET", "/v2/health/ready", token=None)).status == 200
        reasons = await target.follow({"flights": release(1), "other": release(2, "other")})
        assert "golden" in reasons["other"]
        assert (await call(target, "GET", "/v2/health/ready", token=None)).status == 503
        assert (await call(target, path="/v1/models/other/predict")).status == 503
        assert (await call(target)).status == 200

    asyncio.run(run())


def test_a_version_that_fails_its_golden_rows_leaves_the_old_one_answering() -> None:
    async def test(target: Endpoint) -> None:
        with pytest.raises(RaycycleError, match="golden"):
            await target.prepare(release(2))
        assert "golden" in (await target.follow({"flights": release(2)}))["flights"]
        assert (await call(target)).body["version"] == 1

    serving(test, endpoint({1: FakeBundle(), 2: FakeBundle(broken=True)}))


def test_a_prepared_version_is_swapped_without_loading_again_and_running_requests_finish_on_theirs() -> None:
    hold = threading.Event()
    loads: list[int] = []

    async def test(target: Endpoint) -> None:
        slow = asyncio.create_task(call(target, body={"rows": [{"distance": 42}]}))
        await asyncio.sleep(0.05)
        await target.prepare(release(2))
        assert (await call_when_free(target, hold, slow)).body["version"] == 1
        await target.follow({"flights": release(1)}, [release(2)])
        assert await target.follow({"flights": release(2)}) == {}
        answer = await call(target)
        assert (answer.body["version"], answer.body["predictions"][0]["prediction"]) == (2, 4.0)
        assert loads == [1, 2]

    async def call_when_free(target: Endpoint, held: threading.Event, slow: asyncio.Task[Answer]) -> Answer:
        held.set()
        return await slow

    def load(folder: Path, digest: str | None) -> FakeBundle:
        loads.append(int(folder.name))
        return FakeBundle(factor=2.0 if folder.name == "2" else 10.0, hold=hold)

    serving(test, Endpoint(load, TOKENS.get))


def test_uuid7_sorts_by_time_and_carries_its_version() -> None:
    made = [uuid7() for _ in range(2000)]
    assert len(set(made)) == 2000
    parsed = [uuid.UUID(each) for each in made]
    assert all(each.version == 7 and each.variant == uuid.RFC_4122 for each in parsed)
    assert [each.int >> 80 for each in parsed] == sorted(each.int >> 80 for each in parsed)
