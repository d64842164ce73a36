"""The OpenLineage events of a run that has ended: `runs/ID/lineage.jsonl`, one a line, and by HTTP where `lineage.url` names a receiver.

Importing this takes a third of a second (the client imports all its transports): import it where a run ends, never at the top of a module.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar
from urllib.parse import urlsplit

import attr
import requests
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    BaseFacet,
    DatasetFacet,
    JobFacet,
    RunFacet,
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    nominal_time_run,
    parent_run,
    processing_engine_run,
    source_code_location_job,
)
from openlineage.client.serde import Serde
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport

from cluster.store import write_atomic
from conf.errors import RaycycleError
from ledger.records import Record, StageRun

FILE = "lineage.jsonl"
ENDPOINT = "api/v1/lineage"
KEY_VARIABLE = "OPENLINEAGE_API_KEY"  # the client's own name for it
SILENCE_S, TOTAL_S = 2.0, 5.0  # how long a receiver may say nothing; how long one that answers, but slowly, may hold the end of a run
ENDS = {"FINISHED": RunState.COMPLETE, "FAILED": RunState.FAIL, "KILLED": RunState.ABORT}
# The dataset behind a stage's own word for what it reads or makes, where they differ; a stage that acts on a model makes another of it.
DATASETS = {"rows": "snapshot", "quarantined": "quarantine", "model": "bundle", "by": "predictions_quality", "page": "report"}
ACTS = {"register": ("bundle", "model"), "deploy": ("model", "champion")}
_SCHEMA = "urn:raycycle:openlineage-facet:1-0-0"
Facet = TypeVar("Facet", bound=BaseFacet)


@attr.define
class DigestDatasetFacet(DatasetFacet):
    """The digest by which raycycle tells whether two datasets mean the same."""

    digest: str

    @staticmethod
    def _get_schema() -> str:
        return f"{_SCHEMA}:DigestDatasetFacet"


@attr.define
class CacheRunFacet(RunFacet):
    """The result was not made by this run; `made_by` is the runId of the one that made it, as far as it is known."""

    cached: bool
    made_by: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{_SCHEMA}:CacheRunFacet"


@attr.define
class RecordRunFacet(RunFacet):
    """What a run record adds. With `changed_files` above zero, the commit of the job's source code location is not the whole code."""

    verb: str
    until: str
    seed: int
    changed_files: int
    lock_digest: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{_SCHEMA}:RecordRunFacet"


def emit(record: Record, folder: Path, url: str | None, say: Callable[[str], None], namespace: str = "raycycle") -> Path:
    """Write the events of an ended run into its folder and post them to `url`. What could not be done is said in one line, not raised.

    `url` is the address of a receiver, with the path to post to where that is not the standard one.
    """
    told, file = events(record, namespace), folder / FILE
    try:
        write_atomic(file, "".join(f"{Serde.to_json(event)}\n" for event in told))
    except RaycycleError as error:
        say(f"lineage: neither kept nor sent: {error.what}")
        return file
    if url and (trouble := post(told, url)):
        say(f"lineage: {trouble}; all are kept in {file}")
    return file


def events(record: Record, namespace: str = "raycycle") -> list[RunEvent]:
    """Start and end of the run, and between them those of each stage, in order. Raises ValueError while the run goes on."""
    if record.ended is None:
        raise ValueError(f"run {record.run_id} goes on ({record.status}): its lineage is told when it has ended")
    told = [_run_event(record, namespace, RunState.START)]
    for stage, started, ended in _timeline(record, record.ended):
        told += [_stage_event(record, namespace, stage, started, None), _stage_event(record, namespace, stage, started, ended)]
    return [*told, _run_event(record, namespace, ENDS[record.status])]


