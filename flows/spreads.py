"""Small drawings of how a column's values are spread, so many that each must be tiny: one path of SVG for a version."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
from numpy.typing import NDArray

from flows.canvas import name_of
from tables.distributions import spread
from tables.sketches import LevelSketch, NumericSketch, Sketch

WIDTH, HEIGHT = 150, 30
SHOWN_LEVELS = 4
EXACT = 4096  # whole numbers below it each have a bin of their own


def drawn(*sketches: Sketch | None) -> str:
    """The SVG of one sketch as bars, or of two on the same bins, the second as an outline over the first; empty where there is none."""
    known = [each for each in sketches if each is not None]
    found = spread(*known) if known else None
    if found is None:
        return ""
    top = max((float(counts.max() / counts.sum()) for counts in found.counts if counts.sum()), default=0.0)
    if not top:
        return ""
    styles = ('fill="var(--sky)"', 'fill="none" stroke="var(--ink)" stroke-width="1.1"')
    paths = [
        f'<path {style} d="{_outline(counts, top, gap=not at)}"/>'
        for at, (counts, style) in enumerate(zip(found.counts, styles, strict=False))
    ]
    return f'<svg class="spread" viewBox="0 -1 {WIDTH} {HEIGHT + 1}" aria-hidden="true">{"".join(paths)}</svg>'


def _outline(counts: NDArray[np.int64], top: float, gap: bool) -> str:
    """Bars from left to right: apart, or as one line over their tops."""
    wide = WIDTH / len(counts)
    heights = [round(HEIGHT * (1 - float(count) / max(int(counts.sum()), 1) / top), 1) for count in counts]
    lefts = [round(at * wide, 1) for at in range(len(counts) + 1)]
    if gap:
        space = min(1.0, wide / 5)
        return "".join(
            f"M{left:g} {HEIGHT}V{high:g}H{right - space:g}V{HEIGHT}Z"
            for left, right, high in zip(lefts, lefts[1:], heights, strict=False)
            if high < HEIGHT
        )
    return f"M0 {HEIGHT}" + "".join(f"V{high:g}H{right:g}" for high, right in zip(heights, lefts[1:], strict=True)) + f"V{HEIGHT}"


def told(sketch: Sketch | None, kind: str) -> str:
    """The values in words: lowest, median and highest, or the most frequent levels with their shares."""
    if isinstance(sketch, NumericSketch):
        return _told_numbers(sketch, kind)
    if sketch is None:
        return ""
    if sketch.overflowed:
        return "too many different texts to count"
    if not sketch.rows:
        return "no value"
    found = sorted(sketch.counts.items(), key=lambda each: (-each[1], each[0]))[:SHOWN_LEVELS]
    if found[0][1] == 1 and len(sketch.counts) > 1:
        return f"{len(sketch.counts):,} texts, each once"
    said = ", ".join(f"{name_of(level, 24) or '(empty)'} {share(count, sketch.rows)}" for level, count in found)
    more = len(sketch.counts) - len(found)
    return f"{said} and {more:,} more" if more else said


def _told_numbers(sketch: NumericSketch, kind: str) -> str:
    if not sketch.count or sketch.low is None or sketch.high is None:
        return "no value"
    if kind == "bool":
        return f"true {share(int(sketch.counts[sketch.values == 1].sum()), sketch.count)}"
    if _is_time(kind):  # a sketch knows a time between them to some days only
        return f"{value(sketch.low, kind)} to {value(sketch.high, kind)}"
    middle = min(max(sketch.quantile(0.5), sketch.low), sketch.high)  # the lower edge of its bin may lie below all values
    return " · ".join(value(each, kind) for each in (sketch.low, middle, sketch.high))


def _is_time(kind: str) -> bool:
    return kind.startswith(("date", "timestamp"))


def value(number: float, kind: str) -> str:
    """A number as its column's type has it: dates and times in ISO form."""
    if _is_time(kind):
        days = number if kind.startswith("date") else number / 86_400
        try:
            moment = dt.datetime(1970, 1, 1) + dt.timedelta(days=days)
        except OverflowError:
            return f"{number:.5g}"
        return moment.isoformat(" ", "minutes") if kind.startswith("timestamp") else moment.date().isoformat()
    if number == math.floor(number) and abs(number) < 1e15:
        return f"{number:.0f}" if abs(number) < 10_000 else f"{number:,.0f}"
    return f"{number:.4g}"


def share(count: int, rows: int) -> str:
    """A count as a share of the rows, or itself where that would round to nothing."""
    if not count:
        return "–"
    return f"{count / rows:.1%}" if count >= 0.0005 * rows else f"{count:,}"


def distinct(sketch: Sketch | None, kind: str) -> str:
    """How many different values there are; of numbers that a sketch cannot all tell apart, how many there are at least."""
    if sketch is None or _is_time(kind):
        return "–"
    if isinstance(sketch, LevelSketch):
        return "many" if sketch.overflowed else f"{len(sketch.counts):,}"
    whole = kind in ("int64", "bool") and max(abs(sketch.low or 0.0), abs(sketch.high or 0.0)) < EXACT
    return f"{'' if whole else '≥ '}{len(sketch.codes):,}"
