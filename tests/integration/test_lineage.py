"""The lineage of a real run: every event fits the specification, and a receiver that is unwell never holds up a run."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attr
import msgspec
import pytest
from homes import Home
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    nominal_time_run,
    parent_run,
    processing_engine_run,
    source_code_location_job,
)

from ledger import lineage, records
from ledger.records import Record

FORMATS = FormatChecker(["uuid"])
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=\-]|%[0-9A-Fa-f]{2})+")  # RFC 3986
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")  # RFC 3339
KINDS = {"str": "string", "int": "integer", "bool": "boolean"}
FACETS: dict[str, dict[str, type]] = {
    "run": {
        "parent": parent_run.ParentRunFacet,
        "nominalTime": nominal_time_run.NominalTimeRunFacet,
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
        "errorMessage": error_message_run.ErrorMessageRunFacet,
        "raycycle_cache": lineage.CacheRunFacet,
        "raycycle_record": lineage.RecordRunFacet,
    },
    "job": {
        "jobType": job_type_job.JobTypeJobFacet,
        "sourceCodeLocation": source_code_location_job.SourceCodeLocationJobFacet,
    },
    "dataset": {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet,
        "raycycle_digest": lineage.DigestDatasetFacet,
    },
}


@FORMATS.checks("uri")
def is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(URI.fullmatch(value))


@FORMATS.checks("date-time", raises=ValueError)
def is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(TIME.fullmatch(value) and dt.datetime.fromisoformat(value))


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def facet_schema(kind: type) -> dict[str, Any]:
    """Of one facet, from the client's class: its fields, which of them must be there, and the address of its schema."""
    fields = attr.fields(kind)
    plain = {each.name: {"type": KINDS[name]} if (name := str(each.type).removesuffix(" | None")) in KINDS else {} for each in fields}
    uri = {"type": "string", "format": "uri"}
    times = {name: {"type": "string", "format": "date-time"} for name in plain if name.startswith("nominal")}
    urls = {name: uri for name in plain if name == "url"}
    known = plain | times | urls | {"_producer": uri, "_schemaURL": {**uri, "const": kind._get_schema()}}  # type: ignore[attr-defined]
    if kind is parent_run.ParentRunFacet:
        known |= {"run": {"$ref": "#/$defs/Run"}, "job": {"$ref": "#/$defs/Job"}}
    return closed(known, "_producer", "_schemaURL", *(each.name for each in fields if each.default is attr.NOTHING))