def post(told: Sequence[RunEvent], url: str) -> str:
    """Post the events in order until one is refused; how many were not accepted and why, or an empty string.

    A thread does it, for a name that does not resolve or an answer that drips in holds a request beyond any time limit of its own.
    """
    answers: SimpleQueue[str] = SimpleQueue()
    given_up = threading.Event()
    threading.Thread(target=_post_each, args=(told, url, answers, given_up), daemon=True, name="lineage").start()
    deadline = time.monotonic() + TOTAL_S
    for accepted in range(len(told)):
        try:
            trouble = answers.get(timeout=max(0.0, min(SILENCE_S, deadline - time.monotonic())))
        except Empty:
            trouble = "no answer in time"
        if trouble:
            given_up.set()
            return f"{len(told) - accepted} of {len(told)} events were not accepted by {urlsplit(url).hostname} ({trouble})"
    return ""


def _post_each(told: Sequence[RunEvent], url: str, answers: SimpleQueue[str], given_up: threading.Event) -> None:
    """Puts an empty string for each event that was accepted; the first trouble is the last answer."""
    try:
        transport = _transport(url)
        for event in told:
            if given_up.is_set():
                return
            transport.emit(event)
            answers.put("")
    except Exception as error:  # whatever it is, the run it tells of has ended as it has
        answers.put(_reason(error))


def _transport(url: str) -> HttpTransport:
    session = requests.Session()
    session.max_redirects = 0  # a redirected POST becomes a GET, whose 200 would pass for an acceptance
    config = HttpConfig(
        url=url,
        endpoint=url if urlsplit(url).path.strip("/") else ENDPOINT,
        timeout=SILENCE_S,
        retry={"total": 0},
        session=session,
    )
    if key := os.environ.get(KEY_VARIABLE):
        config.auth = ApiKeyTokenProvider({"api_key": key})
    return HttpTransport(config)


def _reason(error: Exception) -> str:
    """In one line, and without the URL, which the texts of `requests` repeat."""
    answer = getattr(error, "response", None)
    if answer is not None:
        text = f"{answer.status_code} {answer.reason}: {answer.content[:1000].decode(errors='replace')}"
        return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:200].rstrip(" :")
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__


def _timeline(record: Record, ended: str) -> Iterator[tuple[StageRun, str, str]]:
    """Each stage with its start and end. The record keeps how long a stage took, not when: they are laid one after the other."""
    clock, last = dt.datetime.fromisoformat(record.started), dt.datetime.fromisoformat(ended)
    for stage in record.stages:
        started, clock = clock, min(clock + dt.timedelta(seconds=stage.seconds), last)
        yield stage, started.isoformat(), clock.isoformat()


def _run_event(record: Record, namespace: str, state: RunState) -> RunEvent:
    over = state is not RunState.START
    facets = _facets(
        record,
        nominalTime=nominal_time_run.NominalTimeRunFacet(record.started, record.ended if over else None),
        processing_engine=_engine(record),
        errorMessage=error_message_run.ErrorMessageRunFacet(record.error, "PYTHON") if over and record.error else None,
        raycycle_record=RecordRunFacet(
            record.verb, record.until, record.seed, len(record.changes.files), record.environment.get("lock_digest")
        ),
    )
    return RunEvent(
        eventType=state,
        eventTime=(record.ended if over else None) or record.started,
        run=Run(_run_id(record.run_id), facets),
        job=Job(namespace, _job_name(record), _job_facets(record, "RUN")),
        producer=_producer(record),
    )


