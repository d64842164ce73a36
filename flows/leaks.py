"""The leak probe: features that tell the label too well to be known before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tables.features import Feature, Task
from trainers.metrics import roc_auc
from trainers.protocol import Matrix

BINS = 64
# One feature this strong is suspect when it also stands this far above all others.
STRONG, GAP = 0.85, 0.15
MIN_NULLS = 30


@dataclass(frozen=True)
class Suspect:
    """`strength` of the feature alone on unseen rows: binary ROC AUC, multiclass balanced accuracy, regression R2."""

    feature: str
    strength: float
    why: str


@dataclass(frozen=True)
class Probe:
    """The strongest features alone, and those that are too good."""

    strongest: tuple[Suspect, ...]
    suspects: tuple[Suspect, ...]


def probe(train: Matrix, valid: Matrix, task: Task, too_good: float) -> Probe:
    """Judge every feature alone: its binned mean of the label on training rows, against validation rows."""
    strengths = [(feature, alone(train.x[:, i], train.y, valid.x[:, i], valid.y, task)) for i, feature in enumerate(train.features)]
    strengths.sort(key=lambda pair: -pair[1])
    strongest = tuple(Suspect(feature.name, strength, "") for feature, strength in strengths[:10])
    suspects = [Suspect(s.feature, s.strength, f"alone reaches {s.strength:.3f}") for s in strongest if s.strength >= too_good]
    rest = [strength for feature, strength in strengths if feature.source != strengths[0][0].source]
    first = strongest[0]
    if not suspects and task == "binary" and rest and first.strength >= STRONG and first.strength - rest[0] >= GAP:
        suspects.append(Suspect(first.feature, first.strength, f"alone reaches {first.strength:.3f}, the next only {rest[0]:.3f}"))
    if task != "regression":
        suspects += [
            _nulls(feature, train.x[:, i], train.y) for i, feature in enumerate(train.features) if _tells(feature, train.x[:, i], train.y)
        ]
    return Probe(strongest, tuple(suspects))


def alone(x: NDArray[np.float32], y: NDArray[np.float64], x_valid: NDArray[np.float32], y_valid: NDArray[np.float64], task: Task) -> float:
    """The strength of one feature, by a histogram model with `BINS` bins of equal row counts."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins, bins_valid = np.searchsorted(edges, x, side="right"), np.searchsorted(edges, x_valid, side="right")
    size = len(edges) + 1
    if task == "multiclass":
        classes = int(max(y.max(), y_valid.max())) + 1
        share = np.bincount(y.astype(np.int64), minlength=classes)
        table = np.zeros((size, classes))
        np.add.at(table, (bins, y.astype(np.int64)), 1 / np.maximum(share[y.astype(np.int64)], 1))
        said = table.argmax(axis=1)[bins_valid]
        return float(np.mean([(said[y_valid == k] == k).mean() for k in np.unique(y_valid)]))
    count = np.bincount(bins, minlength=size)
    # One row of prior keeps bins of few rows near the mean.
    mean = (np.bincount(bins, weights=y, minlength=size) + y.mean()) / (count + 1)
    predicted = mean[bins_valid]
    if task == "binary":
        return float(np.nan_to_num(roc_auc(y_valid, predicted), nan=0.5))
    spread = np.sum((y_valid - y_valid.mean()) ** 2)
    return float(1 - np.sum((predicted - y_valid) ** 2) / spread) if spread else 0.0


def _tells(feature: Feature, x: NDArray[np.float32], y: NDArray[np.float64]) -> bool:
    """Whether rows with a missing value all have one label that only few other rows have."""
    missing = x > 0.5
    if feature.kind != "indicator" or missing.sum() < MIN_NULLS:
        return False
    label = np.bincount(y[missing].astype(np.int64)).argmax()
    return bool((y[missing] == label).mean() >= 0.99 and (y[~missing] == label).mean() <= 0.5)


def _nulls(feature: Feature, x: NDArray[np.float32], y: NDArray[np.float64]) -> Suspect:
    share = float((y[x > 0.5] == np.bincount(y[x > 0.5].astype(np.int64)).argmax()).mean())
    return Suspect(feature.source, share, f"rows where {feature.source} is missing have one label in {share:.1%} of cases")
