"""What is told of a run: which events, of which jobs, with which datasets and versions."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import RunEvent, RunState

from conf.errors import UsageError
from conf.schema import Lineage
from ledger.lineage import FILE, emit, events
from ledger.records import Record, StageRun

RUN, EARLIER = uuid.UUID("21061d7012ba41a49dad6f61833773ea"), uuid.UUID("70e708b6e2f746e69d19e853c33efd2a")
ROWS = "rows1:9:aa"


def stage(name: str, inputs: dict[str, str | None], outputs: dict[str, str], **more: Any) -> StageRun:
    return StageRun(stage=name, **{"ran": True, "why": "", "seconds": 2.0, "inputs": inputs, "outputs": outputs} | more)


STAGES = [
    stage("ingest", {"source": "s1"}, {"rows": ROWS, "quarantined": "q1"}),
    stage("evaluate", {"train": "t1", "champion": "none"}, {"model": "b1", "metrics": "m1"}),
    stage("register", {}, {"model": "b1"}),
    stage("deploy", {}, {"model": "b1"}),
    stage("score", {"model": "b1", "snapshot": ROWS}, {"predictions": "p1", "by": "y1"}),
    stage("report", {"ingest": f"q1,{ROWS}", "register": "b1"}, {"page": "h1"}),
]


def record(*stages: StageRun, **more: Any) -> Record:
    facts: dict[str, Any] = {
        "run_id": RUN.hex,
        "verb": "run",
        "dataset": "flights",
        "status": "FINISHED",
        "started": "2026-11-24T17:52:00.500000+00:00",
        "ended": "2026-11-24T17:53:00.000000+00:00",
        "seed": 0,
        "until": "report",
        "config": {},
        "typed": [],
        "contract": "",
        "code": {"commit": "a" * 40, "branch": "main", "files": {"a.py": None}, "left_out": {}},
        "pack": "",
        "environment": {"distributions": {"ray": "2.60.0", "raycycle": "0.1.0"}, "lock_digest": "l1"},
        "stages": list(stages),
        "made": {"snapshot": {"name": "flights", "version": 4, "digest": ROWS}, "bundle": "b1", "model": "flights", "version": 7},
    }
    return Record(**facts | more)


def end_of(told: list[RunEvent], job: str) -> RunEvent:
    return next(event for event in told if event.job.name == job and event.eventType is not RunState.START)


def names(datasets: list[Any] | None) -> list[str]:
    return [dataset.name for dataset in datasets or []]


def version(dataset: Any) -> str:
    return str(dataset.facets["version"].datasetVersion)


def test_each_run_starts_once_and_ends_once_within_its_parent() -> None:
    told = events(record(*STAGES))
    assert [event.eventType for event in told] == [RunState.START] + [RunState.START, RunState.COMPLETE] * 6 + [RunState.COMPLETE]
    assert told[0].run.runId == told[-1].run.runId == str(RUN)
    assert {event.run.runId for event in told} == {str(RUN), *(str(uuid.uuid5(RUN, each.stage)) for each in STAGES)}
    for event in told[1:-1]:
        parent = event.run.facets["parent"]
        assert (parent.run.runId, parent.job.name) == (str(RUN), "flights.run")
    assert {event.job.namespace for event in events(record(*STAGES), "elsewhere")} == {"elsewhere"}


def test_stages_read_what_earlier_ones_made() -> None:
    told = events(record(*STAGES))
    found = {name: end_of(told, f"flights.run.{name}") for name in ("ingest", "evaluate", "register", "deploy", "score", "report")}
    assert {name: (names(event.inputs), names(event.outputs)) for name, event in found.items()} == {
        "ingest": (["flights/source"], ["flights/snapshot", "flights/quarantine"]),
        "evaluate": (["flights/train"], ["flights/bundle", "flights/metrics"]),
        "register": (["flights/bundle"], ["flights/model"]),
        "deploy": (["flights/model"], ["flights/champion"]),
        "score": (["flights/bundle", "flights/snapshot"], ["flights/predictions", "flights/predictions_quality"]),
        "report": (["flights/snapshot", "flights/quarantine", "flights/model"], ["flights/report"]),
    }


def test_a_snapshot_and_a_registered_model_have_the_number_people_know_and_all_else_its_digest() -> None:
    told = events(record(*STAGES))
    snapshot, quarantine = end_of(told, "flights.run.ingest").outputs or []
    assert (version(snapshot), snapshot.facets["raycycle_digest"].digest) == ("4", ROWS)
    assert version(quarantine) == "q1"
    model = (end_of(told, "flights.run.register").outputs or [])[0]
    assert (version(model), model.facets["raycycle_digest"].digest) == ("7", "b1")


def test_a_champion_that_this_run_did_not_make_keeps_its_digest_as_version() -> None:
    told = events(record(stage("evaluate", {"champion": "b0"}, {"model": "b1"})))
    champion = (end_of(told, "flights.run.evaluate").inputs or [])[0]
    assert (champion.name, version(champion)) == ("flights/champion", "b0")


def test_a_source_without_a_digest_has_no_version() -> None:
    told = events(record(stage("ingest", {"source": None}, {"rows": ROWS})))
    assert (end_of(told, "flights.run.ingest").inputs or [])[0].facets == {}


def test_a_result_from_the_cache_says_which_run_made_it() -> None:
    told = events(record(stage("ingest", {"source": "s1"}, {"rows": ROWS}, ran=False, made_by=EARLIER.hex)))
    for event in told[1:3]:
        cache = event.run.facets["raycycle_cache"]
        assert (cache.cached, cache.made_by) == (True, str(EARLIER))
    assert "raycycle_cache" not in events(record(*STAGES))[1].run.facets


@pytest.mark.parametrize(("status", "state"), [("FAILED", RunState.FAIL), ("KILLED", RunState.ABORT)])
def test_a_run_that_did_not_end_well_says_why(status: str, state: RunState) -> None:
    told = events(record(STAGES[0], status=status, error="no space left", made={}))
    assert told[-1].eventType is state
    assert told[-1].run.facets["errorMessage"].message == "no space left"
    assert "errorMessage" not in told[0].run.facets


def test_stages_lie_one_after_the_other_and_never_after_the_end() -> None:
    told = events(record(STAGES[0], stage("prepare", {}, {}, seconds=900.0)))
    assert [event.eventTime[14:19] for event in told] == ["52:00", "52:00", "52:02", "52:02", "53:00", "53:00"]


def test_the_commit_is_named_where_the_code_was_kept_and_only_there() -> None:
    job = events(record())[0].job
    assert job.facets["sourceCodeLocation"].url == "swh:1:rev:" + "a" * 40
    assert events(record())[0].run.facets["raycycle_record"].changed_files == 1
    told = events(record(code={"commit": None, "branch": None, "files": {}, "left_out": {".": "no git repository"}}))
    assert "sourceCodeLocation" not in told[0].job.facets


def test_the_clients_own_producer_is_left_as_it_was() -> None:
    from openlineage.client import facet_v2

    before = facet_v2.RunFacet()._producer
    assert events(record())[0].producer == "urn:raycycle:0.1.0"
    assert facet_v2.RunFacet()._producer == before


def test_a_run_that_goes_on_has_no_lineage_yet() -> None:
    with pytest.raises(ValueError, match="goes on"):
        events(record(status="RUNNING", ended=None))


def test_the_file_holds_one_event_a_line_and_the_same_bytes_again(tmp_path: Path) -> None:
    said: list[str] = []
    ended = record(*STAGES, status="FAILED", error="two\nlines\u2028")
    first = emit(ended, tmp_path, None, said.append).read_bytes()
    assert emit(ended, tmp_path, None, said.append) == tmp_path / FILE
    assert (tmp_path / FILE).read_bytes() == first
    assert [json.loads(line)["eventType"] for line in first.splitlines()].count("START") == 7
    assert said == []


def test_a_file_that_cannot_be_written_is_said_and_not_raised(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    said: list[str] = []
    emit(record(), tmp_path, None, said.append)
    assert len(said) == 1
    assert said[0].startswith("lineage: neither kept nor sent")


@pytest.mark.parametrize("url", [None, "http://host", "https://host:5000/api/v1/lineage", "http://[::1]:5000"])
def test_a_receiver_is_an_http_address(url: str | None) -> None:
    assert Lineage(url).namespace == "raycycle"


@pytest.mark.parametrize(
    "url", ["", "host:5000", "ftp://host", "http://", "http://me:s3cret@host", "http://host?key=s3cret", "http://[::1", "http://host:99999"]
)
def test_another_receiver_is_refused_without_repeating_a_secret(url: str) -> None:
    with pytest.raises(UsageError, match=r"lineage\.url") as refused:
        Lineage(url)
    assert "s3cret" not in str(refused.value)
