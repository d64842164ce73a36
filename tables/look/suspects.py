"""Columns that know the label too well, and groups of rows that must not lie on both sides of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tables.features import Task
from tables.look.inference import Reading

Floats = NDArray[np.float64]
MAX_PROBED = 20_000
BINS = 48
_CUTS = [0.005, 0.01, *np.linspace(0, 1, BINS + 1)[1:-1], 0.99, 0.995]
MIN_NULLS = 20
# Below this a row without a value tells no more about its label than chance would.
CHANCE = 1e-6


@dataclass(frozen=True)
class LabelProbe:
    """The labels that columns are tried against: rows that have one, at most `MAX_PROBED`, in two halves by chance (seed 0).

    `y` is a class index or a number.
    """

    task: Task
    y: NDArray[Any]
    rows: NDArray[np.int64]
    first_half: NDArray[np.bool_]

    @classmethod
    def of(cls, task: Task, y: NDArray[Any]) -> LabelProbe:
        known = np.flatnonzero(np.isfinite(y) if task == "regression" else y >= 0)
        random = np.random.default_rng(0)
        rows = known if len(known) <= MAX_PROBED else np.sort(random.choice(known, MAX_PROBED, replace=False))
        return cls(task, y[rows], rows, random.permutation(len(rows)) % 2 == 0)

    @property
    def measure(self) -> str:
        return {"binary": "AUC", "multiclass": "share of errors avoided", "regression": "R2"}[self.task]

    def score(self, reading: Reading) -> float:
        """How well the column alone predicts labels it was not fitted on: AUC, share of the majority's errors avoided, or R2."""
        values = reading.values[self.rows]
        bins = values + 1 if reading.is_text else binned(values)
        score = _SCORES[self.task](bins.astype(np.int64), self.y, self.first_half)
        if reading.is_text or self.task == "multiclass":
            return score
        return max(score, _curve(values, self.y) if self.task == "regression" else _order(values, self.y))

    def is_copy(self, reading: Reading) -> bool:
        """Whether the column is the label under other names (each value one class, each class one value), or the label rescaled."""
        values = reading.values[self.rows]
        if self.task == "regression":
            return not reading.is_text and reading.known > 0.99 * len(reading.values) and _same_line(values, self.y)
        if not reading.is_text:
            values = np.where(np.isnan(values), -np.inf, values)
        levels, codes = np.unique(values, return_inverse=True)
        classes = len(np.unique(self.y))
        return len(levels) == classes and len(np.unique(codes * (int(self.y.max()) + 1) + self.y)) == classes

    def tells_by_null(self, reading: Reading) -> float | None:
        """The share of one class among rows without a value, when chance cannot explain it (a hypergeometric tail bound)."""
        values = reading.values[self.rows]
        null = values < 0 if reading.is_text else np.isnan(values)
        if self.task == "regression" or not MIN_NULLS <= null.sum() < len(null):
            return None
        inside, overall = np.bincount(self.y[null]), np.bincount(self.y) / len(self.y)
        top = int(inside.argmax())
        share = float(inside[top] / null.sum())
        # Hoeffding's bound on the chance of such a share among that many rows.
        chance = np.exp(-2.0 * null.sum() * max(share - overall[top], 0.0) ** 2)
        return share if share >= 0.98 and chance < CHANCE else None


def binned(values: Floats) -> NDArray[np.int64]:
    """Bin numbers: each distinct value where they are few, else quantiles with finer tails; nulls have a bin of their own."""
    known = values[~np.isnan(values)]
    edges = np.unique(known)
    if len(edges) > BINS:
        edges = np.unique(np.quantile(known, _CUTS, method="lower"))
    return np.where(np.isnan(values), 0, np.searchsorted(edges, values, side="right") + 1)


def _means(bins: NDArray[np.int64], y: Floats, fit: NDArray[np.bool_]) -> Floats:
    """The mean label of each row's bin, fitted on the rows of `fit`, drawn towards the mean of all by one row."""
    size = int(bins.max()) + 1
    overall = y[fit].mean()
    return ((np.bincount(bins[fit], y[fit], size) + overall) / (np.bincount(bins[fit], minlength=size) + 1.0))[bins]


def _auc(bins: NDArray[np.int64], y: NDArray[Any], half: NDArray[np.bool_]) -> float:
    scores = [_rank_auc(_means(bins, y.astype(float), fit)[~fit], y[~fit]) for fit in (half, ~half)]
    return float(np.mean(scores))


