"""Carry out the stages of a recorded run once more, beside the store that it ran in, by the code that this file belongs to.

It is a process of its own, since that code may be another than the one that compares:  python -m flows.replay JOB.json
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec

from cluster.progress import Progress
from cluster.store import Store, read_json, write_atomic, write_json
from conf.compose import recomposed
from conf.errors import RaycycleError, UsageError, root_cause
from flows.facts import took_snapshot
from flows.ingest import Ingested, ingest
from flows.pipeline import evaluate_stage, prepare_stage, score_stage, sweep_stage
from flows.plan import Plan, Reuse, plan
from flows.stages import Result, Stages
from ledger import records
from ledger.records import Record
from ledger.registry import Registered
from ledger.stages import kept_bundle
from tables import snapshots
from tables.privacy.keys import Keyring
from tables.rows import TableDigest
from tables.snapshots import SnapshotFile

REPLAYED = ("ingest", "prepare", "sweep", "evaluate", "score")


class Job(msgspec.Struct, kw_only=True):
    """What to replay: the run in `record_folder` of the store `store`, up to the stage `until`, below the folder `into`."""

    record_folder: str
    store: str
    into: str
    until: str


def replay(job: Job, progress: Progress) -> dict[str, Any]:
    """Run the stages; returns what each gave, and the folder that it lies in."""
    record, into = records.read(Path(job.record_folder)), Path(job.into)
    store = Store.open(job.store, record.tables)
    scratch = Store.open(into / "store")
    planned = _planned(record, job.until, into, scratch)
    mine = msgspec.structs.replace(record, stages=[], run_id="0" * 32)
    stages = Stages(planned, scratch, progress, mine, into, f"sqlite:///{scratch.root / 'mlflow.db'}", lambda: None)
    try:
        ingested = _ingested(planned, record, store, stages)
        if planned.reaches("prepare"):
            prepared = prepare_stage(planned, stages, ingested)
        if planned.reaches("sweep"):
            swept = sweep_stage(planned, stages, prepared, lambda trial: None)
        if planned.reaches("evaluate"):
            evaluate_stage(planned, stages, prepared, swept, _version(store, record, _input(record, "evaluate", "champion")))
        if planned.reaches("score") and (model := _version(store, record, _input(record, "score", "model"))):
            score_stage(planned, stages, ingested, prepared, model)
    finally:
        stages.close()
    return {"stages": [msgspec.to_builtins(stage) for stage in mine.stages]}


def _planned(record: Record, until: str, into: Path, scratch: Store) -> Plan:
    """The plan of the recorded run: its own configuration and contract, on this machine, with nothing released."""
    contract = record.config["dataset"]["contract"]
    write_atomic(into / "conf" / "contract" / f"{contract}.yaml", record.contract)
    here = {"cluster": {"kind": "local", "address": None, "cpus": None}, "store": {"root": str(scratch.root)}, "deploy": "none"}
    composed = recomposed({**record.config, **here}, (into / "conf",), tuple(record.typed))
    planned = plan(composed, until, Reuse(cache=False, asked="replayed"))
    # Only where it runs is another: what it follows from must be read from the recorded values.
    return replace(planned, composed=replace(composed, plain=record.config))


def _ingested(planned: Plan, record: Record, store: Store, stages: Stages) -> Result[Ingested]:
    """The recorded snapshot as it lies, its rows digested anew; and, where the source is as it was, ingested once more from there.

    The result is told by the fresh rows where there are any; later stages learn from the recorded snapshot.
    """
    made = record.made["snapshot"]
    lying = snapshots.open_snapshot(store, made["name"], made["version"])
    unverified = tuple(replace(file, sha256="") for file in lying.files)  # a changed cell is to be found, not only refused
    stages.connect()
    started = time.monotonic()
    with stages.progress.stage("ingest", lying.rows) as bar:
        found = _digest_of(unverified)
        bar.advance(found.rows, "rows of the recorded snapshot digested anew")
    held = replace(lying, files=unverified, digest=found)
    fresh = _from_source(planned, record, stages, Keyring(store))
    outputs = {**(fresh.outputs if fresh else {"rows": str(found)}), "snapshot as it lies": str(found)}
    stages.act("ingest", _why(record, fresh), time.monotonic() - started, outputs)
    write_json(stages.record_folder / "snapshot.json", {"fresh": str(fresh.snapshot.folder) if fresh else "", "digest": outputs["rows"]})
    return Result({"rows": str(found)}, stages.record_folder, lambda: Ingested(held))


def _why(record: Record, fresh: Ingested | None) -> str:
    stage = record.stage("ingest")
    if stage and took_snapshot(stage):
        return "taken as it lies, as the run did"
    return "from its source" if fresh else "its source has changed"


def _from_source(planned: Plan, record: Record, stages: Stages, keyring: Keyring) -> Ingested | None:
    recorded = _input(record, "ingest", "source")
    appended = planned.config.dataset.write == "append"  # then the source is only a part of the snapshot
    if recorded is None or appended or not hasattr(planned.source, "fingerprint"):
        return None
    try:
        if planned.source.fingerprint(None) != recorded:
            return None
    except RaycycleError:
        return None
    name, contract, quiet = planned.config.dataset.name, planned.contract, Progress(quiet=True)
    return ingest(name, planned.source, contract, stages.store, quiet, planned.onces, keyring=keyring)


def _digest_of(files: tuple[SnapshotFile, ...]) -> TableDigest:
    import ray

    task = ray.remote(row_digest)
    return reduce(TableDigest.__add__, ray.get([task.remote(file) for file in files]), TableDigest())


def row_digest(file: SnapshotFile) -> TableDigest:
    """The digest of the rows of one file, whatever its bytes are."""
    return TableDigest.of(snapshots.read(file))


def _input(record: Record, stage: str, name: str) -> str | None:
    found = record.stage(stage)
    return found.inputs.get(name) if found else None


def _version(store: Store, record: Record, digest: str | None) -> Registered | None:
    """The recorded bundle of this digest, from the results that the store keeps; no registry is asked."""
    if digest is None or digest == "none":
        return None
    bundle = kept_bundle(store, digest)
    if bundle is None:
        raise UsageError("a model that the run used is gone from the store", value=digest, next="restore it, or choose --until sweep")
    return Registered(record.dataset, 0, digest, bundle, record.run_id, True, ())


def main(job_file: Path) -> int:
    job = msgspec.convert(read_json(job_file), Job)
    into = Path(job.into)
    try:
        write_json(into / "replayed.json", replay(job, Progress()))
    except Exception as error:
        cause = root_cause(error)
        known = cause if isinstance(cause, RaycycleError) else RaycycleError(f"{type(cause).__name__}: {cause}")
        write_json(into / "replayed.json", {"error": known.as_json(), "exit_code": known.exit_code})
        raise
    return 0


if __name__ == "__main__":
    from cluster import session

    session.stay_connected()
    sys.exit(main(Path(sys.argv[1])))
