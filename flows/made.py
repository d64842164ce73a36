"""What a run has made, and how it is told: in one sentence, as a command to try, and as the fields that scripts read."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.store import Store
from flows.evaluation import Evaluation
from flows.gates import refused
from flows.ingest import Ingested
from flows.plan import Plan
from flows.score import Scored
from flows.sweep import Swept
from ledger.identities import token_file
from ledger.registry import Registered
from serve.releases import Released
from trainers import bundle


@dataclass
class Made:
    """What a run has made so far; each stage adds its part."""

    run_id: str
    folder: Path
    started: dt.datetime
    seconds: dict[str, float]
    ingested: Ingested | None = None
    swept: Swept | None = None
    evaluation: Evaluation | None = None
    version: Registered | None = None
    released: Released | None = None
    score_input: Path | None = None
    scored: Scored | None = None
    report: Path | None = None
    data_report: Path | None = None

    @property
    def refusals(self) -> list[str]:
        """Why the candidate was refused, one reason for each gate that said no."""
        return refused(self.evaluation.verdicts) if self.evaluation else []


def release_line(made: Made) -> str:
    """What became of the candidate, in one sentence."""
    if made.version is None:
        return "nothing was registered"
    if made.released:
        return f"{made.version} passed its gates and is champion: the laptop policy releases by itself"
    if made.refusals:
        champion = made.evaluation.champion_name if made.evaluation else ""
        kept = f"; champion {champion} stays" if champion else ""
        return f"{made.version} was refused{kept}: {'; '.join(made.refusals)}"
    return f"{made.version} passed its gates and waits as candidate (raycycle deploy {made.version.name} {made.version.version})"


def curl(made: Made, store: Store) -> str | None:
    """A command that asks the released model about one real row; None when nothing was released."""
    if made.released is None or made.version is None:
        return None
    row = bundle.example(made.version.folder, made.version.digest)
    body = json.dumps({"rows": [row]}, ensure_ascii=False)
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
        found |= {"duplicates": made.ingested.duplicates, "warned": made.ingested.warned, "promises": made.ingested.promises}
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
    if made.data_report:
        found["data_report"] = str(made.data_report)
    return found