def _stage_event(record: Record, namespace: str, stage: StageRun, started: str, ended: str | None) -> RunEvent:
    """The start of a stage where `ended` is None, else its end: a record holds only the stages that ended well."""
    inputs = [InputDataset(namespace, _named(record, name), facets=_told(record, name, digest)) for name, digest in _inputs(record, stage)]
    outputs = [OutputDataset(namespace, _named(record, name), facets=_told(record, name, digest)) for name, digest in _outputs(stage)]
    made_by = _run_id(stage.made_by) if stage.made_by else None
    facets = _facets(
        record,
        parent=parent_run.ParentRunFacet(
            parent_run.Run(_run_id(record.run_id)),
            parent_run.Job(namespace, _job_name(record)),
        ),
        nominalTime=nominal_time_run.NominalTimeRunFacet(started, ended),
        processing_engine=_engine(record),
        raycycle_cache=None if stage.ran else CacheRunFacet(True, made_by),
    )
    return RunEvent(
        eventType=RunState.COMPLETE if ended else RunState.START,
        eventTime=ended or started,
        run=Run(str(uuid.uuid5(uuid.UUID(record.run_id), stage.stage)), facets),
        job=Job(namespace, f"{_job_name(record)}.{stage.stage}", _job_facets(record, "STAGE")),
        inputs=inputs,
        outputs=outputs if ended else [],
        producer=_producer(record),
    )


def _inputs(record: Record, stage: StageRun) -> Iterator[tuple[str, str | None]]:
    """Dataset and digest of what a stage read. One that names other stages as its inputs (the report) read all that those made."""
    if stage.stage in ACTS:
        yield from ((ACTS[stage.stage][0], digest) for digest in stage.outputs.values())
    for word, digest in stage.inputs.items():
        if told := record.stage(word):
            yield from _outputs(told)
        elif digest != "none":  # a first candidate has no champion to be compared with
            yield DATASETS.get(word, word), digest


def _outputs(stage: StageRun) -> Iterator[tuple[str, str]]:
    for word, digest in stage.outputs.items():
        yield ACTS[stage.stage][1] if stage.stage in ACTS else DATASETS.get(word, word), digest


def _named(record: Record, name: str) -> str:
    return f"{record.dataset}/{name}"


def _told(record: Record, name: str, digest: str | None) -> dict[str, DatasetFacet]:
    """What is known of a dataset's content: nothing of a source that cannot be told from its earlier self (digest None)."""
    if digest is None:
        return {}
    version = dataset_version_dataset.DatasetVersionDatasetFacet(_version(record, name, digest))
    return _facets(record, version=version, raycycle_digest=DigestDatasetFacet(digest))


def _version(record: Record, name: str, digest: str) -> str:
    """The number by which people know a snapshot or a registered model; of anything else, the digest."""
    made = record.made
    if name == "snapshot" and made.get("snapshot", {}).get("digest") == digest:
        return str(made["snapshot"]["version"])
    if name in ("model", "champion") and made.get("bundle") == digest and "version" in made:
        return str(made["version"])
    return digest


def _engine(record: Record) -> RunFacet | None:
    libraries = record.environment.get("distributions", {})
    if "ray" not in libraries:
        return None
    return processing_engine_run.ProcessingEngineRunFacet(libraries["ray"], "Ray", libraries.get("raycycle"))


def _job_facets(record: Record, kind: str) -> dict[str, JobFacet]:
    """A commit is named as software archives do (SWHID, ISO/IEC 18670): its URI needs no repository, and a record knows none."""
    code = record.changes
    location = source_code_location_job.SourceCodeLocationJobFacet
    return _facets(
        record,
        jobType=job_type_job.JobTypeJobFacet("BATCH", "RAYCYCLE", kind),
        sourceCodeLocation=location("git", f"swh:1:rev:{code.commit}", version=code.commit, branch=code.branch) if code.commit else None,
    )


def _facets(record: Record, **facets: Facet | None) -> dict[str, Facet]:
    """Those that are there, signed by us: the client's own setting for it is one for the whole process."""
    found = {name: facet for name, facet in facets.items() if facet is not None}
    for facet in found.values():
        facet._producer = _producer(record)
    return found


def _producer(record: Record) -> str:
    return f"urn:raycycle:{record.environment.get('distributions', {}).get('raycycle', 'unknown')}"


def _job_name(record: Record) -> str:
    return f"{record.dataset}.run"


def _run_id(run_id: str) -> str:
    return str(uuid.UUID(run_id))