def schema() -> dict[str, Any]:
    """The RunEvent of OpenLineage 2-0-2, stricter than the original, which allows anything more.

    The client's package has no JSON schema in it, so this is written by hand from facts of the specification (what is required, formats,
    states) for the core, and taken from the client's own classes for the facets. A facet that is not among `FACETS` is refused.
    """
    text, uri = {"type": "string", "minLength": 1}, {"type": "string", "format": "uri"}
    facets = {owner: closed({name: facet_schema(kind) for name, kind in kinds.items()}) for owner, kinds in FACETS.items()}
    dataset = {"namespace": text, "name": text, "facets": facets["dataset"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "Run": closed({"runId": {"type": "string", "format": "uuid"}, "facets": facets["run"]}, "runId"),
            "Job": closed({"namespace": text, "name": text, "facets": facets["job"]}, "namespace", "name"),
            "Input": closed({**dataset, "inputFacets": closed({})}, "namespace", "name"),
            "Output": closed({**dataset, "outputFacets": closed({})}, "namespace", "name"),
        },
        **closed(
            {
                "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
                "eventTime": {"type": "string", "format": "date-time"},
                "producer": uri,
                "schemaURL": {**uri, "const": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"},
                "run": {"$ref": "#/$defs/Run"},
                "job": {"$ref": "#/$defs/Job"},
                "inputs": {"type": "array", "items": {"$ref": "#/$defs/Input"}},
                "outputs": {"type": "array", "items": {"$ref": "#/$defs/Output"}},
            },
            *("eventType", "eventTime", "producer", "schemaURL", "run", "job"),
        ),
    }


VALIDATOR = Draft202012Validator(schema(), format_checker=FORMATS)


def problems(event: object) -> str:
    return "; ".join(f"{error.json_path}: {error.message[:200]}" for error in VALIDATOR.iter_errors(event))


@dataclass
class Receiver:
    """An OpenLineage receiver on loopback: 201 for an event that fits the schema, else 400 with the reason; `trouble` comes instead."""

    trouble: Callable[[BaseHTTPRequestHandler], None] | None = None
    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    path: str = "/api/v1/lineage"
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[Receiver]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.answer(self)

            def log_message(self, *words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            self.closing.set()
            server.shutdown()
            server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if self.trouble:
            self.trouble(request)
            return
        event = json.loads(body)
        reason = problems(event) if request.path == self.path else f"posted to {request.path}"
        (self.refused if reason else self.accepted).append(reason or event)
        self.keys.add(request.headers["Authorization"])
        respond(request, 400 if reason else 201, reason)


def respond(request: BaseHTTPRequestHandler, status: int, text: str = "", **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(text.encode())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(lineage.KEY_VARIABLE, raising=False)


@pytest.fixture
def ended(home: Home, main_job: dict[str, Any]) -> Record:
    return records.find(home.store, main_job["run_id"])[0]


def variants(ended: Record) -> dict[str, Record]:
    """The real run, and what its record would be had it ended otherwise or found its results in the cache."""
    cached = [msgspec.structs.replace(stage, ran=False, made_by=uuid.uuid4().hex) for stage in ended.stages]
    return {
        "finished": ended,
        "failed": msgspec.structs.replace(ended, status="FAILED", error="it broke\non two lines", stages=ended.stages[:2], made={}),
        "killed": msgspec.structs.replace(ended, status="KILLED", error="KeyboardInterrupt: ", stages=[], made={}),
        "cached": msgspec.structs.replace(ended, stages=cached),
    }


@pytest.mark.parametrize("how", ["finished", "failed", "killed", "cached"])
def test_every_event_of_a_real_run_is_kept_and_accepted(how: str, ended: Record, tmp_path: Path) -> None:
    said: list[str] = []
    record = variants(ended)[how]
    with Receiver().listening() as receiver:
        file = lineage.emit(record, tmp_path, receiver.url, said.append)
    assert (receiver.refused, said) == ([], [])
    assert receiver.accepted == [json.loads(line) for line in file.read_text().splitlines()]
    assert len(receiver.accepted) == 2 + 2 * len(record.stages)
    assert receiver.keys == {None}


def test_what_a_stage_of_a_real_run_reads_was_made_by_an_earlier_one(ended: Record) -> None:
    made: set[str] = {f"{ended.dataset}/source"}
    for event in lineage.events(ended):
        assert {dataset.name for dataset in event.inputs or []} <= made | {f"{ended.dataset}/champion"}
        made |= {dataset.name for dataset in event.outputs or []}
    assert {f"{ended.dataset}/{name}" for name in ("snapshot", "train", "bundle", "model", "predictions", "report")} <= made


BREAKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no run": lambda event: event.pop("run"),
    "a run id that is no UUID": lambda event: event["run"].update(runId="r1"),
    "a time without a zone": lambda event: event.update(eventTime="2026-11-24T17:52:00"),
    "a time that is none": lambda event: event.update(eventTime="2026-13-24T17:52:00Z"),
    "an unknown state": lambda event: event.update(eventType="DONE"),
    "a producer that is no URI": lambda event: event.update(producer="raycycle 0.1.0"),
    "a facet without its schema": lambda event: event["run"]["facets"]["parent"].pop("_schemaURL"),
    "a facet without its producer": lambda event: event["run"]["facets"]["parent"].pop("_producer"),
    "a parent without a job": lambda event: event["run"]["facets"]["parent"].pop("job"),
    "a dataset without a name": lambda event: event["outputs"][0].pop("name"),
    "a version that is a number": lambda event: event["outputs"][0]["facets"]["version"].update(datasetVersion=1),
    "a facet nobody knows": lambda event: event["job"]["facets"].update(more={}),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_schema_refuses(what: str, ended: Record) -> None:
    event = json.loads(lineage.Serde.to_json(lineage.events(ended)[2]))
    assert not problems(event)
    BREAKS[what](event)
    assert problems(event)


def test_a_key_from_the_environment_and_a_path_of_the_receivers_own(ended: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lineage.KEY_VARIABLE, "k3y")
    said: list[str] = []
    with Receiver(path="/team/lineage").listening() as receiver:
        lineage.emit(ended, tmp_path, f"{receiver.url}/team/lineage", said.append)
    assert (receiver.refused, receiver.keys, said) == ([], {"Bearer k3y"}, [])


def hang(request: BaseHTTPRequestHandler) -> None:
    time.sleep(4)


def drip(request: BaseHTTPRequestHandler) -> None:
    """An answer whose next byte always comes just before a reader loses patience with the last."""
    for letter in b"HTTP/1.1 201 Created\r\n":
        with contextlib.suppress(OSError):
            request.wfile.write(bytes([letter]))
        time.sleep(0.2)


TROUBLES: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], str]] = {
    "hangs": (hang, "no answer in time"),
    "drips": (drip, "no answer in time"),
    "fails": (lambda request: respond(request, 500, "out of\n\x1b[31mmemory"), "500 Internal Server Error: out of [31mmemory"),
    "moves": (lambda request: respond(request, 302, Location="/elsewhere"), "302 Found"),
    "hangs up": (lambda request: request.connection.shutdown(socket.SHUT_RDWR), "no connection"),
}


