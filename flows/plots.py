"""The drawings of a report: each function draws one figure from plain arrays and returns it as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows.canvas import (
    BAD,
    BLUE,
    CARD,
    GREEN,
    GRID,
    HALF,
    INK,
    MUTED,
    ROW,
    SERIES,
    SKY,
    WIDE,
    axes_in,
    drawn,
    legend,
    name_of,
    named_rows,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

CURVE_POINTS, DOTS, MAX_MARKS, MAX_CLASSES = 200, 500, 400, 12


@drawn
def bars(names: Sequence[str], values: Sequence[float], texts: Sequence[str], colours: Sequence[str]) -> Figure:
    """A bar for each name, with its text at the end of it; the first on top."""
    figure = new_figure(HALF, max(0.5, ROW * len(names) + 0.2))
    axes = named_rows(figure, names, right=0.2 + 0.069 * max(map(len, texts)))
    axes.barh(range(len(names)), values, height=0.6, color=list(colours))
    axes.set_xlim(0, max([1e-12, *values]))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(text, (max(value, 0.0), row), (4, 0), textcoords="offset points", va="center", color=MUTED, annotation_clip=False)
    return figure


@drawn
def panels_of_dots(
    names: Sequence[str],
    panels: Mapping[str, Sequence[tuple[float, tuple[float, float] | None, str, str]]],
    references: Mapping[str, float],
) -> Figure:
    """Rows of `names`; in each panel a dot (value, interval, text, colour) for every row, and a line at its reference."""
    figure = new_figure(HALF, ROW * len(names) + 0.75)
    left = 0.14 + 0.07 * max(len(name_of(name)) for name in names)
    for at, (title, dots) in enumerate(panels.items()):
        wide = (HALF - left - 0.1) / len(panels)
        start = left + at * wide
        texts = 0.2 + 0.069 * max(len(text) for _, _, text, _ in dots)
        axes = axes_in(figure, start, HALF - start - wide + texts + 0.1, 0.3, 0.35)
        axes.set_yticks(range(len(names)), [name_of(name) for name in names] if not at else [""] * len(names))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.set_title(title, loc="left", color=MUTED, fontsize=9)
        axes.locator_params(axis="x", nbins=max(1, min(4, int((wide - texts) / 0.5))))
        if title in references:
            axes.axvline(references[title], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for row, (value, interval, text, colour) in enumerate(dots):
            if interval:
                axes.plot(interval, (row, row), color=colour, linewidth=2.4, alpha=0.45, solid_capstyle="round")
            axes.plot(value, row, "o", color=colour, markersize=5.5)
            axes.annotate(
                text, (1, row), (6, 0), axes.get_yaxis_transform(), "offset points", va="center", color=MUTED, annotation_clip=False
            )
        axes.margins(x=0.08)
    return figure


def _robust(values: Array, higher: bool) -> tuple[float, float]:
    """Limits that show the best value and the better 85 %: one very bad trial does not flatten the rest."""
    best, usual = (values.max(), np.quantile(values, 0.15)) if higher else (values.min(), np.quantile(values, 0.85))
    room = abs(best - usual) or abs(best) * 0.01 or 1.0
    return (usual - 0.35 * room, best + 0.15 * room) if higher else (best - 0.15 * room, usual + 0.35 * room)


@drawn
def history(
    numbers: Array, values: Array, families: list[str], states: list[str], colours: Mapping[str, str], higher: bool, label: str
) -> Figure:
    """Value by trial; failed ones have no value and stand at the bad edge, and so do those beyond it."""
    figure = new_figure(WIDE, 3.2)
    axes = axes_in(figure, left=0.7, top=0.4)
    finite = np.isfinite(values)
    low, high = _robust(values[finite], higher)
    edge = low if higher else high
    shown = np.where(finite, np.clip(values, low, high), edge)
    family, state = np.array(families, object), np.array(states, object)
    finished = state == "finished"
    best = (np.maximum if higher else np.minimum).accumulate(np.where(finished, values, -np.inf if higher else np.inf))
    axes.step(numbers[np.isfinite(best)], best[np.isfinite(best)], where="post", color=INK, linewidth=1.1, label="best so far")
    keep = np.isin(np.arange(len(numbers)), np.linspace(0, len(numbers) - 1, MAX_MARKS).astype(int)) | (values == best)
    for name, colour in colours.items():
        mine = keep & (family == name)
        axes.plot(numbers[mine & finished], shown[mine & finished], "o", color=colour, markersize=6, label=name_of(name), clip_on=False)
        stopped = mine & (state == "stopped")
        axes.plot(numbers[stopped], shown[stopped], "o", color=colour, markersize=5.5, markerfacecolor=CARD, markeredgewidth=1.3)
    for mark, label_of, which in (("o", "stopped early", state == "stopped"), ("x", "failed", state == "failed")):
        if which.any():
            failed = mark == "x"
            at = (numbers[which], shown[which]) if failed else ([], [])
            axes.plot(*at, mark, color=BAD if failed else MUTED, markerfacecolor=CARD, markersize=6, label=label_of, clip_on=False)
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.set_xlim(numbers.min() - 0.6, numbers.max() + 0.6)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel(label)
    legend(axes, 9)
    return figure


@drawn
def timeline(bars_of: Mapping[str, list[tuple[float, float, str, str]]], colours: Mapping[str, str]) -> Figure:
    """For each worker its trials: (start, seconds, text, family); seconds since the first trial began."""
    figure = new_figure(WIDE, 0.34 * len(bars_of) + 0.55)
    axes = named_rows(figure, list(bars_of), right=0.2, bottom=0.42)
    end = max(start + seconds for found in bars_of.values() for start, seconds, _, _ in found) or 1.0
    for row, found in enumerate(bars_of.values()):
        spans, fills = [(start, max(seconds, end / 600)) for start, seconds, _, _ in found], [colours[family] for *_, family in found]
        axes.broken_barh(spans, (row - 0.36, 0.72), facecolors=fills, edgecolors=CARD, linewidth=1)
        for start, seconds, text, _ in found:
            if seconds > end * 0.011 * (len(text) + 1):
                axes.text(start + seconds / 2, row, text, ha="center", va="center", color=CARD, fontsize=7.5)
    axes.set_xlim(0, end)
    axes.set_xlabel("seconds since the first trial began")
    return figure


def _thin(x: Array, y: Array) -> tuple[Array, Array]:
    """At most `CURVE_POINTS` points of a curve, evenly spaced along it."""
    along = np.r_[0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))]
    at = np.unique(np.r_[0, np.searchsorted(along, np.linspace(0, along[-1], CURVE_POINTS)), len(x) - 1])
    at = at[at < len(x)]
    return x[at], y[at]


def ranked(y: Array, scores: Array) -> tuple[Array, Array]:
    """True positives and rows above each distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    return np.cumsum(y[order])[last], (last + 1).astype(np.float64)


