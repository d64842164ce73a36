"""Search trainers and their parameters with Ray Tune on the prepared matrices.

$ raycycle sweep experiment=flights trainer=all sweep.num_trials=40
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.progress import Progress
from cluster.store import append_line, read_json, write_atomic, write_json
from conf.errors import RaycycleError
from conf.schema import Search, Sweep
from flows.prepared import Prepared
from flows.search import Proposer, tune_searcher
from flows.trial import WORKER_DIED, Data, Trial, failed_trial, joined, train_one_trial
from ledger import digests
from tables.target import Target, default_metric
from trainers.family import Family
from trainers.metrics import check_metric, loss

# With fewer rows than this one validation part is too noisy to choose by, so trials are cross-validated.
CROSS_VALIDATED_ROWS = 3_000
FOLDS = 5
# How often a trial is started again after its process was killed.
WORKER_LIVES = 3


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
    """All trials by number, the best one, and how they were judged: by `metric`, on `folds` folds (1: the validation part)."""

    trials: tuple[Trial, ...]
    best: Trial
    metric: str
    folds: int
    seed: int

    def value(self, trial: Trial) -> float:
        """The trial's metric, from its loss."""
        return loss(self.metric, trial.loss)

    def save(self, folder: Path) -> dict[str, str]:
        """Write everything into the empty `folder`; the digest leaves out when and how fast a trial ran."""
        facts = {"format": 1, "best": self.best.number, "metric": self.metric, "folds": self.folds, "seed": self.seed}
        write_json(folder / "swept.json", facts | {"trials": [trial.to_json() for trial in self.trials]})
        return {"trials": digests.of_value([trial.essence() for trial in self.trials]), "best": digests.of_value(self.best.essence())}

    @classmethod
    def load(cls, folder: Path) -> Swept:
        facts = read_json(folder / "swept.json")
        trials = tuple(Trial.from_json(each) for each in facts["trials"])
        best = next(trial for trial in trials if trial.number == facts["best"])
        return cls(trials, best, facts["metric"], facts["folds"], facts["seed"])


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


def sweep(
    prepared: Prepared, searching: Searching, folder: Path, progress: Progress, on_trial: Callable[[Trial], None] = lambda trial: None
) -> Swept:
    """Run every trial, telling `on_trial` of each that ended; those that ended before, as kept in `folder`, are not run again.

    Raises RaycycleError when none finished.
    """
    from ray import tune

    settings, search = searching.sweep, searching.search
    data = sweep_data(prepared, settings, searching.seed)
    targets = log_targets(prepared.target, prepared.train.y)
    proposer = Proposer(searching.families, search, settings.num_trials, settings.lag, searching.seed, targets)
    by_name = {family.name: family for family in searching.families}
    finished = FinishedTrials(folder / "trials.jsonl")
    with progress.stage("sweep", settings.num_trials, "trials") as bar:

        def done(trial: Trial, again: bool = False) -> None:
            if not again:
                finished.add(trial)
            best = best_of(proposer.trials.values())
            bar.advance(1, f"best {data.metric} {shown(data.metric, best)} ({best.family})" if best else None)
            on_trial(trial)

        def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            asked = by_name[config["proposal"].family].resources
            return tune.PlacementGroupFactory([{"CPU": asked.cpu, **({"GPU": asked.gpu} if asked.gpu else {})}])

        proposer.recall(finished.trials, lambda trial: done(trial, again=True))
        left = settings.num_trials - len(proposer.trials)
        if left:
            rungs = search.rungs if search.prune != "none" else []
            trainable = tune.with_resources(tune.with_parameters(train_one_trial, data=data, families=by_name, rungs=rungs), resources)
            config = tune.TuneConfig(
                search_alg=tune_searcher(proposer, done, failed_trial),
                num_samples=left,
                max_concurrent_trials=searching.concurrency,
                reuse_actors=True,
            )
            with tempfile.TemporaryDirectory(prefix="tune.", dir=folder) as state:  # pickled, and only Tune's own restore reads it
                again = tune.FailureConfig(max_failures=WORKER_LIVES)  # our own errors are results, so only a dead worker counts
                setting = tune.RunConfig(name="tune", storage_path=state, verbose=0, failure_config=again)
                tune.Tuner(trainable, tune_config=config, run_config=setting).fit()
    _refuse_without_ray(proposer.trials.values())
    trials = tuple(proposer.trials[number] for number in sorted(proposer.trials))
    best = best_of(trials)
    if best is None:
        reason = trials[0].reason if trials else "Ray Tune started none"
        raise RaycycleError(f"none of {len(trials)} trials finished", value=reason, next="correct the trainer's parameters, or its data")
    folds = int(data.folds.max()) + 1 if data.folds is not None else 1
    return Swept(trials, best, data.metric, folds, searching.seed)


def _refuse_without_ray(trials: Iterable[Trial]) -> None:
    """Trials that died because Ray did are no result: the search is to go on from the others, not to end without them."""
    if any(trial.reason == WORKER_DIED for trial in trials):
        import ray

        if not ray.is_initialized() or not any(node["Alive"] for node in ray.nodes()):
            raise RaycycleError("Ray went away during the sweep", next="the same command goes on from the trials that ended")


class FinishedTrials:
    """The trials of a sweep that ended, one JSON line each: a sweep that was killed goes on from them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.trials: dict[int, Trial] = {}
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < len(lines):  # killed while it wrote the last line: what follows would be joined to it
            write_atomic(file, b"".join(whole))
        for line in whole:
            trial = Trial.from_json(json.loads(line))
            self.trials[trial.number] = trial

    def add(self, trial: Trial) -> None:
        """Keep a trial that ended by itself; a worker that was killed is no verdict on what it tried."""
        if trial.reason != WORKER_DIED:
            append_line(self._file, json.dumps(trial.to_json(), sort_keys=True, allow_nan=False))


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
