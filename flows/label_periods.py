"""The label of a table over time: the shares of its classes, or its mean, by day, month or year."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tables.contract import Contract
from tables.sketches import LevelSketch, Sketch, as_floats
from tables.target import as_text

MAX_CLASSES = 5
MAX_PERIODS = 60


@dataclass(frozen=True, kw_only=True)
class Period:
    """`shares` of the classes by name, or the mean of the label in `value`, of `rows` rows."""

    name: str
    rows: int
    shares: dict[str, float] = field(default_factory=dict)
    value: float | None = None


def by_day(table: pa.Table, contract: Contract) -> Counter[tuple[int, str]]:
    """Rows by the day of the time column (days since 1970) and the class of the label; empty where there is no time, or no class."""
    if contract.time is None or contract.task == "regression":
        return Counter()
    days = _days(table.column(contract.time).combine_chunks())
    known = pa.array(np.isfinite(days))
    label = as_text(table.column(contract.label).combine_chunks())
    pairs = pa.table({"day": pa.array(np.nan_to_num(days).astype(np.int64)), "label": label}).filter(known)
    found = pairs.group_by(["day", "label"], use_threads=False).aggregate([([], "count_all")])
    columns = [found.column(name).to_pylist() for name in ("day", "label", "count_all")]
    return Counter({(day, text): count for day, text, count in zip(*columns, strict=True) if text is not None})


def _days(times: pa.Array) -> NDArray[np.float64]:
    """Days since 1970, NaN where there is no time; numbers that are no times are NaN too."""
    if not pa.types.is_temporal(times.type):
        return np.full(len(times), np.nan)
    seconds = 1.0 if pa.types.is_date(times.type) else 86_400.0
    return np.floor(as_floats(times) / seconds)


def periods_of(daily: Counter[tuple[int, str]], labels: Sketch, sample: pa.Table, contract: Contract) -> list[Period]:
    """The label by day, month or year, whichever gives at most `MAX_PERIODS`; of a number its mean in the sample."""
    if contract.time is None:
        return []
    if contract.task == "regression":
        return _means(sample, contract)
    days = np.array([day for day, _ in daily], np.int64)
    if not len(days):
        return []
    unit = _unit(days)
    counts: dict[str, Counter[str]] = {}
    for (day, text), count in sorted(daily.items()):
        counts.setdefault(_named(day, unit), Counter())[text] += count
    classes = _classes(labels, contract)
    return [
        Period(name=name, rows=found.total(), shares={each: found[each] / found.total() for each in classes})
        for name, found in sorted(counts.items())
    ]


def _means(sample: pa.Table, contract: Contract) -> list[Period]:
    days = _days(sample.column(contract.time).combine_chunks())
    y = as_floats(sample.column(contract.label).combine_chunks())
    known = np.isfinite(days) & np.isfinite(y)
    whole, y = days[known].astype(np.int64), y[known]
    if not len(whole):
        return []
    unit = _unit(whole)
    names = np.array([_named(int(day), unit) for day in whole])
    return [
        Period(name=str(name), rows=int((names == name).sum()), value=float(f"{y[names == name].mean():.6g}")) for name in np.unique(names)
    ]


def _classes(labels: Sketch, contract: Contract) -> list[str]:
    """The positive class, or the most frequent ones."""
    found = labels.top(MAX_CLASSES, 1) if isinstance(labels, LevelSketch) else []
    if contract.task != "binary":
        return found
    positive = as_text(pa.array([contract.positive])).to_pylist()[0] if contract.positive is not None else None
    return [positive] if positive in found else sorted(found)[-1:]


def _unit(days: NDArray[np.int64]) -> str:
    """The finest calendar unit of which the days span at most `MAX_PERIODS`."""
    dates = days.astype("datetime64[D]")
    for unit in ("D", "M"):
        spans = dates.astype(f"datetime64[{unit}]").astype(np.int64)
        if spans.max() - spans.min() < MAX_PERIODS:
            return unit
    return "Y"


def _named(day: int, unit: str) -> str:
    return str(np.datetime64(day, "D").astype(f"datetime64[{unit}]"))