@pytest.mark.parametrize("how", TROUBLES)
def test_a_receiver_in_trouble_is_said_in_one_line_and_soon(how: str, ended: Record, tmp_path: Path) -> None:
    trouble, reason = TROUBLES[how]
    with Receiver(trouble).listening() as receiver:
        check_trouble(ended, tmp_path, receiver.url, reason)


def test_no_receiver_at_all(ended: Record, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers there, and nobody else can
        check_trouble(ended, tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", "no connection")


def test_a_receiver_that_stops_answering_midway(ended: Record, tmp_path: Path) -> None:
    """Those that were accepted are not counted as missing."""
    requests: list[int] = []

    def tire(request: BaseHTTPRequestHandler) -> None:
        requests.append(1)
        respond(request, 201) if len(requests) <= 3 else hang(request)

    with Receiver(tire).listening() as receiver:
        check_trouble(ended, tmp_path, receiver.url, "no answer in time", accepted=3)


def check_trouble(ended: Record, folder: Path, url: str, reason: str, accepted: int = 0) -> None:
    said: list[str] = []
    started = time.monotonic()
    file = lineage.emit(ended, folder, url, said.append)
    assert time.monotonic() - started < lineage.SILENCE_S + 1
    count = 2 + 2 * len(ended.stages)
    assert said == [f"lineage: {count - accepted} of {count} events were not accepted by 127.0.0.1 ({reason}); all are kept in {file}"]
    assert len(file.read_text().splitlines()) == count


def test_a_slow_receiver_is_given_up_in_the_end(ended: Record, tmp_path: Path) -> None:
    def slowly(request: BaseHTTPRequestHandler) -> None:
        time.sleep(1)
        respond(request, 201)

    said: list[str] = []
    started = time.monotonic()
    with Receiver(slowly).listening() as receiver:
        lineage.emit(ended, tmp_path, receiver.url, said.append)
        assert time.monotonic() - started < lineage.TOTAL_S + 1
    assert len(said) == 1


def test_the_client_is_not_imported_before_a_run_has_ended() -> None:
    code = "import sys, flows.pipeline; assert not [name for name in sys.modules if name.startswith('openlineage')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
