"""Search trainers and their parameters with Ray Tune on the prepared matrices.

$ raycycle sweep experiment=flights trainer=all sweep.num_trials=40
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.progress import Progress
from conf.errors import RaycycleError
from conf.schema import Search, Sweep
from flows.prepare import Prepared
from flows.search import Proposal, Proposer, Trial, tune_searcher
from tables.target import Target, default_metric
from trainers.family import Family
from trainers.metrics import check_metric, choose_threshold, loss, one_metric, score
from trainers.protocol import Context, Fitted, Matrix

# With fewer rows than this one validation part is too noisy to choose by, so trials are cross-validated.
CROSS_VALIDATED_ROWS = 3_000
FOLDS = 5


@dataclass(frozen=True)
class Data:
    """What every trial sees: rows to train on and, for `folds` > 1, the fold of each row; else rows to validate on."""

    train: Matrix
    valid: Matrix | None
    folds: NDArray[np.int64] | None
    target: Target
    metric: str
    seed: int


@dataclass(frozen=True)
class Searching:
    """How to search: `concurrency` trials at once, each of one of `families`."""

    families: list[Family]
    sweep: Sweep
    search: Search
    concurrency: int
    seed: int


@dataclass(frozen=True)
class Swept:
    """All trials by number, the best one, its family, and the rows they were judged on."""

    trials: tuple[Trial, ...]
    best: Trial
    family: Family
    data: Data

    @property
    def metric(self) -> str:
        return self.data.metric

    @property
    def folds(self) -> int:
        return int(self.data.folds.max()) + 1 if self.data.folds is not None else 1

    def value(self, trial: Trial) -> float:
        """The trial's metric, from its loss."""
        return loss(self.metric, trial.loss)


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
    started = time.time()
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
        return failed_trial(proposal, f"{type(error).__name__}: {error}", started)
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
        seconds=time.time() - started,
        started=started,
        worker=str(os.getpid()),
        reason=reason,
    )


def _check_shape(predicted: NDArray[np.float64], count: int, target: Target) -> None:
    """A metric of [rows, 1] against [rows] would be a number, of nothing."""
    wanted = (count, len(target.classes)) if target.task == "multiclass" else (count,)
    if predicted.shape != wanted:
        raise ValueError(f"predictions have shape {predicted.shape}, not {wanted}")


def failed_trial(proposal: Proposal, reason: str, started: float = 0.0) -> Trial:
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
        seconds=time.time() - started if started else 0.0,
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


def sweep_data(prepared: Prepared, sweep: Sweep, seed: int) -> Data:
    """Cross-validation over train and valid together for small tables without a time order; else the split's own validation part."""
    task = prepared.target.task
    metric = check_metric(sweep.metric, task) if sweep.metric else default_metric(task, prepared.positive_share)
    few = len(prepared.train.y) + len(prepared.valid.y) < CROSS_VALIDATED_ROWS
    number = sweep.folds or (FOLDS if prepared.can_fold and few else 1)
    if number == 1:
        return Data(prepared.train, prepared.valid, None, prepared.target, metric, seed)
    both = joined(prepared.train, prepared.valid)
    return Data(both, None, _folds(both.y, number, seed), prepared.target, metric, seed)


def _folds(y: NDArray[np.float64], number: int, seed: int) -> NDArray[np.int64]:
    """Folds dealt round within each class (or along the sorted target), so that each is like the whole."""
    shuffled = np.random.default_rng(seed).permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    folds = np.empty(len(y), np.int64)
    folds[order] = np.arange(len(y)) % number
    return folds


def log_targets(target: Target, y: NDArray[np.float64]) -> tuple[bool, ...]:
    """Whether to also try learning log1p of the number: only where it is never negative and strongly skewed to the right."""
    if target.task != "regression" or y.min() < 0 or y.std() == 0:
        return (False,)
    skewness = float(np.mean(((y - y.mean()) / y.std()) ** 3))
    return (False, True) if skewness > 1.0 else (False,)


def sweep(prepared: Prepared, searching: Searching, folder: Path, progress: Progress, on_trial: Callable[[Trial], None]) -> Swept:
    """Run every trial, telling `on_trial` of each that ended. Raises RaycycleError when none finished."""
    from ray import tune

    settings, search = searching.sweep, searching.search
    data = sweep_data(prepared, settings, searching.seed)
    targets = log_targets(prepared.target, prepared.train.y)
    proposer = Proposer(searching.families, search, settings.num_trials, settings.lag, searching.seed, targets)
    by_name = {family.name: family for family in searching.families}
    with progress.stage("sweep", settings.num_trials, "trials") as bar:

        def done(trial: Trial) -> None:
            best = best_of(proposer.trials.values())
            bar.advance(1, f"best {data.metric} {shown(data.metric, best)} ({best.family})" if best else None)
            on_trial(trial)

        def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            asked = by_name[config["proposal"].family].resources
            return tune.PlacementGroupFactory([{"CPU": asked.cpu, **({"GPU": asked.gpu} if asked.gpu else {})}])

        rungs = search.rungs if search.prune != "none" else []
        trainable = tune.with_resources(tune.with_parameters(train_one_trial, data=data, families=by_name, rungs=rungs), resources)
        config = tune.TuneConfig(
            search_alg=tune_searcher(proposer, done, failed_trial),
            num_samples=settings.num_trials,
            max_concurrent_trials=searching.concurrency,
            reuse_actors=True,
        )
        try:
            tune.Tuner(trainable, tune_config=config, run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0)).fit()
        finally:
            shutil.rmtree(folder / "tune", ignore_errors=True)  # Tune's own state is pickled, and only its own restore reads it
    trials = tuple(proposer.trials[number] for number in sorted(proposer.trials))
    best = best_of(trials)
    if best is None:
        reason = trials[0].reason if trials else "Ray Tune started none"
        raise RaycycleError(f"none of {len(trials)} trials finished", value=reason, next="correct the trainer's parameters, or its data")
    return Swept(trials, best, by_name[best.family], data)


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The finished trial with the smallest loss, the earliest among equals."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return min(finished, key=lambda trial: (trial.loss, trial.number)) if finished else None


def best_by_family(trials: Iterable[Trial]) -> dict[str, Trial]:
    """The best finished trial of each family, best first."""
    best: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: (trial.loss, trial.number)):
        if trial.status == "finished":
            best.setdefault(trial.family, trial)
    return best


def shown(metric: str, trial: Trial) -> str:
    """The trial's metric as text."""
    return f"{loss(metric, trial.loss):.4f}"
