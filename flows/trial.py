"""One trial: fit a proposal on the prepared rows and judge it, whatever goes wrong.  The sweep runs many of these, a refit one."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cluster.store import finite
from tables.target import Target
from trainers.family import Family
from trainers.metrics import choose_threshold, loss, one_metric, score
from trainers.protocol import Context, Fitted, Matrix

# Why a trial failed whose process ended before it could say anything.
WORKER_DIED = "its worker died"


@dataclass(frozen=True)
class Proposal:
    """What a trial is to try. `bounds`: at each share of training done, the loss above which it stops."""

    number: int
    family: str
    params: dict[str, Any]
    log_target: bool
    bounds: dict[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One fit that ended.

    `loss` is that of the sweep's metric on validation rows, infinite where it failed; `rungs` are the losses met on the way, by the
    share of training done; `started` is in seconds since 1970; `reason` says why it stopped or failed.
    """

    number: int
    family: str
    params: dict[str, Any]
    log_target: bool
    status: Literal["finished", "stopped", "failed"]
    loss: float
    metrics: dict[str, float]
    threshold: float
    steps: int | None
    rungs: dict[float, float]
    seconds: float
    started: float = 0.0
    worker: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON; numbers that JSON has no words for are text."""
        plain = dataclasses.asdict(self) | {"rungs": {str(rung): value for rung, value in self.rungs.items()}}
        return {key: finite(value) for key, value in plain.items()}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Trial:
        rungs = {float(rung): float(value) for rung, value in plain["rungs"].items()}
        metrics = {name: float(value) for name, value in plain["metrics"].items()}
        numbers = {name: float(plain[name]) for name in ("loss", "threshold")}
        return cls(**{**plain, **numbers, "metrics": metrics, "rungs": rungs})

    def essence(self) -> dict[str, Any]:
        """What the same search must give again: all but when, where and how fast it ran."""
        return {key: value for key, value in self.to_json().items() if key not in ("seconds", "started", "worker")}


@dataclass(frozen=True)
class Data:
    """What every trial sees: rows to train on and, for `folds` > 1, the fold of each row; else rows to validate on."""

    train: Matrix
    valid: Matrix | None
    folds: NDArray[np.int64] | None
    target: Target
    metric: str
    seed: int


class _Rungs:
    """Notes the loss at each rung that training passes, and says stop where it is above the bound."""

    def __init__(self, rungs: list[float], bounds: dict[float, float], measure: Callable[[NDArray[np.float64]], float]) -> None:
        self.waiting, self.bounds, self.measure = sorted(rungs), bounds, measure
        self.seen: dict[float, float] = {}
        self.stopped = False

    def report(self, done: float, predict: Callable[[], NDArray[np.float64]]) -> bool:
        if not self.waiting or done < self.waiting[0]:
            return False
        rung = [r for r in self.waiting if r <= done][-1]
        self.waiting = [r for r in self.waiting if r > done]
        self.seen[rung] = self.measure(predict())
        self.stopped = self.seen[rung] > self.bounds.get(rung, math.inf)
        return self.stopped


def fit(
    family: Family,
    params: dict[str, Any],
    train: Matrix,
    valid: Matrix | None,
    target: Target,
    seed: int,
    steps: int | None = None,
    **more: Any,
) -> Fitted:
    """One fit as the sweep and the refit do it; `steps` as in `Context`, and `more` for its other fields."""
    context = Context(
        task=target.task,
        num_classes=max(len(target.classes), 1),
        seed=seed,
        threads=family.resources.threads,
        device=family.resources.device,
        steps=steps,
        **more,
    )
    learn = Matrix(train.x, target.forward(train.y), train.features)
    watch = Matrix(valid.x, target.forward(valid.y), valid.features) if valid else None
    return family.trainer().fit(learn, watch, family.build_params(params), context)


def run_trial(proposal: Proposal, family: Family, data: Data, rungs: list[float]) -> Trial:
    """Fit and judge one proposal; whatever goes wrong becomes a failed trial with its reason."""
    started, clock = time.time(), time.monotonic()
    target = dataclasses.replace(data.target, log=proposal.log_target)

    def measure(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
        return loss(data.metric, one_metric(data.metric, target.task, y, target.backward(predicted)))

    watched = data.valid
    y_valid = watched.y if watched else data.train.y
    passed = _Rungs(rungs if watched else [], proposal.bounds, lambda predicted: measure(y_valid, predicted))
    try:
        if data.folds is None:
            fitted = fit(family, proposal.params, data.train, watched, target, data.seed, report=passed.report)
            predicted, steps = (fitted.predict(watched.x) if watched else np.zeros(0)), fitted.steps
        else:
            predicted, steps = _cross_validate(family, proposal.params, data.train, data.folds, target, data.seed)
        _check_shape(predicted, len(y_valid), target)
        value = measure(y_valid, predicted)
        threshold = choose_threshold(y_valid, predicted) if target.task == "binary" else 0.5
        metrics = score(target.task, y_valid, target.backward(predicted), threshold)
        status, reason = ("stopped" if passed.stopped else "finished"), ("behind at a rung" if passed.stopped else "")
        if not math.isfinite(value):
            status, reason, value = "failed", f"{data.metric} is {value}", math.inf
    except Exception as error:  # a trial that fails is a result of the search, not the end of it
        return failed_trial(proposal, f"{type(error).__name__}: {error}", started, time.monotonic() - clock)
    return Trial(
        number=proposal.number,
        family=proposal.family,
        params=proposal.params,
        log_target=proposal.log_target,
        status=status,  # type: ignore[arg-type]
        loss=value,
        metrics=metrics,
        threshold=threshold,
        steps=steps,
        rungs=passed.seen,
        seconds=time.monotonic() - clock,
        started=started,
        worker=str(os.getpid()),
        reason=reason,
    )


def _check_shape(predicted: NDArray[np.float64], count: int, target: Target) -> None:
    """A metric of [rows, 1] against [rows] would be a number, of nothing."""
    wanted = (count, len(target.classes)) if target.task == "multiclass" else (count,)
    if predicted.shape != wanted:
        raise ValueError(f"predictions have shape {predicted.shape}, not {wanted}")


def failed_trial(proposal: Proposal, reason: str, started: float = 0.0, seconds: float = 0.0) -> Trial:
    """The trial that a proposal becomes when its fit raised or its worker died; `started` 0 means nobody knows when it began."""
    return Trial(
        number=proposal.number,
        family=proposal.family,
        params=proposal.params,
        log_target=proposal.log_target,
        status="failed",
        loss=math.inf,
        metrics={},
        threshold=0.5,
        steps=None,
        rungs={},
        seconds=seconds,
        started=started,
        reason=reason,
    )


def _cross_validate(
    family: Family, params: dict[str, Any], train: Matrix, folds: NDArray[np.int64], target: Target, seed: int
) -> tuple[NDArray[np.float64], int | None]:
    """Each row predicted by the model that did not see its fold, and the median of the models' best steps (None where there are none)."""
    places, pieces, steps = [], [], []
    for fold in range(int(folds.max()) + 1):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit(family, params, _taken(train, inside), _taken(train, outside), target, seed)
        places.append(outside)
        pieces.append(fitted.predict(train.x[outside]))
        if fitted.steps is not None:
            steps.append(fitted.steps)
    order = np.argsort(np.concatenate(places))  # the folds share out the rows: this puts each back in its place
    return np.concatenate(pieces)[order], int(np.median(steps)) if steps else None


def _taken(matrix: Matrix, rows: NDArray[np.int64]) -> Matrix:
    return Matrix(matrix.x[rows], matrix.y[rows], matrix.features)


def joined(*matrices: Matrix) -> Matrix:
    """Rows of several matrices of the same features, one after the other."""
    return Matrix(np.concatenate([m.x for m in matrices]), np.concatenate([m.y for m in matrices]), matrices[0].features)


def train_one_trial(config: dict[str, Any], data: Data, families: dict[str, Family], rungs: list[float]) -> None:
    """The function that Ray Tune runs in its workers. The features come ready: no Ray Data work waits for the CPUs that trials hold."""
    from ray import tune

    proposal = config["proposal"]
    trial = run_trial(proposal, families[proposal.family], data, rungs)
    tune.report({"loss": trial.loss if math.isfinite(trial.loss) else 1e30, "trial": trial})
