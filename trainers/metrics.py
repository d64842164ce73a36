"""How good predictions are, by task, under scikit-learn's names; with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conf.errors import UsageError, suggest
from tables.features import Task

Array = NDArray[np.float64]
Metric = Callable[[Array, Array], float]

HIGHER_IS_BETTER = {
    "roc_auc": True,
    "average_precision": True,
    "log_loss": False,
    "brier": False,
    "accuracy": True,
    "f1_macro": True,
    "mae": False,
    "rmse": False,
    "r2": True,
}
BY_TASK: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "accuracy", "f1_macro"),
    "multiclass": ("roc_auc", "log_loss", "brier", "accuracy", "f1_macro"),
    "regression": ("mae", "rmse", "r2"),
}
_EPS = float(np.finfo(np.float64).eps)


def check_metric(metric: str, task: Task) -> str:
    if metric not in BY_TASK[task]:
        raise UsageError(
            f"sweep.metric does not fit a {task} task{suggest(metric, BY_TASK[task])}", value=metric, allowed=", ".join(BY_TASK[task])
        )
    return metric


def better(metric: str, one: float, other: float) -> bool:
    return one > other if HIGHER_IS_BETTER[metric] else one < other


def loss(metric: str, value: float) -> float:
    """The metric as something to make small; asked of a loss, the metric again."""
    return -value if HIGHER_IS_BETTER[metric] else value


def score(task: Task, y: Array, predicted: Array, threshold: float = 0.5) -> dict[str, float]:
    """Every metric of the task. `predicted`: binary [rows] = P(class 1); multiclass [rows, classes]; regression [rows].

    A metric that the rows cannot give (ROC AUC with one class) is left out.
    """
    found: dict[str, float] = {}
    for name in BY_TASK[task]:
        value = one_metric(name, task, y, predicted, threshold)
        if np.isfinite(value):
            found[name] = float(value)
    return found


def one_metric(name: str, task: Task, y: Array, predicted: Array, threshold: float = 0.5) -> float:
    if task == "regression":
        return _REGRESSION[name](y, predicted)
    if task == "binary":
        return _BINARY[name](y, predicted, threshold)
    return _MULTICLASS[name](y.astype(np.int64), predicted)


def roc_auc(y: Array, p: Array) -> float:
    """Area under the ROC curve by mid-ranks (Mann-Whitney U); NaN with one class."""
    from scipy.stats import rankdata

    positives = y.sum()
    negatives = len(y) - positives
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(p)[y > 0.5].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(y: Array, p: Array) -> float:
    """Mean precision over recall steps, as scikit-learn defines it."""
    if not y.sum():
        return float("nan")
    order = np.argsort(-p, kind="stable")
    hits, last = np.cumsum(y[order]), np.r_[np.diff(p[order]) != 0, True]
    hits, seen = hits[last], np.flatnonzero(last) + 1
    return float((np.diff(np.r_[0.0, hits]) * hits / seen).sum() / y.sum())


def log_loss(y: Array, p: Array) -> float:
    p = np.clip(p, _EPS, 1 - _EPS)
    return float(-np.mean(np.where(y > 0.5, np.log(p), np.log1p(-p))))


def f1_macro(y: NDArray[np.int64], codes: NDArray[np.int64]) -> float:
    """Mean of the F1 of every class that occurs in truth or prediction."""
    size = int(max(y.max(), codes.max())) + 1
    table = np.bincount(y * size + codes, minlength=size * size).reshape(size, size)
    hits, truth, said = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    present = (truth + said) > 0
    return float(np.mean(2 * hits[present] / (truth + said)[present]))


def _multiclass_auc(y: NDArray[np.int64], p: Array) -> float:
    """Mean one-against-rest area over the classes that occur."""
    areas = [roc_auc((y == k).astype(float), p[:, k]) for k in range(p.shape[1])]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")


def _one_hot(y: NDArray[np.int64], classes: int) -> Array:
    return np.eye(classes)[y]


_BINARY: dict[str, Callable[[Array, Array, float], float]] = {
    "roc_auc": lambda y, p, t: roc_auc(y, p),
    "average_precision": lambda y, p, t: average_precision(y, p),
    "log_loss": lambda y, p, t: log_loss(y, p),
    "brier": lambda y, p, t: float(np.mean((p - y) ** 2)),
    "accuracy": lambda y, p, t: float(np.mean((p >= t) == (y > 0.5))),
    "f1_macro": lambda y, p, t: f1_macro(y.astype(np.int64), (p >= t).astype(np.int64)),
}
_MULTICLASS: dict[str, Callable[[NDArray[np.int64], Array], float]] = {
    "roc_auc": _multiclass_auc,
    "log_loss": lambda y, p: float(-np.mean(np.log(np.clip(p[np.arange(len(y)), y], _EPS, 1)))),
    "brier": lambda y, p: float(np.mean(((p - _one_hot(y, p.shape[1])) ** 2).sum(axis=1))),
    "accuracy": lambda y, p: float(np.mean(p.argmax(axis=1) == y)),
    "f1_macro": lambda y, p: f1_macro(y, p.argmax(axis=1)),
}
_REGRESSION: dict[str, Metric] = {
    "mae": lambda y, p: float(np.mean(np.abs(p - y))),
    "rmse": lambda y, p: float(np.sqrt(np.mean((p - y) ** 2))),
    "r2": lambda y, p: float(1 - np.sum((p - y) ** 2) / spread) if (spread := np.sum((y - y.mean()) ** 2)) else float("nan"),
}


def choose_threshold(y: Array, p: Array) -> float:
    """The cut of a binary score: best macro F1 among cuts whose accuracy is within one standard error of the best accuracy.

    So a rare class is not ignored, and a common one costs no accuracy that the validation rows could tell.
    """
    order = np.argsort(p, kind="stable")
    y, p = y[order], p[order]
    # Cut i calls rows i.. positive; only cuts between different scores exist.
    cuts = np.flatnonzero(np.r_[True, np.diff(p) > 0])
    false_negative = np.r_[0, np.cumsum(y)][cuts]
    positives, n = y.sum(), len(y)
    true_negative = cuts - false_negative
    true_positive = positives - false_negative
    accuracy = (true_positive + true_negative) / n
    f1_positive = 2 * true_positive / np.maximum(2 * true_positive + false_negative + (n - positives - true_negative), 1)
    f1_negative = 2 * true_negative / np.maximum(2 * true_negative + false_negative + (n - positives - true_negative), 1)
    best = accuracy.max()
    allowed = accuracy >= best - np.sqrt(best * (1 - best) / n)
    macro = np.where(allowed, f1_positive + f1_negative, -1)
    i = int(cuts[macro.argmax()])
    between = (p[max(i - 1, 0)] + p[i]) / 2
    # Between two neighbouring floats lies nothing, and the middle rounds to either.
    return float(between if i and between > p[i - 1] else p[i])


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], rows: int, seed: int, draws: int = 200) -> tuple[float, float, float]:
    """Mean standard error and the 95 % percentile interval of `statistic(row indices)` over resampled rows (Efron 1979)."""
    generator = np.random.default_rng(seed)
    values = np.array([statistic(generator.integers(0, rows, rows)) for _ in range(draws)])
    values = values[np.isfinite(values)]
    if not len(values):
        return (float("nan"),) * 3
    low, high = np.percentile(values, [2.5, 97.5])
    return float(values.std()), float(low), float(high)


def calibration(y: Array, p: Array, bins: int = 10) -> list[dict[str, Any]]:
    """Predicted against observed rate in bins of equal row counts."""
    order = np.argsort(p, kind="stable")
    groups = [part for part in np.array_split(order, bins) if len(part)]
    return [{"predicted": float(p[g].mean()), "observed": float(y[g].mean()), "rows": len(g)} for g in groups]


def calibration_error(y: Array, p: Array, bins: int = 10) -> float:
    """Expected calibration error: mean |predicted - observed| over the bins, weighted by rows (Naeini, Cooper, Hauskrecht 2015)."""
    return sum(abs(b["predicted"] - b["observed"]) * b["rows"] for b in calibration(y, p, bins)) / len(y)
