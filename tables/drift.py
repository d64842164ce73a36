"""How far a column has moved between two tables, from sketches of it: Population Stability Index and Kolmogorov-Smirnov distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tables.sketches import LevelSketch, NumericSketch, Sketch

Counts = NDArray[np.float64]
# Tenths of the older table are the usual bins of numbers (Siddiqi, Credit Risk Scorecards, 2006); rarer levels of text share one.
_BINS, _LEVELS = 10, 50


def psi(before: Sketch, after: Sketch) -> float | None:
    """Population Stability Index: the sum of (p - q) ln(p / q) over the bins of `before`; missing values are a bin too.

    Half a row is added to each bin, so that an empty one has no infinite share. None where there is nothing to compare: a table without
    rows, a column that turned from numbers to text, or one of more levels than are counted.
    """
    counted = _counted(before, after)
    if counted is None or not counted[0].sum() or not counted[1].sum():
        return None
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in counted)
    return float(np.sum((p - q) * np.log(p / q)))


def ks(before: Sketch, after: Sketch) -> float | None:
    """Two-sample Kolmogorov-Smirnov statistic (Smirnov, 1939): the largest distance of the distribution functions, of known values only.

    Values nearer to each other than 0.05 % count as equal. None where a side is not numbers or has none.
    """
    if not (isinstance(before, NumericSketch) and isinstance(after, NumericSketch) and before.count and after.count):
        return None
    codes = np.union1d(before.codes, after.codes)
    one, other = (np.concatenate([[0], np.cumsum(each.counts)])[np.searchsorted(each.codes, codes, "right")] for each in (before, after))
    return float(np.max(np.abs(one / before.count - other / after.count)))


def _counted(before: Sketch, after: Sketch) -> tuple[Counts, Counts] | None:
    """Rows of both by bin: float64 [bins] each."""
    if isinstance(before, NumericSketch) and isinstance(after, NumericSketch):
        tenths = before.count * np.arange(1, _BINS) / _BINS if before.count else np.zeros(0)
        edges = np.unique(before.codes[np.searchsorted(np.cumsum(before.counts), tenths)])
        return _by_edge(before, edges), _by_edge(after, edges)
    if isinstance(before, LevelSketch) and isinstance(after, LevelSketch) and not (before.overflowed or after.overflowed):
        levels = before.top(_LEVELS, 1)
        return _by_level(before, levels), _by_level(after, levels)
    return None


def _by_edge(of: NumericSketch, edges: NDArray[np.int64]) -> Counts:
    """A value at an edge is in the bin that ends there; the last bin holds the missing ones."""
    counts = np.bincount(np.searchsorted(edges, of.codes, "left"), weights=of.counts, minlength=len(edges) + 1)
    return np.append(counts, float(of.missing))


def _by_level(of: LevelSketch, levels: list[str]) -> Counts:
    counts = [float(of.counts[level]) for level in levels]
    return np.array([*counts, of.rows - sum(counts), float(of.nulls)])
