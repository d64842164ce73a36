"""Refit the best trial on training and validation rows, and judge it on rows nobody trained on.

$ raycycle run experiment=flights --until evaluate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.progress import Progress
from flows.evaluation import Evaluation, Quality
from flows.gates import Evidence, Gate, constant_scores
from flows.leaks import Probe, probe
from flows.prepared import Prepared
from flows.sweep import Swept
from flows.trial import Trial, fit, joined
from ledger.registry import Registered
from tables.checking import check_features
from tables.contract import Contract
from tables.privacy.treatment import treated_alike
from tables.target import Target
from trainers import bundle
from trainers.bundle import GOLDEN_ROWS, Bundle
from trainers.family import Family
from trainers.metrics import bootstrap, calibration, one_metric, score
from trainers.protocol import Fitted

MIN_SLICE_ROWS = 30
EXPLAINED_ROWS = 2_000


def refit(family: Family, trial: Trial, seed: int, prepared: Prepared, target: Target) -> Fitted:
    """Fit the best trial's parameters and number of steps on every row before the holdout."""
    both = joined(prepared.train, prepared.valid)
    return fit(family, trial.params, both, None, target, seed, steps=trial.steps)


@dataclass(frozen=True)
class Champion:
    """The version that answers now, opened."""

    name: str
    bundle: Bundle


@dataclass(frozen=True)
class Described:
    """What a bundle says of where it comes from: the model's name, the plug-ins it needs, how text files of its rows were read."""

    name: str
    plugins: list[str]
    reading: dict[str, Any]


def opened(version: Registered | None) -> Champion | None:
    """The version with its bundle. Raises RaycycleError when the bundle is not the one registered."""
    return Champion(str(version), Bundle.open(version.folder, version.digest)) if version else None


def evaluate(
    prepared: Prepared,
    swept: Swept,
    family: Family,
    gates: Mapping[str, Gate],
    champion: Champion | None,
    slices: list[str],
    later_by: str | None,
    described: Described,
    folder: Path,
    progress: Progress,
) -> Evaluation:
    """The refitted candidate, judged by every gate, and against the `champion` if there is one; its bundle is written below `folder`.

    `slices` are columns to report quality by; rows after the holdout are reported by the column `later_by`, or all together.
    """
    trial, seed = swept.best, swept.seed
    target = dataclasses.replace(prepared.target, log=trial.log_target)
    holdout = prepared.parts["holdout"]
    with progress.stage("evaluate", len(holdout)) as bar:
        fitted, leaks = _fitted_and_probed(prepared, swept, family, target)
        evidence = _evidence(prepared, swept, target, fitted, champion, leaks)
        verdicts = tuple(gate.check(evidence) for gate in gates.values())
        params = msgspec.to_builtins(dataclasses.asdict(family.build_params(trial.params)))
        digest = _write_bundle(described, prepared, family, params, fitted, target, trial, folder / "bundle")
        bar.advance(len(holdout), f"{sum(v.passed for v in verdicts)} of {len(verdicts)} gates passed")
        y, scores, theirs = evidence.y, evidence.scores, evidence.champion_scores
        return Evaluation(
            bundle=folder / "bundle",
            digest=digest,
            trial=trial,
            params=params,
            target=target,
            holdout=quality(target, y, scores, trial.threshold, seed, intervals=True),
            constant=score(target.task, y, evidence.constant_scores, trial.threshold),
            champion=score(target.task, y, theirs, champion.bundle.manifest.threshold) if theirs is not None and champion else None,
            champion_name=champion.name if champion else "",
            later=_later(prepared, fitted, target, trial.threshold, later_by, seed),
            slices={name: _by(holdout.table.column(name), y, scores, target, trial.threshold, seed) for name in slices},
            calibration=calibration(y, scores) if target.task == "binary" else [],
            importance=_importance(prepared, fitted, holdout.matrix.x),
            leaks=leaks,
            verdicts=verdicts,
            y=y,
            scores=scores,
        )


