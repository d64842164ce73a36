"""Which rows to hold out: the newest when rows come in the order of a date, whole groups when rows of a group are alike, else by chance."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tables.look.findings import Finding
from tables.look.inference import Reading
from tables.look.labels import Label
from tables.privacy.detection import words

TRAIN_SHARE, VALID_SHARE = 0.64, 0.16
ALIKE = 0.2
_EVENT_WORDS = """date datetime time timestamp ts day week month created event order ordered purchase invoice transaction visit admission
scheduled departure pickup recorded measured observed sale sales issued reading period hour epoch at when"""
_ATTRIBUTE_WORDS = """birth born dob birthday birthdate expiry expires expiration signup joined join hire hired registered registration
founded built release member since last first due end ended close closed delivered delivery return returned resolved cancelled updated
modified"""
_EVENT, _ATTRIBUTE = set(_EVENT_WORDS.split()), set(_ATTRIBUTE_WORDS.split())
_CALENDAR = {"year", "month", "quarter", "week", "yearmonth", "period", "season"}


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """What the dataset YAML says under `split`: a TimeSplit when `column` is set, else a HashSplit by `by` or by row."""

    column: str | None = None
    valid_from: Any = None
    holdout_from: Any = None
    by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    name: str
    groups: int
    rows_each: float
    likeness: float


def hints_date(name: str) -> bool:
    return bool(set(words(name)) & (_EVENT | _ATTRIBUTE))


def is_calendar(name: str) -> bool:
    return bool(set(words(name)) & _CALENDAR)


def event_rank(name: str, reading: Reading) -> float | None:
    """How likely rows come in the order of this column; None for what is no event time."""
    tokens = set(words(name))
    if tokens & _ATTRIBUTE or reading.nulls > 0.01 * len(reading.values) or reading.distinct < 10 or reading.ambiguous:
        return None
    if reading.type == "int64" and not (tokens & {"timestamp", "ts", "time", "epoch", "unixtime"} and _is_epoch(reading.values)):
        return None
    known = reading.values[~np.isnan(reading.values)]
    in_order = bool((np.diff(known) >= 0).mean() > 0.99)
    named = bool(tokens & _EVENT)
    return 2.0 * named + in_order if named or in_order else None


def _is_epoch(values: NDArray[np.float64]) -> bool:
    known = values[~np.isnan(values)]
    return bool(len(known)) and any(known.min() > 1e9 * unit and known.max() < 2.2e9 * unit for unit in (1, 1e3, 1e6, 1e9))


def plan_split(times: dict[str, Reading], groups: list[Group], label: Label) -> tuple[SplitPlan, list[Finding]]:
    findings: list[Finding] = []
    plan = None
    ranked = {name: rank for name, reading in times.items() if (rank := event_rank(name, reading)) is not None}
    for name in sorted(ranked, key=lambda each: -ranked[each]):
        bounds = _bounds(times[name], label)
        if isinstance(bounds, str):
            what = f"rows are not split by {name}"
            findings.append(Finding(kind="split", what=what, why=bounds, decision="see below", columns=(name,)))
            continue
        plan = SplitPlan(column=name, valid_from=bounds[0], holdout_from=bounds[1])
        what, why = f"{name} tells when each row happened", "a model is used on newer rows than it learned from"
        decision = f"split by time: train before {bounds[0]}, validate before {bounds[1]}, hold out the rest"
        findings.append(Finding(kind="split", what=what, why=why, decision=decision, columns=(name,)))
        break
    alike = max((group for group in groups if group.likeness >= ALIKE), key=lambda group: group.likeness, default=None)
    if alike:
        what = f"{alike.groups:,} values of {alike.name} are on {alike.rows_each:.1f} rows each, and their labels are alike"
        why = f"intraclass correlation {alike.likeness:.2f}: a random split would test on what was learned by heart"
        decision = (
            "all rows of one value are kept on one side"
            if plan is None
            else "split by time nevertheless; add rows of new ones to judge those"
        )
        findings.append(Finding(kind="group", what=what, why=why, decision=decision, columns=(alike.name,), warning=plan is not None))
    if plan is None:
        plan = SplitPlan(by=alike.name if alike else None)
        kept = " with the same share of each class" if label.task != "regression" and not alike else ""
        what = "64 % of the rows train, 16 % validate, 20 % are held out"
        findings.append(Finding(kind="split", what=what, decision=f"by a hash of {alike.name if alike else 'the row'}{kept}"))
    return plan, findings


def _bounds(reading: Reading, label: Label) -> tuple[Any, Any] | str:
    """Where validation and holdout begin, or why the column cannot split these rows."""
    rows = ~label.missing & ~np.isnan(reading.values)
    times, y = reading.values[rows], label.y[rows]
    if len(times) < 200:
        return "fewer than 200 rows"
    step = 86_400.0 if reading.type == "timestamp" and times.max() - times.min() > 20 * 86_400 else 1.0
    valid, holdout = (float(np.ceil(np.quantile(times, q) / step) * step) for q in (TRAIN_SHARE, TRAIN_SHARE + VALID_SHARE))
    part = (times >= valid).astype(int) + (times >= holdout)
    sizes = np.bincount(part, minlength=3)
    if valid >= holdout or sizes.min() < max(20, 0.05 * len(times)):
        return "too many rows share one time"
    for each in range(3):
        inside = y[part == each]
        if label.task == "binary" and np.bincount(inside, minlength=2).min() < 5:
            return "one of its parts would have a single class"
        if label.task == "multiclass" and len(np.unique(inside)) < len(label.classes) and (each == 0 or len(np.unique(inside)) < 2):
            return "some classes appear only late"
    return _written(valid, reading.type), _written(holdout, reading.type)


def _written(value: float, kind: str) -> Any:
    if kind == "date":
        return (dt.date(1970, 1, 1) + dt.timedelta(days=int(value))).isoformat()
    if kind == "timestamp":
        return (dt.datetime(1970, 1, 1) + dt.timedelta(seconds=int(value))).isoformat()
    return int(value)


def unseen_calendar(values: NDArray[np.float64], time: NDArray[np.float64]) -> bool:
    """Whether nearly all of a column's values in the held out rows lie outside the range of those in training."""
    train, held = np.nanquantile(time, [TRAIN_SHARE, TRAIN_SHARE + VALID_SHARE])
    before, after = values[time < train], values[time >= held]
    before, after = before[~np.isnan(before)], after[~np.isnan(after)]
    if not len(before) or not len(after):
        return False
    return bool(((after < before.min()) | (after > before.max())).mean() > 0.95)
