"""The label: which task it poses, its classes, and why some columns cannot be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import UsageError, some, suggest
from tables.casting import ColumnType
from tables.features import Task
from tables.look.findings import Finding, counted, shown
from tables.look.inference import Reading, read_column
from tables.target import MIN_CLASS_ROWS, default_metric

MIN_ROWS = 20
# A whole-numbered label with more values than this, or with few rows for each, is a quantity.
MAX_NUMERIC_CLASSES = 20
MAX_CLASSES = 1000
_POSITIVE = ("true", "t", "yes", "y", "positive", "pos", "+")
_ONES = {"1": ("0", "-1"), "+1": ("-1",)}
_NEGATIONS = ("not ", "not_", "no ", "no_", "non-", "non_", "non ", "in", "un")


@dataclass(frozen=True, kw_only=True)
class Label:
    """`y`: class index, -1 where there is none, or a number, NaN where there is none. `metric` is what a sweep should look at."""

    name: str
    task: Task
    type: ColumnType
    reading: Reading
    y: NDArray[Any]
    metric: str
    classes: list[str] = field(default_factory=list)
    positive: str | int | bool | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def missing(self) -> NDArray[np.bool_]:
        return ~np.isfinite(self.y) if self.task == "regression" else self.y < 0


def find_label(label: str, columns: Sequence[str]) -> str:
    """Raises UsageError with the likeliest column when there is none of that name."""
    if label in columns:
        return label
    alike = next((name for name in columns if name.strip().casefold() == label.strip().casefold()), None)
    hint = f" (did you mean {alike!r}?)" if alike else suggest(label, columns)
    raise UsageError(
        f"the table has no column for the label{hint}", value=label, allowed=some(columns), next="raycycle init FILE --label COLUMN"
    )


def read_label(name: str, column: pa.ChunkedArray, is_id: bool) -> Label:
    reading = _in_own_words(column)
    if reading is None:
        raise UsageError(f"the label {name!r} is not a flat column", value=str(column.type), allowed="numbers, text, true and false")
    _refuse_hopeless(name, reading, is_id)
    if reading.is_text or reading.type == "bool" or _is_classes(reading):
        return _classes(name, reading)
    return _quantity(name, reading)


def _in_own_words(column: pa.ChunkedArray) -> Reading | None:
    """A label of Yes and No keeps its words, which predictions will use; only true and false become booleans."""
    reading = read_column(column)
    if reading is not None and reading.type == "bool" and pa.types.is_string(column.type):
        spelled = pc.unique(column).drop_null()
        if len(spelled) == 2 and "true" not in spelled[0].as_py().lower() and "true" not in spelled[1].as_py().lower():
            return read_column(column, as_text=True)
    return reading


def _refuse_hopeless(name: str, reading: Reading, is_id: bool) -> None:
    other = "raycycle init FILE --label ANOTHER"
    if not reading.known:
        raise UsageError(f"the label {name!r} has no value in any row", allowed="a column with values", next=other)
    if reading.known < MIN_ROWS:
        raise UsageError("too few rows have a label", value=reading.known, allowed=f"{MIN_ROWS} rows or more", next="add rows")
    if reading.distinct == 1:
        raise UsageError(f"the label {name!r} has one value in every row", allowed="two values or more", next=other)
    if reading.is_time:
        raise UsageError(
            f"the label {name!r} is a date", allowed="numbers, text, true and false", next="take a number of days, or a yes or no, from it"
        )
    unique = reading.distinct > 0.95 * reading.known
    if reading.type == "int64" and unique and (is_id or _consecutive(reading)):
        raise UsageError(f"the label {name!r} is an id: nearly every row has its own value", value=reading.distinct, next=other)
    if reading.is_text and reading.distinct > 0.5 * reading.known:
        long = np.mean([len(level) for level in reading.levels[:200]]) > 30
        raise UsageError(
            f"the label {name!r} is {'free text' if long else 'an id'}: {reading.distinct:,} values in {reading.known:,} rows",
            allowed="classes with several rows each, or numbers",
            next=other,
        )
    if reading.is_text and reading.distinct > MAX_CLASSES:
        raise UsageError(f"the label {name!r} has too many classes", value=reading.distinct, allowed=f"at most {MAX_CLASSES}", next=other)


def _consecutive(reading: Reading) -> bool:
    known = reading.values[~np.isnan(reading.values)]
    return bool(reading.distinct == len(known) and known.max() - known.min() + 1 == len(known))


def _is_classes(reading: Reading) -> bool:
    if reading.distinct == 2:
        return True
    known = reading.values[~np.isnan(reading.values)]
    if np.isinf(known).any() or (known != np.floor(known)).any():
        return False
    return reading.distinct <= MAX_NUMERIC_CLASSES and reading.known >= 5 * reading.distinct


def _classes(name: str, reading: Reading) -> Label:
    kind, codes, texts, values = _coded(reading)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    rare = [text for text, count in zip(texts, counts, strict=True) if count < MIN_CLASS_ROWS]
    kept = [i for i, count in enumerate(counts) if count >= MIN_CLASS_ROWS]
    if len(kept) < 2:
        raise UsageError(
            f"the label {name!r} has fewer than two classes with at least {MIN_CLASS_ROWS} rows",
            value=", ".join(f"{text}: {count}" for text, count in list(zip(texts, counts.tolist(), strict=True))[:8]),
            allowed=f"two classes of {MIN_CLASS_ROWS} rows or more",
            next="add rows, or choose another label",
        )
    findings = []
    if rare:
        said = (
            f"{counted(int(counts[counts < MIN_CLASS_ROWS].sum()), 'row')} of classes with fewer than {MIN_CLASS_ROWS} rows ({shown(rare)})"
        )
        findings.append(Finding(kind="label", what=said, why="they cannot be learned", decision="they go to the quarantine", warning=True))
    folded = {text.casefold() for text in texts}
    if len(folded) < len(texts):
        what = f"classes of {name} differ only in upper and lower case"
        findings.append(Finding(kind="label", what=what, decision="kept apart; correct the source if they are one", warning=True))
    renumber = np.full(len(texts) + 1, -1)
    renumber[kept] = np.arange(len(kept))
    y, shares = renumber[codes], counts[kept] / counts[kept].sum()
    classes = [texts[i] for i in kept]
    if len(kept) > 2:
        metric = default_metric("multiclass", shares.min())
        findings.insert(
            0, _task(f"{name} has {len(kept)} classes", "multiclass", "" if kind == "string" else "set task: regression for a quantity")
        )
        return Label(name=name, task="multiclass", type=kind, reading=reading, y=y, metric=metric, classes=classes, findings=findings)
    at = _positive(classes, shares)
    y = np.where(y < 0, -1, (y == at).astype(np.int64))
    why = f"{classes[at]} is {shares[at]:.1%} of the rows"
    findings.insert(0, _task(f"{name} has two values, {classes[1 - at]} and {classes[at]}", f"binary; scores are for {classes[at]!r}", why))
    metric = default_metric("binary", shares.min())
    positive = values[kept[at]]
    return Label(
        name=name, task="binary", type=kind, reading=reading, y=y, metric=metric, classes=classes, positive=positive, findings=findings
    )


def _task(what: str, task: str, why: str) -> Finding:
    return Finding(kind="task", what=what, decision=f"the task is {task}", why=why)


def _coded(reading: Reading) -> tuple[ColumnType, NDArray[np.int64], list[str], list[Any]]:
    """The classes as the contract's type will spell them, in order, and each row's index of one."""
    if reading.is_text:
        order = sorted(range(len(reading.levels)), key=lambda i: reading.levels[i])
        place = np.full(len(order) + 1, -1)
        place[order] = np.arange(len(order))
        texts = [reading.levels[i] for i in order]
        return "string", place[reading.values], texts, list(texts)
    missing = np.isnan(reading.values)
    levels, found = np.unique(reading.values[~missing], return_inverse=True)
    codes = np.full(len(missing), -1)
    codes[~missing] = found
    if reading.type == "bool":
        return "bool", codes, [str(bool(v)).lower() for v in levels], [bool(v) for v in levels]
    if (levels == np.floor(levels)).all():
        return "int64", codes, [str(int(v)) for v in levels], [int(v) for v in levels]
    texts = pa.array(levels).cast(pa.string()).to_pylist()
    return "string", codes, texts, list(texts)


def _positive(classes: list[str], shares: NDArray[np.float64]) -> int:
    low = [text.casefold() for text in classes]
    for at in (0, 1):
        if low[at] in _POSITIVE or low[1 - at] in _ONES.get(low[at], ()):
            return at
        if any(low[1 - at] == prefix + low[at] for prefix in _NEGATIONS):
            return at
    return int(shares[1] <= shares[0])


def _quantity(name: str, reading: Reading) -> Label:
    y = np.where(np.isinf(reading.values), np.nan, reading.values)
    known = y[~np.isnan(y)]
    findings = [_task(f"{name} is a number with {reading.distinct:,} values", "regression", f"from {known.min():g} to {known.max():g}")]
    deviation = known - known.mean()
    skew = float((deviation**3).mean() / max((deviation**2).mean() ** 1.5, 1e-300))
    if known.min() >= 0 and skew > 2:
        what = f"{name} is positive and skewed ({skew:.1f})"
        findings.append(Finding(kind="label", what=what, decision="its logarithm is learned when that is better on the validation rows"))
    if reading.infinite:
        what = f"{counted(reading.infinite, 'infinite label')}"
        findings.append(Finding(kind="label", what=what, decision="those rows go to the quarantine", warning=True))
    return Label(
        name=name, task="regression", type="double", reading=reading, y=y, metric=default_metric("regression", 0.0), findings=findings
    )
