"""The label as numbers: class indices or the value to predict, and back again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import UsageError
from tables.contract import Contract
from tables.features import Task
from tables.sketches import TOO_MANY_LEVELS, LevelSketch, NumericSketch, Sketch, as_floats

MIN_CLASS_ROWS = 3
# Below this share of positives accuracy and even log loss say little: precision and recall of the rare class do.
RARE = 0.1


@dataclass(frozen=True)
class Target:
    """`classes` are the label's values as text (binary: negative, positive). `log` means models learn log1p of the number."""

    task: Task
    classes: tuple[str, ...] = ()
    log: bool = False

    @classmethod
    def of(cls, contract: Contract, labels: Sketch) -> Target:
        """Decide from the counts of every label in the table; classes with fewer than three rows cannot be learned and are left out."""
        if not isinstance(labels, LevelSketch):
            return cls("regression")
        if labels.overflowed:
            raise UsageError(
                f"the label {contract.label!r} is no class: it has {TOO_MANY_LEVELS}",
                allowed="two classes or more, each with several rows",
                next="choose another label",
            )
        few = {level: count for level, count in labels.counts.items() if count < MIN_CLASS_ROWS}
        classes = sorted(set(labels.counts) - set(few), key=_natural)
        if len(classes) < 2:
            raise UsageError(
                f"the label {contract.label!r} has fewer than two classes with at least {MIN_CLASS_ROWS} rows",
                value=dict(sorted(labels.counts.items())[:10]),
                allowed=f"two or more classes of {MIN_CLASS_ROWS} rows",
                next="choose another label, or add rows",
            )
        if contract.task == "binary":
            return cls("binary", _binary(contract, classes))
        return cls("multiclass", tuple(classes))

    def encode(self, labels: pa.Array) -> NDArray[np.float64]:
        """float64 [rows]: class index or number; NaN where the label is missing or not a known class."""
        if self.task == "regression":
            return as_floats(labels)
        codes = pc.index_in(as_text(labels), value_set=pa.array(self.classes, pa.string()), skip_nulls=True)
        return np.asarray(codes.cast(pa.float64()).fill_null(np.nan))

    def forward(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scale that a regression model learns on."""
        return np.log1p(y) if self.log else y

    def backward(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """From that scale to the label's own unit."""
        with np.errstate(over="ignore"):  # an infinite prediction is judged where it is used
            return np.expm1(predicted) if self.log else predicted

    def decode(self, codes: NDArray[np.int64]) -> pa.Array:
        """Class indices as the label's values, in text."""
        return pa.array(self.classes, pa.string()).take(pa.array(codes))


def as_text(labels: pa.Array) -> pa.Array:
    """Labels as text, whatever their type: true and false, 1 for 1.0 (Arrow's spelling of whole floats)."""
    return labels.cast(pa.string())


def label_sketch(contract: Contract, labels: pa.Array) -> Sketch:
    """What `Target.of` wants to know of every label of the table."""
    return NumericSketch.of(labels) if contract.task == "regression" else LevelSketch.of(as_text(labels))


def _binary(contract: Contract, classes: list[str]) -> tuple[str, ...]:
    if len(classes) != 2:
        raise UsageError(
            f"the label {contract.label!r} is not binary", value=classes[:10], allowed="two classes", next="set task: multiclass"
        )
    positive = as_text(pa.array([contract.positive])).to_pylist()[0] if contract.positive is not None else classes[1]
    if positive not in classes:
        raise UsageError("contract.positive is not a label value", value=positive, allowed=", ".join(classes))
    return (next(c for c in classes if c != positive), positive)


def _natural(text: str) -> tuple[int, float, str]:
    try:
        number = float(text)
    except ValueError:
        return (1, 0.0, text)
    # A class called nan compares with nothing: sorted as a number, it would leave the classes in the order they came.
    return (1, 0.0, text) if math.isnan(number) else (0, number, text)


def prediction_type(contract: Contract) -> pa.DataType:
    """The Arrow type of the `prediction` column: that of the label, or a number."""
    return pa.float64() if contract.task == "regression" else contract.schema([contract.label]).field(0).type


def default_metric(task: Task, rarest_share: float) -> str:
    """What a sweep looks at when nobody says: `rarest_share` is the share of the rarer class of a binary label."""
    if task == "regression":
        return "rmse"
    return "average_precision" if task == "binary" and rarest_share < RARE else "log_loss"
