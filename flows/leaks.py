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
MIN_NULLS, PURE = 30, 0.99
EDGE_ROWS = 20_000
TOO_GOOD = 0.99


@dataclass(frozen=True)
class Suspect:
    """`strength` of the feature alone on unseen rows: binary ROC AUC, multiclass balanced accuracy, regression R2."""

    feature: str
    strength: float
    why: str


@dataclass(frozen=True)
class Probe:
    """How well each feature tells the label alone, strongest first, and columns whose missing values tell it."""

    task: Task
    strengths: tuple[tuple[Feature, float], ...]
    telling_nulls: tuple[Suspect, ...]

    @property
    def strongest(self) -> tuple[Suspect, ...]:
        return tuple(Suspect(feature.name, strength, "") for feature, strength in self.strengths[:10])

    def suspects(self, too_good: float) -> tuple[Suspect, ...]:
        found = [Suspect(f.name, strength, f"alone reaches {strength:.3f}") for f, strength in self.strengths if strength >= too_good]
        first, strength = self.strengths[0]
        next_best = next((other for feature, other in self.strengths if feature.source != first.source), None)
        lonely = next_best is not None and strength >= STRONG and strength - next_best >= GAP
        if not found and self.task == "binary" and lonely:
            found.append(Suspect(first.name, strength, f"alone reaches {strength:.3f}, the next only {next_best:.3f}"))
        return (*found, *self.telling_nulls)


def probe(train: Matrix, valid: Matrix, task: Task) -> Probe:
    """Judge every feature alone: its binned mean of the label on training rows, against validation rows."""
    strengths = [(feature, alone(train.x[:, i], train.y, valid.x[:, i], valid.y, task)) for i, feature in enumerate(train.features)]
    strengths.sort(key=lambda pair: -pair[1])
    indicators = [(feature, train.x[:, i] > 0.5) for i, feature in enumerate(train.features) if feature.kind == "indicator"]
    nulls = [] if task == "regression" else [_nulls(feature, missing, train.y) for feature, missing in indicators]
    return Probe(task, tuple(strengths), tuple(suspect for suspect in nulls if suspect))


def alone(x: NDArray[np.float32], y: NDArray[np.float64], x_valid: NDArray[np.float32], y_valid: NDArray[np.float64], task: Task) -> float:
    """The strength of one feature, by a histogram model with `BINS` bins of equal row counts."""
    edges = np.unique(np.quantile(x[:: len(x) // EDGE_ROWS + 1], np.linspace(0, 1, BINS + 1)[1:-1]))
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


def _nulls(feature: Feature, missing: NDArray[np.bool_], y: NDArray[np.float64]) -> Suspect | None:
    """A column whose rows with a missing value all have one label that at most half of the other rows have."""
    if missing.sum() < MIN_NULLS:
        return None
    label = np.bincount(y[missing].astype(np.int64)).argmax()
    share = float((y[missing] == label).mean())
    if share < PURE or (y[~missing] == label).mean() > 0.5:
        return None
    return Suspect(feature.source, share, f"rows where {feature.source} is missing have one label in {share:.1%} of cases")