@drawn
def roc(hits: Array, seen: Array, text: str) -> Figure:
    """The ROC curve from what `ranked` counts, with `text` in its corner."""
    figure = new_figure()
    axes = axes_in(figure)
    false, true = (seen - hits) / max(seen[-1] - hits[-1], 1), hits / max(hits[-1], 1)
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(*_thin(np.r_[0.0, false], np.r_[0.0, true]), color=BLUE)
    axes.text(0.97, 0.06, text, ha="right", color=INK)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    return figure


@drawn
def precision_recall(hits: Array, seen: Array, text: str) -> Figure:
    """The precision-recall curve from what `ranked` counts, with `text` in its corner."""
    figure = new_figure()
    axes = axes_in(figure)
    share = hits[-1] / seen[-1]
    recall, precision = hits / max(hits[-1], 1), hits / seen
    # Below one half per cent of recall precision is that of a handful of rows.
    begin = min(int(np.searchsorted(recall, 0.005)), len(recall) - 1)
    axes.axhline(share, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(0.01, share + 0.015, f"share of positives {share:.1%}", color=MUTED)
    axes.plot(*_thin(recall[begin:], precision[begin:]), color=BLUE)
    axes.text(0.97, 0.93, text, ha="right", color=INK)
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    return figure


@drawn
def calibration(bins: Sequence[Mapping[str, float]], said: Array) -> Figure:
    """Observed share by predicted probability, with 95 % binomial intervals; below it how many rows were told what."""
    figure = new_figure(height=3.6)
    axes = axes_in(figure, bottom=1.25)
    predicted, observed, rows = (np.array([b[key] for b in bins]) for key in ("predicted", "observed", "rows"))
    error = 1.96 * np.sqrt(np.maximum(observed * (1 - observed), 0.25 / rows) / rows)
    low, high = float(min(predicted.min(), observed.min(), said.min())), float(max(predicted.max(), observed.max()))
    pad = 0.06 * (high - low or 1.0)
    low, high = max(0.0, low - pad) - 0.01, min(1.0, high + pad) + 0.01
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.errorbar(predicted, observed, error, fmt="o-", color=BLUE, markersize=4.5, elinewidth=1.2, linewidth=1.2)
    axes.set(xlim=(low, high), ylim=(low, high), ylabel="observed share")
    axes.tick_params(labelbottom=False)
    below = axes_in(figure, bottom=0.45, top=2.5, sharex=axes)
    counts, edges = np.histogram(said, 40, (max(low, 0.0), min(high, 1.0)))
    below.bar(edges[:-1], counts, np.diff(edges), align="edge", color=GRID, edgecolor=CARD, linewidth=0.5)
    below.set_yticks([counts.max()], [f"{counts.max():,}"])
    below.tick_params(labelbottom=True)
    below.set(xlabel="predicted probability", ylabel="rows")
    return figure


@drawn
def distributions(groups: Mapping[str, Array], label: str, mark: float | None) -> Figure:
    """The share of each group's rows by score."""
    figure = new_figure()
    axes = axes_in(figure, top=0.4)
    low, high = min(values.min() for values in groups.values()), max(values.max() for values in groups.values())
    for (name, values), colour in zip(groups.items(), SERIES, strict=False):
        counts, edges = np.histogram(values, 40, (low, high if high > low else low + 1))
        axes.stairs(counts / len(values), edges, fill=True, color=colour, alpha=0.22)
        axes.stairs(counts / len(values), edges, color=colour, linewidth=1.5, label=f"{name_of(name, 20)} ({len(values):,} rows)")
    if mark is not None:
        axes.axvline(mark, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(mark, 0.94 * axes.get_ylim()[1], f"  threshold {mark:.3f}", va="top", color=INK)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel(label)
    legend(axes)
    return figure


@drawn
def confusion(table: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Share of each true class (row) by predicted class (column)."""
    from matplotlib.patches import Rectangle

    size = len(names)
    figure = new_figure(HALF, max(0.27 * size, 2.3) + 0.8)
    axes = named_rows(figure, names, right=0.15, bottom=0.12, top=0.7)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    for (row, column), value in np.ndenumerate(share):
        colour = GREEN if row == column else BAD
        axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=colour, alpha=0.08 + 0.8 * value, linewidth=0))
        if table[row, column]:
            text = f"{value:.0%}" if size > 6 else f"{value:.0%}  ({table[row, column]:,})"
            axes.text(column, row, text, ha="center", va="center", color=CARD if value > 0.75 else INK, fontsize=7.5)
    axes.set_xlim(-0.5, size - 0.5)
    fits = int(axes.get_position().width * HALF / size / 0.08) if size <= 6 else 8
    axes.set_xticks(range(size), [name_of(name, max(3, fits)) for name in names], rotation=0 if size <= 6 else 40)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _bands(by: Array, values: Array, quantiles: Sequence[float], bins: int = 15) -> tuple[Array, list[Array]]:
    """Quantiles of `values` in bins of equal row counts along `by`."""
    groups = [part for part in np.array_split(np.argsort(by, kind="stable"), bins) if len(part)]
    found: Array = np.array([np.quantile(values[group], quantiles) for group in groups], np.float64)
    return np.array([np.median(by[group]) for group in groups], np.float64), list(found.T)


def _limits(*arrays: Array) -> tuple[float, float]:
    low, high = min(np.quantile(a, 0.005) for a in arrays), max(np.quantile(a, 0.995) for a in arrays)
    pad = 0.04 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


@drawn
def predicted_and_true(y: Array, predicted: Array) -> Figure:
    """Some rows as dots, and along the prediction the median and the middle 80 % of the truth."""
    figure = new_figure(height=3.4)
    axes = axes_in(figure, left=0.7, top=0.4)
    some = np.linspace(0, len(y) - 1, min(DOTS, len(y))).astype(int)
    at, (low, middle, high) = _bands(predicted, y, (0.1, 0.5, 0.9))
    limits = _limits(y, predicted)
    axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(predicted[some], y[some], "o", color=SKY, markersize=2.6, alpha=0.45, markeredgewidth=0)
    axes.fill_between(at, low, high, color=BLUE, alpha=0.16, linewidth=0, label="8 of 10 rows")
    axes.plot(at, middle, "o-", color=BLUE, markersize=3.5, linewidth=1.3, label="median of the truth")
    axes.set(xlim=limits, ylim=limits, xlabel="predicted", ylabel="true")
    legend(axes)
    return figure


@drawn
def residuals(y: Array, predicted: Array) -> Figure:
    """Quantiles of the error along the prediction, and how often each error occurs."""
    figure = new_figure(height=3.4)
    axes = axes_in(figure, left=0.7, right=1.15, top=0.4)
    error = predicted - y
    at, (low, quarter, middle, three, high) = _bands(predicted, error, (0.1, 0.25, 0.5, 0.75, 0.9))
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.fill_between(at, low, high, color=BLUE, alpha=0.14, linewidth=0, label="8 of 10 rows")
    axes.fill_between(at, quarter, three, color=BLUE, alpha=0.25, linewidth=0, label="half of the rows")
    axes.plot(at, middle, color=BLUE, linewidth=1.3, label="median")
    axes.set(ylim=_limits(error), xlabel="predicted", ylabel="predicted minus true")
    legend(axes)
    side = axes_in(figure, left=HALF - 1.1, right=0.12, top=0.4, sharey=axes)
    counts, edges = np.histogram(error, 40, axes.get_ylim())
    side.stairs(counts, edges, orientation="horizontal", fill=True, color=GRID)
    side.tick_params(labelleft=False, labelbottom=False)
    side.set_xlabel("rows")
    side.grid(visible=False)
    return figure


@drawn
def periods(
    names: Sequence[str], panels: Mapping[str, Sequence[float]], holdout: Mapping[str, tuple[float, tuple[float, float] | None]]
) -> Figure:
    """A metric by period, one panel each, with the holdout's value and interval as a band."""
    figure = new_figure(WIDE, 2.6)
    wide = WIDE / len(panels)
    for at, (title, values) in enumerate(panels.items()):
        axes = axes_in(figure, at * wide + 0.6, WIDE - (at + 1) * wide + 0.2, 0.35, 0.4)
        level, interval = holdout[title]
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="holdout, 95% interval")
        if interval:
            axes.axhspan(*interval, color=MUTED, alpha=0.13, linewidth=0)
        axes.plot(range(len(names)), values, "o-", color=BLUE, markersize=5, linewidth=1.3)
        step = -(-len(names) // 12)
        axes.set_xticks(range(0, len(names), step), [name_of(name, 12) for name in names[::step]])
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.margins(y=0.15)
        axes.set_title(title, loc="left", color=MUTED, fontsize=9)
        axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.995), borderaxespad=0, labelcolor=MUTED)
    return figure


@drawn
def lines_over_time(names: Sequence[str], lines: Mapping[str, Sequence[float]], shares: bool) -> Figure:
    """Values by period, one line for each name."""
    figure = new_figure()
    axes = axes_in(figure, left=0.7, top=0.4)
    for (name, values), colour in zip(lines.items(), SERIES, strict=False):
        axes.plot(range(len(names)), values, "o-", color=colour, markersize=3.5, linewidth=1.3, label=name_of(name, 20))
    step = -(-len(names) // 5)
    axes.set_xticks(range(0, len(names), step), [name_of(name, 12) for name in names[::step]])
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.margins(y=0.15)
    if shares:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend(axes, 3)
    return figure
