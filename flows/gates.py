"""Gates: checks that a candidate must pass. Each is a class with `check(evidence) -> Verdict` and a YAML in conf/gate/."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import UsageError, suggest
from flows.leaks import Probe
from tables.features import Task
from trainers.metrics import (
    HIGHER_IS_BETTER,
    bootstrap,
    calibration_error,
    loss,
    one_metric,
    score,
)
from trainers.protocol import Matrix


@dataclass(frozen=True)
class Verdict:
    """The answer of one gate. `interval` is a 95 % bootstrap interval of `value`, where there is one."""

    name: str
    passed: bool
    value: float | None
    bound: float | None
    reason: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Evidence:
    """What gates judge by: the candidate and the champion on the same holdout rows.

    `y` float64 [rows]; `scores` and `champion_scores` as `Bundle.scores` gives them; `table` the holdout's contract rows, for groups.
    """

    task: Task
    metric: str
    threshold: float
    y: NDArray[np.float64]
    scores: NDArray[np.float64]
    constant_scores: NDArray[np.float64]
    table: pa.Table
    champion_scores: NDArray[np.float64] | None
    champion_name: str
    leaks: Probe
    seed: int

    @cached_property
    def candidate(self) -> dict[str, float]:
        """The candidate's holdout metrics; one that these rows cannot give is left out."""
        return score(self.task, self.y, self.scores, self.threshold)

    def gain(self, other: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
        """How much smaller the candidate's loss is than that of `other` scores, with its paired bootstrap interval."""

        def difference(rows: NDArray[np.int64]) -> float:
            return self._loss(other, rows) - self._loss(self.scores, rows)

        _, low, high = bootstrap(difference, len(self.y), self.seed)
        return difference(np.arange(len(self.y))), (low, high)

    def _loss(self, scores: NDArray[np.float64], rows: NDArray[np.int64]) -> float:
        return loss(self.metric, one_metric(self.metric, self.task, self.y[rows], scores[rows], self.threshold))


class Gate(Protocol):
    """One check of a candidate."""

    def check(self, evidence: Evidence) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class BetterThanConstant:
    """Pass when the candidate's loss is smaller than that of always answering the training mean, by at least this share of it."""

    at_least: float

    def check(self, evidence: Evidence) -> Verdict:
        gain, interval = evidence.gain(evidence.constant_scores)
        constant = abs(one_metric(evidence.metric, evidence.task, evidence.y, evidence.constant_scores)) or 1.0
        value = gain / constant
        reason = f"{evidence.metric} is {value:+.1%} better than a constant answer, need {self.at_least:+.1%}"
        return Verdict(
            "better_than_constant", value >= self.at_least, value, self.at_least, reason, (interval[0] / constant, interval[1] / constant)
        )


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Pass when the calibration error exceeds what chance alone would give on as many rows by at most this much.

    Binary: expected calibration error of the positive class; multiclass: of the predicted one. Regression: |mean error| beyond two
    standard errors, in standard deviations of the label.
    """

    at_most: float

    def check(self, evidence: Evidence) -> Verdict:
        if evidence.task == "regression":
            error = evidence.scores - evidence.y
            chance = float(np.std(error)) / np.sqrt(len(error))
            value = max(0.0, abs(float(error.mean())) - 2 * chance) / (float(np.std(evidence.y)) or 1.0)
            return self._verdict(value, "mean error in standard deviations")
        if evidence.task == "binary":
            said, right = evidence.scores, evidence.y
        else:
            said = evidence.scores.max(axis=1)
            right = (evidence.scores.argmax(axis=1) == evidence.y).astype(float)
        bins = int(np.clip(len(said) // 50, 1, 10))
        generator = np.random.default_rng(evidence.seed)
        chance = float(np.mean([calibration_error((generator.random(len(said)) < said).astype(float), said, bins) for _ in range(50)]))
        return self._verdict(max(0.0, calibration_error(right, said, bins) - chance), "calibration error beyond chance")

    def _verdict(self, value: float, what: str) -> Verdict:
        return Verdict("calibrated", value <= self.at_most, value, self.at_most, f"{what} {value:.4f}, allowed {self.at_most:.4f}")


@dataclass(frozen=True, kw_only=True)
class NoLeak:
    """Pass when no feature alone tells the label too well (`flows.leaks`)."""

    at_most: float

    def check(self, evidence: Evidence) -> Verdict:
        worst, suspects = evidence.leaks.strongest[0], evidence.leaks.suspects(self.at_most)
        if suspects:
            named = "; ".join(f"{suspect.feature}: {suspect.why}" for suspect in suspects[:3])
            return Verdict("no_leak", False, suspects[0].strength, self.at_most, f"{named}. Set role: observed in the contract if so")
        return Verdict(
            "no_leak", True, worst.strength, self.at_most, f"the strongest feature alone, {worst.feature}, reaches {worst.strength:.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class NotWorse:
    """Pass when the candidate is at least this much better than the champion on the same rows (or there is no champion)."""

    at_least: float

    def check(self, evidence: Evidence) -> Verdict:
        if evidence.champion_scores is None:
            return Verdict("not_worse", True, None, self.at_least, evidence.champion_name or "there is no champion yet")
        gain, interval = evidence.gain(evidence.champion_scores)
        word = "better" if gain >= 0 else "worse"
        reason = f"{evidence.metric} is {word} than that of champion {evidence.champion_name} by {abs(gain):.5f}, need {self.at_least:+.5f}"
        return Verdict("not_worse", gain >= self.at_least, gain, self.at_least, reason, interval)


@dataclass(frozen=True, kw_only=True)
class MinMetric:
    """Pass when a holdout metric is at least (for losses: at most) this value."""

    metric: str
    at_least: float

    def __post_init__(self) -> None:
        if self.metric not in HIGHER_IS_BETTER:
            raise UsageError(
                f"min_metric.metric is unknown{suggest(self.metric, HIGHER_IS_BETTER)}",
                value=self.metric,
                allowed=", ".join(HIGHER_IS_BETTER),
            )

    def check(self, evidence: Evidence) -> Verdict:
        value = evidence.candidate.get(self.metric)
        if value is None:
            return Verdict("min_metric", False, None, self.at_least, f"these rows give no {self.metric}")
        passed = value >= self.at_least if HIGHER_IS_BETTER[self.metric] else value <= self.at_least
        return Verdict("min_metric", bool(passed), value, self.at_least, f"{self.metric} is {value:.4f}, need {self.at_least:.4f}")


def refused(verdicts: tuple[Verdict, ...]) -> list[str]:
    """Who said no, and why, one line each."""
    return [f"{verdict.name}: {verdict.reason}" for verdict in verdicts if not verdict.passed]


def constant_scores(train: Matrix, task: Task, classes: int, rows: int) -> NDArray[np.float64]:
    """The scores of a model that answers every row with the training mean (multiclass [rows, classes]: the class shares)."""
    if task == "multiclass":
        share = np.bincount(train.y.astype(np.int64), minlength=classes) / len(train.y)
        return np.tile(share, (rows, 1))
    return np.full(rows, float(train.y.mean()))
