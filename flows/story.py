"""What a report tells of one run, and how its names and numbers are worded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cluster.store import Store
from flows.evaluation import Evaluation
from flows.ingest import Ingested
from flows.made import Made, curl, endpoint, release_line
from flows.plan import Plan
from flows.prepared import Prepared
from flows.score import Scored
from flows.sweep import Swept, best_by_family
from trainers import metrics
from trainers.family import Family

NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "f1_macro": "macro F1",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "r2": "R²",
}


@dataclass(frozen=True, kw_only=True)
class Story:
    """What one run made.

    `seconds` by stage; `config` plain values, without secrets; `release` one sentence: released, refused and why, or identical
    to the champion; `champion_name` is read only where `evaluation.champion` holds its metrics; `data_report` names the snapshot's page,
    which lies beside this one.
    """

    title: str
    run_id: str
    when: str
    seconds: dict[str, float]
    config: dict[str, Any]
    ingested: Ingested
    prepared: Prepared
    swept: Swept
    evaluation: Evaluation
    family: Family
    version: int | None
    release: str
    champion_name: str
    scored: Scored | None
    endpoint: str | None
    curl: str | None
    data_report: str | None = None


def story_of(plan: Plan, store: Store, made: Made, prepared: Prepared) -> Story:
    """The story of a run that came as far as its evaluation; what came after may be missing."""
    assert made.ingested and made.swept and made.evaluation  # noqa: S101 - the stages before
    return Story(
        title=plan.config.dataset.name,
        run_id=made.run_id,
        when=made.started.isoformat(timespec="seconds"),
        seconds=dict(made.seconds),
        config=plan.composed.plain,
        ingested=made.ingested,
        prepared=prepared,
        swept=made.swept,
        evaluation=made.evaluation,
        family=plan.family(made.swept.best.family),
        version=made.version.version if made.version else None,
        release=release_line(made),
        champion_name=made.evaluation.champion_name,
        scored=made.scored,
        endpoint=endpoint(made.released) if made.released else None,
        curl=curl(made, store),
        data_report=made.data_report.name if made.data_report else None,
    )


def number(value: float | None) -> str:
    """Four decimals for what is near one, else four digits."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def cell(value: object) -> str:
    """A parameter or a reason, short enough for a table."""
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 400 else text[:399] + "…"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def metric_name(name: str) -> str:
    return NAMES.get(name, name)


def difference(metric: str, ours: float | None, theirs: float | None) -> str:
    """By how much ours is better, in words."""
    if ours is None or theirs is None:
        return "cannot be compared"
    gain = metrics.loss(metric, theirs) - metrics.loss(metric, ours)
    return "equal" if gain == 0 else f"{number(abs(gain))} {'better' if gain > 0 else 'worse'}"


def rivals(story: Story) -> dict[str, dict[str, float]]:
    """Who answered the same holdout rows: the champion, if it could, and the constant."""
    champion = {f"champion {story.champion_name}": story.evaluation.champion} if story.evaluation.champion is not None else {}
    return {**champion, "constant answer": story.evaluation.constant}


def beaten(story: Story) -> list[dict[str, str]]:
    """Each rival, how much better the winner is, and on which rows that was measured."""
    metric, holdout = story.swept.metric, story.evaluation.holdout.metrics
    found = [
        {"name": name, "gain": difference(metric, holdout.get(metric), theirs.get(metric)), "rows": "holdout"}
        for name, theirs in rivals(story).items()
    ]
    swept = story.swept
    others = [trial for name, trial in best_by_family(swept.trials).items() if name != swept.best.family]
    return found + [
        {"name": f"best {t.family}", "gain": difference(metric, swept.value(swept.best), swept.value(t)), "rows": "validation"}
        for t in others
    ]
