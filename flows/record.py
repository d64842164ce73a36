"""The record of a run in MLflow: begun before the first stage, ended as FINISHED only when every stage ended well."""

from __future__ import annotations

import datetime as dt
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.progress import Progress
from cluster.store import Store, write_json
from flows.made import Made
from flows.plan import Plan
from flows.trial import Trial
from ledger.environment import environment
from ledger.tracking import ChildRun, Tracking


@contextmanager
def tracked(plan: Plan, store: Store, progress: Progress) -> Iterator[tuple[Made, Tracking]]:
    """An MLflow run around the stages, with what they made logged at its end."""
    config = plan.config
    tracking = Tracking.open(store)
    started = dt.datetime.now(dt.UTC)
    tags = {"raycycle.dataset": config.dataset.name, "mlflow.user": getpass.getuser()}
    run_id = tracking.start(config.dataset.name, f"{config.dataset.name}-{started:%Y%m%d-%H%M%S}", tags)
    made = Made(run_id, store.runs / run_id, started, progress.seconds)
    made.folder.mkdir(parents=True, exist_ok=True)
    record = {"format": 1, "run_id": run_id, "started": started.isoformat(), "config": plan.composed.plain, "environment": environment()}
    write_json(made.folder / "record.json", record)
    try:
        yield made, tracking
        _log(tracking, plan, made)
    except BaseException as error:
        tracking.end(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracking.end(run_id)


def _log(tracking: Tracking, plan: Plan, made: Made) -> None:
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
    tracking.log(made.run_id, params, metrics)
    tracking.log_file(made.run_id, made.folder / "record.json")


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
