"""What a run has made: kept in MLflow while it goes on, and told to people and scripts at its end."""

from __future__ import annotations

import datetime as dt
import getpass
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.progress import Progress
from cluster.store import Store, write_json
from conf.errors import UsageError
from flows.evaluate import Evaluation
from flows.gates import refused
from flows.ingest import Ingested
from flows.plan import Plan
from flows.prepare import Prepared
from flows.score import Scored
from flows.search import Trial
from flows.sweep import Swept
from ledger.identities import token_file
from ledger.registry import Registered
from ledger.tracking import ChildRun, Tracking
from serve.releases import Released
from trainers.bundle import Bundle


@dataclass
class Made:
    """What a run has made so far; each stage adds its part."""

    run_id: str
    folder: Path
    started: dt.datetime
    seconds: dict[str, float]
    ingested: Ingested | None = None
    prepared: Prepared | None = None
    swept: Swept | None = None
    evaluation: Evaluation | None = None
    version: Registered | None = None
    released: Released | None = None
    champion: Registered | None = None
    score_input: Path | None = None
    scored: Scored | None = None
    report: Path | None = None

    @property
    def refusals(self) -> list[str]:
        """Why the candidate was refused, one reason for each gate that said no."""
        return refused(self.evaluation.verdicts) if self.evaluation else []


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
    write_json(made.folder / "config.json", plan.composed.plain)
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
    tracking.log_file(made.run_id, made.folder / "config.json")


def child_run(trial: Trial) -> ChildRun:
    return ChildRun(
        name=f"trial-{trial.number:03d}-{trial.family}",
        params={"trainer": trial.family, **trial.params},
        metrics=trial.metrics,
        status="FAILED" if trial.status == "failed" else "FINISHED",
        tags={"raycycle.trial": str(trial.number), "raycycle.status": trial.status, "raycycle.reason": trial.reason},
        started=trial.started,
        seconds=trial.seconds,
    )


def release_line(made: Made) -> str:
    """What became of the candidate, in one sentence."""
    if made.version is None:
        return "nothing was registered"
    if made.released:
        return f"{made.version} passed its gates and is champion: the laptop policy releases by itself"
    if made.refusals:
        kept = f"; champion {made.champion} stays" if made.champion else ""
        return f"{made.version} was refused{kept}: {'; '.join(made.refusals)}"
    return f"{made.version} passed its gates and waits as candidate (raycycle deploy {made.version.name} {made.version.version})"


def curl(made: Made, store: Store) -> str | None:
    """A command that asks the released model about one real row."""

    if made.released is None or made.version is None:
        return None
    example = Bundle.open(made.version.folder, made.version.digest).example
    body = json.dumps({"rows": [example]}, ensure_ascii=False)
    url = made.released.url
    header = f'-H "Authorization: Bearer $(cat {shlex.quote(str(token_file(store)))})" -H "Content-Type: application/json"'
    return f"curl -s {url} {header} -d {shlex.quote(body)}"


def endpoint(released: Released) -> str:
    """The base URL, under which every protocol has its routes."""
    return released.url.split("/v1/")[0]


def as_json(made: Made, plan: Plan, store: Store) -> dict[str, Any]:
    """The fields that scripts may rely on (design.md, part 4)."""
    found: dict[str, Any] = {"run_id": made.run_id, "dataset": plan.config.dataset.name, "seconds": made.seconds}
    if made.ingested:
        found |= {"snapshot": str(made.ingested.snapshot), "quarantined": made.ingested.quarantined}
    if made.swept:
        best = made.swept.best
        found |= {"trainer": best.family, "params": best.params, "metric": made.swept.metric, "metrics": {"validation": best.metrics}}
    if made.evaluation:
        found["metrics"]["holdout"] = made.evaluation.holdout.metrics
        found["metrics"]["later"] = {name: quality.metrics for name, quality in made.evaluation.later.items()}
        found["gates"] = [asdict(verdict) for verdict in made.evaluation.verdicts]
    if made.version:
        found |= {"model": made.version.name, "version": made.version.version, "aliases": sorted(made.version.aliases)}
        found |= {"digest": made.version.digest, "release": release_line(made)}
    if made.released:
        base, predict = endpoint(made.released), made.released.url
        found |= {"endpoint": base, "predict_url": predict, "token_file": str(token_file(store)), "curl": curl(made, store)}
    if made.scored:
        found |= {"score_input": str(made.score_input), "scores": str(made.scored.output), "scored": made.scored.by}
    if made.report:
        found["report"] = str(made.report)
    return found


def report_of(store: Store, run_id: str) -> Path:
    """The report of the run whose id begins with `run_id`."""
    found = [folder for folder in store.runs.iterdir() if run_id and folder.name.startswith(run_id)]
    if len(found) != 1 or not (found[0] / "report.html").is_file():
        known = sorted((folder for folder in store.runs.iterdir() if (folder / "report.html").is_file()), key=lambda f: -f.stat().st_mtime)
        raise UsageError(
            "no run with a report has this id" if len(found) < 2 else "more than one run has an id that begins so",
            value=run_id,
            allowed=", ".join(folder.name for folder in known[:5]) or "none yet",
            next="raycycle run writes one",
        )
    return found[0] / "report.html"
