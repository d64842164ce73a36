"""What the encoder tells the trainers: the task, and what each column of the matrix holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FeatureKind = Literal["numeric", "indicator", "categorical"]
Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Feature:
    """One column of the encoded matrix, made from the table's column `source`.

    `levels` is the number of codes (0 .. levels-1) of a categorical feature, else 0.
    """

    name: str
    kind: FeatureKind
    source: str
    levels: int = 0