def _write_bundle(
    described: Described,
    prepared: Prepared,
    family: Family,
    params: dict[str, Any],
    fitted: Fitted,
    target: Target,
    trial: Trial,
    folder: Path,
) -> str:
    """The candidate as a bundle, opened once more and asked its golden rows before anybody relies on it; returns its digest."""
    digest = bundle.write(
        folder,
        name=described.name,
        trainer=family.target,
        family=family.name,
        params=params,
        contract=prepared.contract,
        encoder=prepared.encoder,
        fitted=fitted,
        target=target,
        threshold=trial.threshold,
        golden=prepared.parts["holdout"].table.slice(0, GOLDEN_ROWS),
        reference=prepared.reference,
        plugins=tuple(described.plugins),
        reading=described.reading,
    )
    Bundle.open(folder, digest).check_golden()
    return digest


def _fitted_and_probed(prepared: Prepared, swept: Swept, family: Family, target: Target) -> tuple[Fitted, Probe]:
    """The candidate, refitted by a worker that has what a trial had; meanwhile this process looks for leaks."""
    import ray

    asked = family.resources
    learned = {name: prepared.parts[name] for name in ("train", "valid")}  # the holdout stays here
    fit_there = ray.remote(refit).options(num_cpus=asked.cpu, num_gpus=asked.gpu)  # type: ignore[attr-defined]
    fitting = fit_there.remote(family, swept.best, swept.seed, dataclasses.replace(prepared, parts=learned), target)
    leaks = probe(prepared.train, prepared.valid, target.task)
    fitted: Fitted = ray.get(fitting)
    return fitted, leaks


def _evidence(prepared: Prepared, swept: Swept, target: Target, fitted: Fitted, champion: Champion | None, leaks: Probe) -> Evidence:
    holdout = prepared.parts["holdout"]
    theirs, champion_name = _champion_scores(champion, prepared.contract, holdout.table, target)
    return Evidence(
        task=target.task,
        metric=swept.metric,
        threshold=swept.best.threshold,
        y=holdout.matrix.y,
        scores=target.backward(fitted.predict(holdout.matrix.x)),
        constant_scores=constant_scores(prepared.train, target.task, len(target.classes), len(holdout)),
        table=holdout.table,
        champion_scores=theirs,
        champion_name=champion_name,
        leaks=leaks,
        seed=swept.seed,
    )


def quality(
    target: Target, y: NDArray[np.float64], scores: NDArray[np.float64], threshold: float, seed: int, *, intervals: bool
) -> Quality:
    """Every metric of the task on these rows, each with its bootstrap interval if `intervals` are wanted (200 times the work)."""
    metrics = score(target.task, y, scores, threshold)
    found = {}
    for name in metrics if intervals else ():
        _, low, high = bootstrap(lambda rows, name=name: one_metric(name, target.task, y[rows], scores[rows], threshold), len(y), seed)  # type: ignore[misc]
        found[name] = (low, high)
    return Quality(len(y), metrics, found)


def _champion_scores(
    champion: Champion | None, contract: Contract, table: pa.Table, target: Target
) -> tuple[NDArray[np.float64] | None, str]:
    """The champion on the candidate's holdout rows, and its name; or None, and why there is no comparison."""
    if champion is None:
        return None, ""
    name, bundle = champion.name, champion.bundle
    if bundle.task != target.task or bundle.target.classes != target.classes:
        return None, f"champion {name} answers another question"
    missing = [column for column in bundle.contract.features if column not in table.column_names]
    if missing:
        return None, f"champion {name} needs column {missing[0]!r}, which this table no longer has"
    if not treated_alike(contract, bundle.contract, bundle.contract.features):
        return None, f"champion {name} learned from columns that were treated otherwise, or with another key"
    return bundle.scores(check_features(bundle.treated, table).typed), name


def _later(prepared: Prepared, fitted: Fitted, target: Target, threshold: float, by: str | None, seed: int) -> dict[str, Quality]:
    """Quality on the rows after the holdout, by group if `by` names a column; empty where there are no such rows."""
    later = prepared.parts.get("later")
    if later is None:
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
