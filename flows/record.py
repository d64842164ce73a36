"""What is remembered of a run while it goes on: its record in the store, and its lines to MLflow; both end as the run ends."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from cluster.code import pack
from cluster.progress import Progress
from cluster.store import Store
from conf.errors import RaycycleError
from conf.targets import SOURCE
from flows.made import Made
from flows.plan import Plan
from flows.stages import Stages
from flows.trial import WORKER_DIED, Trial
from ledger import changes, digests, records
from ledger.environment import environment
from ledger.records import Record, Status
from ledger.spool import Spool
from ledger.tracking import ChildRun, Tracking
from tables.privacy.detection import masked


@contextmanager
def recorded(plan: Plan, store: Store, progress: Progress, verb: str) -> Iterator[tuple[Made, Stages, Spool]]:
    """A record and an MLflow run around the stages, with what they made told at the end. Only a good end is FINISHED."""
    config, started = plan.config, dt.datetime.now(dt.UTC)
    run_id = uuid.uuid4().hex
    made = Made(run_id, store.runs / run_id, started, progress.seconds)
    made.folder.mkdir(parents=True)
    record = Record(
        run_id=run_id,
        verb=verb,
        dataset=config.dataset.name,
        status="RUNNING",
        started=started.isoformat(),
        ended=None,
        seed=config.seed,
        until=plan.until,
        config=plan.composed.plain,
        typed=list(plan.composed.typed),
        contract=plan.contract.dump(),
        code=changes.capture(SOURCE, made.folder / "code", exclude=[store.root]).plain(),
        pack=pack(store).digest,
        environment=environment(),
        stages=[],
    )
    records.write(record, made.folder)
    tracking = Tracking(store, config.store.tracking)
    tags = {"raycycle.dataset": config.dataset.name, "mlflow.user": record.environment["who"]}
    spool = Spool(tracking, config.dataset.name, f"{config.dataset.name}-{started:%Y%m%d-%H%M%S}", tags, progress.say, run_id)

    stages = Stages(plan, store, progress, record, made.folder, tracking.uri, spool.begin, partial(found, made))
    status: Status = "FINISHED"
    try:
        with spool:
            try:
                yield made, stages, spool
            except BaseException as error:
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                record.error = "interrupted" if status == "KILLED" else _said(error)
                raise
            finally:
                record.status, record.ended = status, dt.datetime.now(dt.UTC).isoformat()
                record.made = found(made)
                records.write(record, made.folder)
                _log(spool, plan, made, record)
    finally:
        stages.close()
        if any(stage.ran for stage in record.stages):  # else no data flowed
            from ledger.lineage import emit  # imports slowly, and nothing waits for it

            emit(record, made.folder, config.lineage.url, progress.say, config.lineage.namespace)


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, RaycycleError) else masked(f"{type(error).__name__}: {error}")


def _log(spool: Spool, plan: Plan, made: Made, record: Record) -> None:
    params: dict[str, Any] = {"dataset": plan.config.dataset.name, "seed": plan.config.seed}
    metrics: dict[str, float] = {f"seconds.{stage}": seconds for stage, seconds in made.seconds.items()}
    if made.ingested:
        params |= {"snapshot": str(made.ingested.snapshot), "snapshot_digest": str(made.ingested.snapshot.digest)}
    if made.swept:
        best = made.swept.best
        params |= {"trainer": best.family, **{f"{best.family}.{key}": value for key, value in best.params.items()}}
        metrics |= {f"validation.{key}": value for key, value in best.metrics.items()}
    if made.evaluation:
        metrics |= {f"holdout.{key}": value for key, value in made.evaluation.holdout.metrics.items()}
    file = made.folder / records.FILE
    tags = {"commit": record.changes.commit, "lock": record.environment["lock_digest"], "record": digests.of_file(file)}
    spool.log(params, metrics, **{f"raycycle.{name}": str(value) for name, value in tags.items() if value})
    spool.log_file(file)
    if made.report:
        spool.log_file(made.report)


def found(made: Made) -> dict[str, Any]:
    """Where to look for what a run made."""
    what: dict[str, Any] = {}
    if made.ingested:
        snapshot = made.ingested.snapshot
        what["snapshot"] = {"name": snapshot.name, "version": snapshot.version, "digest": str(snapshot.digest)}
    if made.swept:
        what |= {"trainer": made.swept.best.family, "metric": made.swept.metric}
        if lost := [trial.number for trial in made.swept.trials if trial.reason == WORKER_DIED]:
            what["lost_trials"] = lost
    if made.evaluation:
        if made.swept:
            what["value"] = made.evaluation.holdout.metrics.get(made.swept.metric)
        what |= {"bundle": made.evaluation.digest, "against": made.evaluation.champion_name, "passed": made.evaluation.passed}
    if made.version:
        what |= {"model": made.version.name, "version": made.version.version}
    if made.scored:
        what |= {"scores": str(made.scored.output)}
    if made.report:
        what |= {"report": str(made.report)}
    return what


def child_run(trial: Trial) -> ChildRun:
    """A trial as a run of its own below the run of the sweep."""
    return ChildRun(
        name=f"trial-{trial.number:03d}-{trial.family}",
        params={"trainer": trial.family, **trial.params},
        metrics=trial.metrics,
        status="FAILED" if trial.status == "failed" else "FINISHED",
        tags={"raycycle.trial": str(trial.number), "raycycle.status": trial.status, "raycycle.reason": trial.reason},
        started=trial.started,
        seconds=trial.seconds,
    )
