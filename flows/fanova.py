"""How much each searched parameter mattered, by fANOVA (Hutter, Hoos, Leyton-Brown 2014)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flows.trial import Trial
from trainers.space import Domain


def parameter_importance(trials: Sequence[Trial], space: Mapping[str, Domain]) -> dict[str, float]:
    """The share of the variance between the losses of finished `trials` that each parameter explains alone, largest first."""
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study()
    log_target_varies = len({trial.log_target for trial in trials}) > 1
    for trial in trials:
        values: dict[str, Any] = {**trial.params, "log_target": trial.log_target}
        fixed = optuna.trial.FixedTrial(values)
        for name, domain in space.items():
            domain.suggest(fixed, name)
        if log_target_varies:
            fixed.suggest_categorical("log_target", [False, True])
        study.add_trial(optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=trial.loss))
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