def _rank_auc(predicted: Floats, y: NDArray[Any]) -> float:
    _, codes = np.unique(predicted, return_inverse=True)
    positive = np.bincount(codes, y == 1)
    negative = np.bincount(codes, y == 0)
    if not positive.sum() or not negative.sum():
        return 0.5
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def _order(values: Floats, y: NDArray[Any]) -> float:
    """AUC of the values as they are, or turned round: bins of a small table are too coarse for a nearly exact order."""
    known = ~np.isnan(values)
    if known.mean() < 0.9:
        return 0.5
    auc = _rank_auc(values[known], y[known])
    return max(auc, 1.0 - auc)


def _r2(bins: NDArray[np.int64], y: NDArray[Any], half: NDArray[np.bool_]) -> float:
    predicted = np.where(half, _means(bins, y, ~half), _means(bins, y, half))
    return float(1.0 - ((y - predicted) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-300))


def _errors_avoided(bins: NDArray[np.int64], y: NDArray[Any], half: NDArray[np.bool_]) -> float:
    """Goodman and Kruskal's lambda on rows that the majority of each bin was not taken from."""
    classes = int(y.max()) + 1
    majority = int(np.bincount(y).argmax())
    wrong = 0
    for fit in (half, ~half):
        pairs, counts = np.unique(bins[fit] * classes + y[fit], return_counts=True)
        best = np.full(int(bins.max()) + 1, majority)
        order = np.argsort(counts, kind="stable")
        best[pairs[order] // classes] = pairs[order] % classes
        wrong += int((best[bins[~fit]] != y[~fit]).sum())
    return 1.0 - wrong / max(int((y != majority).sum()), 1)


_SCORES: dict[Task, Callable[[NDArray[np.int64], NDArray[Any], NDArray[np.bool_]], float]] = {
    "binary": _auc,
    "multiclass": _errors_avoided,
    "regression": _r2,
}


def _curve(values: Floats, y: Floats) -> float:
    """The better of the squared linear and rank correlations: bins are too coarse for a nearly exact line."""
    known = np.isfinite(values)
    if known.sum() < 10 or known.mean() < 0.5:
        return 0.0
    x, z = values[known], y[known]
    return max(_squared(x, z), _squared(_ranks(x), _ranks(z)))


def _squared(x: Floats, z: Floats) -> float:
    # Centred and scaled first: values such as 1e308 would overflow when squared.
    with np.errstate(all="ignore"):
        x, z = x - x.mean(), z - z.mean()
        x, z = x / np.abs(x).max(), z / np.abs(z).max()
        found = (x * z).sum() ** 2 / ((x * x).sum() * (z * z).sum())
    return float(found) if np.isfinite(found) else 0.0


def _ranks(x: Floats) -> Floats:
    _, codes, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[codes]


def _same_line(values: Floats, y: Floats) -> bool:
    known = np.isfinite(values)
    return bool(known.sum() >= 10 and _squared(values[known], y[known]) > 1 - 1e-9)


def likeness(groups: NDArray[np.int64], y: Floats) -> float:
    """The intraclass correlation of one-way analysis of variance: 1 when rows of a group share their label, 0 when they do not."""
    known = (groups >= 0) & np.isfinite(y)
    _, codes, sizes = np.unique(groups[known], return_inverse=True, return_counts=True)
    z, n, k = y[known], int(known.sum()), len(sizes)
    if k < 2 or n <= k:
        return 0.0
    means = np.bincount(codes, z) / sizes
    within = ((z - means[codes]) ** 2).sum() / (n - k)
    between = (sizes * (means - z.mean()) ** 2).sum() / (k - 1)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    spread = between + (typical - 1) * within
    return float((between - within) / spread) if spread > 0 else 0.0


def label_likeness(groups: NDArray[np.int64], y: NDArray[Any], task: Task) -> float:
    """For classes, the mean over the ten most frequent of whether a row has that class or not."""
    if task == "regression":
        return likeness(groups, y.astype(float))
    known = y >= 0
    frequent = np.argsort(-np.bincount(y[known]))[: 1 if task == "binary" else 10]
    return float(np.mean([likeness(np.where(known, groups, -1), (y == each).astype(float)) for each in frequent]))
