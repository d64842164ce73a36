"""What the next trial tries, and where it stops: Optuna's samplers, told of finished trials in a fixed order.

Trial n is proposed from trials up to n - lag alone, whichever finished first, so a sweep gives the same trials each time.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.schema import Search
from flows.trial import WORKER_DIED, Proposal, Trial
from trainers.family import Family

if TYPE_CHECKING:
    import optuna

# A rung judges only where this many trials of the family have been there.
MIN_AT_RUNG = 3


class Proposer:
    """Proposes trial after trial; `tell` it of each that ended, in any order."""

    def __init__(self, families: list[Family], search: Search, num_trials: int, lag: int, seed: int, log_targets: tuple[bool, ...]) -> None:
        self.families = {family.name: family for family in families}
        self.search, self.num_trials, self.lag, self.log_targets = search, num_trials, lag, log_targets
        self.trials: dict[int, Trial] = {}
        self._asked: list[optuna.trial.Trial] = []
        self._told = 0
        self._waiting: list[Proposal] = []
        self.study = _study(search, seed)
        for defaults in self._defaults():
            self.study.enqueue_trial(defaults)

    def propose(self) -> Proposal | None:
        """The next trial to run, or None while a trial it depends on still runs, or when there is none left."""
        if self._waiting:
            return self._waiting.pop(0)
        return self._next() if len(self._asked) < self.num_trials else None

    def _next(self) -> Proposal | None:
        number = len(self._asked)
        while self._told <= number - self.lag:
            if self._told not in self.trials:
                return None
            self._tell_study(self.trials[self._told])
            self._told += 1
        trial = self.study.ask()
        self._asked.append(trial)
        name = trial.suggest_categorical("family", list(self.families)) if len(self.families) > 1 else next(iter(self.families))
        family = self.families[name]
        params = {key: domain.suggest(trial, f"{name}.{key}") for key, domain in family.space.items()}
        log_target = trial.suggest_categorical("log_target", list(self.log_targets)) if len(self.log_targets) > 1 else self.log_targets[0]
        return Proposal(number, name, params, bool(log_target), self._bounds(name))

    def tell(self, trial: Trial) -> None:
        """Note a trial that ended; the sampler hears of it when its turn comes."""
        self.trials[trial.number] = trial

    @property
    def exhausted(self) -> bool:
        return len(self._asked) >= self.num_trials and not self._waiting

    def recall(self, known: Mapping[int, Trial], on_each: Callable[[Trial], None]) -> None:
        """Take trials of an earlier, unfinished search as they were, as long as they are what is proposed now.

        Called first. A trial that is not known yet is kept for `propose`, which then gives it before anything new.
        """
        while len(self._asked) < self.num_trials and len(self._asked) <= max(known, default=-1):
            proposal = self._next()
            if proposal is None:
                return
            trial = known.get(proposal.number)
            if trial is not None and (trial.family, trial.params, trial.log_target) == (
                proposal.family,
                proposal.params,
                proposal.log_target,
            ):
                self.tell(trial)
                on_each(trial)
            else:
                self._waiting.append(proposal)

    def _defaults(self) -> list[dict[str, Any]]:
        """Each family as it comes, first: a search should never end below what nobody tuned."""
        found: list[dict[str, Any]] = []
        for family in self.families.values():
            values: dict[str, Any] = {"family": family.name} if len(self.families) > 1 else {}
            values |= {
                f"{family.name}.{key}": family.params[key] for key, domain in family.space.items() if domain.holds(family.params.get(key))
            }
            targets: list[dict[str, Any]] = [{"log_target": each} for each in self.log_targets] if len(self.log_targets) > 1 else [{}]
            found += [values | target for target in targets]
        return found

    def _bounds(self, family: str) -> dict[float, float]:
        """Successive halving (Jamieson, Talwalkar 2016): at each rung the worse half of the family's earlier trials marks where to stop."""
        if self.search.prune == "none":
            return {}
        seen = [self.trials[i] for i in range(self._told) if self.trials[i].family == family]
        bounds = {}
        for rung in self.search.rungs:
            losses = [trial.rungs[rung] for trial in seen if rung in trial.rungs]
            if len(losses) >= MIN_AT_RUNG:
                bounds[rung] = float(np.median(losses))
        return bounds

    def _tell_study(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        asked = self._asked[trial.number]
        for step, rung in enumerate(sorted(trial.rungs)):
            asked.report(trial.rungs[rung], step)
        if trial.status == "finished":
            self.study.tell(asked, trial.loss)
        else:
            self.study.tell(asked, state=TrialState.PRUNED if trial.status == "stopped" else TrialState.FAIL)


def _study(search: Search, seed: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    if search.sampler == "random":
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials, multivariate=True, group=True)
    return optuna.create_study(sampler=sampler, direction="minimize")


def tune_searcher(proposer: Proposer, on_done: Callable[[Trial], None], failed: Callable[[Proposal, str], Trial]) -> Any:
    """`proposer` as Ray Tune wants to see it; `failed` makes a trial of a proposal whose worker died.

    The class is made here because its base is imported with Ray.
    """
    from ray.tune.search import Searcher

    class FromProposer(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="loss", mode="min")
            self.proposals: dict[str, Proposal] = {}

        def suggest(self, trial_id: str) -> Any:
            if proposer.exhausted:
                return Searcher.FINISHED
            proposal = proposer.propose()
            if proposal is None:
                return None
            self.proposals[trial_id] = proposal
            return {"proposal": proposal}

        def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
            proposal = self.proposals[trial_id]
            trial = result["trial"] if result and "trial" in result else failed(proposal, WORKER_DIED)
            proposer.tell(trial)
            on_done(trial)

        def save(self, checkpoint_path: str) -> None:
            """Tune saves searchers to restore them; we do not, see `__reduce__`."""

        def __reduce__(self) -> tuple[Any, ...]:
            # Tune pickles all it is given for a restore of its own, which breaks when folders move; a sweep of ours is resumed
            # from its finished trials instead, and this object holds a database session and a terminal.
            return (str, ("not restorable",))

    return FromProposer()
