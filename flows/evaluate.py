"""Refit the best trial on training and validation rows, and judge it on rows nobody trained on.

raycycle run experiment=flights --until evaluate
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.progress import Progress
from flows.gates import Evidence, Gate, Verdict, constant_scores
from flows.leaks import Probe, probe
from flows.prepare import Prepared, Rows
from flows.search import Trial
from flows.sweep import Swept, fit, joined
from ledger.registry import Registered
from tables.target import Target
from trainers.bundle import Bundle
from trainers.family import Family
from trainers.metrics import bootstrap, calibration, one_metric, score
from trainers.protocol import Fitted

MIN_SLICE_ROWS = 30
EXPLAINED_ROWS = 2_000


@dataclass(frozen=True)
class Quality:
    """Metrics on a set of rows, with 95 % bootstrap intervals where they were asked for."""

    rows: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found out about a candidate. `later` are rows after the holdout, by `later_by` (a month, say)."""

    fitted: Fitted
    family: Family
    trial: Trial
    target: Target
    holdout: Quality
    constant: dict[str, float]
    champion: dict[str, float] | None
    later: dict[str, Quality]
    slices: dict[str, dict[str, Quality]]
    calibration: list[dict[str, Any]]
    importance: dict[str, float]
    leaks: Probe
    verdicts: tuple[Verdict, ...]
    y: NDArray[np.float64]
    scores: NDArray[np.float64]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


def refit(family: Family, trial: Trial, seed: int, prepared: Prepared, target: Target) -> Fitted:
    """The best trial's parameters and number of steps, on every row before the holdout."""
    both = joined(prepared.train, prepared.valid)
    return fit(family, trial.params, both, None, target, seed, steps=trial.steps)


@dataclass(frozen=True)
class Champion:
    """The version that answers now, opened."""

    name: str
    bundle: Bundle


def opened(version: Registered | None) -> Champion | None:
    return Champion(str(version), Bundle.open(version.folder, version.digest)) if version else None


def evaluate(
    prepared: Prepared,
    swept: Swept,
    gates: Mapping[str, Gate],
    champion: Champion | None,
    slices: list[str],
    later_by: str | None,
    progress: Progress,
) -> Evaluation:
    import ray

    trial, family, data = swept.best, swept.family, swept.data
    target = Target(prepared.target.task, prepared.target.classes, trial.log_target)
    holdout = prepared.parts["holdout"]
    with progress.stage("evaluate", len(holdout)) as bar:
        resources = {"num_cpus": family.resources.cpu, "num_gpus": family.resources.gpu}
        lean = Prepared(**{**prepared.__dict__, "parts": {name: Rows(prepared.parts[name].matrix, None) for name in ("train", "valid")}})
        fitting = ray.remote(refit).options(**resources).remote(family, trial, data.seed, lean, target)  # type: ignore[attr-defined]
        leaks = probe(prepared.train, prepared.valid, target.task)  # while the worker fits
        fitted: Fitted = ray.get(fitting)
        scores = target.backward(fitted.predict(holdout.matrix.x))
        y, task = holdout.matrix.y, target.task
        table = holdout.table if holdout.table is not None else pa.table({})
        theirs, champion_name = _champion_scores(champion, table, target)
        evidence = Evidence(
            task=task,
            metric=swept.metric,
            threshold=trial.threshold,
            y=y,
            scores=scores,
            constant_scores=constant_scores(prepared.train, task, len(target.classes), len(y)),
            table=table,
            champion_scores=theirs,
            champion_name=champion_name,
            leaks=leaks,
            seed=data.seed,
        )
        verdicts = tuple(gate.check(evidence) for gate in gates.values())
        bar.advance(len(holdout), f"{sum(v.passed for v in verdicts)} of {len(verdicts)} gates passed")
        return Evaluation(
            fitted=fitted,
            family=family,
            trial=trial,
            target=target,
            holdout=quality(target, y, scores, trial.threshold, data.seed, intervals=True),
            constant=score(task, y, evidence.constant_scores, trial.threshold),
            champion=score(task, y, theirs, champion.bundle.manifest.threshold) if theirs is not None and champion else None,
            later=_later(prepared, fitted, target, trial.threshold, later_by, data.seed),
            slices={name: _by(table.column(name), y, scores, target, trial.threshold, data.seed) for name in slices},
            calibration=calibration(y, scores) if task == "binary" else [],
            importance=_importance(prepared, fitted, holdout.matrix.x),
            leaks=leaks,
            verdicts=verdicts,
            y=y,
            scores=scores,
        )


def quality(
    target: Target, y: NDArray[np.float64], scores: NDArray[np.float64], threshold: float, seed: int, *, intervals: bool
) -> Quality:
    metrics = score(target.task, y, scores, threshold)
    found = {}
    for name in metrics if intervals else ():
        _, low, high = bootstrap(lambda rows, name=name: one_metric(name, target.task, y[rows], scores[rows], threshold), len(y), seed)  # type: ignore[misc]
        found[name] = (low, high)
    return Quality(len(y), metrics, found)


def _champion_scores(champion: Champion | None, table: pa.Table, target: Target) -> tuple[NDArray[np.float64] | None, str]:
    """The champion on the candidate's holdout rows, and its name; or None, and why there is no comparison."""
    if champion is None:
        return None, ""
    name, bundle = champion.name, champion.bundle
    if bundle.task != target.task or bundle.target.classes != target.classes:
        return None, f"champion {name} answers another question"
    missing = [column for column in bundle.contract.features if column not in table.column_names]
    if missing:
        return None, f"champion {name} needs column {missing[0]!r}, which this table no longer has"
    rows, _ = bundle.conform(table)
    return bundle.scores(rows), name


def _later(prepared: Prepared, fitted: Fitted, target: Target, threshold: float, by: str | None, seed: int) -> dict[str, Quality]:
    later = prepared.parts.get("later")
    if later is None or later.table is None:
        return {}
    scores = target.backward(fitted.predict(later.matrix.x))
    if by is None:
        return {"later": quality(target, later.matrix.y, scores, threshold, seed, intervals=False)}
    return _by(later.table.column(by), later.matrix.y, scores, target, threshold, seed)


def _by(
    groups: pa.ChunkedArray, y: NDArray[np.float64], scores: NDArray[np.float64], target: Target, threshold: float, seed: int
) -> dict[str, Quality]:
    """Quality of each group with enough rows, in the order of the group's value."""
    values = groups.to_pylist()
    names = np.array(["(missing)" if value is None else str(value) for value in values], object)
    found = {}
    for value in sorted(set(values), key=lambda v: (v is None, v)):
        name = "(missing)" if value is None else str(value)
        rows = np.flatnonzero(names == name)
        if len(rows) >= MIN_SLICE_ROWS:
            found[name] = quality(target, y[rows], scores[rows], threshold, seed, intervals=False)
    return found


def _importance(prepared: Prepared, fitted: Fitted, x: NDArray[np.float32]) -> dict[str, float]:
    """Share of each source column in the mean absolute contribution to the raw score, largest first."""
    step = max(1, len(x) // EXPLAINED_ROWS)
    mean = np.abs(fitted.contributions(np.ascontiguousarray(x[::step]))).mean(axis=0)
    total = float(mean.sum()) or 1.0
    shares: dict[str, float] = {}
    for feature, value in zip(prepared.encoder.features, mean, strict=True):
        shares[feature.source] = shares.get(feature.source, 0.0) + float(value) / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
